"""Pictures of meta-reinforcement learning for docs/rl-measured.md, from benchmarks/results/ and finished reports.

python -m benchmarks.rl_pictures    write docs/images/rl-*.svg

For each recipe that has results: the returns of training tasks over the iterations, before and after the update, a line
for each seed; and the return on each test goal, before the published ones. What a robot does comes from the report of
its run: `benchmarks.record` keeps that as a GIF.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from innerloop import rl
from innerloop.runs import plots
from innerloop.workloads.reinforcement import pictures, published, recipes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"


def chosen(runs: list[dict[str, Any]], recipe: str) -> list[dict[str, Any]]:
    """The runs of a recipe with its own settings, by seed; those of baselines alone are none."""
    own = [run for run in runs if run["recipe"] == recipe and not run["changes"] and run["meta_steps"] > 1]
    return sorted((run for run in own if run["algorithm"] == "maml"), key=lambda run: run["seed"])


def name_of(recipe: str, what: str) -> str:
    """The file of a picture."""
    return f"{recipe}-{what}.{'gif' if what == 'gaits' else 'svg'}"


def course(runs: list[dict[str, Any]]) -> str:
    """Returns of training tasks over the iterations."""
    figure, axis = plots.pyplot().subplots(figsize=(5.6, 3.2))
    for run in runs:
        names = sorted({name for point in run["course"] for name in point if name.startswith("return_")})
        for name, colour in zip(names, [plots.GREY, *plots.COLOURS], strict=False):
            updates = int(name.removeprefix("return_"))
            label = "before the update" if updates == 0 else f"after {updates}"
            points = [(point["meta_steps"], point[name]) for point in run["course"] if name in point]
            first = run is runs[0]
            axis.plot(*zip(*points, strict=True), color=colour, linewidth=1.0, label=label if first else None)
    axis.set(xlabel="iteration", ylabel="mean return")
    axis.legend(fontsize=8)
    return plots.as_svg(figure)


def returns_on_goals(runs: list[dict[str, Any]]) -> str:
    """The return of each test task against its goal, of each seed."""
    environment = recipes.configure(runs[0]["recipe"]).environment
    methods = {}
    for run in runs:
        (row,) = [row for row in run["evaluation"]["tables"][0]["rows"] if row["method"] == "maml"]
        methods[f"ours, seed {run['seed']}"] = np.array(row["per_task"])
    return pictures.goals(rl.envs.reference_tasks(environment), methods, published.returns(environment))


def section() -> list[str]:
    """The pictures that there are, for the page; what is not measured is said."""
    lines = ["## Over training, and on each goal", ""]
    runs = kept()
    for recipe, known in recipes.RECIPES.items():
        if not known.published:
            continue
        lines += [f"### `{recipe}`", ""]
        found = chosen(runs, recipe)
        if not found:
            lines += ["Not yet measured.", ""]
            continue
        seeds = ", ".join(str(run["seed"]) for run in found)
        lines += [
            f"{found[0]['meta_steps']:,} iterations, seed {seeds}: training tasks, then the test goals; crosses are "
            "published.",
            "",
        ]
        lines += [f"![returns over training](images/{name_of(recipe, 'course')})", ""]
        lines += [f"![returns on each goal](images/{name_of(recipe, 'goals')})", ""]
        if (IMAGES / name_of(recipe, "gaits")).exists():
            lines += [f"![the robot before and after adaptation](images/{name_of(recipe, 'gaits')})", ""]
    return lines


def kept() -> list[dict[str, Any]]:
    """The results of all runs."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("rl-*-seed*.json"))]


def main() -> None:
    runs = kept()
    for recipe, known in recipes.RECIPES.items():
        if known.published and (found := chosen(runs, recipe)):
            (IMAGES / name_of(recipe, "course")).write_text(course(found) + "\n")
            (IMAGES / name_of(recipe, "goals")).write_text(returns_on_goals(found) + "\n")


if __name__ == "__main__":
    main()
