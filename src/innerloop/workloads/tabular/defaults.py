"""What is chosen from the data where the user left it open, each choice with its reason."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.fit import Schedule
from innerloop.tabular.learner import Design
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.rows import Rows

NARROW, WIDE = 64, 512
"""Features up to which the small network serves, and from which the large one does."""
PRESETS = {"fast": (0.5, 400), "balanced": (1.0, 1200), "best": (2.0, 4000)}
"""Width of the network, relative, and meta-steps at most."""
MOST_SHARED = 32
LARGEST_SUPPORT, MOST_QUERIES = 128, 64
STEPS = 3


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


def plan(config: Config, rows: Rows, inputs: int) -> Plan:
    """Choose what is open.

    Args:
        config: what the user asked for.
        rows: the data.
        inputs: numbers that the network reads of a row.

    Raises:
        InnerloopError: if what was asked for cannot work with this data.
    """
    reasons: list[str] = []
    labels, outputs = _labels(config, rows, reasons)
    supports, queries = _sizes(config, rows, outputs, reasons)
    width, iterations = PRESETS[config.preset]
    widths = config.learner.widths
    if not widths and rows.image:
        blocks = min(4, int(np.log2(min(rows.image[:2]))))
        widths = (int(64 * width),) * blocks
        reasons.append(f"network: {blocks} blocks of {widths[0]} filters ({config.preset}, images of {rows.image[0]})")
    elif not widths:
        base = (128, 64) if inputs <= NARROW else (256, 128) if inputs < WIDE else (512, 256)
        widths = tuple(int(each * width) for each in base)
        reasons.append(f"network: {' → '.join(map(str, (inputs, *widths)))} ({config.preset}, {inputs} inputs)")
    else:
        reasons.append(f"network: {' → '.join(map(str, widths))}, as --learner.widths says")
    start = config.learner.start
    if start == "auto":
        start = "ridge" if rows.regression else "prototypes"
        why = "real targets" if rows.regression else "class means, from few rows of each class"
        reasons.append(f"head: starts from {start} ({why})")
    steps = STEPS if config.learner.steps < 0 else config.learner.steps
    design = Design(
        kind="regression" if rows.regression else "classification",
        widths=widths,
        start=start,
        algorithm=config.algorithm,
        steps=steps,
        learning_rate=config.learner.learning_rate,
        dropout=config.learner.dropout,
        dropout_inputs=config.learner.dropout_inputs,
        image=rows.image,
        shared_labels=bool(labels) or rows.regression,
    )
    design.require()
    iterations = config.training.iterations or iterations
    limit = f", at most {config.time_limit}" if config.time_limit else ""
    reasons.append(
        f"training: up to {iterations:,} meta-steps of {config.training.meta_batch} tasks ({config.preset}{limit}), "
        f"stopped when held-out tasks no longer gain; {config.algorithm}, {steps} inner steps, their size learned"
    )
    schedule = Schedule(
        iterations=iterations,
        meta_batch=config.training.meta_batch,
        learning_rate=config.training.learning_rate,
        weight_decay=config.training.weight_decay,
        every=max(min(50, iterations // 8), 1),
    )
    sizes = config.evaluation.sizes or supports[:4]
    return Plan(design, schedule, labels, outputs, supports, queries, sizes, tuple(reasons))


def smallest_task(config: Config, rows: Rows) -> int:
    """Rows that a task needs: as many in the query set as in the smallest support set; for images a row will do."""
    if rows.image:
        return 1
    return 2 * min(_sizes(config, rows, _labels(config, rows, [])[1], [])[0])


def _labels(config: Config, rows: Rows, reasons: list[str]) -> tuple[tuple[str, ...], int]:
    if rows.regression:
        reasons.append("targets: in units of each task's support set, so tasks may differ in scale")
        return (), 1
    every = in_order(set(rows.target.tolist()))
    if rows.image:
        reasons.append(f"classes: {config.ways} in a task (--ways), new ones in each")
        return (), config.ways
    most = max(_classes_of_tasks(rows))
    if len(every) <= min(MOST_SHARED, 2 * most):
        reasons.append(f"classes: {', '.join(every)}, the same in all tasks")
        return every, len(every)
    reasons.append(f"classes: up to {most} in a task, others in others ({len(every):,} in all)")
    return (), most


def _classes_of_tasks(rows: Rows) -> list[int]:
    seen: dict[int, set[str]] = {}
    for task, label in zip(rows.tasks.tolist(), rows.target.tolist(), strict=True):
        seen.setdefault(task, set()).add(label)
    return [len(each) for each in seen.values()]


def _sizes(config: Config, rows: Rows, outputs: int, reasons: list[str]) -> tuple[tuple[int, ...], int]:
    if rows.image:
        supports = config.supports or (1, 5)
        fewest = min(Counter(zip(rows.tasks.tolist(), rows.target.tolist(), strict=True)).values())
        supports = tuple(sorted({each for each in supports if each < fewest}))
        if not supports:
            raise InnerloopError(f"A class has only {fewest} images; 2 are needed at least, to adapt and to judge.")
        queries = min(fewest - max(supports), 5)
        shots = " or ".join(map(str, supports))
        reasons.append(f"episodes: {shots} shots of each class (the smallest has {fewest} images)")
        return supports, queries
    counts = np.bincount(rows.tasks)
    if config.supports:
        return tuple(sorted(set(config.supports))), MOST_QUERIES
    typical, large = int(np.median(counts)), int(np.percentile(counts, 90))
    least = max(4, 1 << (max(outputs, 1) * 2 - 1).bit_length()) if outputs > 2 else 4 if typical < 32 else 8
    supports = tuple(2**i for i in range(2, 8) if least <= 2**i <= min(max(large // 2, least), LARGEST_SUPPORT))
    supports = supports or (least,)
    reasons.append(
        f"episodes: support sets of {', '.join(map(str, supports))} rows (a task has {counts.min():,} to "
        f"{counts.max():,}, typically {typical:,})"
    )
    return supports, int(np.clip(large // 2, 16, MOST_QUERIES))


def in_order(labels: set[str]) -> tuple[str, ...]:
    """Labels in order, numbers by their value.

    Example:
        >>> in_order({"10", "9"}), in_order({"b", "10", "a"})
        (('9', '10'), ('10', 'a', 'b'))
    """
    try:
        return tuple(sorted(labels, key=float))
    except ValueError:
        return tuple(sorted(labels))
