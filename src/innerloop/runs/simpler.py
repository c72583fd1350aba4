"""Whether a simpler model does as well as what was trained: the sentences that a report owes its user."""

from collections.abc import Collection, Sequence

import numpy as np

from innerloop.runs.results import estimate, measured, number
from innerloop.runs.workload import Comparable


def remarks(scores: Sequence[Comparable], baselines: Collection[str], *, digits: int) -> list[str]:
    """A sentence for each baseline that does better, or as well, where adaptation ends.

    Differences are paired, test task by test task; one within its 95 % interval is none.

    Args:
        scores: of what was trained and of its baselines, on the same test tasks.
        baselines: those that are simpler, and are told no more than what was trained.
        digits: behind the point of a score.

    Example:
        >>> ours, mean = np.array([[1.0], [2.0], [3.0]]), np.array([[2.0], [2.5], [4.5]])
        >>> remarks([Comparable("return", ours, False), Comparable("return", mean, False, "mean")], ["mean"], digits=1)
        ['a simpler model does better: mean (return 3.0, this one 2.0; difference 1.0 ± 0.5)']
    """
    own = {each.title: each for each in scores if not each.baseline}
    said = []
    for name in baselines:
        better, level = [], []
        for each in scores:
            if each.baseline != name or each.title not in own:
                continue
            ours, theirs = (np.asarray(found.curves, np.float64)[:, -1] for found in (own[each.title], each))
            mean, half = map(float, estimate(theirs - ours))
            gain = -mean if each.lower_is_better else mean
            if not np.isfinite((mean, half)).all() or gain < -half:
                continue
            values = f"{each.title} {number(theirs.mean(), digits)}, this one {number(ours.mean(), digits)}"
            (better if gain > half else level).append(f"{values}; difference {measured(mean, half, digits)}")
        said += [f"a simpler model does better: {name} ({one})" for one in better]
        said += [f"a simpler model does as well: {name} ({one})" for one in level]
    return said
