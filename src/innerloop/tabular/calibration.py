"""A learner's certainty, measured on tasks that it was not trained on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from innerloop.tabular.adaptation import Support, adapt_many
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.certainty import Seen, measured
from innerloop.tabular.draws import enough, judgeable, stratified
from innerloop.tabular.rows import Rows

DRAWS, MOST_DRAWS = 60, 8
"""Support sets of each size from all tasks together, about, and from one task at most."""
MOST_QUERIES = 256
"""Rows of a task that are predicted after each draw."""


def calibrated(learned: TrainedLearner, rows: Rows | None, sizes: Sequence[int]) -> TrainedLearner:
    """The learner with intervals, or probabilities, that hold on these tasks.

    Args:
        learned: the learner.
        rows: validation tasks; `None`, or images, leave it as it is.
        sizes: of support sets.
    """
    if rows is None or rows.image:
        return learned
    return replace(learned, certainty=measured([item for items in seen_of(learned, rows, sizes) for item in items]))


def seen_of(learned: TrainedLearner, rows: Rows, sizes: Sequence[int]) -> list[list[Seen]]:
    """What the learner says of query rows, for each task of those that are large enough.

    Args:
        learned: the learner.
        rows: tasks that it was not trained on.
        sizes: of support sets.
    """
    order = np.argsort(rows.tasks, kind="stable")
    bounds = np.searchsorted(rows.tasks[order], np.arange(len(rows.names) + 1))
    draws = int(np.clip(DRAWS // len(rows.names), 1, MOST_DRAWS))
    supports, queries, owners = [], [], []
    for task in range(len(rows.names)):
        places = order[bounds[task] : bounds[task + 1]]
        target = rows.target[places]
        for size in (size for size in sizes if enough(target, size)):
            for seed in range(draws):
                known, asked = (places[part] for part in stratified(target, size, seed))
                if judgeable(rows.target[asked]) and judgeable(rows.target[known]):
                    columns = {name: values[known] for name, values in rows.columns.items()}
                    supports.append(Support(columns, rows.target[known]))
                    queries.append(asked[:MOST_QUERIES])
                    owners.append(task)
    found: list[list[Seen]] = [[] for _ in rows.names]
    for adapted, asked, task in zip(adapt_many(learned, supports) if supports else (), queries, owners, strict=True):
        scores = adapted.scores({name: values[asked] for name, values in rows.columns.items()})
        size, target, given = len(adapted.support.y), rows.target[asked], adapted.support
        if learned.regression:
            residual = scores[:, 0] - (target - given.center) / given.scale
            found[task].append(Seen(size, adapted.error, residual))
        else:
            label = np.array([given.labels.index(text) if text in given.labels else -1 for text in target.tolist()])
            found[task].append(Seen(size, scores=scores[:, list(given.places)], label=label))
    return [items for items in found if items]
