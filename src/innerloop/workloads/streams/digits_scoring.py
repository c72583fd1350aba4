"""What learned weights are worth: classifiers that are trained with them, beside others."""

from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, estimate
from innerloop.types import Meta
from innerloop.workloads.streams.config import DigitTasks
from innerloop.workloads.streams.digits import (
    CHECKS,
    CLEAN,
    EARLY,
    FEW,
    LEARNED,
    THRESHOLD,
    UNIFORM,
    Digits,
    Part,
)

CERTAIN = 20.0
"""A logit whose weight is one."""


def score(problem: Digits, meta: Meta, progress: Progress) -> Result:
    """Train classifiers from the same starts on the same batches with different weights, and test them.

    Args:
        problem: the digits.
        meta: the logits of the learned weights, `[examples]`.
        progress: what is said meanwhile.
    """
    settings, tasks, logits = problem.config.evaluation, problem.config.tasks, meta.params
    assert isinstance(tasks, DigitTasks)
    keys = jax.random.split(jax.random.key(settings.seed, impl="threefry2x32"), settings.tasks)
    equal = jnp.zeros_like(logits)
    wrong = problem.data.wrong
    found: dict[str, np.ndarray] = {}
    areas: dict[str, float] = {LEARNED: area(wrong, -np.asarray(logits))}

    @jax.jit
    def accuracies(logits: Array) -> Array:
        return jax.lax.map(lambda pair: _tested(problem, *pair), (logits, keys))

    def all_with(logits: Array) -> np.ndarray:
        return 100 * np.asarray(accuracies(jnp.broadcast_to(logits, (settings.tasks, logits.shape[-1]))))

    with progress.timed(f"training {settings.tasks} classifiers with the learned weights"):
        found[LEARNED] = all_with(logits)
    if settings.baselines:
        with progress.timed(f"training {5 * settings.tasks} classifiers with other weights"):
            found[UNIFORM] = all_with(equal)
            early, losses = jax.jit(lambda: jax.lax.map(lambda key: _stopped(problem, equal, key), keys))()
            found[EARLY] = 100 * np.asarray(early)
            areas[THRESHOLD] = area(wrong, np.mean(np.asarray(losses), axis=0))
            kept = jax.lax.top_k(-losses, tasks.training - int(wrong.sum()))[1]
            chosen = jax.vmap(lambda kept: jnp.full_like(logits, -CERTAIN).at[kept].set(CERTAIN))(kept)
            found[THRESHOLD] = all_with(chosen)
            found[CLEAN] = all_with(jnp.where(jnp.asarray(wrong), -CERTAIN, CERTAIN))
            found[FEW] = _few(problem, keys)
    rows: list[dict[str, Any]] = []
    for name, values in found.items():
        rows.append({"name": name, "score": _mean(values), "area": areas.get(name)})
        if CLEAN in found and name != CLEAN:
            rows[-1]["difference"] = _mean(values - found[CLEAN])
    return Result(
        {
            "title": "test accuracy (%)",
            "lower_is_better": False,
            "settings": asdict(settings),
            "data": problem.fingerprint,
            "wrong": int(wrong.sum()),
            "training": tasks.training,
            "validation": tasks.validation,
            "test": len(problem.data.test.y),
            "rows": rows,
        },
        found,
    )


def area(positive: np.ndarray, values: np.ndarray) -> float:
    """The area under the ROC curve: the share of pairs, one of them positive, in which its value is the larger.

    Example:
        >>> area(np.array([True, False, True]), np.array([2.0, 1.0, 1.0]))
        0.75
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, values)) if 0 < positive.sum() < len(positive) else float("nan")


def _accuracy(problem: Digits, network: Any, part: Part) -> Array:
    return jnp.mean(problem.losses(network, part)[1]["accuracy"])


def _tested(problem: Digits, logits: Array, key: Array) -> Array:
    """The test accuracy after a training with these weights."""
    return _accuracy(problem, problem.trained(logits, key).params["network"], problem.data.test)


def _stopped(problem: Digits, logits: Array, key: Array) -> tuple[Array, Array]:
    """At the best validation accuracy: the test accuracy, and the losses of the training images, `[examples]`."""
    path = problem.trained(logits, key, trajectory=True).trajectory
    assert path is not None
    steps = problem.config.inner.steps
    looked = jnp.unique(
        jnp.linspace(1, steps, min(CHECKS, steps)).astype(int), size=min(CHECKS, steps), fill_value=steps
    )
    networks = jax.tree.map(lambda leaf: leaf[looked], path["network"])
    scores = jax.vmap(lambda network: _accuracy(problem, network, problem.data.validation))(networks)
    best = jax.tree.map(lambda leaf: leaf[jnp.argmax(scores)], networks)
    return _accuracy(problem, best, problem.data.test), problem.losses(best, problem.data.training)[0]


def _few(problem: Digits, keys: Array) -> np.ndarray:
    """The test accuracy of trainings on the validation part alone, by the same rule for as many steps."""
    config, part = problem.config, problem.data.validation
    number = len(part.y)
    assert isinstance(config.tasks, DigitTasks)
    tasks = replace(config.tasks, training=number, batch=min(config.tasks.batch, number))
    alone = Digits(replace(config, tasks=tasks), problem.data._replace(training=part, right=np.asarray(part.y)))
    logits = jnp.full(number, CERTAIN)
    return 100 * np.asarray(jax.jit(lambda: jax.lax.map(lambda key: _tested(alone, logits, key), keys))())


def _mean(values: np.ndarray) -> dict[str, float]:
    mean, half_width = estimate(values)
    return {"mean": float(mean), "ci95_half_width": float(half_width)}
