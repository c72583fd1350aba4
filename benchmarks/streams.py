"""What the recipes with long inner loops reach, in docs/streams.md.

python -m benchmarks.streams measure     # trains them (minutes on two cores), for benchmarks/results/streams.json
python -m benchmarks.streams write       # writes the tables; --check says whether they are up to date
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import write_block
from innerloop import workloads
from innerloop.runs import codec, engine, machine, rundir
from innerloop.runs.results import measured

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "streams.json"
PAGE, PICTURE = ROOT / "docs" / "streams.md", ROOT / "docs" / "images" / "data-weights.svg"
RUNS = {"data-weights": 3, "ttt-recall": 3, "ttt-text": 1}
"""Seeds of each recipe; of data-weights other parts and other wrong labels too."""


def trained(recipe: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run of a recipe: its evaluation, and the minutes that all of it took."""
    workload, path = workloads.with_recipe(recipe), folder / f"{recipe}-seed{seed}"
    config = codec.changed(workload.configure(recipe, None), {"seed": seed, "run_dir": str(path)})
    if recipe == "data-weights":
        config = codec.changed(config, {"tasks.split_seed": seed})
    began = time.perf_counter()
    engine.train(workload, config)
    run = rundir.existing(path, workloads.registered())
    if recipe == "data-weights" and not seed:
        page = run.report.read_text().split("<h2>Weights", 1)[1]
        PICTURE.write_text(page[page.index("<svg") : page.index("</svg>")] + "</svg>\n")
    minutes = round((time.perf_counter() - began) / 60, 1)
    return {"recipe": recipe, "seed": seed, "minutes": minutes, "evaluation": run.result()}


def measure(recipes: list[str]) -> None:
    """Train the recipes anew; results of others are kept."""
    before = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else []
    runs = [run for run in before if run["recipe"] not in recipes]
    with tempfile.TemporaryDirectory() as folder:
        for recipe in recipes:
            runs += [trained(recipe, seed, Path(folder)) for seed in range(RUNS[recipe])]
    runs.sort(key=lambda run: (list(RUNS).index(run["recipe"]), run["seed"]))
    result = {"command": "python -m benchmarks.streams measure", "environment": machine.description(), "runs": runs}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def blocks(result: dict[str, Any]) -> str:
    """A table for each recipe, with a column for each seed."""
    known = result["environment"]["machine"]
    parts = []
    for recipe in RUNS:
        runs = [run for run in result["runs"] if run["recipe"] == recipe]
        if not runs:
            continue
        first = runs[0]["evaluation"]
        commits = ", ".join(dict.fromkeys(run["evaluation"]["commit"] for run in runs))
        minutes = ", ".join(f"{run['minutes']}" for run in runs)
        parts.append(
            f"`innerloop train {recipe}`, {first['title']}, by `{result['command']}`, commit {commits}, "
            f"{known['processor']} with {known['cores']} cores; {minutes} minutes with all baselines."
        )
        seeds = [f"seed {run['seed']}" for run in runs]
        areas = [f"area, {seed}" for seed in seeds] if recipe == "data-weights" else []
        lines = [f"| | {' | '.join([*seeds, *areas])} |", "|---" * (1 + len(seeds) + len(areas)) + "|"]
        for i, row in enumerate(first["rows"]):
            rows = [run["evaluation"]["rows"][i] for run in runs]
            cells = [_score(each, 3 if recipe == "ttt-text" else 2) for each in rows]
            cells += [f"{each['area']:.4f}" if each["area"] is not None else "" for each in rows] if areas else []
            lines.append(f"| {row['name']} | {' | '.join(cells)} |")
        if recipe == "data-weights":
            lacking = [_score({"score": run["evaluation"]["rows"][0]["difference"]}, 2, "+") for run in runs]
            lines.append(f"| learned weights minus right labels alone | {' | '.join(lacking)} |{' |' * len(areas)}")
        if first.get("chance") is not None:
            chance = f"{first['chance']:.2f}"
            lines.append(f"| chance | {' | '.join(chance for _ in runs)} |")
        parts.append("\n".join(lines))
        if recipe == "data-weights":
            parts.append("![weights of right and wrong labels](images/data-weights.svg)")
    return "\n\n".join(parts)


def _score(row: dict[str, Any], digits: int, sign: str = "") -> str:
    half_width = row["score"]["ci95_half_width"]
    return measured(row["score"]["mean"], np.nan if half_width is None else half_width, digits, sign)


def write(check: bool) -> int:
    """The tables between their marks."""
    return write_block(PAGE, "streams", blocks(json.loads(RESULT.read_text())), check)


def main() -> int:
    parser = argparse.ArgumentParser(description="The recipes with long inner loops.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("measure").add_argument("--recipes", nargs="+", choices=list(RUNS), default=list(RUNS))
    verbs.add_parser("write").add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.verb == "write":
        return write(asked.check)
    measure(asked.recipes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
