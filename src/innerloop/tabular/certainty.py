r"""What validation tasks say of a learner's certainty: intervals that cover, probabilities that hold.

For a regression, the noise of a task is estimated from what its support rows show and from what is typical,

$$\sigma^2 = \frac{\nu s_n^2 + n e^2}{\nu + n},$$

with the mean squared error $e^2$ on support rows by adaptations without them, the error $s_n$ of the median task with
$n$ support
rows, and the strength $\nu$. The interval of a prediction is $\pm q_n \sigma$, with $q_n$ such that nine in ten rows
of validation tasks fell into theirs. For classes, the scores are divided by a temperature $T_n$ that gives the
validation tasks' rows the least cross-entropy.

Reference:
    Guo et al.: On Calibration of Modern Neural Networks, 2017, arXiv 1706.04599; Angelopoulos, Bates: A Gentle
    Introduction to Conformal Prediction, 2021, arXiv 2107.07511.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

COVERAGE = 0.9
NORMAL = 1.6449
"""Standard deviations of a normal distribution within which nine in ten values lie."""
STRENGTHS = (0.5, 2.0, 8.0, 32.0, 128.0, 1e6)
TEMPERATURES = tuple(float(value) for value in np.exp(np.linspace(-2, 3, 101)))


class Seen(NamedTuple):
    """What a learner said of query rows of a validation task.

    Attributes:
        size: support rows.
        error: mean squared error on support rows by adaptations without them; `None` if unknown.
        residual: errors of a regression in units of its scale, `[rows]`.
        scores: of classes, `[rows, classes]`; empty for a regression.
        label: the right class of each row; -1 for one that the support set lacks, `[rows]`.
    """

    size: int
    error: float | None = None
    residual: np.ndarray = np.zeros(0)
    scores: np.ndarray = np.zeros(0)
    label: np.ndarray = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Certainty:
    r"""What is known of a learner's certainty; before it is measured, what a normal distribution would have.

    Attributes:
        sizes: numbers of support rows at which it was measured, in order.
        errors: mean squared error $s_n^2$ of the median task at each, in units of the targets' scale.
        factors: $q_n$, or for classes the temperature $T_n$.
        strength: $\nu$.
    """

    sizes: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    strength: float = 2.0

    def half_width(self, size: int, error: float | None) -> float:
        """Of the 90 % interval, in units of the targets' scale.

        Args:
            size: support rows.
            error: mean squared error on support rows by adaptations without them.
        """
        typical = float(np.exp(self._at(size, np.log(self.errors)))) if self.sizes else 1.0
        factor = self._at(size, self.factors) if self.sizes else NORMAL
        return factor * float(np.sqrt(_variance(typical, self.strength, size, error)))

    def temperature(self, size: int) -> float:
        """What scores of classes are divided by, at so many support rows."""
        return float(np.exp(self._at(size, np.log(self.factors)))) if self.sizes else 1.0

    def to_json(self) -> dict[str, Any]:
        """As plain lists and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Certainty":
        """The inverse of `to_json`."""
        listed = {name: tuple(values[name]) for name in ("sizes", "errors", "factors")}
        return cls(**listed, strength=float(values["strength"]))

    def _at(self, size: int, values: Any) -> float:
        """Linear in the logarithm of the size; constant outside of what was measured."""
        return float(np.interp(np.log(size), np.log(self.sizes), values))


def measured(seen: Sequence[Seen]) -> Certainty:
    """What validation tasks say.

    Args:
        seen: draws of support sets from them, each size in equal numbers; empty gives `Certainty()`.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> seen = [Seen(5, 4 * random.chisquare(5) / 5, 2 * random.normal(size=50)) for _ in range(100)]
        >>> round(measured(seen).half_width(5, None), 1)  # 2 * 1.645
        3.3
    """
    sizes = tuple(sorted({item.size for item in seen}))
    by_size = [[item for item in seen if item.size == size] for size in sizes]
    if not seen:
        return Certainty()
    if seen[0].scores.size:
        return Certainty(sizes, (1.0,) * len(sizes), tuple(_temperature(of_size) for of_size in by_size))
    errors = tuple(max(float(np.median([np.mean(item.residual**2) for item in of_size])), 1e-24) for of_size in by_size)

    def relative(strength: float) -> list[list[np.ndarray]]:
        """Residuals in units of what is thought to be the noise of each task."""
        return [
            [item.residual / np.sqrt(_variance(typical, strength, item.size, item.error)) for item in of_size]
            for of_size, typical in zip(by_size, errors, strict=True)
        ]

    def surprise(strength: float) -> float:
        """The mean negative logarithm of a normal density, but for a constant."""
        found = 0.0
        for of_size, values, typical in zip(by_size, relative(strength), errors, strict=True):
            logs = [0.5 * np.log(_variance(typical, strength, item.size, item.error)) for item in of_size]
            found += float(np.mean(logs) + 0.5 * np.log(np.mean([np.mean(value**2) for value in values]) + 1e-300))
        return found

    strength = min(STRENGTHS, key=surprise)
    factors = tuple(_quantile(values, COVERAGE) for values in relative(strength))
    return Certainty(sizes, errors, factors, strength)


def _variance(typical: float, strength: float, size: int, error: float | None) -> float:
    if error is None:
        return typical
    return max((strength * typical + size * error) / (strength + size), 1e-24)


def _quantile(values: Sequence[np.ndarray], share: float) -> float:
    """Of sizes of values, in which every task counts alike."""
    sizes = np.concatenate([np.abs(value) for value in values])
    weight = np.concatenate([np.full(len(value), 1 / len(value)) for value in values])
    order = np.argsort(sizes)
    places = np.cumsum(weight[order]) - weight[order] / 2
    return float(np.interp(share, places / weight.sum(), sizes[order]))


def cross_entropy(item: Seen, temperature: float) -> float:
    """The mean cross-entropy of rows whose class the support set has."""
    known = item.label >= 0
    if not known.any():
        return 0.0
    scores = item.scores[known].astype(np.float64) / temperature
    scores = scores - scores.max(axis=1, keepdims=True)
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -float(np.mean(logs[np.arange(len(logs)), item.label[known]]))


def _temperature(seen: Sequence[Seen]) -> float:
    """The temperature of least mean cross-entropy, in which every task counts alike."""
    return min(TEMPERATURES, key=lambda temperature: np.mean([cross_entropy(item, temperature) for item in seen]))
