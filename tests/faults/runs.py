"""Tiny runs of all three kinds, in forked processes, which are killed and whose file operations fail."""

import csv
import errno
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import program
from workloads.tabular import sheets

ARGUMENTS = {
    "episodes": ["demo", *program.TINY],
    "tabular": ["shops.csv", *sheets.TRAIN, "--evaluation.no-baselines", "--log.checkpoint-seconds=0"],
    "reinforcement": [
        *("rl-navigation-2d", "--outer.iterations=3", "--outer.meta-batch=2", "--outer.curvature-tasks=0"),
        *("--sampling.episodes=2", "--policy.widths", "4", "--evaluation.steps=100"),
        *("--evaluation.no-baselines", "--evaluation.updates=1", "--log.checkpoint-seconds=0"),
    ],
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
GOLDEN = 0.6180339887498949
MOMENTARY = ("seconds", "tasks_per_second", "simulator_share", "crc32")
"""What differs between two runs of the same bits."""


@dataclass
class Count:
    """What was tried of one kind of fault, and what came of it."""

    tried: int = 0
    lost: int = 0
    silent: int = 0
    tracebacks: int = 0
    told: int = 0
    left: int = 0
    remarks: list[str] = field(default_factory=list)

    def note(self, remark: str) -> None:
        self.remarks = [*self.remarks, remark][:5]


def prepare(folder: Path) -> None:
    """What the runs read."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "shops.csv").open("w", newline="") as file:
        csv.writer(file).writerows([sheets.HEAD, *sheets.rows()])


def load_all() -> None:
    """Load what runs need, once for all of them."""
    from innerloop.cli import main, predict  # noqa: F401 - loaded before the fork, as all of JAX but its devices is
    from innerloop.runs import loop  # noqa: F401
    from innerloop.workloads.episodes import session as _  # noqa: F401
    from innerloop.workloads.reinforcement import session as _r  # noqa: F401
    from innerloop.workloads.tabular import session as _t  # noqa: F401


def start(folder: Path, kind: str, run: Path, before: Callable[[], None] = lambda: None) -> int:
    """A process of its own that trains a run, or goes on with it; what it says goes to `said`. Gives its number."""
    number = os.fork()
    if number:
        return number
    status = 70
    try:
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        os.environ["INNERLOOP_CACHE"] = str(folder / "cache")
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.default_int_handler if name == signal.SIGINT else signal.SIG_DFL)
        from innerloop.cli import main

        before()
        status = main.run(["train", *ARGUMENTS[kind], f"--run-dir={run}"])
    except BaseException:  # what the program would end with
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def ended(number: int, seconds: float | None = None) -> int | None:
    """The status of a process when it ends, or `None` if it was killed, as it is after so many seconds."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(number, 0 if deadline is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else None
        if deadline is not None and time.monotonic() > deadline:
            os.kill(number, signal.SIGKILL)
            deadline = None
        time.sleep(0.002)


def at_operation(run: Path, number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Have a process do something at its n-th operation on the files of a run, from 0."""

    def install() -> None:
        seen = 0

        def count() -> None:
            nonlocal seen
            seen += 1
            if seen == number + 1:
                act()

        at_each(run, count)

    return install


def at_each(run: Path, act: Callable[[], Any]) -> None:
    """Have this process do something at each of its operations on the files of a run."""

    def meet(path: Any) -> None:
        if isinstance(path, int) or str(run) in os.fsdecode(path):
            act()

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if (
            event == "open" and isinstance(given[0], str | bytes) and given[2] is not None and given[2] & WRITING
        ) or event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"):
            meet(given[0])

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        meet(descriptor)
        flush(descriptor)

    os.fsync = fsync
    sys.addaudithook(hook)


def counted_in(run: Path, file: Path) -> Callable[[], None]:
    """Have a process write one byte for each operation on the files of a run."""

    def install() -> None:
        number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        at_each(run, lambda: os.write(number, b"."))

    return install


def evenly(number: int) -> list[int]:
    """The numbers below one, in an order whose every beginning is spread over all of them."""
    return sorted(range(number), key=lambda place: (place * GOLDEN) % 1.0)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def failing(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def full_after(size: int) -> Callable[[], None]:
    """No file may grow beyond a size: what is written is cut off there."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return limit


def outcome(run: Path) -> Any:
    """All that a finished run holds that its configuration fixes: the state's bits, records, scores."""
    from innerloop import workloads
    from innerloop.runs import rundir

    found = rundir.existing(run, workloads.registered())
    newest = sorted(found.checkpoints.glob("step-*"))[-1]
    records = [{name: value for name, value in line.items() if name not in MOMENTARY} for line in found.records()]
    scores = {name: array.tobytes() for name, array in sorted(found.scores().items())}
    model = [(file.name, file.read_bytes()) for file in sorted(found.model.glob("*.safetensors"))]
    return newest.name, (newest / "state.safetensors").read_bytes(), json.dumps(records), scores, model


def leftovers(run: Path) -> list[str]:
    """Files that nobody will ever remove."""
    odd = (path.name for path in run.rglob("*"))
    return [name for name in odd if name.startswith(("trash-", "partial-")) or name.count(".") > 2]


@dataclass
class Trials:
    """Runs of one kind, beside an undisturbed one."""

    folder: Path
    kind: str
    count: Count
    reference: Any = None
    seconds: float = 0.0
    operations: int = 0

    def undisturbed(self) -> None:
        run = self.folder / f"{self.kind}-reference"
        for attempt in range(2):  # the first one fills the cache of compiled programs
            shutil.rmtree(run, ignore_errors=True)
            began = time.monotonic()
            operations = self.folder / "operations"
            status = ended(start(self.folder, self.kind, run, counted_in(run, operations)))
            if status != 0:
                raise RuntimeError(f"attempt {attempt}: status {status}: {self.said()}")
            self.seconds = time.monotonic() - began
            self.operations = operations.stat().st_size
        self.reference = outcome(run)
        if left := leftovers(run):
            raise RuntimeError(f"left behind: {left}")

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")

    def judged(self, status: int | None) -> bool:
        """Look at what a disturbed process said; whether it got through."""
        if "Traceback" in self.said():
            self.count.tracebacks += 1
            self.count.note(f"{self.kind}: {self.said()[-400:]}")
        return status == 0

    def finish(self, run: Path) -> None:
        """Let a disturbed run end in peace, and compare it."""
        status = ended(start(self.folder, self.kind, run))
        if status != 0:
            self.count.lost += 1
            self.count.note(f"{self.kind}: status {status}: {self.said()[-300:]}")
        else:
            self.compare(run)
            if left := leftovers(run):
                self.count.left += 1
                self.count.note(f"{self.kind}: left behind: {left}")
        shutil.rmtree(run, ignore_errors=True)

    def compare(self, run: Path) -> None:
        try:
            same = outcome(run) == self.reference
        except Exception as error:
            same = False
            self.count.note(f"{self.kind}: {error}")
        if not same:
            self.count.silent += 1
            self.count.note(f"{self.kind}: another outcome in {run.name}")

    def killed_at_random(self, number: int, random: Any, until: float) -> None:
        """Kill, go on, kill, ... until it is done; over and over."""
        run, kills = self.folder / f"{self.kind}-killed", 0
        while kills < number and time.monotonic() < until:
            status = ended(start(self.folder, self.kind, run), random.uniform(0.0, 1.1 * self.seconds))
            if status is None:
                kills += 1
                self.count.tried += 1
            through = self.judged(status)
            if through:
                self.compare(run)
                shutil.rmtree(run)
            elif status is not None:
                self.count.lost += 1
                self.count.note(f"{self.kind}: status {status}: {self.said()[-300:]}")
                shutil.rmtree(run, ignore_errors=True)
        if run.exists():
            self.finish(run)

    def at_each_operation(self, act: Callable[[int], Callable[[], None]], until: float, stride: int = 1) -> None:
        """Disturb a fresh run at each operation on its files, in an order that spreads over all of them, and let it end
        in peace.
        """
        numbers = range(0, self.operations, stride)
        for place in evenly(len(numbers)):
            if time.monotonic() > until:
                return
            number, run = numbers[place], self.folder / f"{self.kind}-operation"
            self.judged(ended(start(self.folder, self.kind, run, at_operation(run, number, act(number)))))
            self.count.tried += 1
            self.finish(run)

    def cut_off(self, sizes: tuple[int, ...], until: float) -> None:
        """No file may grow beyond a size: what is written is cut off there."""
        for size in sizes:
            if time.monotonic() > until:
                return
            run = self.folder / f"{self.kind}-cut"
            self.judged(ended(start(self.folder, self.kind, run, full_after(size))))
            self.count.tried += 1
            self.finish(run)

    def two_at_once(self) -> None:
        """Two processes on one run: one trains it, the other is refused or finds it trained."""
        run = self.folder / f"{self.kind}-two"
        statuses = sorted(ended(number) or 0 for number in [start(self.folder, self.kind, run) for _ in range(2)])
        self.count.tried += 1
        if statuses not in ([0, 0], [0, 2]):
            self.count.lost += 1
            self.count.note(f"{self.kind}: two at once ended with {statuses}")
        self.compare(run)


def killing(number: int) -> Callable[[], None]:
    return die


def errors(number: int) -> Callable[[], None]:
    return failing((errno.ENOSPC, errno.EIO, errno.EACCES)[number % 3])
