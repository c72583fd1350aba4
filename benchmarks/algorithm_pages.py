"""Write docs/algorithms/ from the table of algorithms and benchmarks/results/family-*.json: no figure is typed by hand.

python -m benchmarks.algorithm_pages          write
python -m benchmarks.algorithm_pages --check  exit with 1 if what is written is not up to date
"""

import ast
import inspect
import json
import sys
from pathlib import Path
from typing import Any

from innerloop import algorithms
from innerloop.adjoint import Annealed, FirstOrder, Implicit, Mixed, Truncated
from innerloop.algorithms import ALGORITHMS, PIECES, Algorithm
from innerloop.experiment import figures
from innerloop.experiment.comparison import cells_of, title_of
from innerloop.experiment.plan import readable
from innerloop.experiment.recipes import METHODS, RECIPES, config
from innerloop.metagrad import last_step, towards_adapted

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ROOT / "docs" / "algorithms"

ADJOINTS = {
    Mixed: "exact, forward over reverse mode (`Mixed`)",
    FirstOrder: "none through the inner gradients (`FirstOrder`)",
    Truncated: "exact through the last steps, first-order before (`Truncated`)",
    Annealed: "first-order at the beginning of training, then exact (`Annealed`)",
    Implicit: "by the implicit function theorem at the minimum (`Implicit`)",
}
NETWORKS = {
    "any": "any",
    "per-step": "scale and shift of normalisation once for each inner step (`models.per_step`)",
    "context": "takes a context beside its input (`models.with_context`)",
    "prototypes": "an embedding with prototypes (`models.prototypical`)",
}
MISSING = "*not yet measured*"


def kept(name: str) -> dict[str, Any] | None:
    """A kept result, or `None` if there is none."""
    path = RESULTS / f"family-{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def file_name(name: str) -> str:
    return name.replace("++", "-plus-plus")


def provenance(result: dict[str, Any]) -> str:
    """Where figures come from."""
    command = result["command"] if isinstance(result["command"], str) else " ".join(result["command"])
    machine = result["machine"]
    return (
        f"`{command}`, commit {(result['commit'] or 'unknown')[:10]}, {machine['processor']} with {machine['cores']} "
        f"core{'s' if machine['cores'] > 1 else ''}, jax {result['versions']['jax']}."
    )


def objective(row: Algorithm) -> str:
    if row.objective is towards_adapted:
        return "move towards the adapted parameters (`towards_adapted`)"
    if row.objective is last_step:
        return "the query loss after the last inner step (`last_step`)"
    return "the query loss after every inner step, then after the last alone (`multi_step`)"


def outer_update(row: Algorithm) -> str:
    parts = ["any optax optimiser"]
    if row.outer.cosine:
        parts.append("its step size on a cosine")
    if row.outer.radius:
        parts.append(f"the meta-gradient taken uphill, at a distance of {row.outer.radius:g}")
    return ", ".join(parts)


def sources() -> dict[str, str]:
    """Each row as it stands in the table: its rule, adjoint and objective, by name."""
    tree = ast.parse(inspect.getsource(algorithms))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "ALGORITHMS"
    )
    assert isinstance(table, ast.Dict)
    rows = {}
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant)
        assert isinstance(value, ast.Call)
        wanted = [ast.unparse(each) for each in value.args[:3]]
        wanted += [
            f"{each.arg}={ast.unparse(each.value)}" for each in value.keywords if each.arg in ("outer", "network")
        ]
        rows[str(key.value)] = f"Algorithm({', '.join(wanted)}, ...)"
    return rows


def page(name: str, row: Algorithm, source: str) -> str:
    """The page of one row."""
    lines = [
        f"# {METHODS.get(name, name)} (`{name}`)" if name in METHODS else f"# `{name}`",
        "",
        f"{row.summary[0].upper()}{row.summary[1:]}. {row.use}",
        "",
        f"$$ {row.maths} $$",
        "",
        "| | |",
        "|---|---|",
        f"| adjoint | {ADJOINTS[type(row.adjoint)]} |",
        f"| objective | {objective(row)} |",
        f"| outer update | {outer_update(row)} |",
        f"| network | {NETWORKS[row.network]} |",
        f"| cost | {row.cost} |",
        f"| reference | {row.reference} |",
        "",
        "In the table of `innerloop.algorithms`:",
        "",
        "```python",
        f'"{name}": {source}',
        "```",
        "",
        f"`innerloop train RECIPE --algorithm {name}` trains it. $\\theta_t$ is $\\theta$ adapted by $t$ inner steps "
        f"of the "
        "loss $L$ on the support set $S$ of a task, $Q$ is its query set, $\\alpha$ and $\\eta$ are the inner and the "
        "outer "
        "step size.",
        "",
    ]
    settings = {recipe: made.rows[name] for recipe, made in RECIPES.items() if name in made.rows}
    if settings:
        lines += ["What the recipes set for it:", ""]
        lines += [
            f"- `{recipe}`: " + ", ".join(f"`--{field.replace('_', '-')} {value}`" for field, value in fields.items())
            for recipe, fields in settings.items()
        ]
        lines.append("")
    return "\n".join([*lines, "## Measured", "", *measured(name), ""])


def measured(name: str) -> list[str]:
    """What was measured of one row."""
    lines = []
    result = kept("sinusoid")
    group = result["groups"].get(name) if result else None
    if result and group:
        lines += [
            f"Sinusoids, {group['meta_steps']:,} meta-steps, {group['inner_steps']} inner "
            f"{'step' if group['inner_steps'] == 1 else 'steps'} of {group['inner_rate']:g} in training, "
            f"{len(group['seeds'])} seeds:",
            "",
            "| | score | sd over seeds | difference to "
            f"`{result['reference']}` | ms a meta-step | memory | compiling |",
            "|---|---|---|---|---|---|---|",
        ]
        for table in result["tables"]:
            for row in table["rows"]:
                if row["label"] == name:
                    head = f"{title_of(result, table)}, after {row.get('steps', '')} steps"
                    lines.append(f"| {head} | " + " | ".join(cells_of(result, row)) + " |")
        lines += ["", f"{provenance(result)} See [all rows](index.md#sinusoids)."]
        lines += [f"Note: {each}." for each in dict.fromkeys(result["remarks"]) if each.startswith(f"{name}: ")]
    else:
        lines.append(f"Sinusoids: {MISSING}.")
    figures_of = [
        f"{recipe}: {each.text} after {each.steps} steps ({each.source})"
        for recipe, made in RECIPES.items()
        for each in made.published
        if each.method == METHODS.get(name)
    ]
    if figures_of:
        lines += ["", "Published:", "", *(f"- {each}" for each in figures_of)]
    return lines


def index() -> str:
    """The page of the whole family."""
    lines = [
        "# The family",
        "",
        "MAML's descendants differ in what one inner update is, how the meta-gradient flows back through it, what is "
        "done with the adapted parameters, and what the outer update is. All are rows of one table, "
        "`innerloop.algorithms`, and run through the same `adapt` and `meta_loss`. `innerloop algorithms` lists them, "
        "`innerloop train RECIPE --algorithm NAME` trains one, and `innerloop compare RECIPE --algorithms a,b,c "
        "--seeds "
        "0..2` compares several.",
        "",
        "| row | what distinguishes it | reference |",
        "|---|---|---|",
    ]
    lines += [
        f"| [`{name}`]({file_name(name)}.md) | {row.summary} | {row.reference.split(':')[0]}, "
        f"{row.reference.rsplit('arXiv ', 1)[-1]} |"
        for name, row in ALGORITHMS.items()
    ]
    lines += [
        "",
        "The pieces of MAML++ can be had one by one, by names joined with a plus, as in `maml+msl+lslr` or "
        "`fomaml+lslr`:",
        "",
        "| piece | what it is |",
        "|---|---|",
        *(f"| `{name}` | {title} |" for name, (title, _) in PIECES.items()),
        "",
        *which_one(),
        "## Sinusoids",
        "",
        *whole_table(),
        "## When the inner loop grows longer",
        "",
        *long_loops(),
        "## Memory",
        "",
        *memory(),
        "```{toctree}",
        ":hidden:",
        ":maxdepth: 1",
        "",
        *(file_name(name) for name in ALGORITHMS),
        "```",
        "",
    ]
    return "\n".join(lines)


def which_one() -> list[str]:
    """What the comparison on sinusoids says to somebody who has to choose."""
    lines = ["## Which one should I use", ""]
    result = kept("sinusoid")
    if not result:
        return [*lines, f"From the measurements below, once there are some: {MISSING}.", ""]
    table = result["tables"][0]
    rows = [row for row in table["rows"] if "mean" in row and row["label"] in result["groups"]]
    known = [row for row in rows if row["mean"] == row["mean"]]
    best = sorted(known, key=lambda row: row["mean"])
    better, same, worse = (
        [row["label"] for row in known if "difference" in row and verdict(row) == each] for each in (-1, 0, 1)
    )
    name = lambda labels: ", ".join(f"`{each}`" for each in labels) or "none"  # noqa: E731
    cost = {row["label"]: result["groups"][row["label"]]["seconds_per_meta_step"] for row in known}
    cheapest = min((each for each in cost if cost[each]), key=lambda each: cost[each])
    lines += [
        f"On {table['shots']}-shot sinusoids, with the same number of meta-steps for all (each row after the inner "
        f"steps "
        "that the table gives):",
        "",
        f"- Lowest loss: {name(row['label'] for row in best[:3])}.",
        f"- Better than `{result['reference']}` beyond two standard errors: {name(better)}.",
        f"- Not told apart from it: {name(same)}.",
        f"- Worse: {name(worse)}.",
        f"- Cheapest meta-step: `{cheapest}`, {cost[cheapest] / cost[result['reference']]:.2f} of the time of "
        f"`{result['reference']}`.",
        "",
        "This ranks them on sinusoids, where tasks are plenty and alike; it is no verdict on images, for which the "
        "table "
        f"is {MISSING}. On your own data, let `innerloop compare` decide.",
        "",
    ]
    return lines


def verdict(row: dict[str, Any]) -> int:
    difference = row["difference"]
    return 0 if not difference["decided"] else 1 if difference["mean"] > 0 else -1


CHOSEN = (
    "MAML's are the paper's. The number of steps of `meta-sgd` and `anil`, the step sizes of `alfa`, `anil` and "
    "`imaml`, and the regularisation of `imaml` were tried on the first 200 of these very test tasks, so their scores "
    "are somewhat too good; the step size of `reptile` was chosen on validation tasks; nothing was chosen for the "
    "others."
)


def whole_table() -> list[str]:
    """The comparison as `innerloop compare` printed it."""
    result = kept("sinusoid")
    if not result:
        return [f"{MISSING[0:-1].capitalize()}*", ""]
    meta_steps = {group["meta_steps"] for group in result["groups"].values()}
    lines = [
        f"{', '.join(f'{each:,}' for each in sorted(meta_steps))} meta-steps each, {result['test']['tasks']} test "
        f"tasks, "
        f"the same for all. The score is the mean over tasks and seeds with its 95 % interval over tasks; differences "
        f"are "
        f"paired task by task, * marks those beyond two standard errors over tasks and seeds.",
        "",
    ]
    for table in result["tables"]:
        lines += [
            f"| {title_of(result, table)} | after | score | sd over seeds | vs `{result['reference']}` | ms a "
            f"meta-step | "
            "memory | compiling |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {link(row['label'])} | {row.get('steps', '')} | " + " | ".join(cells_of(result, row)) + " |"
                for row in table["rows"]
            ),
            "",
        ]
    configs = {label: config("sinusoid", label) for label in result["groups"]}
    settings = [f"`{label}` {each.inner.steps} of {each.inner.learning_rate:g}" for label, each in configs.items()]
    lines += [f"Inner steps in training and their size: {', '.join(settings)}. {CHOSEN}", ""]
    diverged = [name for name, group in result["groups"].items() if group["diverged"]]
    lines += [f"Diverged: {', '.join(diverged)}.", ""] if diverged else []
    lines += ["![scores](../images/family-sinusoid.svg)", "", provenance(result), ""]
    return lines + searched()


def searched() -> list[str]:
    result = kept("search")
    if not result:
        return []
    names = list(dict.fromkeys(row["algorithm"] for row in result["rows"]))
    rates = sorted({row["rate"] for row in result["rows"]})
    loss = {(row["algorithm"], row["rate"]): row["loss"] for row in result["rows"]}
    lines = [
        f"The loss on {result['settings']['test_tasks']} validation tasks, 5-shot, after "
        f"{result['settings']['iterations']:,} "
        "meta-steps with other inner step sizes (one seed):",
        "",
        f"| | {' | '.join(f'{rate:g}' for rate in rates)} |",
        "|---|" + "---|" * len(rates),
    ]
    for name in names:
        cells = [loss.get((name, rate)) for rate in rates]
        shown = ["" if each is None else "diverged" if each != each else f"{each:.3g}" for each in cells]
        lines.append(f"| {link(name)} | {' | '.join(shown)} |")
    return [*lines, "", provenance(result), ""]


def long_loops() -> list[str]:
    result = kept("steps")
    if not result:
        return [f"{MISSING}", ""]
    settings = result["settings"]
    rows = result["rows"]
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    steps = sorted({row["inner_steps"] for row in rows})
    found = {(row["algorithm"], row["inner_steps"]): row for row in rows}
    lines = [
        f"{settings['seeds']} seeds, {settings['iterations']:,} meta-steps of {settings['meta_batch']} tasks, inner "
        f"step "
        f"size {settings['rate']:g}, as many inner steps at test as in training; mean loss over the seeds that did not "
        "diverge, on 10-shot test tasks, with the standard deviation over seeds in brackets. Beside it the time of a "
        "meta-step and its temporary memory.",
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
            values = [value for value in row["losses"] if value is not None]
            cell = f"{mean(values):.3g} ({deviation(values):.2g})" if values else "diverged"
            if row["diverged"]:
                cell += f", {row['diverged']} of {len(row['losses'])} diverged"
            cells.append(f"{cell}; {1e3 * row['seconds_per_meta_step']:.2g} ms, {readable(row['temporary_bytes'])}")
        lines.append(f"| {link(name)} | {' | '.join(cells)} |")
    return [*lines, "", "![what happens when N grows](../images/family-steps.svg)", "", provenance(result), ""]


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
    plot, axes = figures.pyplot().subplots(1, 3, figsize=(13, 4))
    for place, name in enumerate(dict.fromkeys(row["algorithm"] for row in rows)):
        own = [row for row in rows if row["algorithm"] == name]
        style = {"color": figures.COLOURS[place % 7], "linestyle": "-" if place < 7 else ":", "marker": "."}
        steps = [row["inner_steps"] for row in own]
        losses = [[value for value in row["losses"] if value is not None] for row in own]
        axes[0].plot(steps, [mean(each) if each else float("nan") for each in losses], label=name, **style)
        for row, values in zip(own, losses, strict=True):
            axes[0].plot([row["inner_steps"]] * len(values), values, "_", color=style["color"], alpha=0.6)
            if row["diverged"]:
                axes[0].annotate(f"{row['diverged']} diverged", (row["inner_steps"], 1), fontsize=7)
        axes[1].plot(steps, [1e3 * row["seconds_per_meta_step"] for row in own], **style)
        axes[2].plot(steps, [row["temporary_bytes"] / 2**20 for row in own], **style)
    for axis, label in zip(axes, ("loss (— each seed)", "ms a meta-step", "temporary memory, MiB"), strict=True):
        axis.set(xlabel="inner steps N", ylabel=label, xscale="log", yscale="log")
        axis.set_xticks(sorted({row["inner_steps"] for row in rows}))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.xaxis.set_minor_formatter("")
    axes[0].legend(fontsize=7)
    plot.tight_layout()
    return figures.as_svg(plot)


def everything() -> dict[Path, str]:
    """All files with their text."""
    code = sources()
    files = {PAGES / f"{file_name(name)}.md": page(name, row, code[name]) for name, row in ALGORITHMS.items()}
    files[PAGES / "index.md"] = index()
    images = ROOT / "docs" / "images"
    if result := kept("sinusoid"):
        files[images / "family-sinusoid.svg"] = figures.comparison(result, result["tables"][0])
    if result := kept("steps"):
        files[images / "family-steps.svg"] = steps_figure(result)
    return files


def main(arguments: list[str]) -> int:
    files = everything()
    if arguments == ["--check"]:  # pictures depend on the version of matplotlib, so that they are there has to do
        stale = [
            path
            for path, text in files.items()
            if not path.exists() or (path.suffix == ".md" and path.read_text() != text)
        ]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date; run: make results")
        return int(bool(stale))
    PAGES.mkdir(exist_ok=True)
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
