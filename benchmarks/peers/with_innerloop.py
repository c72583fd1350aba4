"""The meta-step in innerloop, written as its documentation teaches."""

from functools import partial
from typing import Any

import jax
import numpy as np

import innerloop as il
from benchmarks.peers import with_jax
from benchmarks.peers.implementations import MetaStep
from benchmarks.peers.problems import Arrays, Batch, Case, Convnet, Mlp, Problem, Transformer
from innerloop import losses, models, rules
from innerloop.experiment.run import cores


def choose(case: Case) -> tuple[il.Layout, il.Mixed]:
    """Where the layout and the adjoint are picked.

    A device for each core and one task at a time, save for the MLP. The steps of the deep network are scanned, since
    several of them unrolled would compile for minutes.
    """
    if isinstance(case.network, Mlp):
        return il.Layout(), il.Mixed()
    shards = max(n for n in range(1, cores() + 1) if case.tasks % n == 0)
    return il.Layout(shards, chunk=1), il.Mixed(unroll=1) if isinstance(case.network, Transformer) else il.Mixed()


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


def use_cores(case: Case) -> None:
    """One CPU device for each core, where tasks are spread over them."""
    devices = 1 if isinstance(case.network, Mlp) else cores()
    if jax.config.jax_num_cpu_devices != devices:  # it can be set until JAX computes something, and read ever after
        jax.config.update("jax_num_cpu_devices", devices)


def build(problem: Problem, layout: il.Layout, adjoint: il.Adjoint) -> MetaStep:
    """The meta-step with this layout and adjoint."""
    use_cores(problem.case)
    gradient = il.meta_gradient(meta_loss_of(problem.case, adjoint), layout)

    def meta_gradient(params: Any, tasks: il.Task, key: jax.Array) -> Any:
        return gradient(il.Meta(params, ()), tasks, key)[0].params

    return with_jax.meta_step(
        meta_gradient, params_of(problem), (tasks_of(problem), jax.random.key(0)), layout.replicate
    )


def chosen(problem: Problem) -> MetaStep:
    """As `choose` says."""
    return build(problem, *choose(problem.case))


def reverse(problem: Problem) -> MetaStep:
    """The same, in plain reverse mode over reverse mode."""
    layout, adjoint = choose(problem.case)
    return build(problem, layout, il.Reverse(adjoint.unroll))


def first_order(problem: Problem) -> MetaStep:
    """The same, without second derivatives."""
    layout, adjoint = choose(problem.case)
    return build(problem, layout, il.FirstOrder(adjoint.unroll))


def reference(problem: Problem) -> Arrays:
    """The exact meta-gradient in double precision: `Reverse` on one device, one task at a time."""
    jax.config.update("jax_enable_x64", True)
    step = build(in_double(problem), il.Layout(chunk=1), il.Reverse())
    step.run()
    return step.gradient()


def in_double(problem: Problem) -> Problem:
    """The same numbers in double precision."""
    wide = lambda array: array.astype(np.float64) if array.dtype == np.float32 else array  # noqa: E731
    params = {name: wide(array) for name, array in problem.params.items()}
    support, query = (Batch(*map(wide, batch)) for batch in (problem.support, problem.query))
    return problem._replace(params=params, support=support, query=query)
