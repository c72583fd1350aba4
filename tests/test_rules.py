"""Inner rules: what they learn, what they adapt, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import InnerloopError, Meta, adapt, rules
from innerloop.core.trees import path_name

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
    rule = rules.trainable(lambda rate: optax.sgd(rate), 0.1)
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


def same(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), left, right)


@pytest.mark.parametrize("make", [rules.alfa, rules.meta_curvature, lambda rate: rules.per_layer_per_step(rate, 2)])
def test_learned_rules_start_as_gradient_descent(make):
    same(adapted(make(0.1), steps=3), adapted(rules.sgd(0.1), steps=3))


def test_alfa_shrinks_and_steps_by_what_its_network_says():
    """With the output layer at zero and the factors set by hand: θ' = βθ - αg."""
    rule = rules.alfa(0.1)
    learned = rule.init(PARAMS) | {"rate": jnp.array([0.1, 0.2, 0.3]), "keep": jnp.array([0.9, 0.8, 0.7])}
    end = adapted(rule, learned)  # the leaves are body/kernel, head/bias, head/kernel
    np.testing.assert_allclose(end["body"]["kernel"], 0.9 - 0.1 * 2 * np.ones((2, 3)), rtol=1e-6)
    np.testing.assert_allclose(end["head"]["bias"], -0.2, rtol=1e-6)
    np.testing.assert_allclose(end["head"]["kernel"], 0.7 - 0.3 * np.ones(3), rtol=1e-6)


def test_meta_curvature_multiplies_along_each_axis():
    rng = np.random.default_rng(0)
    gradient = {"conv": jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)}
    matrices = [jnp.asarray(rng.normal(size=(size, size)), jnp.float32) for size in (9, 2, 4)]
    transform = rules.meta_curvature(0.5).transform({"conv": matrices}, 0)
    update, _ = transform.update(gradient, transform.init(gradient))
    expected = np.einsum("fio,fg,ij,op->gjp", np.asarray(gradient["conv"]).reshape(9, 2, 4), *[m.T for m in matrices])
    np.testing.assert_allclose(update["conv"], -0.5 * expected.reshape(3, 3, 2, 4), rtol=1e-4, atol=1e-5)


def test_steps_beyond_those_learned_use_the_last():
    rule = rules.per_layer_per_step(0.1, 2)
    rates = jax.tree.map(lambda leaf: jnp.array([0.1, 0.2]), rule.init(PARAMS))
    assert rule.learned_steps == 2
    np.testing.assert_allclose(adapted(rule, rates, steps=4)["head"]["bias"], -(0.1 + 3 * 0.2), rtol=1e-6)


@pytest.mark.parametrize(
    ("paths", "head"),
    [
        ({"body": 0, "classifier": 0}, "classifier"),
        ({"layers": [{"bias": 0}, {"bias": 0}]}, "layers/1"),
        ({"Dense_0": {"bias": 0}, "Dense_10": {"bias": 0}, "Dense_2": {"bias": 0}}, "Dense_10"),
    ],
)
def test_the_head_is_found_by_its_name(paths, head):
    params = jax.tree.map(lambda _: jnp.zeros(2), paths)
    for rule, inside in ((rules.head_only(rules.sgd(0.1)), True), (rules.body_only(rules.sgd(0.1)), False)):
        for path, chosen in jax.tree.leaves_with_path(rule.adapts(params)):
            assert chosen == (f"{path_name(path)}/".startswith(f"{head}/") == inside)


def test_a_head_that_is_not_found_lists_the_parameters():
    params = {"a": {"kernel": jnp.ones(2)}, "b": {"kernel": jnp.ones(2)}}
    with pytest.raises(InnerloopError, match="looks like a network's last layer; the parameters are: a/kernel, b/ke"):
        rules.head_only(rules.sgd(0.1)).init(params)
    with pytest.raises(InnerloopError, match="is called 'c'; the parameters are: a/kernel, b/kernel"):
        rules.body_only(rules.sgd(0.1), head="c").init(params)


def test_counting_counts_and_learns_nothing_more():
    rule = rules.counting(rules.masked(rules.meta_sgd(0.1), lambda path, _: path.startswith("head/")))
    params = {**PARAMS, "step": jnp.zeros(())}
    plain = rules.masked(rules.meta_sgd(0.1), lambda path, _: path.startswith("head/")).init(PARAMS)
    same(rule.init(params), {**plain, "step": None})
    end = adapt(loss, Meta(params, rule.init(params)), jnp.zeros(1), KEY, rule=rule, steps=3).params
    assert end["step"] == 3
    assert (end["body"]["kernel"] == PARAMS["body"]["kernel"]).all()
    np.testing.assert_allclose(end["head"]["bias"], -0.3, rtol=1e-6)


def bowl(params, batch, key):
    return 0.5 * jnp.sum(batch * params["w"] ** 2), {}


def test_a_bound_on_the_growth_stops_the_inner_loop_that_runs_away():
    """Curvatures on both sides of what the step size 1 holds: in the steep task no step is longer than the first."""
    params = {"w": jnp.array([3.0, 4.0])}
    for curvature in (0.5, 4.0):
        plain, bounded = (
            adapt(bowl, Meta(params, ()), jnp.array(curvature), KEY, rule=rule, steps=40, trajectory=True)
            for rule in (rules.sgd(1.0), rules.bounded(rules.sgd(1.0), growth=1.0))
        )
        if curvature < 2:
            np.testing.assert_array_equal(plain.params["w"], bounded.params["w"])  # bit by bit where it never binds
        else:
            assert jnp.linalg.norm(plain.params["w"]) > 1e10
            taken = jnp.linalg.norm(jnp.diff(bounded.trajectory["w"], axis=0), axis=1)
            assert taken.max() <= curvature * 5 * (1 + 1e-6)


def test_a_bound_on_the_norm_is_the_norm_over_all_leaves():
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    for norm, share in ((2.5, 0.5), (5.5, 1.0)):
        transform = rules.bounded(rules.sgd(1.0), norm=norm).transform((), 3)
        update, _ = transform.update(gradient, transform.init(gradient), gradient)
        same(update, jax.tree.map(lambda g, share=share: -share * g, gradient))
    huge = {"a": jnp.array([3e30, 4e30])}
    transform = rules.bounded(rules.sgd(1.0), norm=5.0).transform((), 0)
    update, _ = transform.update(huge, transform.init(huge), huge)
    np.testing.assert_allclose(update["a"], [-3.0, -4.0], rtol=1e-6)


def test_a_bounded_rule_learns_and_counts_what_it_did_and_has_a_derivative_at_zero():
    rule = rules.counting(rules.bounded(rules.masked(rules.meta_sgd(0.1), lambda path, _: path.startswith("head/")),
                                        growth=1.0))  # fmt: skip
    params = {**PARAMS, "step": jnp.zeros(())}
    assert rule.init(params)["body"] == {"kernel": None}
    assert adapt(loss, Meta(params, rule.init(params)), jnp.zeros(1), KEY, rule=rule, steps=3).params["step"] == 3
    bounded = rules.bounded(rules.sgd(0.1), growth=1.0)
    end = lambda w: jnp.sum(adapt(bowl, Meta({"w": w}, ()), jnp.array(1.0), KEY, rule=bounded, steps=2).params["w"])  # noqa: E731
    np.testing.assert_allclose(jax.grad(end)(jnp.zeros(2)), 0.81 * np.ones(2), rtol=1e-6)


@pytest.mark.parametrize("bounds", [{}, {"growth": 1.0, "norm": 1.0}, {"growth": 0.0}, {"norm": float("nan")}])
def test_a_bound_that_is_none_is_refused(bounds):
    with pytest.raises(InnerloopError, match=r"one bound|needs a positive number"):
        rules.bounded(rules.sgd(0.1), **bounds)


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [rules.sgd, rules.meta_sgd, rules.alfa, rules.meta_curvature])
def test_a_step_size_that_cannot_be_is_refused(make, rate):
    with pytest.raises(InnerloopError, match=f"learning rate is {rate}"):
        make(rate)
