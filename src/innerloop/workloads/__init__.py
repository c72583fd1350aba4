"""What can be run; no workload imports another."""

from collections.abc import Mapping
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.runs.recipe import Recipe
from innerloop.runs.workload import Workload
from innerloop.text import nearest


def registered() -> Mapping[str, Workload[Any]]:
    """All kinds of run by name. Nothing of this loads JAX."""
    from innerloop.workloads.episodes.workload import WORKLOAD as EPISODES
    from innerloop.workloads.reinforcement.workload import WORKLOAD as REINFORCEMENT
    from innerloop.workloads.streams.workload import WORKLOAD as STREAMS
    from innerloop.workloads.tabular.workload import WORKLOAD as TABULAR

    return {workload.name: workload for workload in (EPISODES, REINFORCEMENT, STREAMS, TABULAR)}


def recipes() -> Mapping[str, Recipe[Any]]:
    """All recipes by name."""
    return {name: recipe for workload in registered().values() for name, recipe in workload.recipes.items()}


def with_recipe(name: str) -> Workload[Any]:
    """The kind of run that a recipe belongs to.

    Raises:
        InnerloopError: if there is no recipe of that name; the message names the nearest.
    """
    for workload in registered().values():
        if name in workload.recipes:
            return workload
    raise InnerloopError(f"There is no recipe {name!r}; {nearest(name, recipes())}")
