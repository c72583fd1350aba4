"""Write docs/grouped-tables.md from benchmarks/results/grouped-tables.json: no figure in it is typed by hand.

python -m benchmarks.grouped_page          write
python -m benchmarks.grouped_page --check  exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.grouped_tables import RESULT, TABLES
from innerloop.runs.progress import duration

PAGE = Path(__file__).parents[1] / "docs" / "grouped-tables.md"


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    lines = [
        "# Tables with groups, measured",
        "",
        "What `innerloop train` makes of tables that have groups, by its defaults, beside what a data scientist would "
        "write in ten lines, on the same support and query rows of tasks that training never saw. Mean over test tasks "
        "with its 95 % interval, five draws of support rows each. Written by `make results` from "
        "`benchmarks/results/grouped-tables.json`, which `python -m benchmarks.grouped_tables` makes.",
        "",
    ]
    for name, about in TABLES.items():
        if name in result:
            lines += section(name, about.about, result[name])
    return "\n".join(lines)


def section(name: str, about: str, found: dict[str, Any]) -> list[str]:
    """One table: its verdict, every method by number of rows, and how far its certainty can be trusted."""
    rows, known = found["rows"], found["environment"]
    metric = next(iter(rows[0]["metrics"]))
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    cells = {(row["method"], row["size"]): row["metrics"][metric] for row in rows}
    head = [f"| {metric} at so many rows | {' | '.join(map(str, sizes))} |", "|---|" + "---|" * len(sizes)]
    body = []
    for method in dict.fromkeys(row["method"] for row in rows):
        values = [cells.get((method, size)) for size in sizes]
        shown = ["" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}" for value in values]
        title = f"**{method}**" if method == "innerloop" else method
        body.append(f"| {title} | {' | '.join(shown)} |")
    certainty = found.get("certainty") or {}
    trusted = []
    if "coverage" in certainty:
        told = ", ".join(f"{100 * share:.1f} % at {size}" for size, (share, *_) in certainty["coverage"].items())
        trusted = ["", f"Query rows within their 90 % interval, by support rows: {told}."]
    if "reliability" in certainty:
        told = ", ".join(f"{by['error']:.3f} at {size}" for size, by in certainty["reliability"].items())
        trusted = ["", f"Expected calibration error of the probabilities, by support rows: {told}."]
    machine = known["machine"]
    return [
        f"## {name}",
        "",
        f"{about[0].upper()}{about[1:]}; {rows[0]['tasks']} test tasks. Commit {(known['commit'] or 'unknown')[:10]}, "
        f"seed {known['seed']}, {machine['processor']} with {machine['cores']} cores shared with much other work: "
        f"{duration(found['seconds'])} with all comparisons.",
        "",
        f"> {found['verdict']}",
        "",
        *head,
        *body,
        *trusted,
        "",
    ]


def main() -> int:
    written = page(json.loads(RESULT.read_text()))
    if "--check" in sys.argv:
        if PAGE.exists() and PAGE.read_text() == written:
            return 0
        print(f"{PAGE} is not up to date; run: make results")
        return 1
    PAGE.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
