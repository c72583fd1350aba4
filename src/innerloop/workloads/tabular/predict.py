"""A trained learner, adapted to a table or folder of labelled rows, predicts another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from innerloop.runs import predictions
from innerloop.tabular import artifact
from innerloop.text import listed
from innerloop.workloads.tabular import inputs
from innerloop.workloads.tabular.metrics import metrics_of


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
    predictions.write(out, {**asked.kept, **columns}, asked.rows)
    say(predictions.adapted(len(given.target), "rows", task.curve))
    new = sorted(set(task.labels) - set(learned.labels)) if learned.labels else []
    if new:
        say(f"{listed(new)}: not seen in training; adapted to from these rows alone")
    if asked.target is not None:
        metrics = metrics_of(asked.target, task.labels, scores)
        told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        say(f"scored by the labels in {query}, which were not used: {told}")
    say(f"{asked.rows:,} predictions: {out.resolve()}")
