"""Estimators of small tasks among scikit-learn's, which start from a meta-trained learner."""

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from innerloop import artifacts
from innerloop.errors import InnerloopError
from innerloop.tabular import adaptation
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.cold import cold
from innerloop.tabular.columns import Kind, columns_of, matched, named_columns
from innerloop.tabular.estimator import TabularMetaLearner
from innerloop.tabular.features import Columns
from innerloop.tabular.identity import identities

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise InnerloopError(
        "The estimators need scikit-learn; install it with: pip install 'innerloop[tabular]'"
    ) from error


MOST_REPEATS = 100


def _weight_of(sample_weight: Any, X: np.ndarray) -> np.ndarray | None:
    """Weights of rows as scikit-learn checks them."""
    return None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)


def _repeats(weight: np.ndarray) -> np.ndarray:
    """How often a row of each weight would have to be there, so that scales of features are those of repeated rows."""
    least = weight.min(initial=np.inf, where=weight > 0)
    return (
        np.minimum(np.round(weight / least), MOST_REPEATS).astype(int)
        if np.isfinite(least)
        else np.ones(len(weight), int)
    )


@lru_cache(maxsize=4)
def _loaded(folder: Path, written: tuple[tuple[int, ...], ...]) -> TabularMetaLearner:
    """The learner in a folder, read once as long as its files stay as they are; a cross-validation asks many times."""
    return TabularMetaLearner.load(folder)


def _written(folder: Path) -> tuple[tuple[int, ...], ...]:
    """When the files of a folder were written, and their sizes."""
    folder = artifacts.of_run(folder)
    found = [file.stat() for file in sorted(folder.iterdir())] if folder.is_dir() else []
    return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in found)


class _FewShot(BaseEstimator):
    """What both estimators share. An instance is one task: `fit` adapts, in well under a second."""

    def __init__(self, pretrained: Any = None):  # scikit-learn sets what it likes; `fit` looks at it
        self.pretrained = pretrained

    def _learned(self, X: np.ndarray, kind: Kind, weight: np.ndarray | None) -> TrainedLearner:
        given = self.pretrained
        if given is None:
            return cold(X if weight is None else np.repeat(X, _repeats(weight), axis=0), kind)
        if isinstance(given, str | Path):
            given = _loaded(Path(given).resolve(), _written(Path(given)))
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
        if self.pretrained is None:  # a learner from the rows of `fit`, which reads those of them that vary
            return matched(named_columns(X), features, "X")
        if names is None or [feature.name for feature in features] == [str(i) for i in range(len(features))]:
            return columns_of(X, features)
        return matched({str(name): X[:, i] for i, name in enumerate(names)}, features, "X")

    def __sklearn_clone__(self) -> "_FewShot":
        """Another of the same, not fitted; what `pretrained` has learned is a setting, which stays."""
        copy = type(self)(**self.get_params(deep=False))
        for name in ("_metadata_request", "_sklearn_output_config"):  # which scikit-learn's own clone keeps too
            if name in vars(self):
                setattr(copy, name, deepcopy(vars(self)[name]))
        return copy

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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "FewShotClassifier":
        """Adapt to labelled rows.

        Args:
            X: features, `[rows, features]`.
            y: labels, `[rows]`.
            sample_weight: how much each row counts, `[rows]`.
        """
        X, y = self._validated(X, y)
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InnerloopError(f"y has only one class ({self.classes_[0]!r}); at least two classes are needed.")
        weight = _weight_of(sample_weight, X)
        learned = self._learned(X, "classification", weight)
        texts = [name or "" for name in identities(self.classes_.tolist())]
        if len(set(texts)) < len(texts):  # labels such as 1 and "1"
            texts = [f"class {i}" for i in range(len(texts))]
        self._places = {text: i for i, text in enumerate(texts)}
        target = np.array([texts[i] for i in encoded], object)
        self._task = adaptation.adapt(learned, self._columns(X, learned), target, weight)
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "FewShotRegressor":
        """Adapt to labelled rows.

        Args:
            X: features, `[rows, features]`.
            y: targets, `[rows]`.
            sample_weight: how much each row counts, `[rows]`.
        """
        X, y = self._validated(X, y)
        weight = _weight_of(sample_weight, X)
        learned = self._learned(X, "regression", weight)
        self._task = adaptation.adapt(learned, self._columns(X, learned), np.asarray(y, np.float64), weight)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The predicted target of each row.

        Args:
            X: features, `[rows, features]`.
            return_std: whether to return the standard deviations of the predictions behind them.

        Returns:
            `[rows]`, or two of them.
        """
        check_is_fitted(self)
        columns = self._columns(self._validated(X), self._task.learned)
        found = self._task.targets(columns)
        return (found, self._task.spread(columns)) if return_std else found
