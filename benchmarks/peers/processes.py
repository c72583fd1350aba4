"""Functions called in a process of their own, with a limit on time and memory."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

POLL = 0.1
"""Seconds between two looks at a process."""


class Limits(NamedTuple):
    """What one call may take: seconds, and bytes of resident memory."""

    seconds: float
    memory: int


class Failed(Exception):  # noqa: N818 - an outcome
    """A call gave no result; the message says why, in a few words."""


class Worker:
    """A fresh process that answers calls, until `close` or a failure ends it and all that it started."""

    def __init__(self, limits: Limits):
        context = multiprocessing.get_context("spawn")
        self.limits = limits
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        self._process.start()
        theirs.close()

    def call(self, home: str, *arguments: Any) -> Any:
        """The value of a function of this package, `module:function`, for these arguments.

        Raises:
            Failed: if the function raises, takes too long or too much memory, or its process dies; no call can follow.
        """
        try:
            self._connection.send((home, arguments))
            self._wait()
            value, error = self._connection.recv()
        except (EOFError, OSError):
            error = "ended by the system"
        except Failed as failure:
            error = str(failure)
        if error is not None:
            self.close()
            raise Failed(error)
        return value

    def close(self) -> None:
        """End the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + self.limits.seconds
        while not self._connection.poll(POLL):
            if time.monotonic() > deadline:
                raise Failed(f"not finished in {self.limits.seconds:.0f} s")
            if resident(self._process.pid) > self.limits.memory:
                raise Failed(f"more than {self.limits.memory / 2**30:.0f} GiB")


def call(home: str, *arguments: Any, limits: Limits) -> Any:
    """One call in a process of its own.

    Raises:
        Failed: as `Worker.call`.
    """
    worker = Worker(limits)
    try:
        return worker.call(home, *arguments)
    finally:
        worker.close()


def resolve(home: str) -> Any:
    """The function `module:function` of this package."""
    module, function = home.split(":")
    return getattr(import_module(f"{__package__}.{module}"), function)


def resident(pid: int | str) -> int:
    """Bytes of memory that a process holds; 0 once it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _serve(connection: Connection) -> None:
    """Answer calls until the other end is closed."""
    os.setsid()  # so that children, such as a compiler's, end with this process
    while True:
        try:
            home, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send((resolve(home)(*arguments), None))
        except ImportError as error:
            connection.send((None, f"not installed ({error.name})"))
        except Exception as error:
            connection.send((None, f"{type(error).__name__}: {error}".splitlines()[0]))
