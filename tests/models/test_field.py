"""Neural fields: the mean over points, contexts in every layer, and PSNR."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import Examples, losses, models, tasks
from innerloop.core import algorithms
from innerloop.errors import InnerloopError


def test_an_example_is_the_mean_over_its_points():
    field = models.neural_field((8, 8), frequencies=4)
    params = field.init(jax.random.key(0))
    rays = jax.random.normal(jax.random.key(1), (5, 7, 2))
    points = field.apply(params, rays.reshape(35, 1, 2)).reshape(5, 7)
    assert np.allclose(field.apply(params, rays)[:, 0], points.mean(axis=1), atol=1e-6)
    assert 0 < float(points.min()) <= float(points.max()) < 1


def test_fourier_features_are_part_of_the_network_and_not_learned():
    field, again = (models.neural_field((4,), frequencies=3, bandwidth=5.0) for _ in range(2))
    params = field.init(jax.random.key(0))
    assert set(params) == {"dense1", "head"}
    assert np.array_equal(field.apply(params, jnp.ones((1, 1, 2))), again.apply(params, jnp.ones((1, 1, 2))))


def test_a_context_moves_every_hidden_layer_and_none_if_zero():
    plain, moved = (models.neural_field((6, 6), frequencies=4, context=size) for size in (0, 3))
    with_context = models.with_context(moved, 3)
    params = with_context.init(jax.random.key(0))
    network = {name: leaf for name, leaf in params["network"].items() if not name.startswith("shift")}
    x = jax.random.normal(jax.random.key(1), (4, 5, 2))
    assert np.allclose(with_context.apply(params, x), plain.apply(network, x), atol=1e-6)
    params["context"] = jnp.ones(3)
    assert not np.allclose(with_context.apply(params, x), plain.apply(network, x), atol=1e-3)
    gradient = jax.grad(lambda params: with_context.apply(params, x).sum())(params)
    assert all(float(jnp.abs(gradient["network"][f"shift{i}"]["kernel"]).max()) > 0 for i in (1, 2))


@pytest.mark.parametrize("name", ["reptile", "maml", "cavia", "anil"])
def test_rows_of_the_table_train_a_field_on_phantoms(name):
    context = 3 if name == "cavia" else None
    learner = algorithms.algorithm(name)(
        models.neural_field((8,), frequencies=4, context=context or 0),
        losses.squared_error,
        inner_rate=1.0,
        steps=2,
        optimizer=optax.adam(1e-2),
        meta_batch=2,
        context=context,
    )
    state = learner.init(jax.random.key(0))
    phantoms = tasks.Phantoms(views=3, resolution=6)
    update = jax.jit(learner.update)
    for _ in range(2):
        state, _ = update(state, phantoms)
    _, metrics = update(state, phantoms)
    assert float(metrics["loss_after"]) < 0.3
    assert float(metrics["skipped"]) == 0


def test_psnr_is_that_of_the_whole_batch():
    constant = models.from_functions(lambda key: jnp.zeros(()), lambda params, x: params + 0 * x)
    loss = losses.with_psnr(losses.supervised(constant, losses.squared_error), peak=2.0)
    batch = Examples(jnp.zeros((2, 1)), jnp.array([[0.0], [0.2]]))
    value, metrics = loss(0.0, batch, jax.random.key(0))
    assert float(metrics["psnr"]) == pytest.approx(10 * np.log10(4 / 0.02))
    assert float(value) == pytest.approx(0.02)
    perfect = loss(0.0, Examples(jnp.zeros((2, 1)), jnp.zeros((2, 1))), jax.random.key(0))[1]
    assert np.isfinite(perfect["psnr"])


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)])
def test_other_inputs_than_points_are_refused(shape):
    field = models.neural_field((4,), frequencies=2)
    with pytest.raises(InnerloopError, match="points of 2 coordinates"):
        field.apply(field.init(jax.random.key(0)), jnp.zeros(shape))


def test_no_frequencies_are_refused():
    with pytest.raises(InnerloopError, match="use 1 or more"):
        models.neural_field((4,), frequencies=0)
