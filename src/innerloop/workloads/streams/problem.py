"""What a long inner loop is about, as its session knows it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import optax

from innerloop.runs.progress import Progress
from innerloop.runs.results import Result, Section, Table
from innerloop.runs.workload import Comparable
from innerloop.types import InnerRule, Meta, MetaLoss, Params, PRNGKey, TaskDistribution
from innerloop.workloads.streams.config import Config, Outer


@runtime_checkable
class Problem(Protocol):
    """Digits whose weights are learned, or streams."""

    @property
    def config(self) -> Config:
        """The configuration."""
        ...

    @property
    def tasks(self) -> TaskDistribution:
        """The inner loops of training."""
        ...

    @property
    def rule(self) -> InnerRule:
        """What the outer loop may learn of the inner updates."""
        ...

    @property
    def meta_loss(self) -> MetaLoss:
        """The loss that the outer loop descends."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the data; empty where they are drawn."""
        ...

    def describe(self) -> str:
        """What is learned, in a line."""
        ...

    def init(self, key: PRNGKey) -> Params:
        """What is learned, before the first meta-step."""
        ...

    def line(self, values: Mapping[str, float]) -> str:
        """What is shown while training."""
        ...


class Judge(NamedTuple):
    """How what was learned of a problem is judged and shown.

    Attributes:
        score: `(problem, meta, progress) -> result`, beside the baselines.
        tables: of a result.
        sections: `(problem, meta, result, records) -> sections`, the pictures of the report.
        simpler: the baselines that are simpler than what was learned, and are told no more than it.
    """

    score: Callable[[Any, Meta, Progress], Result]
    tables: Callable[[Mapping[str, Any]], list[Table]]
    sections: Callable[[Any, Meta, Mapping[str, Any], Sequence[Mapping[str, Any]]], list[Section]]
    simpler: Collection[str]


def optimizer(outer: Outer) -> optax.GradientTransformation:
    """Adam, perhaps of a clipped meta-gradient."""
    adam = optax.adam(outer.learning_rate)
    return optax.chain(optax.clip_by_global_norm(outer.clip), adam) if outer.clip else adam


def comparables(result: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> list[Comparable]:
    """The scores of a finished run that other runs can be compared with.

    Args:
        result: its evaluation, whose first row is its own.
        scores: of single tasks.
    """
    own = result["rows"][0]["name"]
    return [
        Comparable(result["title"], scores[name][:, None], result["lower_is_better"], "" if name == own else name)
        for name in scores
    ]
