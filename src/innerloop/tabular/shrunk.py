r"""A head that is shared by all tasks, and moved towards a task as far as its support set tells.

The scores of a task are $f(x) = m(x) + \phi(x)^\top w$: the common head $m$, learned from all tasks, and the task's own
$w \sim N(0, I)$ on features $\phi$ of learned amplitudes. $w$ maximises the posterior, which for a regression with
noise of variance $\lambda$ is the ridge fit of what $m$ leaves,

$$w = \Phi^\top(\Phi\Phi^\top + \lambda I)^{-1}(y - m),$$

and for classes the logistic regression with the prior mean $m$, found by Newton-like steps whose matrix does not
change: the bound of Böhning on the Hessian. The features are the embedding, the rows themselves, what a pooled model
predicts, and a constant. So the pooled model is the limit of small amplitudes, the mixed model with random intercepts
that of a constant alone, ridge or logistic regression of the task alone that of large amplitudes or many rows.

Reference:
    Böhning: Multinomial Logistic Regression Algorithm, 1992; Patacchiola et al.: Bayesian Meta-Learning for the
    Few-Shot Setting via Deep Kernels, 2020, arXiv 1910.05199.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from innerloop.tabular.design import Design
from innerloop.tabular.features import Inputs
from innerloop.types import Examples, Params

ABSENT = -1e9
"""The logit of a class that the support set lacks."""
NEWTON_STEPS, DIFFERENTIATED = 14, 2
"""Steps to the minimum of a logistic regression, and the last ones among them, which are differentiated through."""
START = {"regression": (-1.0, -1.0), "classification": (0.0, 2.0)}
"""Logarithms of the amplitudes of the embedding and of the rows before training. For classes that is nearly the
logistic regression of the task alone: an embedding that has learned nothing yet says little."""
LARGEST_AMPLITUDE = 4.0
"""Of these logarithms: classes that can be separated would have amplitudes grow until squares of them overflow."""
SMALLEST = 1e-6


def init(design: Design, sizes: tuple[int, int], classes: int) -> Params:
    """What all tasks share of the head, before training.

    Args:
        design: what the learner is.
        sizes: counts and numbers that a row has.
        classes: outputs of the head; 1 for regression.
    """
    counts, numbers = (0, 0) if design.image is not None else (sizes[0], sizes[1] - design.pooled)
    common = jnp.zeros((design.widths[-1] + numbers + counts, classes))
    embedding, start = START[design.kind]
    return {
        "common": jnp.concatenate([common, jnp.eye(design.pooled, classes)]),
        "level": jnp.zeros(classes),
        "log_level": jnp.asarray(embedding + 1, jnp.float32),
        "log_embedding": jnp.asarray(embedding, jnp.float32),
        "log_numbers": jnp.full(numbers, start, jnp.float32),
        "log_counts": jnp.asarray(start, jnp.float32),
        "log_pooled": jnp.asarray(embedding, jnp.float32),
        "log_ridge": jnp.asarray(-1.0 if design.kind == "regression" else 0.0, jnp.float32),
    }


def beside(design: Design, z: Array, x: Inputs) -> Array:
    """The embedding, beside it the row: numbers, counts as a vector of length 1, what a pooled model predicts.

    Args:
        design: what the learner is.
        z: embedding, `[rows, dimensions]`.
        x: the rows.
    """
    if design.image is not None:
        return z
    numbers = x.numbers.astype(z.dtype)
    plain, pooled = jnp.split(numbers, [numbers.shape[1] - design.pooled], axis=1)
    counts = jnp.log1p(x.counts.astype(z.dtype))
    counts = counts * lax.rsqrt(jnp.sum(counts**2, axis=-1, keepdims=True) + SMALLEST)
    return jnp.concatenate([z, plain / np.sqrt(max(plain.shape[1], 1)), counts, pooled], axis=-1)


def begin(design: Design, learned: Params, support: Examples, classes: int) -> Params:
    """The task's own head.

    Args:
        design: what the learner is.
        learned: what all tasks share.
        support: what the head reads of the support set, with weights.
        classes: outputs of the head.

    Returns:
        Kernel `[features, classes]` and bias `[classes]`.
    """
    z = support.x
    weight = jnp.ones(z.shape[0]) if support.weight is None else support.weight
    common, level = _resized(learned["common"], classes), _resized(learned["level"][None], classes)[0]
    if not design.shared_labels:
        common, level = jnp.zeros_like(common), jnp.zeros_like(level)
    amplitudes = _amplitudes(design, learned)
    features = jnp.concatenate([z, jnp.ones((z.shape[0], 1))], axis=-1) * amplitudes
    mean = z @ common + level
    if design.kind == "regression":
        own = gaussian(features, support.y[:, None] - mean, weight, jnp.exp(learned["log_ridge"]))
    else:
        targets = jax.nn.one_hot(support.y, classes)
        present = (weight @ targets > 0).astype(z.dtype)
        level = jnp.where(present > 0, level, ABSENT)
        own = logistic(features, targets, weight, jnp.where(present > 0, mean, ABSENT))
    own = own * amplitudes[:, None]
    return {"kernel": common + own[:-1], "bias": level + own[-1]}


def gaussian(features: Array, residual: Array, weight: Array, noise: Array) -> Array:
    r"""The ridge fit without an offset, $(\Phi^\top\Omega\Phi + \lambda I)^{-1}\Phi^\top\Omega r$.

    Args:
        features: $\Phi$, `[rows, features]`.
        residual: $r$, `[rows, outputs]`.
        weight: $\Omega$, `[rows]`; 0 drops a row.
        noise: $\lambda$, the variance of the noise.

    Returns:
        `[features, outputs]`.
    """
    root = jnp.sqrt(weight)[:, None]
    scaled, y = root * features, root * residual
    rows, dimensions = features.shape
    if rows <= dimensions:
        gram = scaled @ scaled.T
        gram = gram + (noise + _rounding(gram)) * jnp.eye(rows, dtype=scaled.dtype)
        return scaled.T @ jax.scipy.linalg.solve(gram, y, assume_a="pos")
    gram = scaled.T @ scaled
    gram = gram + (noise + _rounding(gram)) * jnp.eye(dimensions, dtype=scaled.dtype)
    return jax.scipy.linalg.solve(gram, scaled.T @ y, assume_a="pos")


def logistic(features: Array, targets: Array, weight: Array, mean: Array) -> Array:
    r"""The minimum of $\sum_i \omega_i\,\mathrm{CE}(m_i + \phi_i^\top w, y_i) + \frac12\lVert w\rVert^2$, in $w$.

    Args:
        features: $\Phi$, `[rows, features]`.
        targets: one-hot classes, `[rows, classes]`.
        weight: $\omega$, `[rows]`; 0 drops a row.
        mean: $m$, logits before the task's own part, `[rows, classes]`.

    Returns:
        `[features, classes]`.
    """
    rows, dimensions = features.shape
    root = jnp.sqrt(weight / 2)[:, None]
    scaled = root * features
    small = rows <= dimensions
    gram = scaled @ scaled.T if small else scaled.T @ scaled
    # At the minimum a step is zero whatever the matrix, so nothing is differentiated through its inverse.
    inverse = lax.stop_gradient(_inverse(gram))

    def step(found: Array, mean: Array, features: Array, gram: Array) -> Array:
        if small:  # w = features^T S a with S = sqrt(weight / 2), so that nothing of the size of the features is kept
            chances = jax.nn.softmax(mean + (gram @ found) / jnp.maximum(root, SMALLEST))
            return found - inverse @ (2 * root * (chances - targets) + found)
        chances = jax.nn.softmax(mean + features @ found)
        return found - inverse @ (features.T @ (weight[:, None] * (chances - targets)) + found)

    fixed = lax.stop_gradient((mean, features, gram))
    found = jnp.zeros((gram.shape[0], targets.shape[1]), features.dtype)
    found = lax.fori_loop(0, NEWTON_STEPS - DIFFERENTIATED, lambda _, found: step(found, *fixed), found)
    # At the minimum a step changes nothing, so the derivative of the last ones is nearly that of the minimum.
    for _ in range(DIFFERENTIATED):
        found = step(found, mean, features, gram)
    return scaled.T @ found if small else found


def _inverse(gram: Array) -> Array:
    r"""$(G + (1 + \epsilon) I)^{-1}$, $\epsilon$ as large as rounding needs: a larger matrix is a bound as well."""
    eye = jnp.eye(gram.shape[0], dtype=gram.dtype)
    matrix = gram + (1 + _rounding(gram)) * eye
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), eye)


def _rounding(gram: Array) -> Array:
    """What the diagonal of a matrix needs, so that rounding leaves it positive definite."""
    return 8 * jnp.finfo(gram.dtype).eps * jnp.trace(gram)


def _amplitudes(design: Design, learned: Params) -> Array:
    """Of each feature, in the order of `beside`, and of the constant."""
    embedding, numbers = design.widths[-1], learned["log_numbers"]
    counts = learned["common"].shape[0] - embedding - numbers.shape[0] - design.pooled
    parts = [
        jnp.full(embedding, learned["log_embedding"]),
        numbers,
        jnp.full(counts, learned["log_counts"]),
        jnp.full(design.pooled, learned["log_pooled"]),
        learned["log_level"][None],
    ]
    return jnp.exp(jnp.minimum(jnp.concatenate(parts), LARGEST_AMPLITUDE))


def _resized(values: Array, classes: int) -> Array:
    """What was learned of classes, for another number of them: further ones start at zero."""
    known = values[:, :classes]
    return jnp.pad(known, ((0, 0), (0, classes - known.shape[1])))
