"""The training loop of every kind of run: what is recorded, when it is saved, how it stops."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import checkpoint, distributed
from innerloop.runs.best import Best
from innerloop.runs.codec import encoded
from innerloop.runs.fields import ValidatedLog
from innerloop.runs.loggers import Loggers, RunInfo
from innerloop.runs.progress import Progress, Recorder, duration
from innerloop.runs.rundir import Run
from innerloop.runs.rundir import line_of as line_of_record
from innerloop.runs.skips import Skips
from innerloop.runs.workload import Session, StepInfo

MOST_PAUSED = 0.02
"""The share of the time that checkpoints may take."""


class DivergedError(InnerloopError):
    """The numbers of a training are no longer numbers."""


class InterruptedTraining(Exception):  # noqa: N818 - not an error
    """Training was asked to stop; its state is saved."""


def newest(run: Run, session: Session[Any], progress: Progress) -> Any:
    """The state of the newest whole checkpoint.

    Raises:
        InnerloopError: if there is none.
    """
    state = checkpoint.read_newest(run.checkpoints, session.init(), session.settings, progress.say)
    if state is None:
        raise InnerloopError(f"{run.path} has no whole checkpoint; start training with: innerloop resume {run.path}")
    return state


def train(run: Run, session: Session[Any], progress: Progress) -> Any:
    """Train to the end, from the newest checkpoint if there is one.

    The state after a step depends on the configuration alone, never on where the run was interrupted: tasks derive from
    (seed, step), and the compiled program is the same for any number of steps in a dispatch.

    Args:
        run: where everything is written.
        session: what is trained.
        progress: what is said meanwhile.

    Returns:
        The final state.

    Raises:
        InterruptedTraining: when a signal asked for it; the state is saved.
        InnerloopError: if training diverges, or files cannot be written.
    """
    state = _resumed(run, session, progress)
    log, best = session.config.log, Best(run.best)
    best.forget_after(session.step_of(state))
    patience = log.patience if isinstance(log, ValidatedLog) else 0
    done = saved = session.step_of(state)
    saved_at, first, pause = time.monotonic(), True, 0.0
    pace = Pace(done, session.tasks_per_step)
    skips = Skips(run, session, progress)
    skips.number = distributed.from_first(lambda: skips.number)
    loggers = Loggers(log.to if distributed.is_first() else (), progress.say)
    recorder = Recorder(run.metrics)
    loggers.start(RunInfo(run.path.resolve().name, run.path, encoded(run.config)))
    ended = distributed.from_first(lambda: _exhausted(best, patience, progress))
    try:
        with interruptions(f"this {session.unit}" if session.unit == "iteration" else "these meta-steps") as asked:
            for info in () if ended else session.steps(state):
                if first:
                    run.write_costs(session.costs)
                info = skips.counted(info, done)
                state, done, first = info.state, info.step, False
                if skips.too_many(info):
                    _diverged(skips.why(info), done, saved, session.rates)
                require_finite(info.values, done, saved, session.rates)
                pace.advance(done, info.total)
                values = {**info.values, "tasks_per_second": pace.tasks_per_second}
                if info.record:
                    recorder.record(line_of_record({"step": done, **values}))
                    loggers.log(done, values)
                if info.score is not None and math.isfinite(info.score):
                    best.offer(done, jax.device_get(distributed.whole(session.learned(state))), info.score)
                waited = time.monotonic() - saved_at
                due = waited >= interval(log.checkpoint_seconds, pause) and not skips.in_a_row
                exhausted = _exhausted(best, patience, progress)
                stop, due, exhausted = distributed.agreed(bool(asked), due, exhausted)
                last = done >= info.total or exhausted
                progress.update(line_of(info, session.unit, pace), last=last)
                if stop or last or due:
                    began = time.monotonic()
                    save(run, session, info, saved)
                    saved_at, saved = time.monotonic(), done
                    pause = saved_at - began
                if stop:
                    raise InterruptedTraining
                if exhausted:
                    break
            if done > saved:  # it ended earlier than it might have
                save(run, session, info, saved)  # pyright: ignore[reportPossiblyUnboundVariable]
    finally:
        recorder.close()
        loggers.close()
    return state


def _exhausted(best: Best, patience: int, progress: Progress) -> bool:
    """Whether validation has not got better for as long as patience lasts."""
    if not patience or best.since_best() < patience:
        return False
    progress.say(f"the validation score has not got better for {patience} validations: training ends here")
    return True


def _resumed(run: Run, session: Session[Any], progress: Progress) -> Any:
    """The state of the newest checkpoint, or else the first one; what was recorded after it is dropped."""
    state = session.init()

    def read() -> int:
        nonlocal state
        restored = checkpoint.read_newest(run.checkpoints, state, session.settings, progress.say)
        if restored is not None:
            state = restored
            progress.say(f"continuing after {session.unit} {session.step_of(state):,}")
        elif run.beginning is not None:
            origin = Path(run.beginning.checkpoint)
            state = session.begun(checkpoint.read_as(origin, run.beginning.sha256, state))
            progress.say(f"begun from {origin}")
        step = session.step_of(state)
        damaged = run.truncate_records(step)
        if damaged:
            progress.note(f"{damaged:,} damaged lines of {run.metrics} are dropped")
        return step

    distributed.from_first(read)
    if distributed.count() > 1:
        state = checkpoint.decoded(distributed.content_from_first(checkpoint.encoded(state)), state)
    return state


def interval(asked: float, pause: float) -> float:
    """Seconds between checkpoints: what was asked for, but so many that their pauses stay below a share of the time.

    Args:
        asked: seconds; 0 for a checkpoint wherever there may be one, whatever that takes.
        pause: seconds that the one before took.

    Example:
        >>> interval(30.0, 0.5), interval(30.0, 2.0), interval(0.0, 2.0)
        (30.0, 100.0, 0.0)
    """
    return max(asked, pause / MOST_PAUSED) if asked else 0.0


def save(run: Run, session: Session[Any], info: StepInfo, saved: int) -> None:
    """Write a checkpoint, unless what was learned is no longer finite."""
    state = distributed.whole(info.state)
    learned = jax.device_get(session.learned(state))
    floats = [leaf for leaf in jax.tree.leaves(learned) if np.issubdtype(leaf.dtype, np.floating)]
    if not all(np.isfinite(leaf).all() for leaf in floats):
        _diverged("a parameter is not finite", info.step, saved, session.rates)
    if distributed.is_first():
        checkpoint.write(run.checkpoints, info.step, state, session.config.log.keep, session.settings)


class Pace:
    """How fast training goes, and when it will end.

    Args:
        done: steps taken before.
        tasks_per_step: tasks in a step.
    """

    def __init__(self, done: int, tasks_per_step: int):
        self.done = self.total = done
        self.tasks_per_second = 0.0
        self._tasks = tasks_per_step
        self._start, self._from = time.perf_counter(), done
        self._last = self._start

    def advance(self, done: int, total: int) -> None:
        """Note that so many steps of so many are done by now."""
        now = time.perf_counter()
        self.tasks_per_second = (done - self.done) * self._tasks / max(now - self._last, 1e-9)
        self._last, self.done, self.total = now, done, total

    @property
    def remaining(self) -> float:
        """Seconds to the end at the mean pace so far."""
        return (self.total - self.done) * (self._last - self._start) / max(self.done - self._from, 1)


def line_of(info: StepInfo, unit: str, pace: Pace) -> str:
    """The line that is shown while training, within 80 columns."""
    rate = f"{pace.tasks_per_second:,.0f}" if pace.tasks_per_second >= 10 else f"{pace.tasks_per_second:.1f}"
    word = "step" if unit == "meta-step" else unit
    parts = [f"{word} {info.step:,}/{info.total:,}", f"{rate} tasks/s", info.line, f"ETA {duration(pace.remaining)}"]
    return "  ".join(part for part in parts if part)


def require_finite(values: Mapping[str, float], step: int, saved: int, rates: Mapping[str, float]) -> None:
    """Stop a run whose numbers are no longer numbers.

    Raises:
        DivergedError: naming the number, and the step sizes to lower.
    """
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        _diverged(f"{bad[0]} is {values[bad[0]]}", step, saved, rates)


def _diverged(what: str, step: int, saved: int, rates: Mapping[str, float]) -> None:
    kept = f"the checkpoint of step {saved} is kept" if saved else "nothing was saved yet"
    given = " and ".join(f"{flag} {value:g}" for flag, value in rates.items())
    mend = "lower one of them in a new --run-dir"
    if saved:
        kept += ", from which train ... --from RUN goes on"
    raise DivergedError(f"Training diverged: {what} at step {step} with {given}; {mend} ({kept}).")


class Flag:
    """True once raised."""

    raised = False

    def __bool__(self) -> bool:
        return self.raised


@contextmanager
def interruptions(after: str) -> Iterator[Flag]:
    """A flag that SIGINT, SIGTERM and SIGHUP raise; a second signal ends the process at once, as usual.

    A signal that is ignored already, as SIGINT is in a script's background job, stays ignored.

    Args:
        after: what comes to its end first.
    """
    flag = Flag()
    previous: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        flag.raised = True
        for name, handler in previous.items():
            signal.signal(name, handler)
        with suppress(Exception):  # where stderr is closed there is nobody to tell
            words = f"\nstopping after {after}, and saving; once more stops at once\n"
            os.write(sys.stderr.fileno(), words.encode())

    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is not signal.SIG_IGN:
            previous[name] = signal.signal(name, handle)
    try:
        yield flag
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
