"""Runs on episodes, as the engine knows them. Nothing here loads JAX."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from innerloop.runs.progress import Progress
from innerloop.runs.workload import Comparable
from innerloop.workloads.episodes import config as settings
from innerloop.workloads.episodes import recipes
from innerloop.workloads.episodes.config import Config

if TYPE_CHECKING:
    from innerloop.workloads.episodes.session import EpisodesSession


class Episodes:
    """Sinusoids, Omniglot, miniImageNet and printed letters: tasks that are drawn anew for every meta-step."""

    name = "episodes"
    Config = Config
    recipes = recipes.RECIPES

    def configure(self, name: str, algorithm: str | None) -> Config:
        return recipes.configure(name, algorithm)

    def check(self, config: Config) -> None:
        settings.check(config)

    def require_fitting(self, config: Config) -> None:
        """Refuse an algorithm that cannot work on these tasks or with this network."""
        from innerloop.workloads.episodes.build import require_fitting

        require_fitting(config)

    def open(self, config: Config, progress: Progress, *, resolve: bool) -> "EpisodesSession":
        from innerloop.workloads.episodes.session import EpisodesSession

        return EpisodesSession.open(config, progress, resolve=resolve)

    def comparables(
        self, config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]
    ) -> list[Comparable]:
        from innerloop.workloads.episodes import scoring

        return scoring.comparables(config, result, scores)

    def identity_of_test_tasks(self, config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
        from innerloop.workloads.episodes import scoring

        return scoring.identity_of_test_tasks(config, result)


WORKLOAD = Episodes()
