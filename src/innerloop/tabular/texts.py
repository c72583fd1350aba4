"""Columns of texts with many different values, as numbers: a signature of their words, and what the text meant before.

A signature tells texts apart without having seen them, so rows of a new task with the same text, or with words in
common, are alike. An effect is how far the rows of other training tasks with the same text lie from the mean of their
task, moved towards 0 the more, the fewer they are. A text that training did not see has the effect 0.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b

import numpy as np

from innerloop.tabular.pooled import out_of_fold

SIGNATURE = 16
"""Numbers in a signature."""
MOST_LEVELS = 20_000
LEAST_ROWS = 3
"""Training rows that a text must stand in to have an effect."""
MOST_OUTPUTS = 8
LOOKED_AT = 20_000
"""Cells that tell whether texts repeat."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Effects:
    """What texts meant in training.

    Attributes:
        levels: the texts.
        values: for each of them its effects one after another, of mean square about 1 over rows.
        outputs: effects of each text; 0 if they tell nothing.
    """

    levels: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    outputs: int = 0

    @cached_property
    def places(self) -> dict[str | None, int]:
        """The row of each text in `table`."""
        return {text: i for i, text in enumerate(self.levels)}

    @cached_property
    def table(self) -> np.ndarray:
        """The effects of each text, and 0 for others in the last row, `[levels + 1, outputs]`."""
        values = np.array(self.values, np.float32).reshape(len(self.levels), self.outputs)
        return np.concatenate([values, np.zeros((1, self.outputs), np.float32)])


def words(text: str) -> set[str]:
    """The words of a text, and the whole of it, in small letters.

    Example:
        >>> sorted(words("New York"))
        ['new', 'new york', 'york']
    """
    text = text.strip().lower()
    return {text, *WORD.findall(text)}


def names_rows(texts: np.ndarray) -> bool:
    """Whether texts only tell rows apart, as numbers of orders do.

    Then most rows have neither their text in common with another row, nor a word of letters that not all rows have.

    Args:
        texts: with `None` where one is missing, `[rows]`.

    Example:
        >>> ids = np.array([f"order {i % 10} {i}" for i in range(100)], object)
        >>> names_rows(ids), names_rows(np.array([f"order {i % 10}" for i in range(100)], object))
        (True, False)
    """
    given = [str(text).strip().lower() for text in texts[:LOOKED_AT].tolist() if text is not None]
    known = [{text, *filter(str.isalpha, WORD.findall(text))} for text in given]
    counts = Counter(word for cell in known for word in cell)
    shared = {word for word, count in counts.items() if 1 < count <= 0.9 * len(known)}
    return sum(not shared.isdisjoint(cell) for cell in known) < len(known) / 2


def signatures(texts: np.ndarray) -> np.ndarray:
    """The sum of random signs of each text's words, which depend on the words alone, `[rows, SIGNATURE]`.

    Args:
        texts: with `None` where one is missing, whose signature is 0, `[rows]`.
    """
    found: dict[str | None, np.ndarray] = {None: np.zeros(SIGNATURE, np.float32)}
    for text in set(texts.tolist()) - {None}:
        digests = b"".join(_digest(word) for word in sorted(words(str(text))))
        bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(-1, SIGNATURE)
        found[text] = ((2.0 * bits - 1.0).sum(axis=0) / np.sqrt(len(bits))).astype(np.float32)
    return np.array([found[text] for text in texts.tolist()], np.float32).reshape(len(texts), SIGNATURE)


@lru_cache(maxsize=2**16)
def _digest(word: str) -> bytes:
    return blake2b(word.encode(), digest_size=SIGNATURE // 8).digest()


def effects(texts: np.ndarray, targets: np.ndarray, tasks: np.ndarray) -> Effects:
    r"""The effect of each text, from training rows.

    With $n$ rows of a text whose targets lie $r$ from the mean of their task on average, it is
    $r\,n / (n + \sigma^2 / \tau^2)$, where $\tau^2$ is the variance between texts and $\sigma^2$ that within them, by
    the method of moments.

    Args:
        texts: with `None` where one is missing, `[rows]`.
        targets: numbers, such as one for each class that say whether a row is of it, `[rows, outputs]`.
        tasks: the task of each row.
    """
    left = _from_mean_of_task(targets, tasks)
    counts = Counter(text for text in texts.tolist() if text is not None)
    levels = tuple(sorted(text for text, count in counts.most_common(MOST_LEVELS) if count >= LEAST_ROWS))
    place = {text: i for i, text in enumerate(levels)}
    level = np.array([place.get(text, -1) for text in texts.tolist()], np.int64)
    known = level >= 0
    if len(levels) < 2:
        return Effects()
    number = np.bincount(level[known], minlength=len(levels))
    values, size = np.zeros((len(levels), left.shape[1])), 0.0
    for i in range(left.shape[1]):
        y = left[known, i]
        mean = np.bincount(level[known], y, minlength=len(levels)) / number
        within = float(np.sum((y - mean[level[known]]) ** 2) / max(len(y) - len(levels), 1))
        between = float(np.average(mean**2 - within / number, weights=number))
        if between > 0:
            values[:, i] = mean * number / (number + within / between)
        size += float(np.average(values[:, i] ** 2, weights=number))
    if not size > 0:
        return Effects()
    values /= np.sqrt(size / left.shape[1])
    return Effects(levels, tuple(values.ravel().tolist()), left.shape[1])


def effects_at(found: Effects, texts: np.ndarray) -> np.ndarray:
    """The effects of texts, 0 for those that are missing or were not seen, `[rows, outputs]`."""
    return found.table[np.array([found.places.get(text, -1) for text in texts.tolist()], np.int64)]


def effects_elsewhere(
    texts: np.ndarray, targets: np.ndarray, tasks: np.ndarray, outputs: int, seed: int = 0
) -> np.ndarray:
    """The effects of training rows' texts in other tasks, so that no row's own target, nor its task's, is in them.

    Args:
        texts: with `None` where one is missing, `[rows]`.
        targets: numbers, `[rows, outputs]`.
        tasks: the task of each row.
        outputs: effects that are wanted of each text; where others tell nothing, they are 0.
        seed: of the groups of tasks that are left out together.
    """

    def fit(chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        found = effects(texts[chosen], targets[chosen], tasks[chosen])
        return lambda others: effects_at(found, texts[others]) if found.outputs else np.zeros((len(others), outputs))

    return out_of_fold(fit, tasks, seed=seed).astype(np.float32)


def _from_mean_of_task(targets: np.ndarray, tasks: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(tasks, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(place, column) / counts for column in targets.T], axis=1)
    return targets - means[place]
