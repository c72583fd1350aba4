"""The learner of tasks in tables, against closed forms, and against itself under padding and other units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Examples, InnerloopError
from innerloop.tabular import encoder, head
from innerloop.tabular import learner as learning
from innerloop.tabular.design import Design
from innerloop.tabular.features import Inputs

RNG = np.random.default_rng(0)


def rows(number, classes=3, width=6):
    y = np.arange(number) % classes
    numbers = RNG.normal(size=(number, width)).astype(np.float32) + y[:, None]
    return Inputs(RNG.poisson(1.0, (number, 4)).astype(np.uint8), numbers), y


def support(x, y, weight=None):
    return Examples(x, jnp.asarray(y), jnp.ones(len(y)) if weight is None else jnp.asarray(weight))


def learned(design, classes=3, x=None):
    width = (4, 6) if x is None else (x.counts.shape[1], x.numbers.shape[1])
    return learning.initial(design, width, classes, jax.random.key(0))


def test_before_the_first_step_logits_are_squared_distances_to_the_prototypes():
    design = Design(widths=(16, 8), steps=0)
    (x, y), (q, _) = rows(12), rows(5)
    meta = learned(design)
    adapted = learning.adapt_task(design, 3, meta, support(x, y))
    logits = learning.outputs(design, 3, meta, adapted, q)
    z, zq = (np.asarray(encoder.encode(design, meta.params["encoder"], each)) for each in (x, q))
    means = np.stack([z[y == c].mean(axis=0) for c in range(3)])
    distances = ((zq[:, None] - means[None]) ** 2).sum(axis=-1)
    expected = -distances + (zq**2).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("number", [5, 40])
def test_ridge_solves_the_weighted_normal_equations_in_both_its_forms(number):
    z, y, weight = RNG.normal(size=(number, 8)), RNG.normal(size=(number, 2)), RNG.random(number)
    with jax.enable_x64(True):
        kernel, bias = head.ridge(*map(jnp.asarray, (z, y, weight)), {"log_ridge": jnp.asarray(np.log(0.3))})
    share = weight / weight.sum()
    zc, yc = z - share @ z, y - share @ y
    expected = np.linalg.solve(zc.T @ (weight[:, None] * zc) + 0.3 * np.eye(8), zc.T @ (weight[:, None] * yc))
    np.testing.assert_allclose(kernel, expected, atol=1e-9)
    np.testing.assert_allclose(bias, share @ y - share @ z @ expected, atol=1e-9)


DESIGNS = {
    "prototypes": Design(widths=(16, 8), steps=2),
    "ridge": Design(widths=(16, 8), start="ridge", steps=2),
    "zero": Design(widths=(16, 8), start="zero", steps=2),
    "adapted": Design(widths=(16, 8), adapted=(8,), steps=2),
    "joint": Design(widths=(16, 8), algorithm="joint"),
    "regression": Design("regression", widths=(16, 8), start="ridge", steps=2),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_padding_changes_nothing(name):
    design = DESIGNS[name]
    classes = 1 if design.kind == "regression" else 3
    (x, y), (q, _) = rows(9), rows(5)
    y = y + 0.5 if classes == 1 else y
    meta = learned(design, classes)
    plain = learning.adapt_task(design, classes, meta, support(x, y))
    places = np.arange(16) % 9
    padded = support(Inputs(x.counts[places], x.numbers[places]), y[places], (np.arange(16) < 9).astype(np.float32))
    other = learning.adapt_task(design, classes, meta, padded)
    expected = learning.outputs(design, classes, meta, plain, q)
    assert expected.shape == (5, classes)
    np.testing.assert_allclose(learning.outputs(design, classes, meta, other, q), expected, atol=1e-4)
    np.testing.assert_allclose(other.losses, plain.losses, atol=1e-4)


def test_a_class_that_the_support_set_lacks_is_never_predicted_and_further_classes_are_at_home():
    design = Design(widths=(16, 8), steps=3)
    (x, y), (q, _) = rows(12), rows(20)
    meta = learned(design)
    few = learning.adapt_task(design, 3, meta, support(x, np.where(y == 1, 0, y)))
    assert not (np.argmax(learning.outputs(design, 3, meta, few, q), axis=-1) == 1).any()
    more = learning.adapt_task(design, 8, meta, support(x, y + 4))
    assert set(np.argmax(learning.outputs(design, 8, meta, more, q), axis=-1).tolist()) <= {4, 5, 6}


def test_predictions_follow_the_units_of_the_targets():
    design = DESIGNS["regression"]
    (x, _), (q, _) = rows(12), rows(5)
    y = RNG.normal(size=12)
    meta = learned(design, 1)
    one, other = (learning.adapt_task(design, 1, meta, support(x, t)) for t in (y, 1000 * y - 7))
    expected = 1000 * np.asarray(learning.outputs(design, 1, meta, one, q)) - 7
    np.testing.assert_allclose(learning.outputs(design, 1, meta, other, q), expected, rtol=1e-3, atol=0.1)
    constant = learning.adapt_task(design, 1, meta, support(x, np.full(12, 3.0)))
    np.testing.assert_allclose(learning.outputs(design, 1, meta, constant, q), 3.0, atol=1e-3)


@pytest.mark.slow
def test_images_are_read_by_convolutions():
    design = Design(widths=(4, 8), image=(8, 8, 3), steps=1)
    pixels = RNG.integers(0, 255, (6, 192)).astype(np.uint8)
    x = Inputs(pixels, np.zeros((6, 0), np.float32))
    meta = learned(design, x=x)
    adapted = learning.adapt_task(design, 3, meta, support(x, np.arange(6) % 3), trajectory=True)
    assert jax.tree.leaves(adapted.params)[0].shape[0] == 2
    assert encoder.encode(design, meta.params["encoder"], x).shape == (6, 8)


@pytest.mark.parametrize(
    ("design", "said"),
    [
        (Design(algorithm="reptile"), "algorithm is 'reptile'"),
        (Design(widths=()), "widths is"),
        (Design("regression"), "needs classes"),
        (Design(image=(2, 2, 1), widths=(4, 4)), "too small"),
    ],
)
def test_designs_that_cannot_work_are_refused(design, said):
    with pytest.raises(InnerloopError, match=said):
        design.require()
