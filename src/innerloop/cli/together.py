"""`train --distributed`: this process watches over one that computes, and says in a sentence how it ended.

The runtime by which JAX's processes meet ends a process at once, from C++, when another one is gone. So what computes
is a process of its own.
"""

import os
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from innerloop.cli import parse
from innerloop.errors import InnerloopError
from innerloop.runs import distributed
from innerloop.runs.codec import require_bounds
from innerloop.runs.distributed import Together

SWITCH = "--distributed"
OPTIONS = ("--coordinator", "--processes", "--process", "--patience")
WATCHED = "INNERLOOP_WATCHED"
"""Set by the watching process: its id, and the descriptors of its stderr and of the word that all have met."""
GONE = (
    "Another process of this run ended or no longer answers, so this one ends too; the same command on all of them "
    "goes on from the last checkpoint."
)
MET, FIRST = b"met", b"first"
"""What the process that computes tells the one that watches."""
ABORTED = "JAX distributed service detected fatal errors"
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def asked(arguments: Sequence[str], command: str) -> tuple[Together | None, list[str]]:
    """How the processes find each other, or `None` for a run in one process, and the other arguments.

    Raises:
        InnerloopError: for a value of the wrong kind, or options without `--distributed`.
    """
    chosen, rest = parse.options(list(arguments), OPTIONS, command)
    if SWITCH not in rest:
        if chosen:
            raise InnerloopError(f"{next(iter(chosen))} has no effect without {SWITCH}; add it, or leave it out.")
        return None, rest
    numbers: dict[str, Any] = {}
    for name in OPTIONS[1:]:
        if name in chosen:
            if not chosen[name].isdecimal():
                raise InnerloopError(f"{name} is {chosen[name]!r}; give a whole number.")
            numbers[name.removeprefix("--")] = int(chosen[name])
    together = Together(chosen.get("--coordinator"), **numbers)
    require_bounds(together)
    host, _, port = (together.coordinator or "host:1").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InnerloopError(f"--coordinator is {together.coordinator!r}; give HOST:PORT, such as 10.0.0.1:1234.")
    if together.processes is not None and not 0 <= (together.process or 0) < together.processes:
        raise InnerloopError(
            f"--process is {together.process} of --processes {together.processes}; give a number from 0 to one less."
        )
    return together, [argument for argument in rest if argument != SWITCH]


def is_watched() -> bool:
    """Whether this process is the one that computes."""
    return WATCHED in os.environ


def watch(arguments: Sequence[str], together: Together) -> tuple[int, bool]:
    """Run the program with these arguments in a process of its own.

    Returns:
        Its exit status, and whether it is the one of the run's processes that reads and writes.

    Raises:
        InnerloopError: if it ended because of another process, or was killed.
    """
    word, tell = os.pipe()
    stderr = os.dup(2)
    child = subprocess.Popen(
        [sys.executable, "-m", "innerloop", *arguments],
        env={**os.environ, WATCHED: f"{os.getpid()} {stderr} {tell}"},
        stderr=subprocess.PIPE,
        pass_fds=(stderr, tell),
        process_group=0,  # a terminal's Ctrl-C comes to us alone, and is handed on once
    )
    os.close(tell)
    os.close(stderr)
    previous = {number: signal.signal(number, lambda number, _: _signal(child, number)) for number in FORWARDED}
    said: deque[bytes] = deque(maxlen=200)
    assert child.stderr is not None
    reader = threading.Thread(target=said.extend, args=(child.stderr,), daemon=True)
    reader.start()
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    reader.join(timeout=5)
    with os.fdopen(word, "rb") as file:
        told = file.read()
    text = b"".join(said).decode(errors="replace")
    if status >= 0:
        if not told.startswith(MET):
            sys.stderr.write(text)
        return status, told.endswith(FIRST)
    if not told.startswith(MET):
        raise InnerloopError(
            f"The processes of this run did not meet at {together.coordinator or 'the coordinator'} within "
            f"--patience {together.patience} seconds; see that all are started with the same --coordinator, and that "
            "its port can be reached."
        )
    if ABORTED in text:
        raise InnerloopError(GONE)
    sys.stderr.write(text)
    raise InnerloopError(
        f"This process was ended by signal {-status} ({signal.Signals(-status).name}); the same command on all of them "
        "goes on from the last checkpoint."
    )


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)


@contextmanager
def joined(together: Together) -> Iterator[None]:
    """In the process that computes: meet the others, and end at once where waiting for them would be in vain."""
    watcher, stderr, tell = (int(number) for number in os.environ.pop(WATCHED).split())
    sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="replace")  # ours; what C++ says goes to the watcher
    sys.stdout = os.fdopen(os.dup(1), "w", errors="replace")
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)  # gloo talks there
    threading.Thread(target=_end_with, args=(watcher,), daemon=True).start()
    try:
        distributed.join(together)
        os.write(tell, MET)
        yield
        first = distributed.is_first()
        distributed.leave()
        os.write(tell, FIRST if first else b"")
        os.close(tell)
    except InnerloopError as error:
        _end(str(error))
    except KeyboardInterrupt:
        _end("stopped", 130)
    except Exception as error:
        if distributed.is_lost(error):
            _end(GONE)
        if distributed.is_joined():
            traceback.print_exc()
            os._exit(1)
        raise


def _end(sentence: str, status: int = 2) -> NoReturn:
    """Say it, and end. Python would first wait for the other processes, which wait for us."""
    print(f"innerloop: {sentence}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(status)


def _end_with(watcher: int) -> None:
    """End when the watching process does, however it ended."""
    pause = threading.Event()
    while os.getppid() == watcher:
        pause.wait(0.5)
    os._exit(1)
