"""The streams of the program, which may be closed, full or broken without harm to its work."""

import io
import os
import sys
from pathlib import Path

from innerloop.runs.progress import discard

__all__ = ["complain", "discard", "set_up"]


def set_up() -> None:
    """Open what the caller closed, lest the next file of a run takes its number and gets what is said."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    nowhere = Path(os.devnull)
    sys.stdin = sys.stdin or nowhere.open()
    sys.stdout = sys.stdout or nowhere.open("w")
    sys.stderr = sys.stderr or nowhere.open("w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no arrows shows question marks


def complain(sentence: str) -> None:
    """Say what is wrong, if there is anybody to tell."""
    try:
        print(sentence, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)
