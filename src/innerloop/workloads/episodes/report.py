"""The report of a run: one HTML file that needs nothing else."""

import json
import shlex
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from innerloop.core.algorithms import algorithm
from innerloop.runs.rundir import Run, write_text
from innerloop.types import Meta
from innerloop.workloads.episodes import figures, scoring
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import Config, flag, leaves
from innerloop.workloads.episodes.recipes import RECIPES, Published, Recipe, published_beside


def write(run: Run, experiment: Experiment, meta: Meta, result: dict[str, Any]) -> None:
    """Write `report.html`.

    Args:
        run: the run, with its records.
        experiment: what was trained.
        meta: what was learned.
        result: its evaluation.

    Raises:
        InnerloopError: if matplotlib is not installed, or the file cannot be written.
    """
    write_text(run.report, page(run, experiment, meta, result))


def page(run: Run, experiment: Experiment, meta: Meta, result: dict[str, Any]) -> str:
    """The whole report as HTML."""
    config = experiment.config
    records, environment = run.records(), run.known()
    recipe = RECIPES.get(config.recipe)
    published = published_beside(config.recipe, config.algorithm)
    paths, share = figures.parameter_paths(experiment, meta)
    text = {
        "title": f"{config.recipe}: {config.algorithm}",
        "lead": lead(config, result, environment),
        "learned": "Training tasks; each point is the mean over the meta-steps since the one before.",
        **picture_text(config),
    }
    markup = {
        "tiles": tiles(records, result),
        "tested": tested(result),
        "tables": "".join(table_section(table, result, published) for table in result["tables"]),
        "picture": (figures.sinusoid_fits if config.kind == "regression" else figures.episode)(experiment, meta),
        "learning": figures.learning_curves(records, config.kind == "regression"),
    }
    return filled(config, environment, paths, share, recipe, text, markup)


def filled(
    config: Any,
    environment: dict[str, Any],
    paths: str,
    share: float,
    recipe: Recipe | None,
    text: dict[str, str],
    markup: dict[str, str],
) -> str:
    """The page, with what all reports share.

    Args:
        config: the configuration.
        environment: what was known of versions and machine.
        paths: the picture of the fast weights.
        share: the part of their variance that it shows.
        recipe: where the configuration came from.
        text: the rest that is plain text.
        markup: the rest that is HTML.
    """
    text = text | {
        "paths_share": f"{100 * share:.0f}",
        "command": shlex.join(environment["command"]),
        "environment": json.dumps(environment, indent=2),
    }
    markup = markup | {
        "paths": paths,
        "deviations": deviations(recipe.deviations if recipe else ""),
        "settings": settings(config),
    }
    template = Template(files("innerloop.workloads").joinpath("report.html").read_text())
    return template.substitute({name: escape(value) for name, value in text.items()} | markup)


def lead(config: Config, result: dict[str, Any], environment: dict[str, Any]) -> str:
    summary = algorithm(config.algorithm).summary
    return (
        f"{summary[0].upper()}{summary[1:]}. Seed {config.seed}, {result['meta_steps']:,} meta-steps of "
        f"{config.outer.meta_batch} tasks. innerloop {environment['versions']['innerloop']}."
    )


def picture_text(config: Config) -> dict[str, str]:
    if config.kind == "regression":
        return {
            "picture_title": "Fits on unseen tasks",
            "picture_caption": "Three unseen sinusoids, and the network's prediction after 0, 1 and 10 inner steps on "
            "the marked points (the experiment of the paper's Figure 2).",
        }
    return {
        "picture_title": "One episode",
        "picture_caption": "A test episode: support images above, query images below. Under each query image stands "
        f"the predicted class before → after {config.evaluation.steps} inner steps; green is right after adaptation.",
    }


def tiles(records: Sequence[dict[str, Any]], result: dict[str, Any]) -> str:
    unit, table = result["unit"], result["tables"][0]
    row = table["rows"][0]
    last = len(row["metrics"][result["metric"]]["mean"]) - 1
    settings = f"{counted(last, 'inner step')}, {counted(table['shots'], 'shot')}"
    shown = [
        (scoring.cell(result, row, 0), f"{unit} before adaptation"),
        (scoring.cell(result, row, last), f"{unit} after {settings}"),
    ]
    rates = sorted(record["tasks_per_second"] for record in records if "tasks_per_second" in record)
    if rates:
        shown.append((f"{rates[len(rates) // 2]:,.0f}", "training tasks a second (median)"))
    tile = '<div class="tile"><b>{}</b><span>{}</span></div>'
    return "".join(tile.format(escape(number), escape(meaning)) for number, meaning in shown)


def tested(result: dict[str, Any]) -> str:
    """What the scores are of."""
    judges = ""
    if {row["judge"] for table in result["tables"] for row in table["rows"]} != {"query"}:
        judges = (
            f"<b>Transductive</b>: the query images of a task ({result['queries']} of each class) are normalised "
            "together, by their own statistics, as in the published figures. <b>Inductive</b>: each query image is "
            "judged alone, with statistics that do not depend on the others. "
        )
    return (
        f"{result['test_tasks']} test tasks that training never saw, fixed by seed {result['test_seed']}; mean and "
        f"95 % interval over tasks (1.96 &sigma;/&radic;n) in {escape(result['unit'])}. {judges}Baselines take their "
        "step size from validation tasks."
        + "".join(f" Note: {escape(remark)}." for remark in result.get("remarks", ()))
    )


def table_section(table: dict[str, Any], result: dict[str, Any], published: Sequence[Published]) -> str:
    here = [each for each in published if each.shots == table["shots"]]
    curve = figures.adaptation_curve(table, result["metric"], result["factor"], result["unit"], here)
    steps = scoring.shown_steps(table, result["metric"], here)
    head = "".join(f'<th class="number">{counted(step, "step")}</th>' for step in steps)
    rows = []
    for row in table["rows"]:
        cells = "".join(f'<td class="number">{scoring.cell(result, row, step)}</td>' for step in steps)
        kind = ' class="ours"' if row["method"] == result["algorithm"] else ""
        name, rate = escape(scoring.row_name(row)), row["learning_rate"]
        rows.append(f'<tr{kind}><td>{name}</td><td class="number">{rate:g}</td>{cells}</tr>')
    for method in dict.fromkeys(each.method for each in here):
        figure_at = {each.steps: each for each in here if each.method == method}
        known = [figure_at[step].text if step in figure_at else "" for step in steps]
        cells = "".join(f'<td class="number">{text}</td>' for text in known)
        source = next(iter(figure_at.values())).source
        name = f"published: {escape(method)}<br>{escape(source)}"
        rows.append(f'<tr class="published"><td>{name}</td><td></td>{cells}</tr>')
    return (
        f"<h3>{counted(table['shots'], 'shot')}</h3><figure>{curve}</figure>"
        f'<table><tr><th>method</th><th class="number">step size</th>{head}</tr>{"".join(rows)}</table>'
    )


def deviations(text: str) -> str:
    if not text:
        return ""
    return f'<h2>Where this departs from the published experiment</h2><p class="note">{escape(text)}</p>'


def settings(config: Any) -> str:
    rows = "".join(
        f"<tr><td><code>--{escape(flag(name))}</code></td><td>{escape(str(value))}</td></tr>"
        for name, value in leaves(config)
        if name != "recipe"
    )
    return f"<table>{rows}</table>"


def counted(number: int, noun: str) -> str:
    """A number with its noun in the right form.

    Example:
        >>> counted(1, "shot"), counted(5, "shot")
        ('1 shot', '5 shots')
    """
    return f"{number} {noun if number == 1 else f'{noun}s'}"
