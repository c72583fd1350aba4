"""A meta-learner with the manners of scikit-learn: fit, adapt, predict, save and load."""

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from innerloop import programs
from innerloop.core.finite import SKIPPED
from innerloop.errors import InnerloopError
from innerloop.tabular import adaptation
from innerloop.tabular import artifact as model
from innerloop.tabular.adaptation import AdaptedTask, Support
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.calibration import settled
from innerloop.tabular.columns import as_target, columns_of
from innerloop.tabular.given import features_given, rows_given, tasks_given
from innerloop.tabular.images import format_of
from innerloop.tabular.learner import started_from
from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare
from innerloop.tabular.rows import rows_of_tasks
from innerloop.tabular.selection import selected
from innerloop.text import nearest

PARAMETERS = ("kind", "preset", "iterations", "supports", "seed", "algorithm", "initial")


class TabularMetaLearner:
    """Learns from many tasks how to learn the next one from a few rows.

    Args:
        kind: what is predicted; `"auto"` infers it from the targets, see `innerloop.tabular.columns.infer_kind`: whole
            numbers with more than 20 different values, and all other real numbers, are a regression.
        preset: how much to spend.
        iterations: meta-steps at most; 0 takes those of the preset.
        supports: sizes of support sets in training; empty chooses from the data.
        seed: of the split, the initial parameters and the training tasks.
        algorithm: a row of the table of algorithms.
        initial: parameters of the encoder to start from, as the arrays of `weights.safetensors` under
            `params/encoder/` (without that prefix); `None` starts at random.

    Attributes:
        learned: what training gave, once it has.
        reasons: what `fit` chose from the data, and why, a line each.

    Example:
        >>> import numpy as np
        >>> from innerloop import TabularMetaLearner
        >>> random = np.random.default_rng(0)
        >>> def task(slope):
        ...     x = random.normal(size=(30, 4))
        ...     return x, slope * (x[:, 0] + x[:, 1])
        >>> tasks = [task(slope) for slope in random.normal(size=20)]
        >>> learner = TabularMetaLearner(preset="fast", iterations=100).fit(tasks)
        >>> x, y = task(2.0)
        >>> predicted = learner.adapt(x[:8], y[:8]).predict(x[8:])
        >>> bool(np.mean((predicted - y[8:]) ** 2) < 0.5 * np.var(y))
        True
    """

    def __init__(
        self,
        *,
        kind: str = "auto",
        preset: str = "balanced",
        iterations: int = 0,
        supports: Sequence[int] = (),
        seed: int = 0,
        algorithm: str = "maml",
        initial: Mapping[str, np.ndarray] | None = None,
    ):
        self.kind, self.preset, self.iterations, self.supports = kind, preset, iterations, supports
        self.seed, self.algorithm, self.initial = seed, algorithm, initial
        self.learned: TrainedLearner | None = None
        self.reasons: tuple[str, ...] = ()

    @programs.kept()
    def fit(self, tasks: Sequence[tuple[Any, Any]] | Mapping[str, tuple[Any, Any]]) -> "TabularMetaLearner":
        """Meta-train.

        Args:
            tasks: features and targets of each task, `(X, y)` with `X` `[rows, features]` or a data frame; by name or
                in order. A tenth of them is held out to decide when to stop.

        Returns:
            Itself.

        Raises:
            InnerloopError: if the tasks do not agree in their features, or are too few.
        """
        rows, reason = rows_of_tasks(tasks_given(tasks), self.kind)
        choices = Choices(self.preset, self.algorithm, tuple(self.supports), iterations=self.iterations, seed=self.seed)
        names = len(rows.names)
        held = max(names // 10, 1) if names > 4 else 0
        order = np.random.default_rng(self.seed).permutation(names)
        parts = tuple("valid" if task in order[:held] else "train" for task in range(names))
        data = selected(prepare(rows._replace(parts=parts), choices), lambda line: None)
        fitting = data.fitting()
        fit = fitting.start(self.seed)
        if self.initial is not None:
            fit = fit._replace(state=fit.state._replace(meta=started_from(fit.state.meta, self.initial)))
        skipped = 0
        for now, info in fitting.run(fit):
            fit = now
            skipped += int(info.metrics[SKIPPED])
            info.require_finite("lower the learning rates, or scale what is extreme in the features")
        counts = {name: f"{len(part.names):,} tasks, {len(part.target):,} rows" for name, part in data.parts.items()}
        facts = {"name": "A few-shot learner", "data": counts, "meta_steps": int(fit.state.step), "seed": self.seed}
        sizes = sorted({*data.plan.supports, *data.plan.sizes})
        before = fitting.start(self.seed).best
        if self.initial is not None:
            before = started_from(before, self.initial)
        self.learned = settled(
            data.learned(before, facts), data.learned(fit.best, facts), data.parts.get("valid"), sizes
        ).learned
        told = [f"{skipped:,} meta-steps were skipped, since their meta-gradients were not finite"] if skipped else []
        self.reasons = (reason, *data.plan.reasons, *told)
        return self

    def adapt(self, X: Any, y: Any, *, sample_weight: Any = None) -> "Adapted":
        """Adapt to a new task.

        Args:
            X: features of its labelled rows, in the order (or under the names) of training.
            y: their targets.
            sample_weight: how much each row counts, `[rows]`.

        Returns:
            The learner, adapted: `predict`, `predict_proba`, and for a regression `predict_interval`.
        """
        return self.adapt_many([(X, y) if sample_weight is None else (X, y, sample_weight)])[0]

    def adapt_many(self, tasks: Sequence[tuple[Any, ...]]) -> "list[Adapted]":
        """Adapt to many tasks, or to many draws from one, those of like sizes in one call of one compiled program.

        Args:
            tasks: features and targets of each, `(X, y)` or `(X, y, sample_weight)`.

        Returns:
            The learner, adapted to each.
        """
        learned = self.trained()
        supports, targets = [], []
        for X, y, *weight in tasks:
            given = rows_given(X, y)
            columns = columns_of(given.X, learned.preparation.features)
            supports.append(Support(columns, as_target(given.y, learned.design.kind, "y"), *weight))
            targets.append(given.y)
        found = adaptation.adapt_many(learned, supports)
        if learned.regression:
            return [Adapted(task, {}) for task in found]
        originals = [
            dict(zip(support.target.tolist(), target, strict=True))
            for support, target in zip(supports, targets, strict=True)
        ]
        return [Adapted(task, original) for task, original in zip(found, originals, strict=True)]

    def read_images(self, files: Sequence[str | Path]) -> np.ndarray:
        """Images as this learner reads them, for `adapt` and `predict`: unsigned bytes, `[images, pixels]`.

        Args:
            files: of the images, in any size and format that Pillow reads.

        Raises:
            InnerloopError: if the learner was trained on something else, or an image cannot be read.
        """
        shape = self.trained().design.image
        if shape is None:
            raise InnerloopError("This learner was trained on tables, not on images; give it the columns it reads.")
        return format_of(shape).read([Path(file) for file in files]).reshape(len(files), -1)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """What it was made with, as scikit-learn's `clone` asks for it."""
        return {name: getattr(self, name) for name in PARAMETERS}

    def set_params(self, **params: Any) -> "TabularMetaLearner":
        """The same learner with other settings; what it has learned stays until `fit`.

        Raises:
            InnerloopError: if there is no such setting.
        """
        for name, value in params.items():
            if name not in PARAMETERS:
                raise InnerloopError(f"There is no setting {name!r}; {nearest(name, PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        usual = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        changed = [f"{name}={value!r}" for name, value in self.get_params().items() if repr(value) != repr(usual[name])]
        return f"TabularMetaLearner({', '.join(changed)})"

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors), configuration (JSON) and a model card."""
        model.save(self.trained(), Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> "TabularMetaLearner":
        """The learner in a folder, or of a run directory. Nothing in it is executed.

        Raises:
            InnerloopError: if there is none, it is damaged, or of another version.
        """
        return cls.from_learned(model.load(Path(folder)))

    @classmethod
    def from_learned(cls, learned: TrainedLearner) -> "TabularMetaLearner":
        """What training gave elsewhere, with the manners of an estimator."""
        learner = cls(kind=learned.design.kind, algorithm=learned.design.algorithm)
        learner.learned = learned
        return learner

    def trained(self) -> TrainedLearner:
        """What was learned.

        Raises:
            InnerloopError: if there is nothing yet.
        """
        if self.learned is None:
            raise InnerloopError(
                "This TabularMetaLearner is not trained; call fit(tasks), or TabularMetaLearner.load(folder)."
            )
        return self.learned


class Adapted:
    """A learner adapted to one task.

    Attributes:
        task: its parameters.
        classes: the labels, in order, of a classification.
    """

    def __init__(self, task: AdaptedTask, original: Mapping[str, Any]):
        self.task = task
        self.classes = np.array([original[label] for label in task.labels]) if task.labels else None

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label, or the predicted target, of each row."""
        columns = columns_of(features_given(X), self.task.learned.preparation.features)
        if self.classes is None:
            return self.task.targets(columns)
        return self.classes[self.task.probabilities(columns).argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each label, in the order of `classes`, `[rows, classes]`."""
        if self.classes is None:
            raise InnerloopError("A regression has no probabilities; use predict_interval.")
        return self.task.probabilities(columns_of(features_given(X), self.task.learned.preparation.features))

    def predict_interval(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the 90 % predictive interval of each row, in the targets' units, `[rows]` each.

        Nine in ten rows of the tasks that training held out fell into theirs.
        """
        _, low, high = self._regression().interval(
            columns_of(features_given(X), self.task.learned.preparation.features)
        )
        return low, high

    def predict_spread(self, X: Any) -> np.ndarray:
        """The standard deviation of a normal distribution with these intervals, in the targets' units, `[rows]`."""
        return self._regression().spread(columns_of(features_given(X), self.task.learned.preparation.features))

    def _regression(self) -> AdaptedTask:
        if self.classes is not None:
            raise InnerloopError("A classification has no intervals; use predict_proba.")
        return self.task
