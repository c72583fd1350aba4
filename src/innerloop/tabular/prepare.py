"""From rows to what training needs: split by task, features fitted on the training part, episodes."""

import hashlib
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.columns import in_order
from innerloop.tabular.episodes import ClassEpisodes, RaggedEpisodes
from innerloop.tabular.features import Feature, Preparation
from innerloop.tabular.fit import Fitting
from innerloop.tabular.plan import Choices, Plan, plan, smallest_task
from innerloop.tabular.rows import PARTS, Rows, split, usable
from innerloop.types import TaskDistribution

SAMPLE = 50_000
"""Training rows from which the scales of features are taken."""


class Prepared(NamedTuple):
    """Data ready for training.

    Attributes:
        parts: training, validation and test rows.
        preparation: how features are read, fitted on the training rows.
        plan: what is trained and how.
        left_out: tasks that cannot be learned from, with the reason.
        choices: what the user asked for.
    """

    parts: dict[str, Rows]
    preparation: Preparation
    plan: Plan
    left_out: list[tuple[str, str]]
    choices: Choices

    def distribution(self, part: str) -> TaskDistribution | None:
        """The episodes of one part of the data, or `None` if there is no such part."""
        return self._episodes(self.parts[part]) if part in self.parts else None

    def fitting(self) -> Fitting:
        """The compiled meta-step and validation."""
        return Fitting(
            self.plan.design,
            self.plan.schedule,
            self.preparation.sizes,
            self.plan.outputs,
            self._episodes(self.parts["train"]),
            self.distribution("valid"),
        )

    def fingerprint(self) -> str:
        """What tells other data under the same name: a hash of everything that training reads."""
        digest = hashlib.sha256()
        for part in PARTS:
            if part in self.parts:
                rows = self.parts[part]
                digest.update(repr((part, rows.names, rows.target.tolist())).encode())
                digest.update(np.ascontiguousarray(rows.tasks).data)
                for name, values in rows.columns.items():
                    digest.update(name.encode())
                    plain = values.dtype != object
                    digest.update(np.ascontiguousarray(values).data if plain else repr(values.tolist()).encode())
        return digest.hexdigest()[:16]

    def _episodes(self, rows: Rows) -> TaskDistribution:
        plan, inputs = self.plan, self.preparation.encode(rows.columns)
        if rows.image:
            return ClassEpisodes.from_rows(
                inputs, rows.target, rows.tasks, ways=self.choices.ways, shots=plan.supports, queries=plan.queries
            )
        y = rows.target.astype(np.float32) if rows.regression else label_indices(rows, plan.labels)
        return RaggedEpisodes.from_rows(
            inputs, y, rows.tasks, supports=plan.supports, queries=plan.queries, seed=self.choices.seed
        )


def prepare(rows: Rows, choices: Choices) -> Prepared:
    """Leave out what cannot be learned from, split by task, fit the preparation on the training part, plan.

    Args:
        rows: all rows.
        choices: what the user asked for.

    Raises:
        InnerloopError: if what is left is too little.
    """
    left_out: list[tuple[str, str]] = []
    if rows.image:
        parts = split_images(rows, choices.seed, choices.ways)
    else:
        rows, left_out = usable(rows, smallest_task(choices, rows))
        parts = split(rows, choices.seed)
    training = parts["train"]
    if rows.image:
        name, pixels = next(iter(training.columns.items()))
        preparation = Preparation((Feature(name, "counts", pixels.shape[1], tuple(range(pixels.shape[1]))),))
    else:
        chosen = np.random.default_rng(choices.seed).permutation(len(training.target))[:SAMPLE]
        preparation = Preparation.fit({name: values[chosen] for name, values in training.columns.items()})
    return Prepared(parts, preparation, plan(choices, rows, sum(preparation.sizes)), left_out, choices)


def split_images(rows: Rows, seed: int, ways: int) -> dict[str, Rows]:
    """Images split by task, or by class if all classes belong to one.

    Raises:
        InnerloopError: if there are too few.
    """
    if len(rows.names) > 1:
        return split(rows, seed)
    classes = in_order(set(rows.target.tolist()))
    if len(classes) < 3 * ways:
        raise InnerloopError(
            f"There are {len(classes)} classes; tasks of {ways} classes (--ways) need at least {3 * ways}, since "
            "training, validation and test share none."
        )
    index = {label: i for i, label in enumerate(classes)}
    owners = np.array([index[label] for label in rows.target], np.int32)
    parts = split(rows._replace(tasks=owners, names=classes), seed, ways)
    return {
        name: part._replace(tasks=np.zeros(len(part.tasks), np.int32), names=rows.names) for name, part in parts.items()
    }


def label_indices(rows: Rows, labels: tuple[str, ...]) -> np.ndarray:
    """The class of each row among those shared by all tasks, or among those of its own task."""
    if labels:
        place = {label: i for i, label in enumerate(labels)}
        return np.array([place[label] for label in rows.target], np.int32)
    y = np.zeros(len(rows.target), np.int32)
    for task in range(len(rows.names)):
        chosen = np.flatnonzero(rows.tasks == task)
        place = {label: i for i, label in enumerate(in_order(set(rows.target[chosen].tolist())))}
        y[chosen] = [place[label] for label in rows.target[chosen]]
    return y
