"""Work through the long runs, one after the other, beside what else the machine does.

    python -m benchmarks.queue [--runs DIRECTORY]            work until all is done, or until Ctrl-C
    python -m benchmarks.queue [--runs DIRECTORY] --status   what is left, and about how long it takes
    python -m benchmarks.queue --rows 'omniglot-20way-*'     of these rows alone; 'rl-*' are those of reinforcement

A row is a recipe with a seed and flags. A run directory outlives a stop: the next start goes on where it was. What is
finished is kept under benchmarks/results/ by `benchmarks.record`. The queue has the lowest priority, and there is one
on a machine: a second says so and leaves. Exit status 0: all done; 1: a row failed, the others are done; 2: refused;
130: stopped.
"""

import argparse
import fcntl
import fnmatch
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from benchmarks import record
from benchmarks.rows import ROWS, Row
from innerloop.errors import InnerloopError
from innerloop.runs import machine
from innerloop.runs.progress import duration

ROOT = Path(__file__).parents[1]
LOCK = Path(tempfile.gettempdir()) / f"innerloop-queue-{os.getuid()}.lock"
CHANGED = "(with changes)"


class Standing(NamedTuple):
    """How far a row is.

    Attributes:
        done: iterations so far.
        trained: whether it is trained to the end and was evaluated there.
        evaluated: whether that was with the settings that its flags ask for.
        recorded: whether that result is kept.
        seconds: of an iteration, the median so far; `None` before the first.
    """

    done: int
    trained: bool
    evaluated: bool
    recorded: bool
    seconds: float | None


def standing(row: Row, runs: Path, results: Path) -> Standing:
    """Where a row stands, from the files of its run alone."""
    records = _lines(runs / row.name / "metrics.jsonl")
    done = max((line["step"] for line in records), default=0)
    evaluation = _read(runs / row.name / "evaluation.json")
    trained = evaluation.get("meta_steps") in ((row.iterations, done) if row.may_end_early else (row.iterations,))
    settings = evaluation.get("settings", {})
    evaluated = trained and all(str(settings.get(name)) == value for name, value in row.evaluation.items())
    kept = _read(results / f"{row.name}.json")
    started = _read(runs / row.name / "environment.json").get("started")
    recorded = evaluated and started is not None and kept.get("environment", {}).get("started") == started
    recorded = recorded and kept.get("evaluation", {}).get("settings", {}) == settings  # else of an earlier evaluation
    return Standing(done, trained, evaluated, recorded, _pace(records, _read(runs / row.name / "config.json")))


def _pace(records: Sequence[dict[str, Any]], stored: dict[str, Any]) -> float | None:
    """Seconds of an iteration, the median; `None` before the first."""
    tasks = stored.get("config", {}).get("outer", {}).get("meta_batch")
    found = [line["seconds"] for line in records if "seconds" in line]
    if not found and tasks:
        found = [tasks / line["tasks_per_second"] for line in records if line.get("tasks_per_second")]
    return statistics.median(found) if found else None


def status(rows: Sequence[Row], runs: Path, results: Path) -> list[str]:
    """What is left and roughly how long it takes, in lines."""
    standings = [standing(row, runs, results) for row in rows]
    pace = {
        (row.recipe, row.algorithm): at.seconds
        for row, at in zip(rows, standings, strict=True)
        if at.seconds is not None
    }
    lines, left, unknown = [], 0.0, 0
    for row, at in zip(rows, standings, strict=True):
        if at.recorded:
            said = "done"
        elif at.evaluated:
            said = "to be recorded"
        elif at.trained:
            said = "to be evaluated with the settings of the row"
        else:
            seconds = at.seconds or pace.get((row.recipe, row.algorithm))
            remaining = None if seconds is None else (row.iterations - at.done) * seconds
            left += remaining or 0.0
            unknown += remaining is None
            said = f"{at.done}/{row.iterations} iterations, " + (
                "not yet timed" if remaining is None else f"about {duration(remaining)} of training left"
            )
        lines.append(f"{row.name:<58}{said}")
    more = f", and {unknown} not yet timed" if unknown else ""
    return [*lines, f"{sum(not at.recorded for at in standings)} left: about {duration(left)} of training{more}"]


@contextmanager
def alone(lock: Path = LOCK) -> Iterator[None]:
    """Keep every other queue off this machine; the lock vanishes with the process, however it ends.

    Raises:
        InnerloopError: if there is one.
    """
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise InnerloopError(
                f"A queue already runs on this machine, process {file.read().strip() or 'unknown'}; wait for it, or "
                "stop it with Ctrl-C."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def require_clean(commit: str | None, what: str) -> None:
    """Refuse a figure of which nobody could say what made it.

    Raises:
        InnerloopError: if the source has changes or is in no repository.
    """
    if commit is None or commit.endswith(CHANGED):
        raise InnerloopError(
            f"{what} has source that is {'in no repository' if commit is None else 'changed'}, and figures are "
            "recorded from a clean tree; commit first, or run the queue from `git worktree add --detach DIRECTORY`."
        )


def keep(row: Row, runs: Path) -> None:
    """Record a finished run.

    Raises:
        InnerloopError: if it or the program comes from a tree with changes.
    """
    require_clean(_read(runs / row.name / "environment.json").get("commit"), str(runs / row.name))
    require_clean(machine.commit(), str(ROOT))
    print(f"recorded {record.record(runs / row.name)}", flush=True)


class Worker:
    """Runs one child at a time, and hands it the signals that stop the queue."""

    def __init__(self) -> None:
        self.stopped = False
        self._child: subprocess.Popen[bytes] | None = None
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, self._stop)

    def run(self, command: Sequence[str], log: Path) -> int:
        """Run a command to its end and return its status; what it says is appended to the log."""
        with log.open("ab") as file:
            # A session of its own: Ctrl-C reaches it once, from us, since a second one would not let it save.
            self._child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
            last_of_all(self._child.pid)
            if self.stopped:  # between the last child and this one
                self._child.terminate()
            status = self._child.wait()
            self._child = None
        return status

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self.stopped and self._child is not None:
            self._child.send_signal(signal.SIGTERM)
        self.stopped = True


def work(rows: Sequence[Row], runs: Path, results: Path) -> int:
    """Work through the rows; the exit status."""
    worker, failed = Worker(), []
    runs.mkdir(parents=True, exist_ok=True)
    for row in rows:
        at = standing(row, runs, results)
        if not at.evaluated:
            where = "evaluated again" if at.trained else f"from iteration {at.done} of {row.iterations}"
            print(f"{row.name}: {where}", flush=True)
            log = runs / f"{row.name}.log"
            command = row.evaluation_command(runs) if at.trained else row.command(runs)
            if not worker.stopped and (code := worker.run(command, log)) and not worker.stopped:
                print(f"{row.name} failed with status {code}; {log} says why", flush=True)
                failed.append(row)
                continue
        if worker.stopped and not standing(row, runs, results).evaluated:
            print("stopped; what was trained is saved, and the same command goes on with it", flush=True)
            return 130
        at = standing(row, runs, results)
        if not at.evaluated:
            print(f"{row.name} ended, but not trained and evaluated as the row asks; it is not recorded", flush=True)
            failed.append(row)
        elif not at.recorded:
            keep(row, runs)
    return 1 if failed else 0


def last_of_all(process: int) -> None:
    """Let a session give way to all others: Linux shares processors between sessions first, whatever their niceness."""
    with suppress(OSError):  # another system, or one without automatic groups
        Path(f"/proc/{process}/autogroup").write_text("19")


def lowest_priority() -> None:
    """Give way to everything else on the machine; children inherit it."""
    os.nice(19)
    last_of_all(os.getpid())
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue", description="Work through the long runs.")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the run directories are")
    parser.add_argument("--rows", default="*", help="a pattern of the names of the rows that are meant")
    parser.add_argument("--status", action="store_true", help="say what is left, and stop")
    asked = parser.parse_args(arguments)
    rows = [row for row in ROWS if fnmatch.fnmatch(row.name, asked.rows)]
    if not rows:
        print(f"queue: no row is called {asked.rows!r}; --status names them.", file=sys.stderr)
        return 2
    if asked.status:
        print("\n".join(status(rows, asked.runs, record.RESULTS)))
        return 0
    try:
        with alone():
            require_clean(machine.commit(), str(ROOT))
            lowest_priority()
            return work(rows, asked.runs.resolve(), record.RESULTS)
    except InnerloopError as error:
        print(f"queue: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, say: the run directories hold what was saved
        place = error.filename or asked.runs
        print(f"queue: {place} cannot be written ({error.strerror}); mend that and start again.", file=sys.stderr)
        return 2


def _read(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing if it is not there or not whole."""
    try:
        found = json.loads(path.read_bytes())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of records."""
    found = []
    with suppress(OSError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and isinstance(line.get("step"), int)]
