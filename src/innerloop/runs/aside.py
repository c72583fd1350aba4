"""What an evaluation trains beside the run, such as a baseline: stopped, saved and gone on with as a run is."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from innerloop.errors import InnerloopError
from innerloop.runs import checkpoint
from innerloop.runs.fields import Saving
from innerloop.runs.loop import InterruptedTraining, Pace, interruptions, interval, line_of
from innerloop.runs.progress import Progress
from innerloop.runs.workload import StepInfo

S = TypeVar("S")


@dataclass(frozen=True)
class Aside:
    """Trains beside a run.

    Args:
        folder: where the checkpoints go, a folder for each training.
        log: how often they are written, and how many are kept.
        progress: shown every iteration.
    """

    folder: Path
    log: Saving
    progress: Progress

    def train(
        self,
        name: str,
        state: S,
        steps: Callable[[S], Iterator[StepInfo]],
        *,
        total: int,
        step_of: Callable[[S], int],
        settings: Mapping[str, Any],
        tasks_per_step: int,
    ) -> S:
        """Train to the end, from the newest checkpoint of the same settings, perhaps of a shorter training.

        Args:
            name: of the training.
            state: before the first iteration.
            steps: trains on from a state; every yield is a safe point to stop and save.
            total: iterations.
            step_of: the iterations that led to a state.
            settings: what the training depends on.
            tasks_per_step: tasks in an iteration.

        Returns:
            The final state.

        Raises:
            InterruptedTraining: when a signal asked for it; the state is saved.
            InnerloopError: if a checkpoint cannot be written.
        """
        state = self._begun(name, state, step_of, total, settings)
        done = step_of(state)
        pace = Pace(done, tasks_per_step)
        saved_at, pause = time.monotonic(), 0.0
        with interruptions("this iteration") as asked:
            for info in steps(state) if done < total else ():
                state, done = info.state, info.step
                pace.advance(done, total)
                last = done == total
                self.progress.update(line_of(info, "iteration", pace), last=last)
                if asked or last or time.monotonic() - saved_at >= interval(self.log.checkpoint_seconds, pause):
                    began = time.monotonic()
                    checkpoint.write(self.folder / name, done, state, self.log.keep, settings)
                    saved_at = time.monotonic()
                    pause = saved_at - began
                if asked:
                    raise InterruptedTraining
        return state

    def _begun(self, name: str, state: S, step_of: Callable[[S], int], total: int, settings: Mapping[str, Any]) -> S:
        """The newest state of the same training that is not beyond its end; otherwise the first one."""
        with suppress(InnerloopError):  # of other settings, or damaged: all there is to lose is time
            restored = checkpoint.read_newest(self.folder / name, state, settings, self.progress.say)
            if restored is not None and step_of(restored) <= total:
                done = step_of(restored)
                self.progress.say("trained before" if done == total else f"continuing after iteration {done:,}")
                return restored
        return state
