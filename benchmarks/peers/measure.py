"""What runs in the process of one implementation: build a meta-step, check its gradient, time it, see its memory."""

import ctypes
import gc
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.peers.implementations import IMPLEMENTATIONS, MetaStep
from benchmarks.peers.problems import CASES, Arrays, Case, Convnet, problem
from benchmarks.peers.processes import resident, resolve

TOLERANCE, POOLED_TOLERANCE = 1e-3, 3e-2
"""Of the meta-gradient. In max-pooling rounding decides near-ties, in each implementation its own way: in double
precision PyTorch's agrees with the reference to all digits. A first-order gradient is off by most of its norm."""
SLOW = 10.0
"""Seconds; a meta-step that takes longer is taken once in a round."""
ENOUGH = 20.0
"""Seconds of timing after which no further round is needed."""


class Built(NamedTuple):
    """What was seen of the first meta-step.

    Attributes:
        first_seconds: from the numbers of the problem to the end of the first meta-step, compilation included.
        first_peak_bytes: bytes by which resident memory rose until then, at its peak.
        error: of the meta-gradient, relative to the reference; `None` if it is another gradient by intention.
    """

    first_seconds: float
    first_peak_bytes: int
    error: float | None


class Timed(NamedTuple):
    """What was seen of further meta-steps.

    Attributes:
        seconds: of each.
        peak_bytes: bytes by which resident memory then rose above its start, without what only compiling needed.
    """

    seconds: list[float]
    peak_bytes: int


class WrongGradient(Exception):  # noqa: N818 - the name is what the table shows
    """The meta-gradient is another one, so its time says nothing."""


class Subject(NamedTuple):
    """What is being measured."""

    meta_step: MetaStep
    memory_before: int


_subject: list[Subject] = []  # at most one


def build(name: str, case: str, reference: Path) -> Built:
    """Make the meta-step of a row of the table, take one, and check its gradient.

    Raises:
        WrongGradient: if it is not the one that was asked for.
    """
    row = IMPLEMENTATIONS[name]
    make = resolve(row.home)
    numbers = problem(CASES[case])
    _subject.clear()
    before = settle()
    start = time.perf_counter()
    meta_step = make(numbers)
    meta_step.run()
    seconds, rise = time.perf_counter() - start, peak() - before
    error = relative_error(meta_step.gradient(), dict(np.load(reference))) if row.exact else None
    if error is not None and not error <= tolerance(numbers.case):
        raise WrongGradient(f"its error is {error:.1e}")
    settle()
    _subject.append(Subject(meta_step, before))
    return Built(seconds, rise, error)


def repeat(seconds: float) -> Timed:
    """Take meta-steps for some seconds; at least two, unless they are slow."""
    (subject,) = _subject
    times: list[float] = []
    steps = subject.meta_step.steps
    while steps * sum(times) < seconds or (len(times) < 2 and sum(times) < SLOW):
        start = time.perf_counter()
        subject.meta_step.run()
        times.append((time.perf_counter() - start) / steps)
    return Timed(times, peak() - subject.memory_before)


def reference(case: str, path: Path) -> None:
    """Keep the exact meta-gradient of a case, in double precision."""
    np.savez(path, **resolve("with_innerloop:reference")(problem(CASES[case])))


def tolerance(case: Case) -> float:
    """The relative error that is put down to single precision."""
    return POOLED_TOLERANCE if isinstance(case.network, Convnet) and case.network.pooled else TOLERANCE


def relative_error(found: Arrays, wanted: Arrays) -> float:
    """The largest relative error, in norm, of any parameter's gradient."""
    assert found.keys() == wanted.keys()
    return max(float(np.linalg.norm(found[name] - each) / np.linalg.norm(each)) for name, each in wanted.items())


def settle() -> int:
    """Give free memory back and forget the peak so far; the bytes that remain in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("self")


def peak() -> int:
    """The most bytes that were resident since the last `settle`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024
