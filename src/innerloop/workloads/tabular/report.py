"""What the report of training on one's own tasks shows."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from innerloop.runs import plots
from innerloop.runs.results import NORMAL_QUANTILE, Section, Table, measured
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.metrics import LOWER_IS_BETTER
from innerloop.workloads.tabular.training import Prepared
from innerloop.workloads.tabular.verdict import OURS

DIGITS = 3
"""Shown behind the point, of all metrics."""
MOST_LEFT_OUT = 20
"""Tasks that are left out and named, at most."""
MEANINGS = {
    "delta-AUPRC": "area under the precision-recall curve, less what random scores would get",
    "accuracy": "share of right classes",
    "relative error": "root mean squared error in units of the targets' standard deviation (1: the best constant)",
    "correlation": "between prediction and target",
}


def tables(result: Mapping[str, Any], config: Config) -> list[Table]:
    """For each metric the scores of each method by support size."""
    found = result["tables"]
    if not found:
        return [Table("test tasks", ("", ""), (), ("no task was held out for a test",))]
    rows = found["rows"]
    sizes, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("size", "method"))
    number = max(row["tasks"] for row in rows)
    shown = []
    for metric in rows[0]["metrics"]:
        cells = {
            (row["method"], row["size"]): measured(*_interval(found, row["metrics"][metric]), DIGITS)
            for row in rows
            if metric in row["metrics"]
        }
        shown.append(
            Table(
                f"{metric}: mean ± 95 % interval, {number} test tasks",
                ("support size", *map(str, sizes)),
                tuple((method, *(cells.get((method, size), "") for size in sizes)) for method in methods),
                (MEANINGS[metric],),
                frozenset(i for i, method in enumerate(methods) if method == OURS),
            )
        )
    return [*shown, *_differences(found), *_certainty(result), *_steps(found)]


def _differences(found: Mapping[str, Any]) -> list[Table]:
    """The learner's first metric less that of each other method, of the same tasks."""
    rows = found.get("differences")  # which older results lack
    if not rows:
        return []
    metric = next(iter(rows[0]["metrics"]))
    sizes, methods = (list(dict.fromkeys(row[name] for row in rows)) for name in ("size", "method"))
    cells = {}
    for row in rows:
        mean, half_width = row["metrics"][metric]
        cells[row["method"], row["size"]] = measured(mean, half_width, DIGITS, "+")
    better = "below" if metric in LOWER_IS_BETTER else "above"
    return [
        Table(
            f"{metric}: {OURS} less the other, task by task",
            ("support size", *map(str, sizes)),
            tuple((method, *(cells.get((method, size), "") for size in sizes)) for method in methods),
            (f"mean ± 95 % interval; {better} 0 the learner is better",),
        )
    ]


def _certainty(result: Mapping[str, Any]) -> list[Table]:
    """Coverage of intervals, or calibration of probabilities, on test tasks."""
    found = result.get("certainty") or {}  # which older results lack
    if coverage := found.get("coverage"):
        cells = tuple(f"{100 * share:.1f} ± {100 * width:.1f} %" for share, width, _ in coverage.values())
        rows = (("rows within their 90 % interval", *cells),)
        return [Table("predictive intervals", ("support size", *coverage), rows, ("calibrated on validation tasks",))]
    if reliability := found.get("reliability"):
        cells = tuple(f"{of_size['error']:.{DIGITS}f}" for of_size in reliability.values())
        note = "expected calibration error: how far probabilities are from frequencies, on average"
        return [Table("probabilities", ("support size", *reliability), (("calibration error", *cells),), (note,))]
    return []


def _interval(found: Mapping[str, Any], values: Sequence[float]) -> tuple[float, float]:
    """A mean with the half-width of its interval; older versions kept its standard error."""
    mean, half_width = values
    return mean, half_width if "interval" in found else NORMAL_QUANTILE * half_width


def _steps(found: Mapping[str, Any]) -> list[Table]:
    """The first metric over the inner steps, if there are any."""
    curves = found["curves"]
    metric = next(iter(next(iter(curves.values()))))
    steps = len(next(iter(curves.values()))[metric])
    if steps < 2:
        return []
    rows = tuple((size, *(f"{value:.{DIGITS}f}" for value in curve[metric])) for size, curve in curves.items())
    note = "before the first step the head has its closed form"
    return [Table(f"{metric} after 0, 1, ... inner steps", ("support size", *map(str, range(steps))), rows, (note,))]


def sections(data: Prepared, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The pictures of a run, and what was chosen for it.

    Args:
        data: what it was trained on.
        result: its evaluation.
        records: what training recorded.

    Raises:
        InnerloopError: if matplotlib is not installed.
    """
    lines = [
        plots.Line("loss_after", "training tasks", plots.COLOURS[0], "o-"),
        plots.Line("validation/loss", "held-out tasks", plots.COLOURS[1], "o-"),
    ]
    learning = plots.learning_curves(records, {"query loss": lines}, unit="meta-step")
    shown = [] if not result["tables"] else [_scores(result["tables"])]
    if result.get("verdict"):
        shown.insert(0, Section("Does meta-learning help here?", f"<p><b>{escape(result['verdict'])}</b></p>"))
    return [
        *shown,
        *_reliability(result),
        Section(
            "What was chosen, and why", f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in _choices(data))}</ul>"
        ),
        Section(
            "Learning",
            f"<figure>{learning}</figure>",
            "Mean loss of query rows after adaptation; the state with the lowest loss on held-out tasks is kept.",
        ),
    ]


def _reliability(result: Mapping[str, Any]) -> list[Section]:
    """How often the most probable class is right, by its probability."""
    reliability = (result.get("certainty") or {}).get("reliability")
    if not reliability:
        return []
    figure, axis = plots.pyplot().subplots(figsize=(4.6, 4.2))
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for i, (size, of_size) in enumerate(reliability.items()):
        chances, frequencies, _ = zip(*of_size["bins"], strict=True)
        axis.plot(chances, frequencies, "o-", color=plots.COLOURS[i % len(plots.COLOURS)], label=f"{size} rows")
    axis.set(xlabel="probability of the most probable class", ylabel="share of right ones", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=7)
    return [
        Section(
            "Are probabilities what they say?",
            f"<figure>{plots.as_svg(figure)}</figure>",
            "Rows of test tasks; on the diagonal a probability is a frequency. Calibrated on validation tasks.",
        )
    ]


def _choices(data: Prepared) -> list[str]:
    """The parts of the data, which tasks are left out, and what was chosen from them."""
    parts = ", ".join(
        f"{len(rows.names):,} tasks with {len(rows.target):,} rows for {part}" for part, rows in data.parts.items()
    )
    left_out = [f"left out: {name} ({why})" for name, why in data.left_out[:MOST_LEFT_OUT]]
    more = len(data.left_out) - len(left_out)
    return [parts, *left_out, *([f"and {more:,} more tasks"] if more > 0 else []), *data.plan.reasons]


def _scores(found: Mapping[str, Any]) -> Section:
    rows, parts = found["rows"], []
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    for metric in rows[0]["metrics"]:
        figure, axis = plots.pyplot().subplots(figsize=(7.6, 4.0))
        for i, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
            here = [row for row in rows if row["method"] == method and metric in row["metrics"]]
            means, widths = zip(*(_interval(found, row["metrics"][metric]) for row in here), strict=True)
            bars = [0.0 if math.isnan(width) else width for width in widths]
            beside = [row["size"] * 1.03**i for row in here]  # so that methods of one size do not hide each other
            colour, style = plots.COLOURS[i % len(plots.COLOURS)], ("-", "--", ":")[i // len(plots.COLOURS) % 3]
            axis.errorbar(beside, means, bars, label=method, color=colour, linestyle=style, marker="o")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.set(xlabel="support size", ylabel=metric)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        parts.append(f"<h3>{escape(metric)}</h3><figure>{plots.as_svg(figure)}</figure>")
    return Section(
        "On tasks that training never saw", "".join(parts), "Means over test tasks with their 95 % interval."
    )
