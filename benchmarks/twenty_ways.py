"""How exact MAML learns at 20 ways: validation curves over time and over meta-steps, of each setting that was trained.

    python -m benchmarks.twenty_ways            writes docs/twenty-ways.md and its picture
    python -m benchmarks.twenty_ways --check    exit with 1 if what is written is not up to date

The settings are trained by `python -m benchmarks.queue --rows 'omniglot-20way-1shot*'`; nothing is trained here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, cores, of_schedule
from innerloop.runs import plots
from innerloop.runs.progress import duration

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "twenty-ways.md", DOCS / "images" / "twenty-ways.svg"
START, END = "<!-- measured -->", "<!-- end of measured -->"
SCORE = "validation/transductive/accuracy"
MINUTES, STEPS, GOAL = (1, 3, 10, 30, 120), (500, 1_000, 3_000, 10_000, 60_000), 0.95


def results() -> list[dict[str, Any]]:
    """The kept results at 20 ways and 1 shot, the best first."""
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("omniglot-20way-1shot*.json"))]
    kept = [each for each in kept if any(SCORE in point for point in each["course"])]
    return sorted(kept, key=lambda each: -max(point[SCORE] for point in each["course"]))


def name(result: dict[str, Any]) -> str:
    return " ".join(part for part in (result["algorithm"], result["changes"]) if part)


def place(result: dict[str, Any]) -> str:
    """Where it was trained."""
    machine = result["environment"]["machine"]
    return cores(machine) if machine["platform"] == "cpu" else machine["devices"][0]


def at(result: dict[str, Any], clock: str, limit: float) -> str:
    """The last validation accuracy up to so many minutes or meta-steps; nothing if training ended long before."""
    course = result["course"]
    if course[-1][clock] < 0.9 * limit:
        return ""
    until = [point[SCORE] for point in course if point[clock] <= limit]
    return f"{100 * until[-1]:.1f}" if until else ""


def reached(result: dict[str, Any]) -> str:
    """When the validation accuracy first was that of the goal."""
    first = next((point for point in result["course"] if point[SCORE] >= GOAL), None)
    return "" if first is None else f"{duration(60.0 * first['minutes'])}, {first['meta_steps']:,}"


def table(kept: list[dict[str, Any]]) -> list[str]:
    if not kept:
        return ["*Not yet measured.*"]
    heads = [*(f"{each} min" for each in MINUTES), *(f"{each:,} steps" for each in STEPS)]
    lines = [
        f"Validation accuracy in % (transductive, 200 tasks) by time and by meta-steps, and when it first was "
        f"{100 * GOAL:.0f} %:",
        "",
        f"| setting | meta-steps | {' | '.join(heads)} | {100 * GOAL:.0f} % after | machine |",
        "|---|---|" + "---|" * (len(heads) + 2),
    ]
    for result in kept:
        cells = [at(result, "minutes", each) for each in MINUTES]
        cells += [at(result, "meta_steps", each) for each in STEPS]
        lines.append(
            f"| `{name(result)}` | {of_schedule(result)} | {' | '.join(cells)} | {reached(result)} | {place(result)} |"
        )
    return [*lines, "", "![validation accuracy over time and over meta-steps](images/twenty-ways.svg)"]


def picture(kept: list[dict[str, Any]]) -> str:
    """Validation accuracy over minutes and over meta-steps."""
    figure, axes = plots.pyplot().subplots(1, 2, figsize=(11, 4 + 0.2 * len(kept)), sharey=True)
    for axis, clock, label in zip(axes, ("minutes", "meta_steps"), ("minutes of training", "meta-steps"), strict=True):
        for result, colour in zip(kept, plots.COLOURS * 4, strict=False):
            course = result["course"]
            scores = [100 * point[SCORE] for point in course]
            axis.plot(
                [point[clock] for point in course], scores, color=colour, label=f"{name(result)} ({place(result)})"
            )
        axis.set(xlabel=label, xscale="log")
    axes[0].set_ylabel("validation accuracy, %")
    figure.tight_layout(rect=(0, 0.065 * len(kept), 1, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", fontsize=8)  # names are long
    return plots.as_svg(figure)


def page(kept: list[dict[str, Any]]) -> str:
    text = PAGE.read_text()
    head, tail = text[: text.index(START) + len(START)], text[text.index(END) :]
    return "\n".join([head, *table(kept), tail])


def main(check: bool) -> int:
    kept = results()
    text = page(kept)
    stale = PAGE.read_text() != text
    if stale and check:
        print("docs/twenty-ways.md is not up to date; run: make results")
    elif not check:
        PAGE.write_text(text)
        if kept:
            PICTURE.write_text(picture(kept))  # its look may have changed where the figures have not
        print("docs/twenty-ways.md written")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
