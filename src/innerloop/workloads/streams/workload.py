"""Runs with long inner loops, as the engine knows them. Nothing here loads JAX."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop.runs.codec import flag, leaves
from innerloop.runs.progress import Progress
from innerloop.runs.workload import Comparable
from innerloop.workloads.streams import config as settings
from innerloop.workloads.streams import recipes
from innerloop.workloads.streams.config import Config

if TYPE_CHECKING:
    from innerloop.workloads.streams.session import StreamsSession


class Streams:
    """Weights of training examples, and sequence models that train at test time."""

    name = "streams"
    Config = Config
    recipes = recipes.RECIPES

    def configure(self, name: str, algorithm: str | None) -> Config:
        return recipes.configure(name, algorithm)

    def check(self, config: Config) -> None:
        settings.check(config)

    def open(self, config: Config, progress: Progress, *, resolve: bool) -> "StreamsSession":
        from innerloop.workloads.streams.session import StreamsSession

        return StreamsSession.open(config, progress)

    def comparables(
        self, config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]
    ) -> list[Comparable]:
        from innerloop.workloads.streams import problem

        return problem.comparables(result, scores)

    def identity_of_test_tasks(self, config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
        names = ("tasks", "seed")
        measured = {f"--evaluation.{name}": result["settings"][name] for name in names}
        drawn = {f"--{flag(name)}": value for name, value in leaves(config) if name.startswith("tasks.")}
        return {**drawn, **measured, "data": result["data"]}


WORKLOAD = Streams()
