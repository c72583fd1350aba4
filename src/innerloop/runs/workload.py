"""What the engine asks of a kind of run. A further kind is one package that answers it.

A `Workload` is what can be said without JAX: its configuration, and which values of it cannot work. A `Session` is
one sitting with one run: JAX is loaded, data are read, and what the configuration left open is chosen.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from innerloop.runs.progress import Progress
from innerloop.runs.recipe import Recipe
from innerloop.runs.results import Result, Section, Table

if TYPE_CHECKING:
    from innerloop.runs.best import Validated

S = TypeVar("S")
C = TypeVar("C")


class StepInfo(NamedTuple):
    """Where a training stands; a point at which it may be stopped and saved.

    Attributes:
        state: what a checkpoint holds: a pytree of arrays and keys from which training goes on to the same bits.
        step: meta-steps taken.
        total: meta-steps planned; may change as training goes on.
        values: what is recorded of this step, finite numbers.
        line: what is shown while training, within 80 columns, without progress and time.
        record: whether the values belong into the metrics file; `False` for what is only shown.
        score: the score on validation tasks, of which more is better, where they were evaluated; `None` elsewhere.
    """

    state: Any
    step: int
    total: int
    values: Mapping[str, float]
    line: str = ""
    record: bool = True
    score: float | None = None


class Examined(NamedTuple):
    """What a step does that is skipped.

    Attributes:
        state: the state that it was to change.
        names: of its tasks, those whose gradient is not finite.
        tasks: what its tasks hold, arrays by name.
    """

    state: Any
    names: list[str]
    tasks: Mapping[str, np.ndarray]


class Comparable(NamedTuple):
    """One score of a finished run, such as can be compared with other runs' on the same test tasks.

    Attributes:
        title: which score, such as `1-shot accuracy (%)`; only scores of the same title are compared.
        curves: scores of single test tasks after 0, 1, ... inner steps, `[tasks, steps + 1]`, in the unit of the title.
        lower_is_better: whether a smaller score is a better one.
        baseline: the baseline whose score it is; empty for that of what was trained.
    """

    title: str
    curves: np.ndarray
    lower_is_better: bool
    baseline: str = ""


@runtime_checkable
class Session(Protocol[S]):
    """One sitting with a run."""

    @property
    def config(self) -> Any:
        """The configuration, resolved: what was left open is chosen."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the bits of training depend on, by the names of flags, the data's fingerprint included."""
        ...

    @property
    def unit(self) -> str:
        """What a step is called: `meta-step` or `iteration`."""
        ...

    @property
    def tasks_per_step(self) -> int:
        """Tasks that a step learns from."""
        ...

    @property
    def rates(self) -> Mapping[str, float]:
        """Step sizes by flag, one of which is to be lowered where training diverges."""
        ...

    @property
    def costs(self) -> Mapping[str, Any]:
        """Seconds to compile and bytes of memory, known when the first step is taken."""
        ...

    def describe(self) -> list[str]:
        """What is about to happen, and what was chosen for which reason, a line each."""
        ...

    def plan(self) -> list[str]:
        """What it would take, for `--dry-run`: memory, time, how it is computed."""
        ...

    def init(self) -> S:
        """The state before the first step, which the seed fixes."""
        ...

    def begun(self, state: S) -> S:
        """The state of another run as the first one of this one: its seed and its length are this one's."""
        ...

    def step_of(self, state: S) -> int:
        """The steps that led to a state."""
        ...

    def learned(self, state: S) -> Any:
        """What was learned, a pytree of arrays, which is saved only if it is finite."""
        ...

    def steps(self, state: S) -> Iterator[StepInfo]:
        """Train on from a state. Touches no file; every yield is a safe point to stop and save."""
        ...

    def examined(self, state: S, step: int) -> Examined:
        """What the step after the first `step` ones would do to a state: which of its tasks have no finite gradient."""
        ...

    def evaluate(self, state: S, aside: Path, best: "Sequence[Validated]" = ()) -> Result:
        """Score the state on test tasks.

        Args:
            state: where training stands.
            aside: a folder for what has to be trained for that and takes long, see `innerloop.runs.aside`.
            best: what was learned at the best validation scores, the best first; nothing where there is no validation.

        Raises:
            InterruptedTraining: when a signal asked to stop such a training, which is saved.
        """
        ...

    def tables(self, result: Mapping[str, Any]) -> list[Table]:
        """The tables of `Result.values`, as the console and the report show them."""
        ...

    def remarks(self, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
        """What a user must know of how training and evaluation went, a sentence each."""
        ...

    def sections(self, state: S, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Section]:
        """The parts of the report, beside tables, remarks and settings, which every report has."""
        ...

    def export(self, state: S, folder: Path, result: Mapping[str, Any] | None) -> None:
        """Write weights, configuration and card into a folder from which `innerloop.load` makes a predictor."""
        ...


@runtime_checkable
class Workload(Protocol[C]):
    """A kind of run. Nothing here loads JAX, so that the program answers at once."""

    @property
    def name(self) -> str:
        """Stored in `config.json`."""
        ...

    @property
    def Config(self) -> type[C]:  # noqa: N802 - it is a class
        """The class of its configurations."""
        ...

    @property
    def recipes(self) -> Mapping[str, Recipe[C]]:
        """What can be run by a name."""
        ...

    def configure(self, name: str, algorithm: str | None) -> C:
        """The configuration of a recipe, with the settings that suit an algorithm; `None` takes the recipe's own."""
        ...

    def check(self, config: C) -> None:
        """Refuse what cannot work.

        Raises:
            InnerloopError: for the first value that cannot, naming the flag and the mend.
        """
        ...

    def open(self, config: C, progress: Progress, *, resolve: bool) -> Session[Any]:
        """Begin a sitting: load JAX and the data.

        Args:
            config: a checked configuration.
            progress: tells the user what is read and chosen.
            resolve: whether to choose what the configuration leaves open; not for a run that was begun before.
        """
        ...

    def comparables(self, config: C, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> list[Comparable]:
        """The scores of a finished run that other runs can be compared with."""
        ...

    def identity_of_test_tasks(self, config: C, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the test tasks depend on, by flag: runs are comparable where all of it agrees."""
        ...


@runtime_checkable
class Fitting(Protocol):
    """A workload that knows which algorithms cannot work in a configuration."""

    def require_fitting(self, config: Any) -> None:
        """Refuse an algorithm that cannot work.

        Raises:
            InnerloopError: naming the mend.
        """
        ...
