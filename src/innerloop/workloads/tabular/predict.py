"""A trained learner, adapted to a table or folder of labelled rows, predicts another."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.tabular import artifact
from innerloop.text import listed
from innerloop.workloads.tabular import inputs
from innerloop.workloads.tabular.scores import metrics_of


def adapt(
    folder: Path,
    support: Path,
    query: Path,
    out: Path,
    say: Callable[[str], None],
    *,
    target: str = "",
    members: int = artifact.MEMBERS,
) -> None:
    """Adapt a trained learner to labelled rows, predict others, and write a CSV file.

    Args:
        folder: of the exported model, or the directory of its run.
        support: labelled rows of the task, a table or a folder `class/*.png`.
        query: rows to predict, with the same features.
        out: the CSV file.
        say: told what was noticed.
        target: the column of labels; empty takes that of training.
        members: regression: adaptations whose disagreement is the spread.

    Raises:
        InnerloopError: for files that do not fit the learner.
    """
    learned = artifact.load(folder)
    target = target or str(learned.facts.get("target") or "")
    given = inputs.support(learned, support, target)
    asked = inputs.query(learned, query, target)
    for note in (*given.notes, *asked.notes):
        say(note)
    task = artifact.adapt(learned, given.columns, given.target, members=members if learned.regression else 1)
    if learned.regression:
        scores, spread = task.targets(asked.columns)
        columns: dict[str, Any] = {"prediction": scores, "spread": spread}
    else:
        scores = task.probabilities(asked.columns)
        columns = {"prediction": [task.labels[i] for i in scores.argmax(axis=1)]}
        columns |= {f"probability_{label}": scores[:, i] for i, label in enumerate(task.labels)}
    write_predictions(out, {**asked.kept, **columns}, asked.rows)
    say(adapted_line(len(given.target), "rows", task.curve))
    new = sorted(set(task.labels) - set(learned.labels)) if learned.labels else []
    if new:
        say(f"{listed(new)}: not seen in training; adapted to from these rows alone")
    if asked.target is not None:
        metrics = metrics_of(asked.target, task.labels, scores)
        told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        say(f"scored by the labels in {query}, which were not used: {told}")
    say(f"{asked.rows:,} predictions: {out.resolve()}")


def adapted_line(count: int, what: str, curve: Sequence[float]) -> str:
    """What is said of an adaptation."""
    losses = " → ".join(f"{loss:.3f}" for loss in curve)
    return f"adapted to {count:,} {what}: support loss {losses} over {len(curve) - 1} inner steps"


def write_predictions(out: Path, columns: Mapping[str, Sequence[Any]], rows: int) -> None:
    """Write columns as a CSV file, after one with the number of the row.

    Raises:
        InnerloopError: if it cannot be written.
    """
    try:
        with out.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", *columns])
            for i in range(rows):
                cells = [values[i] for values in columns.values()]
                writer.writerow([i + 1, *(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells)])
    except OSError as error:
        raise InnerloopError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error
