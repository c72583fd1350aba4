"""The natural-gradient step against dense linear algebra."""

from dataclasses import replace

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl import TrustRegion
from innerloop.rl.trpo import conjugate_gradients, natural_step

RANDOM = np.random.default_rng(0)
FACTOR = RANDOM.normal(size=(6, 6))
MATRIX = FACTOR @ FACTOR.T + np.eye(6)
START = {"a": np.zeros(4), "b": {"c": np.zeros(2)}}
SLOPE = {"a": RANDOM.normal(size=4), "b": {"c": RANDOM.normal(size=2)}}
REGION = TrustRegion(iterations=20, residual=0.0, damping=0.0)


def flat(tree):
    return jax.flatten_util.ravel_pytree(tree)[0]


def times_matrix(tree):
    vector, back = jax.flatten_util.ravel_pytree(tree)
    return back(jnp.asarray(MATRIX) @ vector)


def evaluate(tree):
    vector = flat(tree)
    return jnp.vdot(flat(SLOPE), vector), 0.5 * jnp.vdot(vector, MATRIX @ vector)


def test_the_direction_is_that_of_the_dense_system_and_the_step_fills_the_region(x64):
    after, metrics = natural_step(replace(REGION, iterations=6), START, SLOPE, times_matrix, evaluate)
    expected = -np.linalg.solve(MATRIX, flat(SLOPE))
    expected *= np.sqrt(2 * 0.01 / (expected @ MATRIX @ expected))
    assert metrics["kl"] == pytest.approx(0.01, rel=1e-6) or metrics["tries"] == 2  # rounding decides
    np.testing.assert_allclose(flat(after) * 0.8 ** -(int(metrics["tries"]) - 1), expected, rtol=1e-6)
    assert metrics["accepted"] == 1
    assert metrics["loss_after"] < metrics["loss_before"]


def test_conjugate_gradients_stop_early_and_return_their_residual(x64):
    products = []

    def counted(tree):
        jax.debug.callback(lambda: products.append(1))
        return times_matrix(tree)

    x, residual = conjugate_gradients(counted, SLOPE, 3, 0.0)
    jax.effects_barrier()
    assert len(products) == 3
    np.testing.assert_allclose(flat(residual), flat(SLOPE) - MATRIX @ flat(x), atol=1e-10)
    x, residual = conjugate_gradients(times_matrix, SLOPE, 50, 1e-10)
    assert flat(residual) @ flat(residual) < 1e-10


@pytest.mark.parametrize(
    ("loss", "kl", "tries"),
    [(1.0, 0.0, 15), (-1.0, 1.0, 15), (np.nan, 0.0, 15), (-1.0, np.nan, 15)],
    ids=["no better", "too far", "loss not finite", "divergence not finite"],
)
def test_a_step_that_is_no_better_or_too_far_is_refused(loss, kl, tries):
    judge = lambda tree: (jnp.where(flat(tree).any(), loss, 0.0), jnp.where(flat(tree).any(), kl, 0.0))  # noqa: E731
    start, slope = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (START, SLOPE))
    after, metrics = natural_step(TrustRegion(), start, slope, times_matrix, judge)
    assert (flat(after) == flat(start)).all()
    assert metrics["accepted"] == 0
    assert metrics["tries"] == tries
    assert metrics["loss_after"] == metrics["loss_before"] == 0


def test_the_line_search_takes_the_first_step_that_is_good(x64):
    length = np.linalg.norm(flat(natural_step(REGION, START, SLOPE, times_matrix, evaluate)[0]))
    near = lambda tree: (evaluate(tree)[0], jnp.where(jnp.linalg.norm(flat(tree)) < 0.6 * length, 0.0, 1.0))  # noqa: E731
    _, metrics = natural_step(REGION, START, SLOPE, times_matrix, near)
    assert metrics["tries"] in (4, 5)  # 0.8^3 = 0.51, from a first step that rounding may have shrunk
    assert metrics["accepted"] == 1


@pytest.mark.parametrize("wrong", [{"bound": 0.0}, {"shrink": 1.0}, {"tries": 0}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(InnerloopError):
        TrustRegion(**wrong)
