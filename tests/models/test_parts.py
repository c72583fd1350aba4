"""Networks with a context, with parameters of each inner step, with prototypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Examples, InnerloopError, Meta, adapt, losses, models, rules

KEY = jax.random.key(0)
NORMALISED = models.mlp(3, (4,), 2, initializer=models.glorot, normalisation=models.Normalisation(True, True))


def test_each_inner_step_has_its_own_scale_and_shift():
    """What was updated t times is judged with the parameters of step t, and beyond the last with those of the last."""
    model = models.per_step(NORMALISED, 2)
    params = model.init(KEY)
    network, norm = params["network"], params["network"]["norm1"]
    assert norm["scale"].shape == (3, 4)
    norm |= {"scale": jnp.arange(1.0, 13).reshape(3, 4), "shift": jnp.arange(12.0).reshape(3, 4)}
    x = jax.random.normal(KEY, (5, 3))
    for count in range(4):
        now = {**network, "norm1": jax.tree.map(lambda leaf, i=min(count, 2): leaf[i], norm)}
        outputs = model.apply({"network": network, "step": jnp.array(float(count))}, x)
        np.testing.assert_allclose(outputs, NORMALISED.apply(now, x), rtol=1e-6)


def test_the_inner_loop_counts_its_steps():
    model = models.per_step(NORMALISED, 2)
    loss = losses.supervised(model, losses.squared_error)
    params, batch = model.init(KEY), Examples(jnp.ones((4, 3)), jnp.ones((4, 2)))
    rule = rules.counting(rules.sgd(0.1))
    end = adapt(loss, Meta(params, ()), batch, KEY, rule=rule, steps=3, trajectory=True)
    assert end.trajectory["step"].tolist() == [0, 1, 2, 3]


def test_a_context_joins_the_input():
    model = models.with_context(models.mlp(5, (4,), 1, initializer=models.glorot), 2)
    params, x = model.init(KEY), jnp.ones((3, 3))
    params["context"] = jnp.array([2.0, 3.0])
    joined = jnp.concatenate([x, jnp.array([[2.0, 3.0]] * 3)], axis=1)
    plain = models.mlp(5, (4,), 1, initializer=models.glorot).apply(params["network"], joined)
    np.testing.assert_allclose(model.apply(params, x), plain, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.with_context(NORMALISED, 0), "A context of 0 numbers can hold nothing"),
        (
            lambda: models.per_step(models.mlp(3, (4,), 2), 2).init(KEY),
            "one value for each step; they are: dense1/bias",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InnerloopError, match=message):
        make()


def test_prototypes_of_more_classes_than_are_asked_for():
    more, fewer = (models.prototypical(models.mlp(3, (4,), 2), 2, ways) for ways in (5, 3))
    params = more.init(KEY)
    params["prototypes"] += np.arange(5.0)[:, None]
    x = jnp.ones((4, 3))
    np.testing.assert_array_equal(fewer.apply(params, x), more.apply(params, x)[:, :3])


@pytest.mark.parametrize("make", [models.per_step, models.with_context, lambda m, n: models.prototypical(m, n, 2)])
def test_running_statistics_are_refused(make):
    model = models.with_running_statistics(NORMALISED, jax.ShapeDtypeStruct((2, 3), np.float32))
    with pytest.raises(InnerloopError, match="running statistics"):
        make(model, 2)
