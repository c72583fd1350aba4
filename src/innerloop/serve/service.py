"""Adaptation to tasks and prediction of their rows for many clients at once.

Batches and rows are padded to powers of two, so few programs are ever compiled.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop.serve.batcher import Batcher, HTTPError, Limits, filled
from innerloop.tabular import learner
from innerloop.tabular.adaptation import SupportTargets, pad, softmax, support_targets
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.columns import matched
from innerloop.tabular.episodes import padded_size
from innerloop.tabular.features import Inputs
from innerloop.tabular.identity import identities
from innerloop.tabular.learner import Adapted
from innerloop.types import Examples

WARM_ROWS = 16
"""Support and query rows for which a server compiles before it answers."""


LARGE = 2**12
"""Rows times outputs above which requests are computed aside."""


class ServedTask(NamedTuple):
    """An adapted task."""

    support: SupportTargets
    original: tuple[Any, ...]
    adapted: Adapted


def is_large(group: tuple[int, int]) -> bool:
    """Whether requests of so many rows and outputs take long."""
    rows, outputs = group
    return rows * max(outputs, 8) > LARGE


def size_of(task: ServedTask) -> int:
    """The bytes that keeping a task takes, those of its labels about."""
    arrays = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(task.adapted))
    return arrays + task.support.y.nbytes + sum(64 + len(str(label)) for label in task.original)


class Service:
    """Adaptation and prediction for many clients.

    Args:
        learned: the learner.
        limits: what is taken on; those of `Limits()` unless given.
    """

    def __init__(self, learned: TrainedLearner, limits: Limits | None = None):
        self.learned, self.limits = learned, limits or Limits()
        self.adapting = Batcher(self._adapt_together, self.limits, is_large, jax.clear_caches)
        self.predicting = Batcher(self._predict_together, self.limits, is_large, jax.clear_caches)
        self._tasks: OrderedDict[str, ServedTask] = OrderedDict()
        self._number = self._bytes = 0
        self.held = 0

    def warm(self) -> None:
        """Compile what most requests need, and run it once."""
        counts, numbers = self.learned.preparation.sizes
        inputs = Inputs(np.zeros((WARM_ROWS, counts), np.uint8), np.zeros((WARM_ROWS, numbers), np.float32))
        labels = self.learned.labels or ("a", "b")
        rows = [labels[i % len(labels)] for i in range(WARM_ROWS)]
        target = np.arange(WARM_ROWS, dtype=np.float64) if self.learned.regression else np.array(rows, object)
        support = support_targets(self.learned, target)
        outputs, examples = support.outputs, pad(inputs, support.y, WARM_ROWS)[0]
        ((adapted, _),) = self.adapting.warm((WARM_ROWS, outputs), examples)
        self.predicting.warm((WARM_ROWS, outputs), (examples.x, adapted))

    async def adapt(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer POST /adapt."""
        task, curve = await self._adapted(body)
        self._number += 1
        name = f"task-{self._number}"
        self._keep(name, task)
        labels = {} if self.learned.regression else {"labels": list(task.original)}
        return {"task": name, "curve": curve, **labels}

    def _keep(self, name: str, task: ServedTask) -> None:
        """Keep a task; those that were used least recently go, until number and bytes are within their limits."""
        self._tasks[name] = task
        self._bytes += size_of(task)
        while len(self._tasks) > 1 and (len(self._tasks) > self.limits.tasks or self._bytes > self.limits.kept):
            _, gone = self._tasks.popitem(last=False)
            self._bytes -= size_of(gone)

    async def predict(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer POST /predict: of an adapted task by its name, or of a support set that comes along."""
        if "task" in body:
            task = self._tasks.get(str(body["task"]))
            if task is None:
                raise HTTPError(404, f"There is no task {body['task']!r} (any more); adapt again.")
            self._tasks.move_to_end(str(body["task"]))
        else:
            task, _ = await self._adapted(body)
        inputs = self._encoded(body.get("query"), "query")
        count = len(inputs.numbers)
        if not count:
            return {"predictions": []}
        size = padded_size(count, WARM_ROWS)
        padded = pad(inputs, np.zeros(count), size)[0].x
        scores = (await self.predicting((size, task.support.outputs), (padded, task.adapted)))[:count]
        if not np.isfinite(scores).all():
            raise HTTPError(422, "The predictions are not finite; query or support hold numbers that are too large.")
        if self.learned.regression:
            with np.errstate(over="ignore", invalid="ignore"):
                predictions = task.support.original(scores[:, 0])
            if not np.isfinite(predictions).all():
                raise HTTPError(422, "The predictions are not finite; the target holds numbers that are too large.")
            return {"predictions": predictions.tolist()}
        temperature = self.learned.certainty.temperature(len(task.support.y))
        chances = softmax(scores[:, list(task.support.places)].astype(np.float64) / temperature)
        best = [task.original[i] for i in chances.argmax(axis=1)]
        return {"predictions": best, "labels": list(task.original), "probabilities": chances.round(6).tolist()}

    async def _adapted(self, body: Mapping[str, Any]) -> tuple[ServedTask, list[float]]:
        inputs = self._encoded(body.get("support"), "support")
        values = body.get("target")
        if not isinstance(values, list) or len(values) != len(inputs.numbers):
            raise HTTPError(422, f"target must be a list of {len(inputs.numbers)} values, one for each support row.")
        original: dict[str, Any] = {}
        if self.learned.regression:
            if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
                raise HTTPError(422, "target must hold numbers; this learner is one of regression.")
            try:
                target = np.array([float(value) for value in values], np.float64)
            except OverflowError as error:
                raise HTTPError(422, "target holds a number that is too large for 64 bits.") from error
        else:
            if any(isinstance(value, list | dict) for value in values):
                raise HTTPError(
                    422, "target must hold a label for each support row, a text, a number or a truth value."
                )
            texts = identities(values).tolist()
            if None in texts:
                raise HTTPError(422, "target must hold a label for each support row.")
            if len({(type(value), value) for value in values}) > len(set(texts)):
                raise HTTPError(
                    422, 'target holds different labels that read the same, such as 1 and "1"; give one type.'
                )
            original = dict(zip(texts, values, strict=True))  # pyright: ignore[reportAssignmentType]
            target = np.array(texts, object)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused below
            support = support_targets(self.learned, target)
        size = padded_size(len(support.y), WARM_ROWS)
        adapted, curve = await self.adapting((size, support.outputs), pad(inputs, support.y, size)[0])
        if not np.isfinite(curve).all():
            raise HTTPError(422, "Adaptation leads to no finite loss; support or target hold too large numbers.")
        return ServedTask(support, tuple(original.get(label, label) for label in support.labels), adapted), curve

    def _encoded(self, rows: Any, what: str) -> Inputs:
        """Rows of a request as the network reads them: a list of objects by feature, or an object of columns."""
        features = self.learned.preparation.features
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
            whole = [feature.name for feature in features if all(feature.name in row for row in rows)]
            columns = {name: [row[name] for row in rows] for name in whole}
        elif isinstance(rows, dict) and all(isinstance(values, list) for values in rows.values()):
            columns = rows
        else:
            raise HTTPError(422, f"{what} must be a list of rows (objects by feature), or an object of lists.")
        most = max((len(values) for values in columns.values()), default=0)
        if most > self.limits.rows:
            raise HTTPError(413, f"{what} has {most} rows; at most {self.limits.rows} are taken at once.")
        return self.learned.preparation.encode(matched(columns, features, what))

    def _adapt_together(self, group: tuple[int, int], items: list[Examples]) -> list[Any]:
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled(items, self.limits.batch))
        adapted = jax.device_get(learner.adapt_tasks(self.learned.design, group[1], self.learned.meta, stacked))
        curves = np.asarray(adapted.losses).tolist()
        return [(jax.tree.map(lambda leaf, i=i: leaf[i], adapted), curves[i]) for i in range(len(items))]

    def _predict_together(self, group: tuple[int, int], items: list[tuple[Inputs, Adapted]]) -> list[np.ndarray]:
        x, adapted = jax.tree.map(lambda *leaves: np.stack(leaves), *filled(items, self.limits.batch))
        scores = learner.outputs_of_tasks(self.learned.design, group[1], self.learned.meta, adapted, x)
        return list(np.asarray(scores)[: len(items)])
