"""The row of the table of algorithms that a configuration asks for, with what it sets of it."""

from dataclasses import replace

from innerloop.core import algorithms
from innerloop.core.adjoints import Annealed, ConjugateGradient, Implicit, Truncated
from innerloop.core.algorithms import Algorithm
from innerloop.core.objectives import multi_step
from innerloop.errors import InnerloopError
from innerloop.runs.codec import flag
from innerloop.workloads.episodes.config import Config, Variant
from innerloop.workloads.episodes.network import ways_of


def sizes_of(row: Algorithm, config: Config) -> dict[str, int]:
    """The sizes of the parts that the algorithm asks of the network."""
    if row.network == "context":
        return {"context": config.variant.context}
    if row.network == "prototypes" and (ways := ways_of(config)):
        return {"features": config.variant.features, "ways": ways}
    return {}


def varied(config: Config) -> Algorithm:
    """The configured row of the table, with what the configuration sets of it.

    Raises:
        InnerloopError: for a setting that the algorithm has no use for.
    """
    row, variant = algorithms.algorithm(config.algorithm), config.variant
    adjoint, default = row.adjoint, Variant()
    used = {
        "exact_steps": isinstance(adjoint, Truncated),
        "context": row.network == "context",
        "features": row.network == "prototypes",
        "regularisation": isinstance(adjoint, Implicit),
        "solver_steps": isinstance(adjoint, Implicit),
        "tolerance": isinstance(adjoint, Implicit),
        "line_search": isinstance(adjoint, Implicit),
        "radius": row.outer.radius > 0,
        "first_order_until": isinstance(adjoint, Annealed),
        "all_steps_until": row.objective.needs_progress,
    }
    for name, useful in used.items():
        if not useful and vars(variant)[name] != vars(default)[name]:
            raise InnerloopError(
                f"--variant.{flag(name)} has no effect with --algorithm {config.algorithm}; leave it out."
            )
    if isinstance(adjoint, Truncated):
        adjoint = replace(adjoint, last=variant.exact_steps)
    elif isinstance(adjoint, Annealed):
        adjoint = replace(adjoint, anneal_fraction=variant.first_order_until)
    elif isinstance(adjoint, Implicit):
        solver = ConjugateGradient(variant.solver_steps, variant.tolerance)
        adjoint = Implicit(variant.regularisation, solver, variant.line_search)
    if config.inner.optimizer == "adam":
        row = row.with_adam()
    row = row.bounded(growth=config.inner.bound_growth, norm=config.inner.bound_norm)
    return row._replace(
        adjoint=adjoint,
        objective=multi_step(variant.all_steps_until) if row.objective.needs_progress else row.objective,
        outer=row.outer._replace(radius=variant.radius if used["radius"] else 0.0),
    )


def require_fitting(config: Config) -> None:
    """Refuse an algorithm that cannot work on these tasks or with this network.

    Raises:
        InnerloopError: naming the mend.
    """
    row, name, network = varied(config), config.algorithm, config.network
    if row.network in ("prototypes", "shared-head") and config.kind == "regression":
        raise InnerloopError(f"--algorithm {name} classifies, and these tasks are regression; leave it out.")
    if row.network == "prototypes" and not config.inner.steps:
        raise InnerloopError(f"--inner.steps is 0, but {name} needs one to find the prototypes; use 1.")
    if (ways := config.evaluation.ways) and ways != ways_of(config):
        if config.kind == "regression":
            raise InnerloopError(f"--evaluation.ways is {ways}, but these tasks have no classes; leave it out.")
        if row.network != "prototypes":
            raise InnerloopError(
                f"--evaluation.ways is {ways}, but the network of --algorithm {name} has an output for each class of a "
                "training task; leave it out, or take --algorithm protonet."
            )
        if not 2 <= ways <= ways_of(config):
            raise InnerloopError(
                f"--evaluation.ways is {ways}; give a number of classes from 2 to that of a training task, "
                f"{ways_of(config)} (--tasks.ways)."
            )
    if config.inner.batch and (not row.adapts or not config.inner.steps or row.network == "prototypes"):
        raise InnerloopError(f"--inner.batch has no effect with --algorithm {name}; give --inner.batch=0.")
    if config.inner.batch and isinstance(row.adjoint, Implicit):
        raise InnerloopError(
            f"--inner.batch is {config.inner.batch}, but --algorithm {name} needs one support set for all inner steps, "
            "whose loss has a minimum; give --inner.batch=0."
        )
    if row.network == "context" and network.kind not in ("mlp", "field"):
        raise InnerloopError(f"--algorithm {name} takes --network.kind mlp or field, whose input a context can join.")
    if row.network != "any" and network.normalisation == "running":
        raise InnerloopError(
            f"--algorithm {name} does not take --network.normalisation running; use transductive or support."
        )
    if "bnps" in name.split("+") and network.normalisation == "none":
        raise InnerloopError(
            f"--algorithm {name} asks for normalisation with scale and shift of each step, but --network.normalisation "
            "is none; choose support or transductive, or leave out +bnps."
        )
    if not row.adapts and config.kind == "classification":
        raise InnerloopError(
            f"--algorithm {name} is for regression: the labels of an episode mean nothing outside of it. For "
            "classification every evaluation has pre-training on all classes as a baseline (--evaluation.baselines)."
        )
