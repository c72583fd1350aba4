"""Where the runs of a comparison compute: on this machine, several at once, or wherever Slurm puts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from innerloop import extras
from innerloop.errors import InnerloopError
from innerloop.files import write_text


@runtime_checkable
class Job(Protocol):
    """One run that computes elsewhere."""

    def ended(self) -> bool:
        """Whether it computes no more."""
        ...

    def stop(self) -> bool:
        """Have it save and end; `False` for one that goes on without us."""
        ...


@runtime_checkable
class Launcher(Protocol):
    """Starts runs.

    Attributes:
        slots: how many may be started at once.
        pause: seconds between two looks at them.
    """

    @property
    def slots(self) -> int: ...

    @property
    def pause(self) -> float: ...

    def start(self, run: Path) -> Job:
        """Continue the run in a directory, from wherever it stands; what it says goes to `log_of(run)`."""
        ...


def log_of(run: Path) -> Path:
    """What a launched run said, beside its directory."""
    return run.with_name(f"{run.name}.log")


def _command(run: Path) -> list[str]:
    return [sys.executable, "-m", "innerloop", "resume", str(run.resolve())]


class LocalJob:
    """A process of this machine.

    Args:
        process: which.
    """

    def __init__(self, process: "subprocess.Popen[bytes]"):
        self._process = process

    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> bool:
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        return True


@dataclass(frozen=True)
class Local:
    """Processes of this machine.

    Args:
        slots: how many at once.
    """

    slots: int
    pause: float = 0.2

    def start(self, run: Path) -> Job:
        with log_of(run).open("ab") as log:
            # A group of its own: a terminal's Ctrl-C comes to us, and is handed on once.
            process = subprocess.Popen(_command(run), stdout=log, stderr=subprocess.STDOUT, process_group=0)
        return LocalJob(process)


class SlurmJob:
    """A job of a Slurm cluster.

    Args:
        job: as submitit knows it.
    """

    def __init__(self, job: Any):
        self._job = job

    def ended(self) -> bool:
        return bool(self._job.done())

    def stop(self) -> bool:
        return False


def _submitit() -> Any:
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")  # else it closes the handlers of whoever logs here
    return extras.require("submitit", "slurm", "--launch slurm")


@dataclass(frozen=True)
class Slurm:
    """Jobs of a Slurm cluster, by submitit. Jobs that were submitted before, and still wait or run, are found again.

    Args:
        folder: where submitit keeps its files, and the numbers of the jobs.
        options: what sbatch is told, such as `{"partition": "gpu", "time": 240}`.
    """

    folder: Path
    options: dict[str, str | int] = field(default_factory=dict)
    slots: int = 1000
    pause: float = 2.0

    def start(self, run: Path) -> Job:
        submitit = _submitit()
        known, number = self.folder / "jobs.json", str(run.resolve())
        jobs = json.loads(known.read_text()) if known.exists() else {}
        if number in jobs:
            job = submitit.SlurmJob(folder=self.folder, job_id=jobs[number])
            if not job.done(force_check=True):
                return SlurmJob(job)
        try:
            executor = submitit.SlurmExecutor(folder=self.folder)
            executor.update_parameters(**{"job_name": f"innerloop-{run.name}", "time": 24 * 60, **self.options})
        except (RuntimeError, ValueError) as error:
            raise InnerloopError(f"--launch slurm: {str(error).splitlines()[0]}.") from error
        words = ["sh", "-c", 'log=$1; shift; exec "$@" >>"$log" 2>&1', "sh", str(log_of(run).resolve()), *_command(run)]
        job = executor.submit(submitit.helpers.CommandFunction(words, verbose=False))
        write_text(known, json.dumps({**jobs, number: job.job_id}))
        return SlurmJob(job)


def launcher(text: str, output: Path) -> Launcher:
    """What `--launch` asks for.

    Args:
        text: `local:4`, `slurm`, or `slurm:partition=gpu,time=240`.
        output: the directory of the comparison.

    Raises:
        InnerloopError: if it is none of these.

    Example:
        >>> launcher("local:4", Path("runs/compare")).slots
        4
    """
    kind, _, rest = text.partition(":")
    if kind == "local" and rest.isdecimal() and int(rest) > 0:
        return Local(int(rest))
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    if kind == "slurm" and all(name and value for name, _, value in pairs):
        _submitit()
        return Slurm(output / "slurm", {name: int(value) if value.isdecimal() else value for name, _, value in pairs})
    raise InnerloopError(
        f"--launch is {text!r}; give local:N for N runs at once on this machine, slurm, or slurm with what sbatch is "
        "told, as in slurm:partition=gpu,time=240."
    )


def work_off(runs: Sequence[Path], by: Launcher, done: Callable[[Path], None], wait: Callable[[float], None]) -> None:
    """Continue all these runs, as many at once as there are slots.

    Args:
        runs: directories of runs.
        by: starts them.
        done: told of each one that ended, finished or not.
        wait: passes the time between two looks; may raise `KeyboardInterrupt`, and then what runs here is saved.
    """
    waiting, running = list(runs), dict[Path, Job]()
    try:
        while waiting or running:
            while waiting and len(running) < by.slots:
                running[waiting[0]] = by.start(waiting[0])
                del waiting[0]
            wait(by.pause)
            for run in [run for run, job in running.items() if job.ended()]:
                del running[run]
                done(run)
    finally:
        stopping = [job for job in running.values() if job.stop()]
        while not all(job.ended() for job in stopping):
            time.sleep(by.pause)
