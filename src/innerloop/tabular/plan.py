"""What a learner is trained as: chosen from the data where the user left it open, each choice with its reason."""

from collections import Counter
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.design import Design
from innerloop.tabular.fit import Schedule
from innerloop.tabular.identity import in_order
from innerloop.tabular.rows import Rows
from innerloop.text import nearest

NARROW, WIDE = 64, 512
"""Features up to which the small network serves, and from which the large one does."""
DROPPED, DROPPED_OF_WIDE = (0.1, 0.0), (0.3, 0.3)
"""Shares of the activations and of the features that training drops; of many features each says little alone."""
PRESETS = {"fast": (0.5, 400), "balanced": (1.0, 1200), "best": (2.0, 4000)}
"""Width of the network, relative, and meta-steps at most."""
MOST_SHARED = 32
MOST_INPUTS_OF_TREES = 512
LARGEST_SUPPORT, MOST_QUERIES = 128, 64
RATE, SMALL_RATE = 1e-3, 3e-3
"""Outer step sizes, the second one for small networks."""
STEPS = 3


@dataclass(frozen=True)
class Choices:
    """What a user may choose. What is left at zero, `auto` or empty is chosen from the data.

    Attributes:
        preset: how much to spend on network and meta-steps: `fast`, `balanced` or `best`.
        algorithm: a row of the table of algorithms, see `Design`.
        supports: sizes of support sets in training (for images: shots).
        ways: images: classes in a task drawn from many.
        widths: layers of the encoder.
        start: how a task's head begins.
        targets: units of a regression's targets: those of each support set, or of all training rows.
        pooled: whether gradient-boosted trees of all training rows together are what tasks depart from.
        steps: inner steps; -1 chooses.
        inner_learning_rate: size of an inner step at the beginning of training, which learns it.
        dropout: share of the encoder's activations that training drops; -1 chooses.
        dropout_inputs: share of the features that training drops; -1 chooses.
        iterations: meta-steps at most.
        meta_batch: tasks in a meta-step.
        outer_learning_rate: peak of the outer step size; 0 chooses.
        weight_decay: of matrices.
        evaluation_sizes: sizes of the support sets of the evaluation.
        time_limit: what the reasons say of it, such as `20m`.
        seed: of the split and the episodes.
    """

    preset: str = "balanced"
    algorithm: str = "maml"
    supports: tuple[int, ...] = ()
    ways: int = 5
    widths: tuple[int, ...] = ()
    start: Literal["auto", "prototypes", "ridge", "zero", "shrunk"] = "auto"
    targets: Literal["auto", "support", "global"] = "auto"
    pooled: Literal["auto", "none", "trees"] = "auto"
    steps: int = -1
    inner_learning_rate: float = 0.3
    dropout: float = -1.0
    dropout_inputs: float = -1.0
    iterations: int = 0
    meta_batch: int = 16
    outer_learning_rate: float = 0.0
    weight_decay: float = 1e-4
    evaluation_sizes: tuple[int, ...] = ()
    time_limit: str = ""
    seed: int = 0


class Plan(NamedTuple):
    """All that training needs beyond the data.

    Attributes:
        design: what the learner is.
        schedule: how it is trained.
        labels: the classes that all tasks share, in order; empty if each task has its own, or for regression.
        outputs: of the head.
        supports: sizes of support sets in training (for images: shots).
        queries: size of a query set (for images: of each class).
        sizes: of the support sets of the evaluation.
        reasons: a line for each choice.
    """

    design: Design
    schedule: Schedule
    labels: tuple[str, ...]
    outputs: int
    supports: tuple[int, ...]
    queries: int
    sizes: tuple[int, ...]
    reasons: tuple[str, ...]


def plan(choices: Choices, rows: Rows, inputs: int) -> Plan:
    """Choose what is open.

    Args:
        choices: what the user asked for.
        rows: the data.
        inputs: numbers that the network reads of a row.

    Raises:
        InnerloopError: if what was asked for cannot work with this data.
    """
    if choices.preset not in PRESETS:
        raise InnerloopError(f"preset is {choices.preset!r}; {nearest(choices.preset, PRESETS)}")
    reasons: list[str] = []
    labels, outputs = _labels(choices, rows, reasons)
    supports, queries = _sizes(choices, rows, outputs, reasons)
    width, iterations = PRESETS[choices.preset]
    widths = choices.widths
    if not widths and rows.image:
        blocks = min(4, int(np.log2(min(rows.image[:2]))))
        widths = (int(64 * width),) * blocks
        reasons.append(f"network: {blocks} blocks of {widths[0]} filters ({choices.preset}, images of {rows.image[0]})")
    elif not widths:
        base = (128, 64) if inputs <= NARROW else (256, 128) if inputs < WIDE else (512, 256)
        widths = tuple(int(size * width) for size in base)
        reasons.append(f"network: {' → '.join(map(str, (inputs, *widths)))} ({choices.preset}, {inputs} inputs)")
    else:
        reasons.append(f"network: {' → '.join(map(str, widths))}, as --learner.widths says")
    start = choices.start
    if start == "auto":
        start = "prototypes" if rows.image else "shrunk"
        why = "class means, even from few rows" if rows.image else "what all tasks share, moved to the task"
        reasons.append(f"head: starts from {start} ({why})")
    steps = choices.steps if choices.steps >= 0 else 0 if start == "shrunk" else STEPS
    pooled = start == "shrunk" and _trees(choices, rows, inputs, bool(labels) or rows.regression)
    if pooled:
        reasons.append("common part: gradient-boosted trees of all training rows together, and the network")
    targets = "global" if choices.targets == "auto" else choices.targets
    if rows.regression:
        of = "all training rows" if targets == "global" else "each task's support set, so tasks may differ in scale"
        reasons.append(f"targets: in units of {of}")
    chosen = DROPPED_OF_WIDE if inputs >= WIDE and not rows.image else DROPPED
    dropout, dropout_inputs = map(
        _share, ("dropout", "dropout_inputs"), (choices.dropout, choices.dropout_inputs), chosen
    )
    design = Design(
        kind="regression" if rows.regression else "classification",
        widths=widths,
        start=start,
        algorithm=choices.algorithm,
        steps=steps,
        learning_rate=choices.inner_learning_rate,
        dropout=dropout,
        dropout_inputs=dropout_inputs,
        image=rows.image,
        shared_labels=bool(labels) or rows.regression,
        targets=targets if rows.regression else "support",
        pooled=outputs if pooled else 0,
    )
    design.require()
    iterations = choices.iterations or iterations
    limit = f", at most {choices.time_limit}" if choices.time_limit else ""
    reasons.append(
        f"training: up to {iterations:,} meta-steps of {choices.meta_batch} tasks ({choices.preset}{limit}), "
        f"stopped when held-out tasks no longer gain; {choices.algorithm}, {steps} inner steps, their size learned"
    )
    schedule = Schedule(
        iterations=iterations,
        meta_batch=choices.meta_batch,
        learning_rate=choices.outer_learning_rate or (SMALL_RATE if start == "shrunk" and inputs <= NARROW else RATE),
        weight_decay=choices.weight_decay,
        every=max(min(50, iterations // 8), 1),
    )
    sizes = choices.evaluation_sizes or tuple(size for size in supports if size >= 4 or rows.image)[:4] or supports
    return Plan(design, schedule, labels, outputs, supports, queries, sizes, tuple(reasons))


def labels_of(choices: Choices, rows: Rows) -> tuple[str, ...]:
    """The classes that all tasks share, in order; empty if each task has its own, or for regression."""
    return _labels(choices, rows, [])[0]


def smallest_task(choices: Choices, rows: Rows) -> int:
    """Rows that a task needs: as many in the query set as in the smallest support set; for images a row will do."""
    if rows.image:
        return 1
    return 2 * min(_sizes(choices, rows, _labels(choices, rows, [])[1], [])[0])


def _share(name: str, asked: float, chosen: float) -> float:
    """What is asked for, or what is chosen where that is -1.

    Raises:
        InnerloopError: if it is neither -1 nor a share.
    """
    if asked != -1 and not 0 <= asked < 1:
        raise InnerloopError(f"{name} is {asked:g}; it must be at least 0 and below 1, or -1, which chooses.")
    return chosen if asked == -1 else asked


def _trees(choices: Choices, rows: Rows, inputs: int, shared: bool) -> bool:
    """Whether a pooled model is fitted.

    Raises:
        InnerloopError: if it is asked for and cannot be.
    """
    possible = shared and not rows.image and find_spec("sklearn") is not None
    if choices.pooled == "trees" and not possible:
        why = "scikit-learn is not installed" if shared and not rows.image else "tasks have classes of their own"
        raise InnerloopError(f"pooled is 'trees', but {why}; leave it out.")
    return choices.pooled == "trees" or (choices.pooled == "auto" and possible and inputs <= MOST_INPUTS_OF_TREES)


def _labels(choices: Choices, rows: Rows, reasons: list[str]) -> tuple[tuple[str, ...], int]:
    if rows.regression:
        return (), 1
    labels = in_order(set(rows.target.tolist()))
    if rows.image:
        reasons.append(f"classes: {choices.ways} in a task (--ways), new ones in each")
        return (), choices.ways
    most = max(_classes_of_tasks(rows))
    if len(labels) <= min(MOST_SHARED, 2 * most):
        reasons.append(f"classes: {', '.join(labels)}, the same in all tasks")
        return labels, len(labels)
    reasons.append(f"classes: up to {most} in a task, others in others ({len(labels):,} in all)")
    return (), most


def _classes_of_tasks(rows: Rows) -> list[int]:
    seen: dict[int, set[str]] = {}
    for task, label in zip(rows.tasks.tolist(), rows.target.tolist(), strict=True):
        seen.setdefault(task, set()).add(label)
    return [len(labels) for labels in seen.values()]


def _sizes(choices: Choices, rows: Rows, outputs: int, reasons: list[str]) -> tuple[tuple[int, ...], int]:
    if rows.image:
        supports = choices.supports or (1, 5)
        fewest = min(Counter(zip(rows.tasks.tolist(), rows.target.tolist(), strict=True)).values())
        supports = tuple(sorted({shots for shots in supports if shots < fewest}))
        if not supports:
            raise InnerloopError(f"A class has only {fewest} images; 2 are needed at least, to adapt and to judge.")
        queries = min(fewest - max(supports), 5)
        shots = " or ".join(map(str, supports))
        reasons.append(f"episodes: {shots} shots of each class (the smallest has {fewest} images)")
        return supports, queries
    counts = np.bincount(rows.tasks)
    if choices.supports:
        return tuple(sorted(set(choices.supports))), MOST_QUERIES
    typical, large = int(np.median(counts)), int(np.percentile(counts, 90))
    least = 2 if rows.regression else max(4, 1 << (max(outputs, 1) * 2 - 1).bit_length()) if outputs > 2 else 4
    supports = tuple(2**i for i in range(1, 8) if least <= 2**i <= min(max(3 * large // 4, least), LARGEST_SUPPORT))
    supports = supports or (least,)
    reasons.append(
        f"episodes: support sets of {', '.join(map(str, supports))} rows (a task has {counts.min():,} to "
        f"{counts.max():,}, typically {typical:,})"
    )
    return supports, int(np.clip(large // 2, 16, MOST_QUERIES))
