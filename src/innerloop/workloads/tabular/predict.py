"""A trained learner, adapted to a table or folder of labelled rows, predicts another."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import predictions
from innerloop.tabular import adaptation, artifact
from innerloop.tabular.adaptation import Support
from innerloop.tabular.features import Columns
from innerloop.tabular.identity import in_order
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
) -> None:
    """Adapt a trained learner to labelled rows of one task or of several, predict others, and write a CSV file.

    Args:
        folder: of the exported model, or the directory of its run.
        support: labelled rows, a table or a folder `class/*.png`.
        query: rows to predict, with the same features.
        out: the CSV file.
        say: told what was noticed.
        target: the column of labels; empty takes that of training.

    Raises:
        InnerloopError: for files that do not fit the learner.
    """
    learned = artifact.load(folder)
    target = target or str(learned.facts.get("target") or "")
    given = inputs.support(learned, support, target)
    asked = inputs.query(learned, query, target)
    for note in (*given.notes, *asked.notes):
        say(note)
    groups = _tasks_of(given, asked, support, query)
    supports = [Support(_rows(given.columns, known), given.target[known]) for known, _ in groups]
    tasks = adaptation.adapt_many(learned, supports)
    labels = in_order({label for task in tasks for label in task.labels})
    scores = np.zeros((asked.rows, 3 if learned.regression else len(labels)))
    for task, (_, places) in zip(tasks, groups, strict=True):
        if not len(places):
            continue
        columns = _rows(asked.columns, places)
        if learned.regression:
            scores[places] = np.stack(task.interval(columns), axis=1)
        else:
            scores[np.ix_(places, [labels.index(label) for label in task.labels])] = task.probabilities(columns)
    if learned.regression:
        found: dict[str, Any] = dict(zip(("prediction", "low", "high"), scores.T.tolist(), strict=True))
        scores = scores[:, 0]
    else:
        found = {"prediction": [labels[i] for i in scores.argmax(axis=1)]}
        found |= {f"probability_{label}": scores[:, i].tolist() for i, label in enumerate(labels)}
    predictions.write(out, {**asked.kept, **found}, asked.rows)
    if len(tasks) == 1:
        say(predictions.adapted(len(given.target), "rows", tasks[0].curve))
    else:
        say(f"adapted to {len(tasks):,} tasks, {len(given.target):,} rows in all")
    new = sorted(set(labels) - set(learned.labels)) if learned.labels else []
    if new:
        say(f"{listed(new)}: not seen in training; adapted to from these rows alone")
    if asked.target is not None and (learned.regression or _judgeable(asked.target, labels)):
        metrics = metrics_of(asked.target, labels, scores)
        told = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        say(f"scored by the labels in {query}, which were not used: {told}")
    say(f"{asked.rows:,} predictions: {out.resolve()}")


def _tasks_of(given: inputs.Support, asked: inputs.Query, support: Path, query: Path) -> list[tuple[Any, Any]]:
    """The support and query rows of each task; all of them, if the support rows belong to one.

    Raises:
        InnerloopError: if it cannot be told to which task a query row belongs, or it has no support row.
    """
    if given.tasks is None or len(set(given.tasks.tolist())) < 2:
        return [(np.arange(len(given.target)), np.arange(asked.rows))]
    names = list(dict.fromkeys(given.tasks.tolist()))
    if asked.tasks is None:
        raise InnerloopError(
            f"{support} holds rows of {len(names)} tasks ({listed([str(name) for name in names], 3)}), but {query} "
            "does not say to which its rows belong; add the column, or give the rows of one task."
        )
    if odd := [str(name) for name in dict.fromkeys(asked.tasks.tolist()) if name not in names]:
        raise InnerloopError(f"{query} has rows of {listed(odd, 3)}, of which {support} has none; label some of them.")
    return [(np.flatnonzero(given.tasks == name), np.flatnonzero(asked.tasks == name)) for name in names]


def _judgeable(target: np.ndarray, labels: Sequence[str]) -> bool:
    """Whether the rows' labels are among those of the task; of two classes a precision needs both."""
    common = len(set(target.tolist()) & set(labels))
    return common == 2 if len(labels) == 2 else common > 0


def _rows(columns: Columns, places: np.ndarray) -> Columns:
    return {name: values[places] for name, values in columns.items()}
