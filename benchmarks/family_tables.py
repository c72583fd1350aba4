"""What was measured of the family, benchmarks/results/family-*.json, as tables, sentences and pictures."""

import json
from math import nan
from pathlib import Path
from typing import Any

from benchmarks import tables
from innerloop import workloads
from innerloop.core.algorithms import ALGORITHMS
from innerloop.runs import plots
from innerloop.runs.comparison import cells_of, title_of
from innerloop.runs.results import counted
from innerloop.workloads.episodes.memory import readable
from innerloop.workloads.episodes.recipes import METHODS

RECIPES = workloads.recipes()
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MISSING = "*not yet measured*"
COMPARISONS = {"Sinusoids": "sinusoid", "Omniglot": "omniglot"}
"""What all rows were compared on, by its heading; the result is family-NAME.json."""
UNSUITED = {
    ("sinusoid", "protonet"): "a task has no classes, which this row needs",
    ("sinusoid", "unicorn-maml"): "a task has no classes, which this row needs",
    ("omniglot", "joint"): "the labels of an episode mean nothing outside of it",
    ("omniglot", "cavia"): "convolutions have no place for a context",
}
"""What a row does not take, by data and row."""
LOOPS = {
    "On sinusoids, a large step size": "steps",
    "On sinusoids, a small step size": "steps-small",
    "On Omniglot": "steps-omniglot",
}
"""What happens when the inner loop grows longer, by heading."""
CHOSEN = (
    "Step size, number of steps in training and at test, and the regularisation of `imaml` were chosen for every row "
    "on validation tasks, which are none of the test tasks ([below](#how-the-settings-were-chosen))."
)


def kept(name: str) -> dict[str, Any] | None:
    """A kept result, or `None` if there is none."""
    path = RESULTS / f"family-{name}.json"
    return as_compared(json.loads(path.read_text())) if path.exists() else None


def as_compared(result: dict[str, Any]) -> dict[str, Any]:
    """A comparison of an earlier version as today's `innerloop compare` keeps it; all else as it is."""
    if "groups" not in result or "factor" not in result:
        return result
    tables = []
    for table in result["tables"]:
        by = "" if table["judge"] == "query" else f", {table['judge']}"
        tables.append(
            {
                "title": f"{table['shots']}-shot, {result['unit']}{by}",
                "lower_is_better": result["metric"] == "loss",
                "tasks": result["test"]["tasks"],
                "rows": [scaled(row, result["factor"]) for row in table["rows"]],
            }
        )
    return {**result, "tables": tables}


def scaled(row: dict[str, Any], factor: float) -> dict[str, Any]:
    """A row whose scores are multiplied by a factor."""
    if "mean" not in row:
        return row
    changed = {name: row[name] * factor for name in ("mean", "interval")}
    changed["spread"] = None if row["spread"] is None else row["spread"] * factor
    changed["by_seed"] = [value * factor for value in row["by_seed"]]
    changed["curve"] = {name: [value * factor for value in values] for name, values in row["curve"].items()}
    if "difference" in row:
        numbers = {name: row["difference"][name] * factor for name in ("mean", "interval", "error")}
        changed["difference"] = row["difference"] | numbers
    return row | changed


def shots_of(table: dict[str, Any]) -> int:
    """The shots of a table, which its title begins with."""
    return int(table["title"].split("-shot")[0])


def file_name(name: str) -> str:
    return name.replace("++", "-plus-plus")


def command_of(result: dict[str, Any]) -> str:
    return result["command"] if isinstance(result["command"], str) else " ".join(result["command"])


def provenance(result: dict[str, Any]) -> str:
    """Where figures come from."""
    command = command_of(result)
    machine = result["machine"]
    return (
        f"`{command}`, commit {(result['commit'] or 'unknown')[:10]}, {machine['processor']} with {machine['cores']} "
        f"core{'s' if machine['cores'] > 1 else ''}, jax {result['versions']['jax']}."
    )


def measured(name: str) -> list[str]:
    """What was measured of one row."""
    runs = [result for result in tables.told() if result["algorithm"] == name]
    lines = []
    for title, key in COMPARISONS.items():
        result = kept(key)
        group = result["groups"].get(name) if result else None
        if not result or not group:
            if reason := UNSUITED.get((key, name)):
                lines += [f"{title}: {reason}.", ""]
            elif not any(run["recipe"].startswith(key) for run in runs):
                lines += [f"{title}: {MISSING}.", ""]
            continue
        lines += [
            f"{title}, {group['meta_steps']:,} meta-steps, {group['inner_steps']} inner "
            f"{'step' if group['inner_steps'] == 1 else 'steps'} of {group['inner_rate']:g} in training, "
            f"{len(group['seeds'])} {'seed' if len(group['seeds']) == 1 else 'seeds'}:",
            "",
            "| | score | sd over seeds | difference to "
            f"`{result['reference']}` | ms a meta-step | memory | compiling |",
            "|---|---|---|---|---|---|---|",
        ]
        for table in result["tables"]:
            for row in table["rows"]:
                if row["label"] == name:
                    head = f"{title_of(table)}, after {row.get('steps', '')} steps"
                    lines.append(f"| {head} | " + " | ".join(cells_of(result, table, row)) + " |")
        lines += ["", f"{provenance(result)} See [all rows](index.md#{title.lower()}).", ""]
        lines += [f"Note: {each}.\n" for each in dict.fromkeys(result["remarks"]) if each.startswith(f"{name}: ")]
    if runs:
        lines += ["Runs of the recipes, whose baselines are among the [measured results](../results.md):", ""]
        lines += [tables.table(tables.short(runs)), ""]
    figures_of = [
        f"{recipe}: {each.text} after {counted(each.steps, 'step')} ({each.source})"
        for recipe, made in RECIPES.items()
        for each in made.published
        if each.method == METHODS.get(name)
    ]
    if figures_of:
        lines += ["Published:", "", *(f"- {each}" for each in figures_of)]
    return lines if lines[-1] else lines[:-1]


def which_one() -> list[str]:
    """What the comparisons say to somebody who has to choose."""
    lines = ["## Which one should I use", ""]
    for title, key in COMPARISONS.items():
        lines += advice(title, kept(key))
    return [*lines, "On your own data, let `innerloop compare` decide.", ""]


def advice(title: str, result: dict[str, Any] | None) -> list[str]:
    """What one comparison says, by its first table."""
    if not result:
        return [f"{title}: {MISSING}.", ""]
    table, reference = result["tables"][0], result["reference"]
    known = [row for row in table["rows"] if row["label"] in result["groups"] and row.get("mean", nan) == row["mean"]]
    best = sorted(known, key=lambda row: row["mean"], reverse=not table["lower_is_better"])
    rivals = [row for row in best if "difference" in row]
    named = lambda wanted: ", ".join(f"`{row['label']}`" for row in rivals if better(table, row) == wanted)  # noqa: E731
    cost = {row["label"]: result["groups"][row["label"]]["seconds_per_meta_step"] for row in known}
    cheapest = min((each for each in cost if cost[each]), key=lambda each: cost[each])
    return [
        f"{title}, {budget(result)} (each row after the inner steps that its table gives):",
        "",
        "- Best first: " + ", ".join(f"`{row['label']}`" for row in best[:3]) + ".",
        f"- Better than `{reference}` beyond two standard errors: {named(1) or 'none'}.",
        f"- Not told apart from it: {named(0) or 'none'}.",
        f"- Worse: {named(-1) or 'none'}.",
        *published_order(result, best),
        f"- Cheapest meta-step: `{cheapest}`, {cost[cheapest] / cost[reference]:.2f} of the time of `{reference}`.",
        "",
    ]


def published_order(result: dict[str, Any], best: list[dict[str, Any]]) -> list[str]:
    """Whether the rows come in the order of their published figures, where there are several."""
    table = result["tables"][0]
    figures = {
        row["label"]: each.value
        for row in best
        for each in RECIPES[result["recipe"]].published
        if each.method == METHODS.get(row["label"]) and each.shots == shots_of(table)
    }
    if len(figures) < 2:
        return []
    ours, theirs = list(figures), sorted(figures, key=lambda name: figures[name], reverse=not table["lower_is_better"])
    names = lambda order: ", ".join(f"`{name}`" for name in order)  # noqa: E731
    if ours == theirs:
        return ["- The order is the published one."]
    return [f"- The published order, each trained to the end, is another: {names(theirs)}."]


def budget(result: dict[str, Any]) -> str:
    """What each row was given."""
    command = command_of(result)
    steps = {group["meta_steps"] for group in result["groups"].values()}
    if "--time-limit" in command:
        return f"{command.split('--time-limit')[1].split()[0]} of training for each row"
    return f"{', '.join(f'{each:,}' for each in sorted(steps))} meta-steps for each row"


def better(table: dict[str, Any], row: dict[str, Any]) -> int:
    """1 if a row is better than the reference beyond doubt, -1 if worse, 0 if they are not told apart."""
    difference = row["difference"]
    if not difference["decided"]:
        return 0
    return 1 if (difference["mean"] < 0) == table["lower_is_better"] else -1


def whole_table(title: str, key: str) -> list[str]:
    """A comparison as the program printed it."""
    result = kept(key)
    lines = [f"## {title}", ""]
    if not result:
        return [*lines, f"{MISSING}", ""]
    groups = result["groups"]
    lines += [
        f"{result['recipe']}, {budget(result)}, {result['tables'][0]['tasks']} test tasks, the same for all. The score "
        "is the mean over tasks and seeds with its 95 % interval over tasks; differences are paired task by task, * "
        "marks those beyond two standard errors over tasks and seeds.",
        "",
    ]
    for table in result["tables"]:
        lines += [
            f"| {title_of(table)} | after | score | sd over seeds | vs `{result['reference']}` | ms a "
            "meta-step | memory | compiling |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {link(row['label'])} | {row.get('steps', '')} | " + " | ".join(cells_of(result, table, row)) + " |"
                for row in table["rows"]
            ),
            "",
        ]
    lines += beside_published(result)
    settings = [f"`{label}` {each['inner_steps']} of {each['inner_rate']:g}" for label, each in groups.items()]
    taken = [f"`{label}` {each['meta_steps']:,}" for label, each in groups.items()]
    lines += [f"Inner steps in training and their size: {', '.join(settings)}."]
    lines += [f"Meta-steps: {', '.join(taken)}."] if len({each["meta_steps"] for each in groups.values()}) > 1 else []
    lines += [CHOSEN if "chosen" in result else "All else is as the recipe sets it.", ""]
    diverged = [name for name, group in groups.items() if group["diverged"]]
    lines += [f"Diverged: {', '.join(diverged)}.", ""] if diverged else []
    return [*lines, f"![scores](../images/family-{key}.svg)", "", provenance(result), ""]


def beside_published(result: dict[str, Any]) -> list[str]:
    """Each row's score at the published numbers of steps beside the published figure."""
    lines = []
    table = result["tables"][0]
    for row in table["rows"]:
        wanted = [
            each
            for each in RECIPES[result["recipe"]].published
            if each.method == METHODS.get(row["label"]) and each.shots == shots_of(table)
        ]
        values = row.get("curve", {"mean": []})["mean"]
        lines += [
            f"| {link(row['label'])} | {each.steps} | {each.text} | {values[each.steps]:.3g} |"
            for each in wanted
            if each.steps < len(values)
        ]
    if lines:
        lines += [
            "",
            "What whole trainings of the recipe gave, if they were run, stands in the [results](../results.md).",
        ]
    head = ["| | after | published, with its whole training | here, with this budget |", "|---|---|---|---|"]
    return [*head, *lines, ""] if lines else []


def searched() -> list[str]:
    """The search that chose the settings on sinusoids."""
    result = kept("search")
    lines = ["## How the settings were chosen", ""]
    if not result:
        return [*lines, f"{MISSING}", ""]
    rows, settings = result["rows"], result["settings"]
    rate = lambda row: row["settings"]["inner.learning_rate"]  # noqa: E731
    names, chosen = list(dict.fromkeys(row["algorithm"] for row in rows)), (kept("sinusoid") or {}).get("chosen", {})
    rates = sorted({rate(row) for row in rows})
    lines += [
        f"The loss on {settings['test_tasks']} validation tasks of sinusoids, 5-shot, after {settings['iterations']:,} "
        f"meta-steps, mean over {settings['seeds']} seeds, for each inner step size; each with the best of the other "
        "settings tried. The comparison takes the setting with the lowest, unless a whole training diverged with it.",
        "",
        f"| | {' | '.join(f'{each:g}' for each in rates)} | tried | chosen |",
        "|---|" + "---|" * (len(rates) + 2),
    ]
    for name in names:
        own = [row for row in rows if row["algorithm"] == name]
        whole = [row for row in own if row["loss"] is not None]
        cells = []
        for each in rates:
            losses = [row["loss"] for row in whole if rate(row) == each]
            tried = any(rate(row) == each for row in own)
            cells.append(f"{min(losses):.3g}" if losses else "diverged" if tried else "")
        found = settings_in({"settings": chosen.get(name, {})})
        lines.append(f"| {link(name)} | {' | '.join(cells)} | {len(own)} | {found} |")
    lines += [""]
    lines += [
        f"Then {link(row['algorithm'])} with {settings_in(row)} diverged over {row['meta_steps']:,} meta-steps at "
        f"{len(row['seeds'])} of 3 seeds, so it and what is no gentler is out.\n"
        for row in result.get("unstable", ())
    ]
    return [*lines, provenance(result), ""]


def settings_in(row: dict[str, Any]) -> str:
    return ", ".join(f"`{field}` {value:g}" for field, value in row["settings"].items())


def long_loops(title: str, key: str) -> list[str]:
    result = kept(key)
    lines = [f"### {title}", ""]
    if not result:
        return [*lines, f"{MISSING}", ""]
    settings = result["settings"]
    rows = result["rows"]
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    steps = sorted({row["inner_steps"] for row in rows})
    found = {(row["algorithm"], row["inner_steps"]): row for row in rows}
    images = "accuracies" in rows[0]
    kind = "accuracy in % on test tasks" if images else "loss on 10-shot test tasks"
    lines += [
        f"{settings['seeds']} seeds, {settings['iterations']:,} meta-steps of {settings['meta_batch']} tasks, inner "
        f"step size {settings['rate']:g}, as many inner steps at test as in training; mean {kind} over the seeds that "
        "did not diverge, with the standard deviation over seeds in brackets. Beside it the time of a meta-step and "
        "its temporary memory." + (" A network of 16 filters instead of 64." if images else ""),
        "",
        f"| | {' | '.join(f'N = {each}' for each in steps)} |",
        "|---|" + "---|" * len(steps),
    ]
    for name in names:
        cells = []
        for each in steps:
            row = found.get((name, each))
            if row is None:
                cells.append("")
                continue
            values = scores(row)
            cell = f"{mean(values):.3g} ({deviation(values):.2g})" if values else "diverged"
            if row["diverged"]:
                cell += f", {row['diverged']} of {len(row['losses'])} diverged"
            cells.append(f"{cell}; {1e3 * row['seconds_per_meta_step']:.3g} ms, {readable(row['temporary_bytes'])}")
        lines.append(f"| {link(name)} | {' | '.join(cells)} |")
    return [*lines, "", f"![what happens when N grows](../images/family-{key}.svg)", "", provenance(result), ""]


def scores(row: dict[str, Any]) -> list[float]:
    """The score of each seed that did not diverge: the accuracy in per cent where there is one, else the loss."""
    values = [100 * each for each in row["accuracies"]] if "accuracies" in row else row["losses"]
    return [value for value, loss in zip(values, row["losses"], strict=True) if loss is not None]


def memory() -> list[str]:
    result = kept("memory")
    if not result:
        return [f"{MISSING}", ""]
    return [
        "Temporary memory of a meta-step, by XLA's own account of the compiled program (nothing is run).",
        "",
        "| recipe | row | inner steps | tasks in a meta-step | at a time | memory |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['recipe']} | {link(row['algorithm'])} | {row['inner_steps']} | {row['meta_batch']} | "
            f"{row.get('tasks_at_a_time', 'all')} | {readable(row['temporary_bytes'])} |"
            for row in result["rows"]
        ),
        "",
        provenance(result),
        "",
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    return (sum((each - mean(values)) ** 2 for each in values) / max(len(values) - 1, 1)) ** 0.5


def link(name: str) -> str:
    return f"[`{name}`]({file_name(name)}.md)" if name in ALGORITHMS else name


def steps_figure(result: dict[str, Any]) -> str:
    """Loss, time and memory against the number of inner steps, and how many seeds diverged."""
    rows = result["rows"]
    plot, axes = plots.pyplot().subplots(1, 3, figsize=(13, 4))
    for place, name in enumerate(dict.fromkeys(row["algorithm"] for row in rows)):
        own = [row for row in rows if row["algorithm"] == name]
        style = {"color": plots.COLOURS[place % 7], "linestyle": "-" if place < 7 else ":", "marker": "."}
        steps = [row["inner_steps"] for row in own]
        found = [scores(row) for row in own]
        axes[0].plot(steps, [mean(each) if each else nan for each in found], label=name, **style)
        for row, values in zip(own, found, strict=True):
            axes[0].plot([row["inner_steps"]] * len(values), values, "_", color=style["color"], alpha=0.6)
            if row["diverged"]:
                axes[0].annotate(f"{row['diverged']} diverged", (row["inner_steps"], 1), fontsize=7)
        axes[1].plot(steps, [1e3 * row["seconds_per_meta_step"] for row in own], **style)
        axes[2].plot(steps, [row["temporary_bytes"] / 2**20 for row in own], **style)
    images = "accuracies" in rows[0]
    labels = (
        "accuracy, % (— each seed)" if images else "loss (— each seed)",
        "ms a meta-step",
        "temporary memory, MiB",
    )
    for axis, label in zip(axes, labels, strict=True):
        linear = images and axis is axes[0]
        axis.set(xlabel="inner steps N", ylabel=label, xscale="log", yscale="linear" if linear else "log")
        axis.set_xticks(sorted({row["inner_steps"] for row in rows}))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.xaxis.set_minor_formatter("")
    axes[0].legend(fontsize=7)
    plot.tight_layout()
    return plots.as_svg(plot)


def pictures() -> dict[str, str]:
    """The pictures beside the tables, by file name."""
    found = {}
    for key in COMPARISONS.values():
        if result := kept(key):
            table = result["tables"][0]
            label = result.get("unit", table["title"])
            found[f"family-{key}.svg"] = plots.comparison(table["rows"], label, logarithmic=table["lower_is_better"])
    for key in LOOPS.values():
        if result := kept(key):
            found[f"family-{key}.svg"] = steps_figure(result)
    return found
