"""What can be run by a name: a configuration, and the published figures that it is to be held against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

C = TypeVar("C")


class Published(NamedTuple):
    """A published figure.

    Attributes:
        method: the method, as the paper calls it.
        shots: support examples (of each class), or episodes of a task.
        steps: inner steps at test.
        value: the score, in the unit of the recipe.
        interval: the half-width of its 95 % interval, if it was published.
        source: where it was published.
    """

    method: str
    shots: int
    steps: int
    value: float
    interval: float | None
    source: str

    @property
    def text(self) -> str:
        """The score with its interval."""
        return f"{self.value}" if self.interval is None else f"{self.value} ± {self.interval}"


@dataclass(frozen=True)
class Recipe(Generic[C]):
    """A configuration with a name.

    Attributes:
        make: the configuration.
        summary: what it is, in a line.
        published: figures to compare with.
        deviations: where it departs from the published experiment, in sentences.
        rows: settings that suit other rows of the table of algorithms, by name.
        as_published: the published settings where the recipe has others, such as `{"inner.steps": 5}`.
        published_rows: the settings with which other rows of the table were published, by name, where they are known
            and are not those of `rows`.
    """

    make: Callable[[], C]
    summary: str
    published: tuple[Published, ...] = ()
    deviations: str = ""
    rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    as_published: Mapping[str, Any] = field(default_factory=dict)
    published_rows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def published_settings(self, algorithm: str) -> Mapping[str, Any]:
        """The published settings of a row of the table; empty where the recipe's are these."""
        return self.published_rows.get(algorithm, self.as_published)
