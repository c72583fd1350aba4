"""Meta-learners with the manners of scikit-learn: fit, predict, adapt, save and load."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.core.finite import SKIPPED
from innerloop.errors import InnerloopError
from innerloop.tabular import artifact as model
from innerloop.tabular.artifact import MEMBERS, AdaptedTask, TrainedLearner
from innerloop.tabular.cold import cold
from innerloop.tabular.columns import Kind, as_target, columns_of, label_text, matched
from innerloop.tabular.features import Columns
from innerloop.tabular.learner import started_from
from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare
from innerloop.tabular.rows import rows_of_tasks
from innerloop.tabular.selection import selected

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise InnerloopError(
        "The estimators need scikit-learn; install it with: pip install 'innerloop[tabular]'"
    ) from error


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
        self.kind, self.preset, self.iterations, self.supports = kind, preset, iterations, tuple(supports)
        self.seed, self.algorithm, self.initial = seed, algorithm, initial
        self.learned: TrainedLearner | None = None
        self.reasons: tuple[str, ...] = ()

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
        rows, reason = rows_of_tasks(tasks, self.kind)
        choices = Choices(self.preset, self.algorithm, self.supports, iterations=self.iterations, seed=self.seed)
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
        self.learned = data.learned(fit.best, facts)
        told = [f"{skipped:,} meta-steps were skipped, since their meta-gradients were not finite"] if skipped else []
        self.reasons = (reason, *data.plan.reasons, *told)
        return self

    def adapt(self, X: Any, y: Any, *, members: int = MEMBERS) -> "Adapted":
        """Adapt to a new task.

        Args:
            X: features of its labelled rows, in the order (or under the names) of training.
            y: their targets.
            members: regression: adaptations whose disagreement is the spread.

        Returns:
            The learner, adapted: `predict`, `predict_proba`, and for a regression `predict_spread`.
        """
        learned = self.trained()
        columns = columns_of(X, learned.preparation.features)
        target = as_target(y, learned.design.kind, "y")
        if learned.regression:
            return Adapted(model.adapt(learned, columns, target, members=members), {})
        return Adapted(model.adapt(learned, columns, target), dict(zip(target.tolist(), np.asarray(y), strict=True)))

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
        columns = columns_of(X, self.task.learned.preparation.features)
        if self.classes is None:
            return self.task.targets(columns)[0]
        return self.classes[self.task.probabilities(columns).argmax(axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each label, in the order of `classes`, `[rows, classes]`."""
        if self.classes is None:
            raise InnerloopError("A regression has no probabilities; use predict_spread.")
        return self.task.probabilities(columns_of(X, self.task.learned.preparation.features))

    def predict_spread(self, X: Any) -> np.ndarray:
        """The disagreement of adaptations to reweighted support sets, in the targets' units, `[rows]`."""
        if self.classes is not None:
            raise InnerloopError("A classification has no spread; use predict_proba.")
        return self.task.targets(columns_of(X, self.task.learned.preparation.features))[1]


class _FewShot(BaseEstimator):
    """What both estimators share. An instance is one task: `fit` adapts, in well under a second."""

    def __init__(self, pretrained: Any = None):  # scikit-learn sets what it likes; `fit` looks at it
        self.pretrained = pretrained

    def _learned(self, X: np.ndarray, kind: Kind) -> TrainedLearner:
        given = self.pretrained
        if given is None:
            return cold(X, kind)
        if isinstance(given, str | Path):
            given = TabularMetaLearner.load(given)
        if not isinstance(given, TabularMetaLearner):
            raise InnerloopError(
                f"pretrained is {given!r}; it must be a TabularMetaLearner, the folder of one, or None."
            )
        learned = given.trained()
        if learned.design.kind != kind:
            raise InnerloopError(
                f"pretrained is a learner of {learned.design.kind}; this estimator needs one of {kind}."
            )
        return learned

    def _validated(self, X: Any, y: Any = "no_validation") -> Any:
        """`X`, or `X` and `y` in fitting, as arrays; gaps are allowed in `X`."""
        if isinstance(y, str):
            return validate_data(self, X, reset=False, ensure_all_finite="allow-nan", dtype=np.float64)
        numeric = isinstance(self, RegressorMixin)
        return validate_data(self, X, y, y_numeric=numeric, ensure_all_finite="allow-nan", dtype=np.float64)

    def _columns(self, X: np.ndarray, learned: TrainedLearner) -> Columns:
        """The features that the learner reads: by name, where both it and the rows of `fit` have names."""
        features, names = learned.preparation.features, getattr(self, "feature_names_in_", None)
        if names is None or self.pretrained is None or all(feature.name.isdigit() for feature in features):
            return columns_of(X, features)
        return matched({str(name): X[:, i] for i, name in enumerate(names)}, features, "X")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class FewShotClassifier(ClassifierMixin, _FewShot):
    """A classifier of small tasks that starts from a meta-trained learner.

    Args:
        pretrained: a `TabularMetaLearner`, or the folder of one; `None` starts cold, from random features of the task.

    Attributes:
        classes_: the labels.
        n_features_in_: the number of features.

    Example:
        >>> import numpy as np
        >>> from innerloop import FewShotClassifier
        >>> x = np.array([[0.0, 0.1], [0.2, 0.0], [1.0, 0.9], [0.8, 1.0]])
        >>> FewShotClassifier().fit(x, ["a", "a", "b", "b"]).predict([[0.9, 0.9]])
        array(['b'], dtype='<U1')
    """

    def fit(self, X: Any, y: Any) -> "FewShotClassifier":
        """Adapt to labelled rows.

        Args:
            X: features, `[rows, features]`.
            y: labels, `[rows]`.
        """
        X, y = self._validated(X, y)
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InnerloopError(f"y has only one class ({self.classes_[0]!r}); at least two classes are needed.")
        learned = self._learned(X, "classification")
        texts = [label_text(label) or "" for label in self.classes_.tolist()]
        if len(set(texts)) < len(texts):  # labels such as 1 and "1"
            texts = [f"class {i}" for i in range(len(texts))]
        self._places = {text: i for i, text in enumerate(texts)}
        target = np.array([texts[i] for i in encoded], object)
        self._task = model.adapt(learned, self._columns(X, learned), target)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each of `classes_`, `[rows, classes]`."""
        check_is_fitted(self)
        X = self._validated(X)
        found = self._task.probabilities(self._columns(X, self._task.learned))
        order = [self._task.labels.index(text) for text in self._names()]
        return found[:, order]

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def _names(self) -> list[str]:
        known = list(self._places)
        if set(known) == set(self._task.labels):
            return known
        return ["true" if label == "1" else "false" for label in known]  # the learner knows 1 and 0 as true and false


class FewShotRegressor(RegressorMixin, _FewShot):
    """A regression of small tasks that starts from a meta-trained learner.

    Args:
        pretrained: a `TabularMetaLearner`, or the folder of one; `None` starts cold, from random features of the task.

    Attributes:
        n_features_in_: the number of features.

    Example:
        >>> import numpy as np
        >>> from innerloop import FewShotRegressor
        >>> x = np.linspace(-1, 1, 20)[:, None]
        >>> bool(FewShotRegressor().fit(x, 2 * x[:, 0]).score(x, 2 * x[:, 0]) > 0.9)
        True
    """

    def fit(self, X: Any, y: Any) -> "FewShotRegressor":
        """Adapt to labelled rows.

        Args:
            X: features, `[rows, features]`.
            y: targets, `[rows]`.
        """
        X, y = self._validated(X, y)
        learned = self._learned(X, "regression")
        self._task = model.adapt(learned, self._columns(X, learned), np.asarray(y, np.float64))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The predicted target of each row."""
        check_is_fitted(self)
        X = self._validated(X)
        return self._task.targets(self._columns(X, self._task.learned))[0]
