"""The natural-gradient step against dense linear algebra."""

from dataclasses import replace

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl import TrustRegion, Values
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
    return Values(jnp.vdot(flat(SLOPE), vector), 0.5 * jnp.vdot(vector, MATRIX @ vector), jnp.vdot(vector, vector))


def test_the_direction_is_that_of_the_dense_system_and_the_step_fills_the_region(x64):
    after, metrics = natural_step(replace(REGION, iterations=6), START, SLOPE, times_matrix, evaluate)
    expected = -np.linalg.solve(MATRIX, flat(SLOPE))
    expected *= np.sqrt(2 * 0.01 / (expected @ MATRIX @ expected))
    assert metrics["kl"] == pytest.approx(0.01, rel=1e-6) or metrics["tries"] == 2  # rounding decides
    np.testing.assert_allclose(flat(after) * 0.8 ** -(int(metrics["tries"]) - 1), expected, rtol=1e-6)
    assert metrics["accepted"] == 1
    assert metrics["loss_after"] < metrics["loss_before"]
    assert metrics["step_length"] == pytest.approx(np.linalg.norm(flat(after)))
    assert metrics["kl_initial"] == pytest.approx(flat(after) @ flat(after))
    assert metrics["cg_residual"] < 1e-6


def test_the_initial_divergence_is_bounded_instead_if_asked_for(x64):
    doubled = lambda tree: Values(evaluate(tree)[0], 100 * evaluate(tree)[1], evaluate(tree)[1])  # noqa: E731
    _, metrics = natural_step(replace(REGION, divergence="initial"), START, SLOPE, times_matrix, doubled)
    assert metrics["accepted"] == 1
    assert 0.005 < metrics["kl_initial"] <= 0.01
    assert metrics["kl"] > 0.5


@pytest.mark.parametrize(("divergence", "other"), [("adapted", "kl_initial"), ("initial", "kl")])
def test_the_cap_holds_for_the_other_divergence(x64, divergence, other):
    judge = evaluate if divergence == "adapted" else lambda tree: Values(*(evaluate(tree)[i] for i in (0, 2, 1)))
    region = replace(REGION, divergence=divergence)
    _, free = natural_step(region, START, SLOPE, times_matrix, judge)
    _, capped = natural_step(replace(region, cap=float(free[other]) / 2), START, SLOPE, times_matrix, judge)
    assert capped["accepted"] == 1
    assert free[other] / 4 < capped[other] <= free[other] / 2
    assert capped["tries"] > free["tries"]


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
    def judge(tree):
        moved = flat(tree).any()
        return Values(jnp.where(moved, loss, 0.0), jnp.where(moved, kl, 0.0), jnp.zeros(()))

    start, slope = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (START, SLOPE))
    after, metrics = natural_step(TrustRegion(), start, slope, times_matrix, judge)
    assert (flat(after) == flat(start)).all()
    assert metrics["accepted"] == 0
    assert metrics["tries"] == tries
    assert metrics["loss_after"] == metrics["loss_before"] == 0


def test_the_line_search_takes_the_first_step_that_is_good(x64):
    length = np.linalg.norm(flat(natural_step(REGION, START, SLOPE, times_matrix, evaluate)[0]))
    far = lambda tree: jnp.where(jnp.linalg.norm(flat(tree)) < 0.6 * length, 0.0, 1.0)  # noqa: E731
    near = lambda tree: evaluate(tree)._replace(adapted=far(tree))  # noqa: E731
    _, metrics = natural_step(REGION, START, SLOPE, times_matrix, near)
    assert metrics["tries"] in (4, 5)  # 0.8^3 = 0.51, from a first step that rounding may have shrunk
    assert metrics["accepted"] == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bound": 0.0}, "bound is 0.0; it must be positive"),
        ({"shrink": 1.0}, "shrinks steps by 1.0"),
        ({"tries": 0}, "at least one iteration and try"),
        ({"divergence": "final"}, "no divergence 'final'; choose one of: adapted, initial"),
        ({"cap": -1.0}, "cap on the other divergence is -1.0"),
        ({"curvature_every": 0}, "curvature_every=0 steps; give at least 1"),
        ({"curvature_tasks": -1}, "curvature_tasks=-1 tasks"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(InnerloopError, match=said):
        TrustRegion(**wrong)
