"""Adaptation to tasks and prediction of their rows for many clients at once.

Batches and rows are padded to powers of two, so few programs are ever compiled.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop.serve.batcher import SMALL_BATCH, Batcher, HTTPError, Limits, filled
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


class ServedTask(NamedTuple):
    """An adapted task."""

    support: SupportTargets
    original: tuple[Any, ...]
    adapted: Adapted


class Service:
    """Adaptation and prediction for many clients.

    Args:
        learned: the learner.
        limits: what is taken on; those of `Limits()` unless given.
    """

    def __init__(self, learned: TrainedLearner, limits: Limits | None = None):
        self.learned, self.limits = learned, limits or Limits()
        self.adapting = Batcher(self._adapt_together, self.limits)
        self.predicting = Batcher(self._predict_together, self.limits)
        self._tasks: OrderedDict[str, ServedTask] = OrderedDict()
        self._number = 0

    def warm(self) -> None:
        """Compile what most requests need, and run it once."""
        counts, numbers = self.learned.preparation.sizes
        inputs = Inputs(np.zeros((WARM_ROWS, counts), np.uint8), np.zeros((WARM_ROWS, numbers), np.float32))
        labels = self.learned.labels or ("a", "b")
        rows = [labels[i % len(labels)] for i in range(WARM_ROWS)]
        target = np.arange(WARM_ROWS, dtype=np.float64) if self.learned.regression else np.array(rows, object)
        support = support_targets(self.learned, target)
        outputs, examples = support.outputs, pad(inputs, support.y, WARM_ROWS)[0]
        for number in (1, SMALL_BATCH, self.limits.batch):
            adapted = [task for task, _ in self._adapt_together((WARM_ROWS, outputs), [examples] * number)]
            self._predict_together((WARM_ROWS, outputs), [(examples.x, task) for task in adapted])

    async def adapt(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer POST /adapt."""
        task, curve = await self._adapted(body)
        self._number += 1
        name = f"task-{self._number}"
        self._tasks[name] = task
        while len(self._tasks) > self.limits.tasks:
            self._tasks.popitem(last=False)
        labels = {} if self.learned.regression else {"labels": list(task.original)}
        return {"task": name, "curve": curve, **labels}

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
        if self.learned.regression:
            return {"predictions": task.support.original(scores[:, 0]).tolist()}
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
            target = np.array(values, np.float64)
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
        support = support_targets(self.learned, target)
        size = padded_size(len(support.y), WARM_ROWS)
        adapted, curve = await self.adapting((size, support.outputs), pad(inputs, support.y, size)[0])
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
