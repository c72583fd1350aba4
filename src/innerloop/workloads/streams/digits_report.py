"""The table and the pictures of weights of digits."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from innerloop.runs import plots
from innerloop.runs.results import Section, Table, measured, number
from innerloop.types import Meta
from innerloop.workloads.streams.digits import SIDE, Digits

SHOWN = 30
"""Images that are drawn."""


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Test accuracy, what it lacks to training on right labels alone, and how well wrong labels are told."""
    rows = []
    for row in result["rows"]:
        difference, area = row.get("difference"), row["area"]
        rows.append(
            (
                row["name"],
                measured(*_pair(row["score"]), 2),
                measured(*_pair(difference), 2, "+") if difference else "",
                "" if area is None else number(area, 4),
            )
        )
    trainings = result["settings"]["tasks"]
    notes = (
        f"{result['wrong']:,} of {result['training']:,} training labels are wrong; {result['validation']:,} clean "
        f"examples choose the weights, the moment to stop and what a threshold keeps; {result['test']:,} others test",
        "area: under the ROC curve, wrong labels against right ones; a half is chance",
        "loss threshold: keeps the examples of least loss, as many as there are right labels, and trains anew on them",
    )
    title = f"Test accuracy (%): mean ± 95 % interval over {trainings} trainings from other starts"
    columns = ("trained with", "accuracy", "minus right labels alone", "area")
    return [Table(title, columns, tuple(rows), notes, frozenset({0}))]


def sections(
    problem: Digits, meta: Meta, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """Histogram, images and learning curves."""
    weights = np.asarray(jax.nn.sigmoid(meta.params))
    images = np.asarray(problem.data.training.x).reshape(-1, SIDE, SIDE)
    given, right = np.asarray(problem.data.training.y), problem.data.right
    lines = {
        "loss of the clean part": [plots.Line("loss_after", "after a training", plots.COLOURS[0])],
        "mean weight": [
            plots.Line("weight_right", "right labels", plots.COLOURS[2]),
            plots.Line("weight_wrong", "wrong labels", plots.COLOURS[1]),
        ],
    }
    curves = plots.learning_curves(records, lines, unit="meta-step")
    lowest = np.argsort(weights)[:SHOWN]
    caught = int((given[lowest] != right[lowest]).sum())
    return [
        Section(
            "Weights",
            f"<figure>{histogram(weights, given != right)}</figure>",
            "How many examples have which weight. Training was not told which labels are wrong.",
        ),
        Section(
            "Judged most wrong",
            f"<figure>{gallery(weights, images, given, right, lowest)}</figure>",
            f"The {len(lowest)} images of least weight, with the label that training saw; {caught} of these labels are "
            "wrong, and what is right stands in brackets.",
        ),
        Section("Learning", f"<figure>{curves}</figure>", "Each meta-step trains a classifier from a new start."),
    ]


def histogram(weights: np.ndarray, wrong: np.ndarray) -> str:
    """The weights of right and of wrong labels, an `<svg>` element."""
    figure, axis = plots.pyplot().subplots(figsize=(6.4, 3.2))
    edges = np.linspace(0, 1, 41)
    for label, which, colour in (("right label", ~wrong, plots.COLOURS[2]), ("wrong label", wrong, plots.COLOURS[1])):
        axis.hist(weights[which], edges, label=label, color=colour, alpha=0.6)
    axis.set(xlabel="weight", ylabel="training examples")
    axis.legend(fontsize=8)
    return plots.as_svg(figure)


def gallery(weights: np.ndarray, images: np.ndarray, given: np.ndarray, right: np.ndarray, chosen: np.ndarray) -> str:
    """Images with their labels, an `<svg>` element."""
    columns = 10
    rows = -(-len(chosen) // columns)
    figure, axes = plots.pyplot().subplots(rows, columns, figsize=(0.85 * columns, 1.1 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, chosen, strict=False):
        axis.imshow(images[i], cmap="gray_r")
        wrong = given[i] != right[i]
        axis.set_title(f"{given[i]} ({right[i]})" if wrong else f"{given[i]}", fontsize=9)
    figure.tight_layout()
    return plots.as_svg(figure)


def _pair(values: Mapping[str, float]) -> tuple[float, float]:
    half_width = values["ci95_half_width"]
    return values["mean"], float("nan") if half_width is None else half_width
