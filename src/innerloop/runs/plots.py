"""Pictures that every kind of run has, drawn by matplotlib as SVG text."""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs.recipe import Published
from innerloop.runs.results import row_name

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
"""Okabe and Ito's, which those with colour-blindness tell apart."""
GREY = COLOURS[6]
SHOWN_PATHS = 24
"""Test tasks whose paths through parameter space are drawn."""


class Line(NamedTuple):
    """A line in a picture of training.

    Attributes:
        key: the name in the records.
        label: what the legend says.
        colour: of the line.
        marker: how it is drawn, in matplotlib's words: `-` a line, `o` points, `o-` both.
    """

    key: str
    label: str
    colour: str
    marker: str = "-"


class Paths(NamedTuple):
    """Adaptation paths in the plane of their two principal directions: `points` is `[tasks, steps + 1, 2]`."""

    points: np.ndarray
    explained: np.ndarray


def pyplot() -> Any:
    """matplotlib, set up for SVG that keeps its text as text.

    Raises:
        InnerloopError: if it is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler
    except ImportError as error:
        raise InnerloopError("The report needs matplotlib; install it with: pip install 'innerloop[report]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "innerloop",
            "font.family": "sans-serif",
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e6e6e6",
            "axes.axisbelow": True,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(color=COLOURS),
        }
    )
    return pyplot


def as_svg(figure: Any) -> str:
    """The figure as an `<svg>` element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot().close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def learning_curves(
    records: Sequence[Mapping[str, Any]],
    panels: Mapping[str, Sequence[Line]],
    *,
    unit: str,
    logarithmic: Sequence[str] = (),
) -> str:
    """What training recorded over its steps.

    Args:
        records: as in `metrics.jsonl`, each with its `step`.
        panels: lines by the name of the vertical axis.
        unit: what a step is called.
        logarithmic: the panels whose vertical axis is logarithmic.

    Returns:
        The picture, an `<svg>` element.
    """
    figure, axes = pyplot().subplots(1, len(panels), figsize=(4.6 * len(panels) + 1, 3.2), squeeze=False)
    for axis, (name, lines) in zip(axes[0], panels.items(), strict=True):
        for line in lines:
            points = [(record["step"], record[line.key]) for record in records if line.key in record]
            if points:
                size = {"markersize": 3, "linewidth": 1.2}
                axis.plot(*zip(*points, strict=True), line.marker, label=line.label, color=line.colour, **size)
        axis.set(xlabel=unit, ylabel=name)
        if name in logarithmic:
            axis.set_yscale("log")
            for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                which("{x:.3g}")
    if axes[0][0].get_legend_handles_labels()[0]:
        axes[0][0].legend(fontsize=8)
    return as_svg(figure)


def adaptation_curve(
    result: Mapping[str, Any],
    table: Mapping[str, Any],
    published: Sequence[Published] = (),
    *,
    xlabel: str = "inner steps",
) -> str:
    """The score of each method after 0, 1, ..., k inner steps, with its 95 % interval over test tasks.

    Args:
        result: the evaluation, with its `metric`, `factor` and `unit`.
        table: one of its tables, with `shots` and `rows`.
        published: figures to mark; those of another number of shots are left out.
        xlabel: what is counted on the horizontal axis.

    Returns:
        The picture, an `<svg>` element.
    """
    figure, axis = pyplot().subplots(figsize=(6.4, 3.6))
    for row, colour in zip(table["rows"], COLOURS * 3, strict=False):
        values = row["metrics"][result["metric"]]
        mean, interval = (np.array(values[name]) * result["factor"] for name in ("mean", "interval"))
        style = "--" if row["judge"] == "inductive" else "-"
        steps = np.arange(len(mean))
        axis.plot(steps, mean, style, marker="o", markersize=3, color=colour, label=row_name(row))
        axis.fill_between(steps, mean - interval, mean + interval, color=colour, alpha=0.2, linewidth=0)
    here = [point for point in published if point.shots == table["shots"]]
    for method, marker in zip(dict.fromkeys(point.method for point in here), "*Ds^", strict=False):
        axis.plot(
            [point.steps for point in here if point.method == method],
            [point.value for point in here if point.method == method],
            marker,
            color="black",
            markersize=7,
            fillstyle="none",
            label=f"published: {method}",
        )
    axis.set(xlabel=xlabel, ylabel=result["unit"])
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return as_svg(figure)


def comparison(rows: Sequence[Mapping[str, Any]], label: str, *, factor: float = 1.0, logarithmic: bool = False) -> str:
    """Adaptation curves of all that is compared, and the final scores with those of each seed.

    Args:
        rows: of a table of a comparison; those without a score are left out.
        label: what the score is.
        factor: what it is multiplied by.
        logarithmic: whether its axis is, in the left picture.

    Returns:
        The picture, an `<svg>` element.
    """
    rows = [row for row in rows if "curve" in row]
    figure, axes = pyplot().subplots(1, 2, figsize=(11, max(3.6, 0.3 * len(rows) + 1)), width_ratios=(1, 1.1))
    colours = (COLOURS * (len(rows) // 7 + 1))[: len(rows)]
    for row, colour, style in zip(rows, colours, "-" * 7 + ":" * 7 + "-" * len(rows), strict=False):
        mean = np.array(row["curve"]["mean"]) * factor
        axes[0].plot(np.arange(len(mean)), mean, style, marker=".", color=colour, label=row["label"])
    axes[0].set(xlabel="inner steps", ylabel=label)
    if logarithmic:
        axes[0].set_yscale("log")
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    places = np.arange(len(rows))[::-1]
    for place, row, colour in zip(places, rows, colours, strict=True):
        bar = row["interval"] * factor
        axes[1].errorbar(row["mean"] * factor, place, xerr=bar, fmt="o", markersize=5, color=colour, capsize=3)
        axes[1].plot(np.array(row["by_seed"]) * factor, [place] * len(row["by_seed"]), "|", color=colour, alpha=0.7)
    axes[1].set_yticks(places, [row["label"] for row in rows], fontsize=8)
    axes[1].set(xlabel=f"{label}, with its 95 % interval over tasks; | each seed")
    axes[0].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    return as_svg(figure)


def plot_paths(walks: Sequence[np.ndarray]) -> tuple[str, float]:
    """Paths of parameters from a common origin, in the plane where they differ most.

    Args:
        walks: `[tasks, steps + 1, parameters]` relative to the origin, in one or several arrays.

    Returns:
        The picture, and the share of the paths' variance that lies in the plane.
    """
    paths = project(walks)
    figure, axis = pyplot().subplots(figsize=(5.2, 4.4))
    for path, colour in zip(paths.points, COLOURS * SHOWN_PATHS, strict=False):
        axis.plot(*path.T, marker=".", markersize=3, linewidth=1, color=colour, alpha=0.7)
        axis.plot(*path[-1], "o", markersize=5, color=colour)
    axis.plot(0, 0, "*", markersize=14, color="black", label="initialisation θ")
    axis.plot([], [], "o", color=COLOURS[0], label=f"θ' of a task after {paths.points.shape[1] - 1} steps")
    axis.set(
        xlabel=f"first principal direction ({100 * paths.explained[0]:.0f} % of variance)",
        ylabel=f"second ({100 * paths.explained[1]:.0f} %)",
    )
    axis.legend(fontsize=8)
    return as_svg(figure), float(paths.explained.sum())


def project(walks: Sequence[np.ndarray]) -> Paths:
    """The two principal directions of `[tasks, steps + 1, parameters]`, through the initialisation at the origin.

    The parameters may come in several arrays; only the products of the points with each other are formed.
    """
    flat = [walk.reshape(-1, walk.shape[-1]).astype(np.float64) for walk in walks]
    values, vectors = np.linalg.eigh(sum(points @ points.T for points in flat))
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    plane = vectors[:, :2] * np.sqrt(values[:2])
    return Paths(plane.reshape(*walks[0].shape[:2], 2), values[:2] / max(values.sum(), 1e-300))
