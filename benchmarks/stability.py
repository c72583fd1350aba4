"""What holds a training whose inner loops run away: a bound on the inner gradient, a searched inner step.

    python -m benchmarks.stability long      MAML++ at 5 and 50 inner steps, two step sizes, with and without the bound
    python -m benchmarks.stability rows      each row of the table with its own settings, on validation tasks
    python -m benchmarks.stability page      writes docs/stability.md (--check: says whether it is up to date)

The network is that of the sinusoids. Seeds are trained beside each other. A training has diverged if its score is no
number: nothing is skipped here, so that one meta-step with an infinite task ends it.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.family import RESULTS, TASKS, curves, sinusoids, trained
from innerloop.runs import machine
from innerloop.workloads.episodes.build import build
from innerloop.workloads.episodes.family import SINUSOID

PAGE = Path(__file__).parents[1] / "docs" / "stability.md"
GROWTH = {"inner__bound_growth": 1.0}
SEARCH = {"variant__line_search": True}
LONG = {"outer__iterations": 1000, "outer__meta_batch": 4}
LONG_RATES, LONG_STEPS, LONG_SEEDS = (0.003, 0.03), (5, 50), 5
ROWS = {"outer__iterations": 1000}
ROW_SEEDS = 2
FIRST = ("anil", "imaml", "alfa", "meta-sgd", "fomaml", "cavia", "boil", "reptile")
"""The rows that are known to have test tasks that explode, and others by which to tell what the bound costs."""


def measured(algorithm: str, seeds: int, part: Any, **settings: Any) -> dict[str, Any]:
    """Train some seeds of a row; the score of each after the inner steps of the evaluation, and before."""
    experiment = build(sinusoids(algorithm, **settings), lambda _: None)
    meta, seconds = trained(experiment, seeds)
    losses = curves(experiment, meta, part, 5)["loss"]
    return {
        "algorithm": algorithm,
        "settings": settings,
        "part": part,
        "losses": [float(each) if np.isfinite(each) else None for each in losses[:, -1]],
        "before": [float(each) if np.isfinite(each) else None for each in losses[:, 0]],
        "seconds_per_meta_step": seconds,
    }


def long() -> Iterator[dict[str, Any]]:
    """MAML++ at growing numbers of steps, with and without the bound."""
    for steps in LONG_STEPS:
        for rate in LONG_RATES:
            for bound in ({}, GROWTH):
                settings = {"inner__learning_rate": rate, "inner__steps": steps, "evaluation__steps": steps}
                yield measured("maml++", LONG_SEEDS, "test", **LONG, **settings, **bound)


def rows(before: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
    """Each row with the settings of the recipe: as it is, bounded, and, of iMAML, searched.

    What is among the rows of an earlier, stopped call is not computed again.
    """
    for algorithm in dict.fromkeys((*FIRST, "maml", *SINUSOID)):
        for change in ({}, GROWTH, *((SEARCH,) if algorithm == "imaml" else ())):
            off = {"inner__bound_growth": 0.0} | ({"variant__line_search": False} if algorithm == "imaml" else {})
            settings = {**ROWS, **off, **change}
            known = [row for row in before if row["algorithm"] == algorithm and row["settings"] == settings]
            yield known[0] if known else measured(algorithm, ROW_SEEDS, "val", **settings)


def means(row: dict[str, Any]) -> str:
    """The score of the seeds that did not diverge: the mean, and from which to which."""
    finite = [loss for loss in row["losses"] if loss is not None]
    return f"{np.mean(finite):.3g} ({min(finite):.3g} to {max(finite):.3g})" if finite else ""


def count(row: dict[str, Any]) -> str:
    return f"{sum(loss is not None for loss in row['losses'])} of {len(row['losses'])}"


def what(settings: dict[str, Any]) -> str:
    """The remedy, in a word."""
    if settings.get("variant__line_search"):
        return "searched"
    return "growth 1" if settings.get("inner__bound_growth") else "none"


def page() -> str:
    """docs/stability.md."""
    text = PAGE.read_text()
    start, end = "<!-- measured -->", "<!-- end of measured -->"
    head, tail = text[: text.index(start) + len(start)], text[text.index(end) :]
    shown = ((long_table, read("long")), (rows_table, read("rows")))
    return "\n".join([head, *(line for table, result in shown if result for line in table(result)), tail])


def long_table(result: dict[str, Any]) -> list[str]:
    lines = [
        f"MAML++, {LONG['outer__iterations']:,} meta-steps of {LONG['outer__meta_batch']} tasks, {LONG_SEEDS} seeds, "
        f"mean squared error on {TASKS} test tasks with 5 examples (`{result['command']}`, commit "
        f"{result['commit'][:10]}, {result['machine']['processor']}):",
        "",
        "| inner steps | step size | bound | seeds that train | error: mean (range) | ms a meta-step |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        settings = row["settings"]
        lines.append(
            f"| {settings['inner__steps']} | {settings['inner__learning_rate']:g} | {what(settings)} | {count(row)} | "
            f"{means(row)} | {1000 * row['seconds_per_meta_step']:.2f} |"
        )
    return [*lines, ""]


def rows_table(result: dict[str, Any]) -> list[str]:
    return [
        f"Rows with the settings of the recipe `sinusoid`, as far as they are measured, "
        f"{ROWS['outer__iterations']:,} meta-steps, {ROW_SEEDS} "
        f"seeds, {TASKS} *validation* tasks with 5 examples (`{result['command']}`, commit {result['commit'][:10]}, "
        f"{result['machine']['processor']}):",
        "",
        "| algorithm | remedy | seeds that train | error: mean (range) |",
        "|---|---|---|---|",
        *(f"| {row['algorithm']} | {what(row['settings'])} | {count(row)} | {means(row)} |" for row in result["rows"]),
        "",
    ]


def read(name: str) -> dict[str, Any] | None:
    """A kept result, if there is one."""
    place = RESULTS / f"stability-{name}.json"
    return json.loads(place.read_text()) if place.exists() else None


def main(arguments: argparse.Namespace) -> int:
    if arguments.what == "page":
        text = page()
        stale = PAGE.read_text() != text
        if stale and arguments.check:
            print("docs/stability.md is not up to date; run: make results")
        elif stale:
            PAGE.write_text(text)
            print("docs/stability.md written")
        return int(stale and arguments.check)
    machine.set_up(1)
    place = RESULTS / f"stability-{arguments.what}.json"
    result: dict[str, Any] = {
        "benchmark": f"stability-{arguments.what}",
        "command": f"python -m benchmarks.stability {arguments.what}",
        "commit": machine.commit(),
        **machine.description(),
        "rows": [],
    }
    before = json.loads(place.read_text())["rows"] if place.exists() else []
    for row in long() if arguments.what == "long" else rows(before):
        result["rows"].append(row)
        print(row["algorithm"], what(row["settings"]), count(row), means(row), flush=True)
        place.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What holds a training whose inner loops run away.")
    parser.add_argument("what", choices=("long", "rows", "page"))
    parser.add_argument("--check", action="store_true", help="of `page`: write nothing")
    sys.exit(main(parser.parse_args()))
