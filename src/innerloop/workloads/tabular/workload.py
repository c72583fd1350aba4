"""Runs on a user's own tasks, as the engine knows them. Nothing here loads JAX."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop.runs.progress import Progress
from innerloop.runs.recipe import Recipe
from innerloop.runs.workload import Comparable
from innerloop.workloads.tabular import config as settings
from innerloop.workloads.tabular.config import Config

if TYPE_CHECKING:
    from innerloop.workloads.tabular.session import TabularSession


class Tabular:
    """A table with a task column, or a folder of images."""

    name = "tabular"
    Config = Config
    recipes: Mapping[str, Recipe[Config]] = {}

    def configure(self, name: str, algorithm: str | None) -> Config:
        config = Config(data=name)
        return config if algorithm is None else replace(config, algorithm=algorithm)  # pyright: ignore

    def check(self, config: Config) -> None:
        settings.check(config)

    def open(self, config: Config, progress: Progress, *, resolve: bool) -> "TabularSession":
        from innerloop.workloads.tabular.session import TabularSession

        return TabularSession.open(config, progress, resolve=resolve)

    def comparables(
        self, config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]
    ) -> list[Comparable]:
        from innerloop.workloads.tabular import evaluation

        return evaluation.comparables(config, result, scores)

    def identity_of_test_tasks(self, config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
        from innerloop.workloads.tabular import evaluation

        return evaluation.identity_of_test_tasks(config, result)


WORKLOAD = Tabular()
