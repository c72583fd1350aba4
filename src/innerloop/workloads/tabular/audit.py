"""A look at one's own tasks before training: what is there, and what would spoil a result."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.tabular.draws import enough
from innerloop.tabular.prepare import prepare, told_of_texts
from innerloop.tabular.rows import Rows, split, usable
from innerloop.text import listed
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.defaults import choices_of
from innerloop.workloads.tabular.loading import load

SUSPICIOUS = 0.98
"""A single feature that orders the classes of most tasks this well (area under the ROC curve) gives the target away."""
ALIKE = 0.5
"""A folder with a larger share of images that are equal, or of one shade each, shows nothing that could be learned."""
ROWS_LOOKED_AT = 200_000


class Finding(NamedTuple):
    """A line of the report, and whether something is wrong."""

    text: str
    wrong: bool = False


def examine(config: Config, say: Callable[[str], None]) -> int:
    """Report on the data of a configuration.

    Returns:
        0 if training accepts it and nothing that was looked at would spoil the result; otherwise 1.

    Raises:
        InnerloopError: if it cannot be read at all.
    """
    loaded = load(config)
    for line in (*loaded.reasons, *loaded.rows.notes):
        say(f"  {line}")
    findings = [*findings_of(config, loaded.rows), *_in_training(config, loaded.rows)]
    for text, wrong in findings:
        say(f"{'!' if wrong else ' '} {text}")
    number = sum(finding.wrong for finding in findings)
    say(f"{number} {'problem' if number == 1 else 'problems'} (marked !)" if number else "nothing is wrong")
    return int(bool(number))


def findings_of(config: Config, rows: Rows) -> list[Finding]:
    """All that is to be said of the rows."""
    if rows.image:
        return [*_sizes(rows), *_alike(rows), *_twice(config, rows)]
    return [
        *_sizes(rows),
        *_unusable(rows),
        *_missing(rows),
        *_constant(rows),
        *_giving_away(rows),
        *_twice(config, rows),
    ]


def _in_training(config: Config, rows: Rows) -> list[Finding]:
    """How training reads texts of many different values, or what it would say if it does not accept the data."""
    try:
        chosen = choices_of(config)
        data = prepare(rows, chosen if chosen.pooled == "trees" else replace(chosen, pooled="none"))
        for part in data.parts:
            data.distribution(part)
        test, sizes = data.parts.get("test"), data.plan.sizes
        if test is not None and not test.image:
            targets = [test.target[test.tasks == task] for task in range(len(test.names))]
            if not any(enough(target, size) for target in targets for size in sizes):
                return [Finding(f"no test task has more than {min(sizes)} rows, so none can be judged", True)]
    except InnerloopError as error:
        return [Finding(f"training refuses it: {error}", True)]
    return [Finding(line) for line in told_of_texts(data.preparation)]


def _sizes(rows: Rows) -> list[Finding]:
    counts = np.bincount(rows.tasks, minlength=len(rows.names))
    lines = [
        Finding(
            f"{len(rows.names):,} tasks, {len(rows.target):,} rows: {counts.min():,} to {counts.max():,} in a task, "
            f"typically {int(np.median(counts)):,}"
        )
    ]
    if len(rows.names) < 5 and not rows.image:
        lines.append(Finding(f"{len(rows.names)} tasks are too few to hold some out; at least 5 are needed", True))
    if rows.regression:
        return lines
    labels, numbers = np.unique(rows.target.astype(str), return_counts=True)
    shares = [f"{label} {100 * number / len(rows.target):.1f} %" for label, number in zip(labels, numbers, strict=True)]
    lines.append(Finding(f"{len(labels):,} classes: {listed(shares)}"))
    _, place = np.unique(rows.target.astype(str), return_inverse=True)
    pairs, of_class = np.unique(np.stack([rows.tasks, place]), axis=1, return_counts=True)
    fewest = np.full(len(rows.names), np.iinfo(np.int64).max)
    np.minimum.at(fewest, pairs[0], of_class)
    for shots in (1, 5, 16):
        possible = int(np.count_nonzero(fewest > shots))
        lines.append(Finding(f"{possible:,} tasks have more than {shots} rows of every class of theirs"))
    return lines


def _alike(rows: Rows) -> list[Finding]:
    """Images whose content was lost: all of one shade, or equal to one another."""
    pixels = next(iter(rows.columns.values()))
    blank = float(np.mean(pixels.min(axis=1) == pixels.max(axis=1)))
    if blank > ALIKE:
        return [
            Finding(f"{100 * blank:.0f} % of the images are of one shade throughout: nothing is seen in them", True)
        ]
    _, counts = np.unique(np.array([hash(image.tobytes()) for image in pixels]), return_counts=True)
    equal = counts.max() / len(pixels)
    if equal > ALIKE:
        return [Finding(f"{100 * equal:.0f} % of the images are equal: their classes cannot be told apart", True)]
    return []


def _unusable(rows: Rows) -> list[Finding]:
    kept, left_out = usable(rows, 4)
    if not left_out:
        return []
    shown = listed([f"{name}: {why}" for name, why in left_out])
    few = len(kept.names) < 5
    return [Finding(f"{len(left_out):,} tasks cannot be learned from and are left out ({shown})", few)]


def _missing(rows: Rows) -> list[Finding]:
    lines = []
    for name, values in rows.columns.items():
        if values.dtype.kind == "O":
            missing = np.array([value is None for value in values])
        elif values.dtype.kind == "f":
            missing = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        else:
            continue
        if missing.any():
            share = float(missing.mean())
            lines.append(Finding(f"{name}: missing in {missing.sum():,} rows ({100 * share:.1f} %)"))
    return lines


def _constant(rows: Rows) -> list[Finding]:
    names = []
    for name, values in rows.columns.items():
        if values.dtype.kind == "O":
            constant = len({value for value in values if value is not None}) < 2
        else:
            constant = not (values != values[:1]).any()
        if constant:
            names.append(name)
    return [Finding(f"the same in every row, so of no use: {listed(names)}")] if names else []


def _giving_away(rows: Rows) -> list[Finding]:
    """Single numbers that order the two classes of most tasks almost without error."""
    labels = np.unique(rows.target.astype(str)) if not rows.regression else np.zeros(0)
    if len(labels) != 2:
        return []
    positive = rows.target.astype(str) == labels[1]
    order = np.argsort(rows.tasks, kind="stable")
    bounds = np.searchsorted(rows.tasks[order], np.arange(len(rows.names) + 1))
    lines = []
    for name, values in rows.columns.items():
        if values.dtype.kind != "f" or values.ndim > 1:
            continue
        areas = []
        for task in range(min(len(rows.names), 200)):
            places = order[bounds[task] : bounds[task + 1]]
            known = places[np.isfinite(values[places])]
            truth = positive[known]
            if len(known) >= 8 and 0 < truth.sum() < len(known):
                area = roc_area(truth, values[known])
                areas.append(max(area, 1 - area))
        if len(areas) >= 3 and np.median(areas) > SUSPICIOUS:
            lines.append(
                Finding(
                    f"{name} alone tells the classes of a task apart (area under the ROC curve {np.median(areas):.3f}, "
                    "median): is it known before the target? If not, leave it out with --features",
                    True,
                )
            )
    return lines


def roc_area(positive: np.ndarray, values: np.ndarray) -> float:
    """The share of pairs of a positive and a negative that the values order rightly; ties count half.

    Args:
        positive: truth values, `[rows]`.
        values: numbers, `[rows]`.

    Example:
        >>> roc_area(np.array([True, False, True]), np.array([2.0, 1.0, 1.0]))
        0.75
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]
    number = int(positive.sum())
    return float((ranks[positive].sum() - number * (number + 1) / 2) / (number * (len(values) - number)))


def _twice(config: Config, rows: Rows) -> list[Finding]:
    """Equal rows in several tasks, and in training tasks as well as in those held out.

    Tasks often share rows, such as molecules or times. They spoil a result where their targets are equal too.
    """
    number = min(len(rows.target), ROWS_LOOKED_AT)
    owners: dict[bytes, set[int]] = {}
    told: dict[tuple[bytes, str], set[int]] = {}
    digests = []
    for i in range(number):
        digest = hashlib.blake2b(digest_size=12)
        for values in rows.columns.values():
            cell = values[i]
            digest.update(cell.tobytes() if isinstance(cell, np.ndarray | np.generic) else repr(cell).encode())
        told.setdefault((digest.digest(), repr(rows.target[i])), set()).add(int(rows.tasks[i]))
        digests.append(digest.digest())
        owners.setdefault(digests[-1], set()).add(int(rows.tasks[i]))
    shared = np.array([len(owners[digest]) > 1 for digest in digests])
    repeated = number - len({(digest, int(task)) for digest, task in zip(digests, rows.tasks[:number], strict=True)})
    lines = []
    if repeated:
        lines.append(Finding(f"{repeated:,} rows repeat the features of another row of their task"))
    if not shared.any():
        return lines
    lines.append(Finding(f"{shared.sum():,} rows have the same features as a row of another task"))
    if len(rows.names) < 5 and not rows.parts:
        return lines
    parts = split(rows, config.seed)
    training = set(parts["train"].names)
    for part in ("valid", "test"):
        if part in parts:
            held = set(parts[part].names)
            of_part = np.array([rows.names[task] in held for task in rows.tasks[:number]])
            leaked = sum(
                any(rows.names[task] in training for task in owners[digest])
                for digest, here in zip(digests, of_part, strict=True)
                if here
            )
            share = leaked / max(int(of_part.sum()), 1)
            known = sum(
                any(rows.names[task] in training for task in told[digests[i], repr(rows.target[i])])
                for i in np.flatnonzero(of_part)
            )
            if leaked:
                lines.append(
                    Finding(
                        f"{leaked:,} rows of {part} tasks ({100 * share:.1f} %) also occur in training tasks, "
                        f"{known:,} with the same target",
                        rows.regression and known > of_part.sum() / 2,
                    )
                )
    return lines
