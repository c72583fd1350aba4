"""Steps of a training that are left out because their gradient is not finite: counted, told, and at a limit the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save

from innerloop.core.finite import SKIPPED
from innerloop.errors import InnerloopError
from innerloop.files import write_bytes
from innerloop.runs import checkpoint, distributed, sealed
from innerloop.runs.progress import Progress
from innerloop.runs.rundir import Run
from innerloop.runs.workload import Examined, Session, StepInfo
from innerloop.text import listed


class Skips:
    """The skipped steps of a training.

    Args:
        run: whose.
        session: what is trained.
        progress: told of the first one.

    Attributes:
        number: so many so far, those before an interruption included.
        in_a_row: so many of them since a step was last taken.
    """

    def __init__(self, run: Run, session: Session[Any], progress: Progress):
        self._run, self._session, self._progress = run, session, progress
        self._limit = session.config.log.skip_limit
        self.number = number_of(run.records())
        self.in_a_row = 0

    def counted(self, info: StepInfo, before: int) -> StepInfo:
        """Count what was skipped since the step `before`; of steps that were not taken only that number is recorded.

        Returns:
            What is to be recorded and shown.
        """
        values = dict(info.values)
        skipped = int(values.pop(SKIPPED, 0))
        last = int(values.pop(f"last_{SKIPPED}", info.step))
        in_a_row = int(values.pop(f"{SKIPPED}_in_a_row", skipped))
        every = skipped == info.step - before
        self.in_a_row = self.in_a_row + in_a_row if every else in_a_row
        if not skipped:
            return info._replace(values=values, line=self._beside(info.line))
        self.number += skipped
        if self.number == skipped:
            self._tell(info, last)
        if every:
            values = {name: value for name, value in values.items() if np.isfinite(value)}
        line = "" if every else info.line
        return info._replace(values=values | {SKIPPED: float(skipped)}, line=self._beside(line), record=True)

    def too_many(self, info: StepInfo) -> bool:
        """Whether training gets nowhere any more."""
        return self.in_a_row >= min(self._limit, info.total)

    def why(self, info: StepInfo) -> str:
        """What led to too many, in the words that follow `Training diverged:`; writes down what led there."""
        unit = self._session.unit
        if distributed.count() > 1:  # to examine it takes a program of all processes, whose results no one has alone
            return f"{self.in_a_row:,} {unit}s in a row have no finite meta-gradient"
        examined = self._session.examined(info.state, info.step - 1)
        self._write(examined, info.step - 1)
        named = f"in the last one that of {listed(examined.names)}, " if examined.names else ""
        return f"{self.in_a_row:,} {unit}s in a row have no finite meta-gradient ({named}kept in {self.folder})"

    def _beside(self, line: str) -> str:
        parts = [line, f"{self.number:,} skipped" if self.number else ""]
        return "  ".join(part for part in parts if part)

    @property
    def folder(self) -> Any:
        """Where the tasks of a skipped step are kept, with the state that it was to change."""
        return self._run.path / "skipped"

    def _tell(self, info: StepInfo, last: int) -> None:
        unit = self._session.unit
        examined = Examined(info.state, [], {})
        try:
            if distributed.count() == 1:
                examined = self._session.examined(info.state, last - 1)
            if examined.names:
                self._write(examined, last - 1)
        except Exception:  # training goes on, whether or not it can be said which task it was
            pass
        named = f"that of {listed(examined.names)} is not finite" if examined.names else "it is not finite"
        self._progress.note(f"{unit} {last:,} was skipped, for its meta-gradient: {named}; training goes on")

    def _write(self, examined: Examined, step: int) -> None:
        checkpoint.write(self.folder, step, examined.state, 1, self._session.settings)
        write_bytes(self.folder / "tasks.safetensors", save({k: np.asarray(v) for k, v in examined.tasks.items()}))
        sealed.write(self.folder / "tasks.json", {"step": step, "not_finite": examined.names})


def number_of(records: Sequence[Mapping[str, Any]]) -> int:
    """The steps that were skipped, by what was recorded."""
    return int(sum(record.get(SKIPPED, 0) for record in records))


def remarks(records: Sequence[Mapping[str, Any]], run: Run, unit: str) -> list[str]:
    """What a report says of skipped steps."""
    number, steps = number_of(records), max((record["step"] for record in records), default=0)
    if not number:
        return []
    try:
        names = sealed.read(run.path / "skipped" / "tasks.json")["not_finite"]
    except InnerloopError:
        names = []
    of = f", among them that of {listed(names)}" if names else ""
    return [f"{number:,} of {steps:,} {unit}s were skipped, since their meta-gradients were not finite{of}"]
