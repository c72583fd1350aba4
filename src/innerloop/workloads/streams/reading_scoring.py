"""What test-time training is worth: scores on test streams, beside networks of the same size without it."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder
from innerloop.core.outer import init, meta_step, repeat
from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, estimate
from innerloop.types import InnerRule, Meta, TaskDistribution
from innerloop.workloads.streams import transformer
from innerloop.workloads.streams.config import RecallTasks, length, reach
from innerloop.workloads.streams.problem import optimizer
from innerloop.workloads.streams.reading import NAMES, STILL, TRAINING, Reading, resting_rule
from innerloop.workloads.streams.recall import asked as asked_of

AT_ONCE = 25
"""Test streams that are read at once."""


def score(problem: Reading, meta: Meta, progress: Progress) -> Result:
    """Read the test streams.

    Args:
        problem: the streams, and how they are read.
        meta: what was learned.
        progress: what is said meanwhile.
    """
    config = problem.config
    settings = config.evaluation
    recall = isinstance(config.tasks, RecallTasks)
    own = NAMES[config.algorithm]
    found: dict[str, dict[str, np.ndarray]] = {}
    with progress.timed(f"reading {settings.tasks:,} test streams: {own}"):
        found[own] = read(problem, meta, problem.rule)
    if settings.baselines and config.algorithm == TRAINING:
        with progress.timed(f"reading them: {STILL}"):
            found[STILL] = read(problem, Meta(meta.params, ()), resting_rule())
        for algorithm in ("window", "full"):
            other = problem.other(algorithm)
            with progress.timed(f"training a network of the same size: {NAMES[algorithm]}"):
                found[NAMES[algorithm]] = read(other, trained(other), other.rule)
    rows: list[dict[str, Any]] = []
    scores: dict[str, np.ndarray] = {}
    for name, streams in found.items():
        if recall:
            asked = np.asarray(asked_of(length(config)))
            scores[name] = 100 * streams["accuracy"][:, asked].mean(axis=1)
            course = 100 * streams["accuracy"].mean(axis=0)[asked]
        else:
            scores[name] = streams["nats"].mean(axis=1) / math.log(2)
            by_chunk = streams["nats"].reshape(settings.tasks, -1, config.network.chunk)
            course = by_chunk.mean(axis=(0, 2)) / math.log(2)
        mean, half_width = estimate(scores[name])
        rows.append(
            {
                "name": name,
                "score": {"mean": float(mean), "ci95_half_width": float(half_width)},
                "course": course.tolist(),
            }
        )
    whole, fast = transformer.size_of(meta.params)
    values = {
        "title": "recall beyond the window (%)" if recall else "bits per byte",
        "lower_is_better": not recall,
        "settings": asdict(settings),
        "data": problem.fingerprint,
        "chance": 100 / config.tasks.values if isinstance(config.tasks, RecallTasks) else None,
        "distance": config.tasks.pairs + 2 if isinstance(config.tasks, RecallTasks) else None,
        "length": length(config),
        "reach": reach(config),
        "window": config.network.window,
        "chunk": config.network.chunk,
        "parameters": whole,
        "fast": fast,
        "rows": rows,
    }
    return Result(values, scores)


def read(problem: Reading, meta: Meta, rule: InnerRule) -> dict[str, np.ndarray]:
    """The loss and the accuracy at each token of each test stream, `[streams, tokens]`.

    Args:
        problem: the streams, and the shape of the network.
        meta: what was learned.
        rule: the update after every chunk.
    """
    settings = problem.config.evaluation
    loss = transformer.loss(problem.shape, by_token=True)
    key = jax.random.key(settings.seed, impl="threefry2x32")

    def one(meta: Meta, tasks: TaskDistribution, key: Array) -> Any:
        support = jax.tree.map(lambda leaf: leaf[0], tasks.sample(key, 1).support)
        metrics = adapt(loss, meta, support, key, rule=rule, steps=problem.steps, adjoint=FirstOrder(unroll=0)).metrics
        return jax.tree.map(lambda leaf: leaf.reshape(-1), metrics)

    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(settings.tasks))

    @jax.jit
    def every(meta: Meta, tasks: TaskDistribution, keys: Array) -> Any:
        return jax.lax.map(partial(one, meta, tasks), keys, batch_size=AT_ONCE)

    return jax.tree.map(np.asarray, every(meta, problem.test_tasks, keys))


def trained(problem: Reading) -> Meta:
    """What is learned by the same number of meta-steps of the same optimiser."""
    config = problem.config
    params_key, run_key = jax.random.split(jax.random.key(config.seed, impl="threefry2x32"))
    outer = optimizer(config.outer)
    state = init(problem.init(params_key), problem.rule, outer, run_key)
    steps = jax.jit(repeat(meta_step(problem.meta_loss, outer, meta_batch=config.outer.meta_batch)), donate_argnums=0)
    return steps(state, problem.tasks, np.int32(config.outer.iterations))[0].meta
