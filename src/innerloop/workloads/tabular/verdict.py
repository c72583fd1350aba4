"""One sentence on whether meta-learning helps with these tasks, from the scores of the learner and of its rivals."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from innerloop.tabular.rivals import kind_of
from innerloop.workloads.tabular.metrics import LOWER_IS_BETTER

OURS, UNTRAINED = "innerloop", "innerloop, untrained"
"""What the learner is called among the methods, and the same learner before training."""
WORTH = 0.01
"""A difference below this share of a rival's score is of no use, however sure."""


class Standing(NamedTuple):
    """How the learner stands against one method at one size.

    Attributes:
        method: the method.
        size: support rows.
        score: of the method.
        gain: of the learner over the method; positive is better.
        half_width: of the 95 % interval of the gain over tasks; `nan` for a single task.
    """

    method: str
    size: int
    score: float
    gain: float
    half_width: float

    @property
    def better(self) -> bool:
        """Whether the learner is better, beyond doubt and by an amount that counts."""
        return self.gain > max(self.half_width, WORTH * abs(self.score))

    @property
    def worse(self) -> bool:
        """Whether the learner is worse in the same sense."""
        return -self.gain > max(self.half_width, WORTH * abs(self.score))


def verdict(found: Mapping[str, Any]) -> str:
    """Whether meta-learning helps.

    Args:
        found: `rows` and `differences` of an evaluation.

    Returns:
        A sentence; empty where there is nothing to compare with.
    """
    standings = standings_of(found)
    rivals = [standing for standing in standings if standing.method != UNTRAINED]
    sizes = sorted({rival.size for rival in rivals})
    if not sizes:
        return ""
    harmed = [standing for standing in standings if standing.method == UNTRAINED and standing.worse]
    if harmed:
        return (
            f"Training made it worse: negative transfer (the untrained learner is better {_at(harmed)}); do not use "
            "what was learned."
        )
    pooled, alone = _strongest(rivals, "pooled"), _strongest(rivals, "alone")
    over_pooled = [size for size in sizes if size not in pooled or pooled[size].better]
    over_alone = [size for size in sizes if size not in alone or alone[size].better]
    helps = [size for size in sizes if size in over_pooled and size in over_alone]
    if helps:
        return _helpful(helps, sizes, pooled, alone)
    if _nothing_shared(rivals, sizes) and len(over_alone) < len(sizes):
        best = alone.get(max(sizes)) or alone[min(alone)]
        return f"The tasks share nothing that helps: a model of each task alone does {_how([best])} ({best.method})."
    stronger_alone = not over_alone and all(
        size not in pooled or alone[size].gain < pooled[size].gain for size in sizes
    )
    if len(over_pooled) < len(sizes) and pooled and not stronger_alone:
        level = [pooled[size] for size in sizes if size not in over_pooled]
        at = "" if len(level) == len(sizes) else f" {_at(level)}"
        rest = "" if not at else ", and a model of each task alone with other numbers of rows"
        return f"A pooled model does {_how(level)}{at} ({level[0].method}){rest}: use it."
    level = [alone[size] for size in sizes if size not in over_alone]
    return f"A model of each task alone does {_how(level)} ({level[0].method}): use it."


def standings_of(found: Mapping[str, Any]) -> list[Standing]:
    """The learner against every method, by the first metric."""
    if not found.get("differences"):
        return []
    metric = next(iter(found["rows"][0]["metrics"]))
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    scores = {(row["method"], row["size"]): row["metrics"][metric][0] for row in found["rows"]}
    standings = []
    for row in found["differences"]:
        gain, half_width = row["metrics"][metric]
        width = float("inf") if half_width is None or half_width != half_width else half_width
        standings.append(Standing(row["method"], row["size"], scores[row["method"], row["size"]], sign * gain, width))
    return standings


def _strongest(rivals: Sequence[Standing], kind: str) -> dict[int, Standing]:
    """Of the rivals of a kind the one against which the learner gains least, by size; the constant is of both kinds."""
    found: dict[int, Standing] = {}
    for rival in rivals:
        of_kind = kind_of(rival.method)
        if of_kind == "constant":
            of_kind = "pooled" if "training" in rival.method else "alone"
        if of_kind == kind and (rival.size not in found or rival.gain < found[rival.size].gain):
            found[rival.size] = rival
    return found


def _nothing_shared(rivals: Sequence[Standing], sizes: Sequence[int]) -> bool:
    """Whether a pooled model as it is predicts no better than the mean of training."""
    gain = {(rival.method, rival.size): rival for rival in rivals}
    for size in sizes:
        trees, constant = (gain.get((name, size)) for name in ("pooled trees", "constant (of training)"))
        if trees is None or constant is None or trees.score < (1 - 2 * WORTH) * constant.score:
            return False
    return True


def _how(level: Sequence[Standing]) -> str:
    """How what the learner does not beat does beside it."""
    return "better" if all(standing.worse for standing in level) else "as well"


def _helpful(
    helps: Sequence[int], sizes: Sequence[int], pooled: Mapping[int, Standing], alone: Mapping[int, Standing]
) -> str:
    if list(helps) == list(sizes):
        return f"Meta-learning helps: it beats every other model from {min(sizes)} rows on."
    others = [size for size in sizes if size not in helps]
    left = [item for size in others for item in (pooled.get(size), alone.get(size)) if item and not item.better]
    name = min(left, key=lambda standing: standing.gain)
    other = f"another model does {_how([name])} ({name.method})"
    if list(helps) == [size for size in sizes if size >= min(helps)]:
        return f"Meta-learning helps from {min(helps)} rows on; with fewer, {other}."
    if list(helps) == [size for size in sizes if size <= max(helps)]:
        return f"Meta-learning helps up to {max(helps)} rows; with more, {other}."
    return f"Meta-learning helps with {_listed(helps)} rows; with {_listed(others)}, {other}."


def _at(standings: Sequence[Standing]) -> str:
    return f"with {_listed(sorted({standing.size for standing in standings}))} rows"


def _listed(sizes: Sequence[int]) -> str:
    texts = [str(size) for size in sizes]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
