"""Inner rules: what they learn, what they adapt, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import InnerloopError, Meta, adapt, rules

PARAMS = {"body": {"kernel": jnp.ones((2, 3))}, "head": {"kernel": jnp.ones(3), "bias": jnp.zeros(())}}
KEY = jax.random.key(0)


def loss(params, batch, key):
    return jnp.sum(params["body"]["kernel"] ** 2) + jnp.sum(params["head"]["kernel"]) + params["head"]["bias"], {}


def adapted(rule, learned=None, steps=1):
    meta = Meta(PARAMS, rule.init(PARAMS) if learned is None else learned)
    return adapt(loss, meta, jnp.zeros(1), KEY, rule=rule, steps=steps).params


def test_any_optax_optimiser_is_an_inner_optimiser():
    """The inner loop equals a plain optax loop."""
    optimizer = optax.chain(optax.clip(0.5), optax.adamw(0.1, weight_decay=0.01), optax.trace(0.9))
    expected, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(4):
        updates, state = optimizer.update(jax.grad(lambda p: loss(p, None, None)[0])(expected), state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
        adapted(rules.from_optax(optimizer), steps=4),
        expected,
    )


def test_meta_sgd_has_a_step_size_for_every_parameter():
    rule = rules.meta_sgd(0.1)
    rates = rule.init(PARAMS)
    assert jax.tree.map(jnp.shape, rates) == jax.tree.map(jnp.shape, PARAMS)
    rates["head"]["kernel"] = jnp.array([0.1, 0.2, 0.0])
    np.testing.assert_allclose(adapted(rule, rates)["head"]["kernel"], [0.9, 0.8, 1.0], rtol=1e-6)


def test_meta_sgd_has_no_step_size_for_what_has_no_gradient():
    rule, params = rules.meta_sgd(0.1), {"w": jnp.ones(2), "count": jnp.int32(3)}
    assert rule.init(params)["count"] is None
    value = lambda params, batch, key: (jnp.sum(params["w"]) * params["count"], {})  # noqa: E731
    end = adapt(value, Meta(params, rule.init(params)), jnp.zeros(1), KEY, rule=rule, steps=1).params
    np.testing.assert_allclose(end["w"], 0.7, rtol=1e-6)


def test_learned_hyperparameters_are_data():
    rule = rules.learned(lambda rate: optax.sgd(rate), 0.1)
    np.testing.assert_allclose(adapted(rule, jnp.array(0.5))["head"]["bias"], -0.5)
    assert rule.init(PARAMS) is not rule.init(PARAMS)


def test_masked_parameters_of_the_rule_cover_the_adapted_leaves_alone():
    rule = rules.masked(rules.meta_sgd(0.1), lambda path, leaf: path.startswith("head/"))
    assert jax.tree.structure(rule.init(PARAMS)["head"]) == jax.tree.structure(PARAMS["head"])
    assert rule.init(PARAMS)["body"] == {"kernel": None}


def test_masks_combine():
    rule = rules.masked(
        rules.masked(rules.sgd(0.1), lambda path, leaf: path.startswith("head/")), lambda path, leaf: leaf.ndim > 0
    )
    assert rule.adapts(PARAMS) == {"body": {"kernel": False}, "head": {"kernel": True, "bias": False}}


def test_a_mask_that_finds_nothing_lists_the_parameters():
    rule = rules.masked(rules.sgd(0.1), lambda path, leaf: path.startswith("output"))
    with pytest.raises(InnerloopError, match="the parameters are: body/kernel, head/bias, head/kernel"):
        rule.init(PARAMS)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [rules.sgd, rules.meta_sgd])
def test_a_step_size_that_cannot_be_is_refused(make, rate):
    with pytest.raises(InnerloopError, match=f"learning rate is {rate}"):
        make(rate)
