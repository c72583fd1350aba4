"""Runs in meta-reinforcement learning, as the engine knows them. Nothing here loads JAX."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop.runs.progress import Progress
from innerloop.runs.workload import Comparable
from innerloop.workloads.reinforcement import config as settings
from innerloop.workloads.reinforcement import recipes
from innerloop.workloads.reinforcement.config import Config

if TYPE_CHECKING:
    from innerloop.workloads.reinforcement.session import ReinforcementSession


class Reinforcement:
    """MAML by policy gradients on 2D navigation, HalfCheetah and Ant."""

    name = "reinforcement"
    Config = Config
    recipes = recipes.RECIPES

    def configure(self, name: str, algorithm: str | None) -> Config:
        return recipes.configure(name, algorithm)

    def check(self, config: Config) -> None:
        recipe = recipes.RECIPES.get(config.recipe)
        settings.check(config, recipe.make().outer if recipe else None)

    def open(self, config: Config, progress: Progress, *, resolve: bool) -> "ReinforcementSession":
        from innerloop.workloads.reinforcement.session import ReinforcementSession

        return ReinforcementSession.open(config, progress, resolve=resolve)

    def comparables(
        self, config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]
    ) -> list[Comparable]:
        from innerloop.workloads.reinforcement import scoring

        return scoring.comparables(config, result, scores)

    def identity_of_test_tasks(self, config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
        from innerloop.workloads.reinforcement import scoring

        return scoring.identity_of_test_tasks(config, result)


WORKLOAD = Reinforcement()
