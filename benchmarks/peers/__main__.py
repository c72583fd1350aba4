"""Compare innerloop with its peers on the same meta-steps, and measure what it promises.

    make bench                                          everything
    make bench CASES=sinusoid-1,omniglot-steps,presets  some parts

What is seen is kept in benchmarks/results/peers.json, part by part, from which docs/benchmarks.md and its plots are
written. The implementations of one part are always compared in one run.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.peers import page
from benchmarks.peers.implementations import CURVES, IMPLEMENTATIONS
from benchmarks.peers.measure import ENOUGH, Built, Timed
from benchmarks.peers.problems import GROWTH, MAIN
from benchmarks.peers.processes import Failed, Limits, Worker, call
from benchmarks.peers.tables import as_text, promises, table_of
from innerloop.errors import InnerloopError
from innerloop.runs import machine as runs_machine

PATIENCE = Limits(600.0, 16 * 2**30)
"""For what is not compared: references, the machine, presets."""
MACHINE, PRESETS = "machine", "presets"
PARTS = (*MAIN, *GROWTH, MACHINE, PRESETS)


class Settings(NamedTuple):
    """How much is measured.

    Attributes:
        rounds: in which the implementations of a case take turns.
        seconds: of timing in each.
        limits: on every call of an implementation.
        place: a folder for references and caches.
    """

    rounds: int
    seconds: float
    limits: Limits
    place: Path


class Entry:
    """One implementation in a process of its own, and what was seen of it in the case at hand."""

    def __init__(self, name: str, limits: Limits):
        self.name = name
        self.failure: str | None = None
        self._worker = Worker(limits)
        self._built: Built | None = None
        self._rounds: list[Timed] = []

    def build(self, case: str, reference: Path) -> None:
        """The first meta-step of a case."""
        self._built, self._rounds = self._attempt("measure:build", self.name, case, reference), []

    def time(self, seconds: float) -> None:
        """One round, if there is need of another."""
        if self.failure is None and sum(sum(each.seconds) for each in self._rounds) < ENOUGH:
            self._rounds.append(self._attempt("measure:repeat", seconds))

    def result(self) -> dict[str, Any]:
        """What was seen: why it failed, or its figures."""
        if self.failure or not self._built:
            return {"failed": self.failure}
        medians = [statistics.median(each.seconds) for each in self._rounds]
        return {
            "seconds": statistics.median(medians),
            "round_seconds": medians,
            "repeats": sum(len(each.seconds) for each in self._rounds),
            "peak_bytes": max(each.peak_bytes for each in self._rounds),
            **self._built._asdict(),
        }

    def close(self) -> None:
        self._worker.close()

    def _attempt(self, home: str, *arguments: Any) -> Any:
        try:
            return self._worker.call(home, *arguments)
        except Failed as failure:
            self.failure = str(failure)
            return None


def compare(case: str, settings: Settings) -> dict[str, Any]:
    """All implementations of a case: each is built and checked, then they take turns at being timed."""
    reference = reference_of(case, settings)
    entries: list[Entry] = []
    try:
        for name in IMPLEMENTATIONS:
            say(f"{case}: building {name}")
            entries.append(Entry(name, settings.limits))
            entries[-1].build(case, reference)
        for turn in range(1, settings.rounds + 1):
            for entry in entries:
                say(f"{case}: timing {entry.name}, round {turn}")
                entry.time(settings.seconds)
        return {entry.name: entry.result() for entry in entries}
    finally:
        for entry in entries:
            entry.close()


def grow(curve: str, settings: Settings) -> dict[str, dict[str, Any]]:
    """Each implementation over the sizes of a curve, until one fails.

    Each size has a process of its own: in one that has computed another before, memory is there already, and what is
    added says nothing.
    """
    cases = {str(size): f"{curve}-{size}" for size in GROWTH[curve]}
    references = {size: reference_of(case, settings) for size, case in cases.items()}
    results: dict[str, dict[str, Any]] = {}
    for name in CURVES:
        results[name] = {}
        for size, case in cases.items():
            say(f"{case}: {name}")
            entry = Entry(name, settings.limits)
            try:
                entry.build(case, references[size])
                entry.time(settings.seconds)
                results[name][size] = entry.result()
            finally:
                entry.close()
            if entry.failure:
                break
    return results


def reference_of(case: str, settings: Settings) -> Path:
    """A file with the exact meta-gradient of a case."""
    say(f"{case}: reference")
    path = settings.place / f"{case}.npz"
    call("measure:reference", case, path, limits=PATIENCE)
    return path


def machine(settings: Settings) -> dict[str, Any]:
    """What the machine can do, and what compiled meta-steps hold."""
    say("matrix products and temporary memory")
    return {
        "product_rate": {name: call(f"machine:{name}_product_rate", limits=PATIENCE) for name in ("jax", "torch")},
        "temporary_bytes": call("machine:temporary_memory", limits=PATIENCE),
    }


def presets(settings: Settings) -> dict[str, dict[str, float]]:
    """Seconds to compile each preset of the program, with an empty cache and then with what that left there."""
    seconds: dict[str, dict[str, float]] = {}
    for name in call("presets:names", limits=PATIENCE):
        seconds[name] = {}
        for start in ("cold", "warm"):
            say(f"preset {name}, {start}")
            cache = str(settings.place / "presets" / name)
            seconds[name][start] = call("presets:compile_seconds", name, cache, limits=PATIENCE)
    return seconds


def measure(part: str, settings: Settings, result: dict[str, Any]) -> None:
    """Add one part to the result."""
    if part in MAIN:
        result["cases"][part] = compare(part, settings)
    elif part in GROWTH:
        result["curves"][part] = grow(part, settings)
    else:
        result[part] = {MACHINE: machine, PRESETS: presets}[part](settings)
    say("")


def kept(fresh: dict[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    """What was measured before, to which the parts that are asked for are added; `fresh` if that is all of them.

    Raises:
        InnerloopError: if it was measured in another way, which would be lost.
    """
    if not page.RESULT.exists() or set(asked) == set(PARTS):
        return fresh
    earlier = json.loads(page.RESULT.read_text())
    if earlier["settings"] != fresh["settings"]:
        before = ", ".join(f"{name} {value:g}" for name, value in earlier["settings"].items())
        raise InnerloopError(
            f"{page.RESULT.name} was measured with {before}; take the same, or leave --cases out to measure all."
        )
    return earlier


def say(text: str) -> None:
    """What is going on, on a line that the next one overwrites."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:79]}", end="", file=sys.stderr, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Compare innerloop with its peers.")
    parser.add_argument("--cases", default=",".join(PARTS), help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds that an implementation may take for a case")
    parser.add_argument("--memory", type=float, default=12.0, help="GiB that it may take")
    arguments = parser.parse_args()
    arguments.cases = arguments.cases.split(",")
    for name in arguments.cases:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}; choose from: {', '.join(PARTS)}")
    return arguments


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no worker is left behind
    arguments = parsed()
    rounds, seconds = (1, 0.1) if arguments.quick else (3, 1.0)
    limits = Limits(arguments.limit, int(arguments.memory * 2**30))
    with tempfile.TemporaryDirectory(prefix="innerloop-bench-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{folder}/inductor"  # every compilation is a first one
        os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
        os.environ["JAX_NUM_CPU_DEVICES"] = str(runs_machine.cores())
        settings = Settings(rounds, seconds, limits, Path(folder))
        environment = call("machine:environment", limits=PATIENCE)
        result = {
            "benchmark": "peers",
            "environment": environment,
            "settings": {
                "rounds": rounds,
                "seconds": seconds,
                "limit": arguments.limit,
                "gibibytes": arguments.memory,
            },
            "measured": {},
            "cases": {},
            "curves": {},
        }
        try:
            result = result if arguments.quick else kept(result, arguments.cases)
        except InnerloopError as error:
            print(f"benchmarks.peers: {error}", file=sys.stderr)
            return 2
        for part in arguments.cases:
            started = time.monotonic()
            try:
                measure(part, settings, result)
            except Failed as failure:  # the other parts are worth having
                print(f"{part}: {failure}\n", flush=True)
                continue
            now, minutes = time.strftime("%Y-%m-%dT%H:%M:%S%z"), (time.monotonic() - started) / 60
            result["measured"][part] = {
                "ended": now,
                "minutes": round(minutes, 1),
                "commit": runs_machine.commit(),
                "environment": environment,
            }
            if not arguments.quick:
                page.RESULT.write_text(json.dumps(result, indent=1) + "\n")
            print(f"{part}\n{as_text(table_of(part, result))}\n", flush=True)
    print(as_text(promises(result)))
    if not arguments.quick:
        page.main(check=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
