"""From rows to what training needs: split by task, features fitted on the training part, episodes."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.design import Design
from innerloop.tabular.episodes import ClassEpisodes, RaggedEpisodes
from innerloop.tabular.features import Columns, Feature, Inputs, Preparation, as_matrix, with_pooled
from innerloop.tabular.fit import Fitting
from innerloop.tabular.identity import in_order
from innerloop.tabular.plan import Choices, Plan, labels_of, plan, smallest_task
from innerloop.tabular.pooled import Trees, out_of_fold
from innerloop.tabular.rows import PARTS, Rows, split, usable
from innerloop.tabular.texts import MOST_OUTPUTS, effects_elsewhere
from innerloop.types import Meta, TaskDistribution

MOST_POOLED = 100_000
"""Training rows that a pooled model is fitted to, at most."""
SAMPLE_TOGETHER = 10_000
"""Training rows on which a common head begins."""
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
        units: mean and standard deviation of the training targets, for a regression.
        out_of_fold: what pooled models that did not see its task predict of each training row, `[rows, outputs]`.
        elsewhere: by feature, the effects of training rows' texts in other tasks.
    """

    parts: dict[str, Rows]
    preparation: Preparation
    plan: Plan
    left_out: list[tuple[str, str]]
    choices: Choices
    units: tuple[float, float] = (0.0, 1.0)
    out_of_fold: np.ndarray | None = None
    elsewhere: Columns | None = None

    def distribution(self, part: str) -> TaskDistribution | None:
        """The episodes of one part of the data, or `None` if there is no such part."""
        return self._episodes(part) if part in self.parts else None

    def designed(self, design: Design, *reasons: str) -> "Prepared":
        """The same for another design, which may do without the pooled model."""
        planned = self.plan._replace(design=design, reasons=(*self.plan.reasons, *reasons))
        pooled = self.preparation.pooled if design.pooled else None
        return self._replace(plan=planned, preparation=replace(self.preparation, pooled=pooled))

    def learned(self, meta: Meta, facts: Mapping[str, Any] | None = None) -> TrainedLearner:
        """What training gave, as a learner.

        Args:
            meta: what was learned.
            facts: for the model card.
        """
        plan = self.plan
        return TrainedLearner(plan.design, self.preparation, meta, plan.labels, dict(facts or {}), self.units)

    def fitting(self) -> Fitting:
        """The compiled meta-step and validation."""
        return Fitting(
            self.plan.design,
            self.plan.schedule,
            self.preparation.sizes,
            self.plan.outputs,
            self._episodes("train"),
            self.distribution("valid"),
            self._together(),
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

    def names_of(self, numbers: np.ndarray) -> list[str]:
        """The names of training tasks by their number among those that episodes are drawn from."""
        rows = self.parts["train"]
        return [str(rows.names[task]) for task in drawn_from(rows, self.choices.ways)[numbers]]

    def _together(self) -> tuple[Inputs, np.ndarray] | None:
        """A sample of the training rows with their targets, if a common head can be fitted to them."""
        rows = self.parts["train"]
        if not rows.regression or self.plan.design.start != "shrunk" or self.plan.design.targets != "global":
            return None
        chosen = np.sort(np.random.default_rng(self.choices.seed).permutation(len(rows.target))[:SAMPLE_TOGETHER])
        center, scale = self.units
        return Inputs(*(values[chosen] for values in self._inputs("train"))), (rows.target[chosen] - center) / scale

    def _inputs(self, part: str) -> Inputs:
        """Rows as the network reads them; of training rows, what models that did not see their task predict."""
        if part != "train":
            return self.preparation.encode(self.parts[part].columns)
        inputs = self.features_of_training()
        known = self.preparation.pooled and self.out_of_fold is not None
        return with_pooled(inputs, self.out_of_fold) if known else inputs  # pyright: ignore[reportArgumentType]

    def features_of_training(self) -> Inputs:
        """The features of training rows, without what a pooled model predicts; texts by their effects elsewhere."""
        return replace(self.preparation, pooled=None).encode(self.parts["train"].columns, self.elsewhere)

    def _episodes(self, part: str) -> RaggedEpisodes | ClassEpisodes:
        plan, rows, inputs = self.plan, self.parts[part], self._inputs(part)
        if rows.image:
            return ClassEpisodes.from_rows(
                inputs, rows.target, rows.tasks, ways=self.choices.ways, shots=plan.supports, queries=plan.queries
            )
        center, scale = self.units
        y = (rows.target - center) / scale if rows.regression else label_indices(rows, plan.labels)
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
    preparation, elsewhere = with_effects(preparation, training, choices)
    planned = plan(choices, rows, sum(preparation.sizes))
    planned = planned._replace(reasons=(*planned.reasons, *told_of_texts(preparation)))
    prepared = Prepared(parts, preparation, planned, left_out, choices, units_of(training), elsewhere=elsewhere)
    return pooled_beside(prepared) if planned.design.pooled else prepared


def with_effects(preparation: Preparation, rows: Rows, choices: Choices) -> tuple[Preparation, Columns | None]:
    """The preparation with what texts meant in training, and for training rows what they meant in other tasks."""
    labels = labels_of(choices, rows)
    if not any(feature.used for feature in preparation.features if feature.kind == "texts"):
        return preparation, None
    if rows.regression:
        center, scale = units_of(rows)
        targets = ((rows.target - center) / scale)[:, None]
    elif 2 <= len(labels) <= MOST_OUTPUTS:
        targets = (rows.target[:, None] == np.array(labels[len(labels) == 2 :], object)).astype(np.float64)
    else:
        return preparation, None
    preparation = preparation.with_effects(rows.columns, targets, rows.tasks)
    return preparation, {
        feature.name: effects_elsewhere(
            rows.columns[feature.name], targets, rows.tasks, feature.meaning.outputs, choices.seed
        )
        for feature in preparation.features
        if feature.meaning.outputs
    }


def told_of_texts(preparation: Preparation) -> list[str]:
    """What is told of columns of texts with many different values."""
    lines = []
    for feature in preparation.features:
        if feature.kind == "texts" and feature.used:
            also = ", and by what the same text meant in other training tasks" if feature.levels else ""
            lines.append(f"texts: {feature.name} has many different ones, read by their words{also}")
        elif feature.kind == "texts":
            lines.append(f"texts: {feature.name} names single rows, and is not read")
    return lines


def drawn_from(rows: Rows, ways: int) -> np.ndarray:
    """The tasks that episodes are drawn from: all, or of images those with enough classes."""
    present = np.unique(rows.tasks)
    if not rows.image:
        return present
    many = [len(set(rows.target[rows.tasks == task].tolist())) for task in present]
    return present[np.array(many) >= ways]


def units_of(rows: Rows) -> tuple[float, float]:
    """Mean and standard deviation of a regression's targets, in 64 bits; 0 and 1 for classes."""
    if not rows.regression:
        return 0.0, 1.0
    size = float(np.abs(rows.target).max()) or 1.0  # so that no square leaves the range of numbers
    small = rows.target / size
    return float(small.mean()) * size, float(small.std()) * size or 1.0


def pooled_beside(prepared: Prepared) -> Prepared:
    """Fit trees to all training rows together, and for each training row trees that did not see its task."""
    rows, plain = prepared.parts["train"], prepared.preparation
    x, outputs, seed = as_matrix(prepared.features_of_training()), prepared.plan.outputs, prepared.choices.seed
    center, scale = prepared.units
    y = (rows.target - center) / scale if rows.regression else label_indices(rows, prepared.plan.labels)

    def fit(chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        trees = fitted(chosen)
        return lambda others: trees.predict(x[others])

    def fitted(chosen: np.ndarray) -> Trees:
        few = np.random.default_rng(seed).permutation(chosen)[:MOST_POOLED]
        return Trees.fit(x[few], y[few], outputs, seed=seed)

    whole = replace(plain, pooled=fitted(np.arange(len(y))))
    return prepared._replace(preparation=whole, out_of_fold=out_of_fold(fit, rows.tasks, seed=seed))


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
