"""Write the tables of README.md and docs/results.md from benchmarks/results/: no figure in them is typed by hand.

python -m benchmarks.tables          write
python -m benchmarks.tables --check  exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.seeds import over_seeds
from innerloop import workloads
from innerloop.runs.progress import duration
from innerloop.workloads.episodes.recipes import METHODS

RECIPES = workloads.recipes()
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIELD = "neural-field-ct"
TOLD = 0.05
"""The share of its schedule that a run must have taken to have a row beside a longer one."""
START, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"


def results() -> list[dict[str, Any]]:
    """The kept results of runs, in the order of the recipes."""
    order = list(RECIPES)
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    kept = [each for each in kept if each.get("recipe") in order and "groups" not in each]  # which a comparison has
    return sorted(kept, key=lambda each: (order.index(each["recipe"]), -len(each["algorithm"]), each["seed"]))


def table(rows: list[str]) -> str:
    """The final scores beside the published ones."""
    return "\n".join(
        [
            "| recipe | algorithm | meta-steps | inner steps | ours | inductive | published | training |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def unmeasured() -> list[str]:
    """The rows of recipes that have published figures, and no result."""
    rows, measured = [], {result["recipe"] for result in results()}
    for name in RECIPES:
        figures = [each for each in RECIPES[name].published if each.method == METHODS["maml"]]
        if figures and name not in measured | {"demo"}:
            steps, texts = (" / ".join(each) for each in zip(*((str(f.steps), f.text) for f in figures), strict=True))
            rows.append(f"| `{name}` | maml | | {steps} | not yet measured | | {unit(texts, name)} | |")
    return rows


def told() -> list[dict[str, Any]]:
    """Those of which the table tells: not what was broken off at the start, where there is a longer run."""
    every = results()
    longest = {result["recipe"]: 0.0 for result in every}
    for result in every:
        longest[result["recipe"]] = max(longest[result["recipe"]], share(result))
    return [result for result in every if share(result) >= min(TOLD, longest[result["recipe"]])]


def short(results: list[dict[str, Any]]) -> list[str]:
    """One row for runs that differ in their seed; and of reinforcement learning, the recipes' own settings alone."""
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for result in results:
        if not (result["recipe"].startswith("rl-") and result.get("changes")):
            key = result["recipe"], result["algorithm"], result.get("changes"), result["meta_steps"]
            alike.setdefault(key, []).append(result)
    return [row_of(several[0] if len(several) == 1 else pooled(several), len(several)) for several in alike.values()]


def pooled(several: list[dict[str, Any]]) -> dict[str, Any]:
    """One result of runs that differ in their seed: the mean over these, and its interval."""
    evaluations = [result["evaluation"] for result in several]
    metric = evaluations[0]["metric"]
    rows = []
    for place, row in enumerate(evaluations[0]["tables"][0]["rows"]):
        means = [each["tables"][0]["rows"][place]["metrics"][metric]["mean"] for each in evaluations]
        mean, interval = over_seeds(np.array(means))
        rows.append(row | {"metrics": {metric: {"mean": mean.tolist(), "interval": interval.tolist()}}})
    tables = [evaluations[0]["tables"][0] | {"rows": rows}]
    paces = {
        name: float(np.median([each[name] for each in several])) for name in ("training_seconds", "tasks_per_second")
    }
    return several[0] | paces | {"evaluation": evaluations[0] | {"tables": tables}}


def row_of(result: dict[str, Any], seeds: int = 1) -> str:
    recipe = RECIPES[result["recipe"]]
    evaluation = result["evaluation"]
    table = evaluation["tables"][0]
    row = table["rows"][0]
    published = {
        each.steps: each.text
        for each in recipe.published
        if each.shots == table["shots"] and each.method == METHODS.get(result["algorithm"])
    }
    last = len(row["metrics"][evaluation["metric"]]["mean"]) - 1
    steps = sorted(published) or [last]
    ours, alone = (
        unit(" / ".join(score(evaluation, each, step) for step in steps), result["recipe"]) if each else ""
        for each in (row, beside(table, row["method"], "inductive"))
    )
    for other in table["rows"]:
        if other["judge"] == row["judge"] and other["method"].startswith(f"{row['method']}, "):
            added = unit(score(evaluation, other, steps[-1]), result["recipe"])
            ours += f"<br>{other['method'].removeprefix(row['method'] + ', ')}: {added}"
    theirs = unit(" / ".join(published[step] for step in steps), result["recipe"]) if published else ""
    machine = result["environment"]["machine"]
    place = cores(machine) if machine["platform"] == "cpu" else machine["devices"][0]
    pace = f"{duration(result['training_seconds'])} on {place} ({speed(result)})"
    which = f"seed {result['seed']}" if seeds == 1 else f"{seeds} seeds"
    return (
        f"| `{result['recipe']}` {which} | {method(result)} | {of_schedule(result)} "
        f"| {' / '.join(map(str, steps))} | **{ours}** | {alone} | {theirs} | {pace} |"
    )


def beside(table: dict[str, Any], name: str, judge: str) -> dict[str, Any] | None:
    """The row of a method by another judge, if there is one."""
    return next((row for row in table["rows"] if row["method"] == name and row["judge"] == judge), None)


def planned(result: dict[str, Any]) -> int:
    """The meta-steps of the schedule that a run follows."""
    recipe = RECIPES[result["recipe"]]
    settings = (
        recipe.published_settings(result["algorithm"]) if "--published" in result["environment"]["command"] else {}
    )
    return settings.get("outer.iterations", recipe.make().outer.iterations)


def share(result: dict[str, Any]) -> float:
    """The share of its schedule that a run took."""
    return result["meta_steps"] / planned(result)


def of_schedule(result: dict[str, Any]) -> str:
    """The meta-steps taken, and which share of the recipe's schedule they are where that was not all of it."""
    taken, whole = result["meta_steps"], planned(result)
    return f"{taken:,}" if taken >= whole else f"{taken:,} of {whole:,} ({100 * taken / whole:.0f} %)"


def cores(machine: dict[str, Any]) -> str:
    return f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"


def speed(result: dict[str, Any]) -> str:
    rate = result["tasks_per_second"]
    return f"{rate:,.{0 if rate >= 10 else 1}f} tasks/s"


def method(result: dict[str, Any]) -> str:
    changes = result.get("changes")
    return f"{result['algorithm']}, `{changes}`" if changes else result["algorithm"]


def score(evaluation: dict[str, Any], row: dict[str, Any], step: int) -> str:
    values, factor, digits = row["metrics"][evaluation["metric"]], evaluation["factor"], evaluation.get("digits", 2)
    if step >= len(values["mean"]):
        return ""
    return f"{values['mean'][step] * factor:.{digits}f} ± {values['interval'][step] * factor:.{digits}f}"


def unit(text: str, recipe: str) -> str:
    if recipe == FIELD:
        return f"{text} dB"
    return text if recipe.startswith(("sinusoid", "demo", "rl-")) else f"{text} %"


def page() -> str:
    """The whole of docs/results.md."""
    lines = [
        "# Measured results",
        "",
        "Written by `make results` from `benchmarks/results/`, where each file holds the command, commit, seed, "
        "versions and machine of its run. Scores are means over 600 test tasks (20 phantoms) with their 95 % interval. "
        "Accuracies: *ours* is transductive (a task's query images are normalised together), as the published figures "
        "are; *inductive* classifies each query image alone. Returns are undiscounted, means over "
        "the 40 test tasks of the published results.",
        "",
        table([*(row_of(result) for result in told()), *unmeasured()]),
        "",
    ]
    for result in results():
        lines += section(result)
    return "\n".join(lines)


def evaluated_otherwise(result: dict[str, Any]) -> str:
    """What `innerloop evaluate` changed of the evaluation that the command of the training asked for."""
    settings = result["evaluation"].get("settings", {})
    asked = [flag.split("=", 1) for flag in result["environment"]["command"] if flag.startswith("--evaluation.")]
    changed = []
    for flag, *values in asked:
        now = str(settings.get(flag.removeprefix("--evaluation.").replace("-", "_"), *values or [""]))
        changed += [f"{flag}={now}"] if values and now != values[0] else []
    return f" Then `innerloop evaluate RUN {' '.join(changed)}`." if changed else ""


def section(result: dict[str, Any]) -> list[str]:
    evaluation, machine = result["evaluation"], result["environment"]["machine"]
    commit = (result["environment"]["commit"] or "unknown")[:10]
    lines = [
        f"## {result['recipe']}, {method(result)}, seed {result['seed']}",
        "",
        f"`{' '.join(result['environment']['command'])}`, commit {commit}, {machine['processor']} with "
        f"{cores(machine)}, "
        f"jax {result['environment']['versions']['jax']}; {of_schedule(result)} meta-steps in "
        f"{duration(result['training_seconds'])} ({speed(result)}, median).{evaluated_otherwise(result)}",
        "",
    ]
    course = [each for each in result["course"] if evaluation["metric"] == "accuracy"]
    if course:
        lines += [
            "Validation accuracy (transductive, 200 tasks) while training: "
            + ", ".join(
                f"{100 * each['validation/transductive/accuracy']:.1f} % after {each['minutes']:.0f} minutes"
                for each in course[:: max(len(course) // 6, 1)]
            )
            + ".",
            "",
        ]
    if evaluation["metric"] == "return":
        chosen = result["course"][:: max(len(result["course"]) // 8, 1)]
        last = max(int(name.removeprefix("return_")) for name in chosen[0] if name.startswith("return_"))
        lines += [
            f"Mean return in training before and after {last} inner update{'s' if last > 1 else ''}: "
            + ", ".join(
                f"{each['return_0']:.0f} and {each[f'return_{last}']:.0f} at iteration {each['meta_steps']}"
                for each in chosen
            )
            + ".",
            "",
        ]
    for table in evaluation["tables"]:
        last = len(table["rows"][0]["metrics"][evaluation["metric"]]["mean"]) - 1
        steps = [step for step in (0, 1, 3, 5, 10) if step <= last] if last > 3 else list(range(last + 1))
        lines += [
            f"| {table['shots']}-{'view' if result['recipe'] == FIELD else 'shot'}, {evaluation['unit']} | step size | "
            f"{' | '.join(f'after {step}' for step in steps)} |",
            "|---|---|" + "---|" * len(steps),
        ]
        for row in table["rows"]:
            name = row["method"] if row["judge"] == "query" else f"{row['method']}, {row['judge']}"
            cells = " | ".join(score(evaluation, row, step) for step in steps)
            lines.append(f"| {name} | {row['learning_rate']:g} | {cells} |")
        lines.append("")
    return lines


def readme() -> str:
    """README.md with its table written anew."""
    text = (ROOT / "README.md").read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    return f"{before}{START}\n{table([*short(told()), *unmeasured()])}\n{END}{after}"


def main(check: bool) -> int:
    wanted = {ROOT / "README.md": readme(), ROOT / "docs" / "results.md": page()}
    stale = [path for path, text in wanted.items() if path.read_text() != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is not up to date; run: make results' if check else 'written'}")
        if not check:
            path.write_text(wanted[path])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
