"""The report of training on one's own tasks: one HTML file that needs nothing else, and the same table as text."""

import json
import shlex
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from innerloop.runs.rundir import Run, write_text
from innerloop.tabular.artifact import measured
from innerloop.workloads.episodes import figures
from innerloop.workloads.episodes.report import settings
from innerloop.workloads.tabular.session import described_tasks

MEANINGS = {
    "delta-AUPRC": "area under the precision-recall curve, less what random scores would get",
    "accuracy": "share of right classes",
    "relative error": "root mean squared error in units of the targets' standard deviation (1: the best constant)",
    "correlation": "between prediction and target",
}


def write(run: Run, data: Any, result: dict[str, Any]) -> None:
    """Write `report.html`.

    Args:
        run: the run, with its records.
        data: what it was trained on.
        result: its evaluation.

    Raises:
        InnerloopError: if matplotlib is not installed, or the file cannot be written.
    """
    config, known = run.config, run.known()
    choices = [*described_tasks(config, data), *data.plan.reasons]
    tables = result["tables"]
    text = {
        "title": f"{config.recipe}: {config.target or 'images'}",
        "lead": f"{data.plan.design.kind}, {result['meta_steps']:,} meta-steps, seed {config.seed}. "
        f"innerloop {known['versions']['innerloop']}.",
        "command": shlex.join(known["command"]),
        "environment": json.dumps(known, indent=2),
    }
    markup = {
        "style": _style(),
        "choices": "".join(f"<li>{escape(each)}</li>" for each in choices),
        "scores": _scores(tables) if tables else "<p>No task was held out for a test.</p>",
        "learning": learning(run.records()),
        "settings": settings(config),
    }
    template = Template(files("innerloop.workloads.tabular").joinpath("report.html").read_text())
    write_text(run.report, template.substitute({name: escape(value) for name, value in text.items()} | markup))


def _style() -> str:
    """The style of all reports."""
    page = files("innerloop.workloads").joinpath("report.html").read_text()
    return page.split("<style>")[1].split("</style>")[0]


def as_text(tables: dict[str, Any] | None) -> str:
    """The evaluation as a table within 80 columns."""
    if not tables:
        return "no task was held out for a test"
    rows: Sequence[dict[str, Any]] = tables["rows"]
    metric = next(iter(rows[0]["metrics"]))
    sizes = list(dict.fromkeys(each["size"] for each in rows))[:4]
    methods = list(dict.fromkeys(each["method"] for each in rows))
    found = {(each["method"], each["size"]): each["metrics"][metric] for each in rows}
    lines = ["", f"{metric:<20}" + "".join(f"{f'{size} rows':>15}" for size in sizes)]
    for method in methods:
        cells = [measured(*found[method, size]) if (method, size) in found else "" for size in sizes]
        lines.append(f"{method:<20}" + "".join(f"{cell:>15}" for cell in cells))
    number = max(each["tasks"] for each in rows)
    lines.append(f"mean over {number} test tasks ± its standard error; {MEANINGS[metric]}")
    return "\n".join(lines)


def learning(records: Sequence[dict[str, Any]]) -> str:
    """Query loss in training and on held-out tasks over the meta-steps, as SVG."""
    figure, axis = figures.pyplot().subplots(figsize=(6.4, 3.2))
    for key, label, colour in (
        ("loss_after", "training tasks", figures.COLOURS[0]),
        ("validation/loss", "held-out tasks", figures.COLOURS[1]),
    ):
        points = [(each["step"], each[key]) for each in records if key in each]
        if points:
            axis.plot(*zip(*points, strict=True), "o-", markersize=3, label=label, color=colour, linewidth=1.2)
    axis.set(xlabel="meta-step", ylabel="query loss")
    axis.legend(fontsize=8)
    return figures.as_svg(figure)


def _scores(tables: dict[str, Any]) -> str:
    rows = tables["rows"]
    number = max(each["tasks"] for each in rows)
    parts = [f'<p class="note">Means over {number} test tasks ± their standard error.</p>']
    for metric in rows[0]["metrics"]:
        sizes = list(dict.fromkeys(each["size"] for each in rows))
        figure, axis = figures.pyplot().subplots(figsize=(6.4, 3.2))
        cells = []
        for i, method in enumerate(dict.fromkeys(each["method"] for each in rows)):
            here = [each for each in rows if each["method"] == method]
            means, errors = zip(*(each["metrics"][metric] for each in here), strict=True)
            beside = [each["size"] * 1.03**i for each in here]  # so that methods of one size do not hide each other
            axis.errorbar(beside, means, errors, label=method, color=figures.COLOURS[i], marker="o")
            row = {each["size"]: measured(*each["metrics"][metric]) for each in here}
            kind = ' class="ours"' if not i else ""
            texts = "".join(f'<td class="number">{row.get(size, "")}</td>' for size in sizes)
            cells.append(f"<tr{kind}><td>{escape(method)}</td>{texts}</tr>")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set(xlabel="support size", ylabel=metric)
        axis.legend(fontsize=8)
        head = "".join(f'<th class="number">{size}</th>' for size in sizes)
        parts.append(
            f'<h3>{escape(metric)}</h3><p class="note">{escape(MEANINGS[metric])}</p>'
            f"<figure>{figures.as_svg(figure)}</figure>"
            f"<table><tr><th>support size</th>{head}</tr>{''.join(cells)}</table>"
        )
    return "".join([*parts, _curves(tables["curves"])])


def _curves(curves: dict[str, Any]) -> str:
    metric = next(iter(next(iter(curves.values()))))
    steps = len(next(iter(curves.values()))[metric])
    if steps < 2:
        return ""
    head = "".join(f'<th class="number">{step}</th>' for step in range(steps))
    rows = "".join(
        f"<tr><td>{size}</td>" + "".join(f'<td class="number">{value:.3f}</td>' for value in each[metric]) + "</tr>"
        for size, each in curves.items()
    )
    return (
        f'<h3>Adaptation</h3><p class="note">{escape(metric)} after 0, 1, ... inner steps, by support size; before the '
        f"first step the head has its closed form.</p><table><tr><th>support size</th>{head}</tr>{rows}</table>"
    )
