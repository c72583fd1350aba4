"""The meta-step in innerloop, written as its documentation teaches."""

import time
from functools import partial
from typing import Any

import jax
import numpy as np

import innerloop as il
from benchmarks.peers import with_jax
from benchmarks.peers.implementations import MetaStep
from benchmarks.peers.problems import Arrays, Batch, Case, Convnet, Mlp, Problem, Transformer
from innerloop import losses, models, rules

AT_ONCE = 20
"""Meta-steps in a dispatch of the small network, as in the program, which takes hundreds."""
MEASURED = 3
"""Dispatches by which a candidate is judged."""


def candidates(case: Case, adjoint: type[il.Mixed | il.Reverse | il.FirstOrder]) -> list[tuple[il.Layout, il.Adjoint]]:
    """Layouts and adjoints among which the program would choose here, see `innerloop.workloads.episodes.tune`.

    The steps of the deep network are scanned, since several of them unrolled would compile for minutes.
    """
    devices = min(jax.device_count(), case.tasks)
    if isinstance(case.network, Mlp):
        adjoints = (il.Mixed, il.Reverse) if adjoint is il.Mixed else (adjoint,)
        return [(il.Layout(shards), each(unroll=10)) for shards in (1, devices) for each in adjoints]
    return [(il.Layout(devices, chunk=1), adjoint(unroll=1 if isinstance(case.network, Transformer) else 5))]


def fastest(problem: Problem, adjoint: type[il.Mixed | il.Reverse | il.FirstOrder]) -> MetaStep:
    """The meta-step computed in the best way, by a short measurement if there are several."""
    ways = candidates(problem.case, adjoint)
    if len(ways) == 1:
        return build(problem, *ways[0])

    def seconds(way: tuple[il.Layout, il.Adjoint]) -> float:
        trial, times = build(problem, *way), []
        for _ in range(2 + MEASURED):
            start = time.perf_counter()
            trial.run()
            times.append(time.perf_counter() - start)
        return min(times[2:])

    return build(problem, *min(ways, key=seconds))


def model_of(network: Mlp | Convnet | Transformer) -> il.models.Model:
    if isinstance(network, Mlp):
        inputs, *hidden, outputs = network.widths
        return models.mlp(inputs, hidden, outputs)
    if isinstance(network, Convnet):
        downsample = "max-pool" if network.pooled else "stride"
        sizes = {"filters": network.filters, "blocks": network.blocks}
        return models.convnet(network.image, network.ways, downsample=downsample, **sizes)
    return models.from_functions(lambda key: {}, partial(with_jax.transformer, network))


def meta_loss_of(case: Case, adjoint: il.Adjoint) -> il.MetaLoss:
    """The loss of a task after adaptation."""
    criterion = losses.squared_error if isinstance(case.network, Mlp) else losses.cross_entropy
    loss = losses.supervised(model_of(case.network), criterion)
    return il.meta_loss(loss, rule=rules.sgd(case.rate), steps=case.steps, adjoint=adjoint)


def params_of(problem: Problem) -> Any:
    """The initial parameters as the network wants them: nested, except that the transformer reads the flat dict."""
    if isinstance(problem.case.network, Transformer):
        return problem.params
    nested: dict[str, Arrays] = {}
    for name, value in problem.params.items():
        layer, leaf = name.split("/")
        nested.setdefault(layer, {})[leaf] = value
    return nested


def tasks_of(problem: Problem) -> il.Task:
    return il.Task(*(il.Examples(*batch) for batch in (problem.support, problem.query)))


def build(problem: Problem, layout: il.Layout, adjoint: il.Adjoint) -> MetaStep:
    """The meta-step with this layout and adjoint."""
    gradient = il.meta_gradient(meta_loss_of(problem.case, adjoint), layout)

    def meta_gradient(params: Any, tasks: il.Task, key: jax.Array) -> Any:
        return gradient(il.Meta(params, ()), tasks, key)[0].params

    return with_jax.meta_step(
        meta_gradient,
        params_of(problem),
        (tasks_of(problem), jax.random.key(0)),
        layout.replicate,
        AT_ONCE if isinstance(problem.case.network, Mlp) else 1,
    )


def exact(problem: Problem) -> MetaStep:
    """The default."""
    return fastest(problem, il.Mixed)


def reverse(problem: Problem) -> MetaStep:
    """Plain reverse mode over reverse mode."""
    return fastest(problem, il.Reverse)


def first_order(problem: Problem) -> MetaStep:
    """Without second derivatives."""
    return fastest(problem, il.FirstOrder)


def reference(problem: Problem) -> Arrays:
    """The exact meta-gradient in double precision: `Reverse` on one device, one task at a time."""
    with jax.enable_x64(True):
        step = build(in_double(problem), il.Layout(chunk=1), il.Reverse())
        step.run()
        return step.gradient()


def in_double(problem: Problem) -> Problem:
    """The same numbers in double precision."""
    wide = lambda array: array.astype(np.float64) if array.dtype == np.float32 else array  # noqa: E731
    params = {name: wide(array) for name, array in problem.params.items()}
    support, query = (Batch(*map(wide, batch)) for batch in (problem.support, problem.query))
    return problem._replace(params=params, support=support, query=query)
