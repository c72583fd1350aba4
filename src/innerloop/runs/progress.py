"""What the program says while it works: one line that is rewritten on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import fill
from typing import Any, TextIO

from innerloop.errors import InnerloopError

PLAIN_SECONDS = 10.0


class Progress:
    """Messages and the training line.

    Args:
        stream: where they go.
    """

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._lost = False
        self._live = False
        with suppress(ValueError):  # a closed stream is no terminal
            self._live = self._stream.isatty()
        self._line_open = False
        self._last_plain = -PLAIN_SECONDS

    def say(self, message: str) -> None:
        """A line of its own."""
        self._close_line()
        self._write(message + "\n")

    def note(self, remark: str) -> None:
        """What a user should know, in lines of 80 columns; what is longer than one, such as a path, is not broken."""
        self.say(fill(f"note: {remark}", 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Name what takes a while, and say how long it took."""
        self._close_line()
        self._write(f"{what} ... ")
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            self._write("\n")
            raise
        self._write(f"{time.perf_counter() - start:.1f} s\n")

    def update(self, line: str, *, last: bool = False) -> None:
        """The state of training: rewritten in place on a terminal, else a new line every ten seconds and at the end."""
        if self._live:
            self._write(f"\r\x1b[2K{line}")
            self._line_open = True
        elif last or time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            self._write(line + "\n")

    def _close_line(self) -> None:
        if self._line_open:
            self._write("\n")
            self._line_open = False

    def _write(self, text: str) -> None:
        if self._lost:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the reader went away, the disk of a log is full: the work goes on unheard
            self._lost = True
            discard(self._stream)


def discard(stream: Any) -> None:
    """Send what is still buffered in a text stream, and what will be written to it, nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Recorder:
    """Appends lines to a file of metrics.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self._path = path
        try:
            self._file = path.open("a")
        except OSError as error:
            raise InnerloopError(f"{path} cannot be written ({error.strerror}).") from error

    def record(self, line: str) -> None:
        """Write one line, which ends in a line break.

        Raises:
            InnerloopError: if it cannot be written.
        """
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise InnerloopError(
                f"{self._path} could not be written ({error.strerror}); make room and give the same command again."
            ) from error

    def close(self) -> None:
        with suppress(OSError):  # what could not be flushed was already reported
            self._file.close()


def duration(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`.

    Example:
        >>> duration(3723.0), duration(59.6)
        ('1:02:03', '1:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
