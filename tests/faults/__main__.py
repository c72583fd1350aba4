"""`make test-faults`: all of it within a time, and one table."""

import argparse
import json
import random
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from faults import flips, runs, streams

SHARES = {"killed": 0.4, "killed at an operation": 0.2, "a failing operation": 0.2, "cut off by a full disk": 0.05}
SIZES = (0, 1, 100, 1_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000)


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1200.0, help="for all of it")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/innerloop-faults"), help="where the runs lie")
    parser.add_argument("--kinds", default=",".join(runs.ARGUMENTS), help="of runs")
    parser.add_argument("--kills", type=int, default=200, help="at random moments, of each kind")
    parser.add_argument("--stride", type=int, default=1, help="between operations that fail or kill")
    parser.add_argument("--parts", default="runs,flips,streams,fuzz", help="what is tried")
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--cuts", type=int, default=1_000)
    parser.add_argument("--result", type=Path, help="a JSON file for the table")
    asked = parser.parse_args()
    kinds = asked.kinds.split(",")
    began = time.monotonic()
    shutil.rmtree(asked.folder, ignore_errors=True)
    asked.folder.mkdir(parents=True)
    counts = table(asked, kinds)
    say(f"\n{'':34}{'tried':>8}{'told':>8}{'lost':>8}{'silent':>8}{'left':>8}{'tracebacks':>12}")
    for name, count in counts.items():
        cells = f"{count.tried:>8,}{count.told:>8,}{count.lost:>8,}{count.silent:>8,}"
        cells += f"{count.left:>8,}{count.tracebacks:>12,}"
        say(f"{name:34}{cells}")
    say(f"{time.monotonic() - began:.0f} s")
    for name, count in counts.items():
        for remark in count.remarks:
            say(f"! {name}: {remark}")
    if asked.result:
        asked.result.write_text(json.dumps(recorded(counts, time.monotonic() - began), indent=1) + "\n")
    return int(any(count.lost or count.silent or count.left or count.tracebacks for count in counts.values()))


def recorded(counts: dict[str, runs.Count], seconds: float) -> dict[str, Any]:
    """The table with what it was measured on."""
    from innerloop.runs import machine

    return {
        "command": " ".join(["python -m faults", *sys.argv[1:]]),
        "commit": machine.commit(),
        "seed": 0,
        **machine.description(),
        "seconds": round(seconds),
        "counts": {
            name: {each: value for each, value in vars(count).items() if each != "remarks"}
            for name, count in counts.items()
        },
    }


def table(asked: argparse.Namespace, kinds: list[str]) -> dict[str, runs.Count]:
    """The counts of all kinds of fault."""
    parts = asked.parts.split(",")
    counts: dict[str, runs.Count] = {}
    runs.load_all()
    with ProcessPoolExecutor(len(kinds), mp_context=get_context("fork")) as pool:  # a core is idle where one run waits
        for found in pool.map(runs_of, kinds, [asked] * len(kinds)):
            counts |= found
    for kind in kinds if "flips" in parts else ():
        name = f"{kind}: flipped and cut"
        counts[name] = runs.Count()
        folder = asked.folder / kind
        archive = streams.archive(asked.folder / "images.zip")
        number = [each // len(kinds) for each in (asked.flips, asked.cuts)]
        flips.damage(
            folder / f"{kind}-reference", folder / "cache", archive, flips=number[0], cuts=number[1], count=counts[name]
        )
    if "streams" in parts:
        counts["streams: closed, full, unread"] = streams.tried(asked.folder)
    if "fuzz" in parts:
        counts["configurations and heads, fuzzed"] = streams.fuzzed(asked.folder / kinds[0] / f"{kinds[0]}-reference")
    return counts


def runs_of(kind: str, asked: argparse.Namespace) -> dict[str, runs.Count]:
    """An undisturbed run of a kind and, if that is asked for, the counts of disturbed ones."""
    counts: dict[str, runs.Count] = {}
    runs.prepare(asked.folder / kind)
    trials = runs.Trials(asked.folder / kind, kind, runs.Count())
    trials.undisturbed()
    say(f"{kind}: an undisturbed run takes {trials.seconds:.1f} s and {trials.operations} operations on its files")
    if "runs" not in asked.parts.split(","):
        return counts

    def until(what: str) -> float:
        return time.monotonic() + SHARES[what] * asked.seconds

    trials.count = counts.setdefault(f"{kind}: killed", runs.Count())
    trials.killed_at_random(asked.kills, random.Random(0), until("killed"))
    trials.count = counts.setdefault(f"{kind}: killed at an operation", runs.Count())
    trials.at_each_operation(runs.killing, until("killed at an operation"), asked.stride)
    trials.count = counts.setdefault(f"{kind}: a failing operation", runs.Count())
    trials.at_each_operation(runs.errors, until("a failing operation"), asked.stride)
    trials.count = counts.setdefault(f"{kind}: cut off by a full disk", runs.Count())
    trials.cut_off(SIZES, until("cut off by a full disk"))
    trials.count = counts.setdefault(f"{kind}: two at once", runs.Count())
    trials.two_at_once()
    return counts


if __name__ == "__main__":
    sys.exit(main())
