"""A learner's certainty, measured on tasks that it was not trained on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from innerloop.tabular.adaptation import Support, adapt_many
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.certainty import Certainty, Seen, cross_entropy, measured
from innerloop.tabular.draws import enough, judgeable, stratified
from innerloop.tabular.rows import Rows

DRAWS, MOST_DRAWS = 60, 8
"""Support sets of each size from all tasks together, about, and from one task at most."""
MOST_QUERIES = 256
"""Rows of a task that are predicted after each draw."""


class Settled(NamedTuple):
    """What is taken from training.

    Attributes:
        learned: the trained learner, or the untrained one, calibrated.
        trained: whether it is the trained one.
    """

    learned: TrainedLearner
    trained: bool = True


def settled(untrained: TrainedLearner, trained: TrainedLearner, rows: Rows | None, sizes: Sequence[int]) -> Settled:
    """The trained learner, if validation tasks tell it from the untrained one, with intervals that hold on these tasks.

    From few tasks training learns what is theirs alone, and the loss of few validation tasks falls by chance as well.
    So the gain has to be larger than its standard error over tasks.

    Args:
        untrained: the learner before training.
        trained: the same after it.
        rows: validation tasks; without any, and for images, the trained one is taken as it is.
        sizes: of support sets.
    """
    if rows is None or rows.image:
        return Settled(trained)
    # Fewer rows as well, since errors grow fast there, and powers of two lie close enough to interpolate.
    smaller = {2**i for i in range(max(sizes).bit_length())}
    sizes = sorted({*sizes, *smaller} if trained.regression else sizes)
    before, after = (seen_of(learned, rows, sizes) for learned in (untrained, trained))
    certainties = [measured([item for items in seen for item in items]) for seen in (before, after)]
    gains = np.array([_gain(old, new, certainties) for old, new in zip(before, after, strict=True)])
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0
    better = not len(gains) or float(gains.mean()) > error
    chosen = (trained, certainties[1]) if better else (untrained, certainties[0])
    return Settled(replace(chosen[0], certainty=chosen[1]), better)


def _gain(old: Sequence[Seen], new: Sequence[Seen], certainties: Sequence[Certainty]) -> float:
    """How much less a task's loss is: of cross-entropies, or relatively of squared errors."""
    if old[0].scores.size:
        losses = [
            np.mean([cross_entropy(item, certainty.temperature(item.size)) for item in items])
            for items, certainty in zip((old, new), certainties, strict=True)
        ]
        return float(losses[0] - losses[1])
    first, second = (np.mean([np.mean(item.residual**2) for item in items]) for items in (old, new))
    return float((first - second) / (first + second)) if first + second else 0.0


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
                if judgeable(rows.target[asked]) and (learned.regression or judgeable(rows.target[known])):
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
