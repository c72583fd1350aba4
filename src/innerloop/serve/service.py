"""A trained learner over HTTP on loopback: adapt to a task, predict its rows.

Requests that wait at the same time are put into one batch over tasks and computed by one compiled step; batches and
rows are padded to powers of two, so few programs are ever compiled.
"""

import asyncio
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.tabular import learner
from innerloop.tabular.artifact import TrainedLearner, encoded_labels, pad
from innerloop.tabular.episodes import padded_size
from innerloop.tabular.features import Inputs
from innerloop.tabular.learner import Adapted
from innerloop.types import Examples
from innerloop.workloads.episodes.session import set_up
from innerloop.workloads.tabular.rows import listed
from innerloop.workloads.tabular.session import learned_of
from innerloop.workloads.tabular.tables import label_text

MOST_BYTES = 8 * 2**20
MOST_ROWS = 4096
MOST_TASKS = 4096
"""Adapted tasks that are kept; the one that was used least recently goes first."""
SMALL_BATCH, LARGEST_BATCH = 8, 32
WARM_ROWS = 16
"""Support and query rows for which a server compiles before it answers."""
MOST_WAITING = 1024


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        body: bytes of a request.
        rows: rows of a request.
        tasks: adapted tasks that are kept.
        batch: requests that are computed together.
        waiting: requests that may wait.
    """

    body: int = MOST_BYTES
    rows: int = MOST_ROWS
    tasks: int = MOST_TASKS
    batch: int = LARGEST_BATCH
    waiting: int = MOST_WAITING


class Kept(NamedTuple):
    """An adapted task."""

    labels: tuple[str, ...]
    original: tuple[Any, ...]
    places: tuple[int, ...]
    outputs: int
    adapted: Adapted


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """A request that is answered with an error status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Batcher:
    """Collects what waits and computes it together.

    Args:
        compute: `(group, items) -> results`, on a thread of its own; all items of a call share the group.
        limits: how many at once, and how many may wait.
    """

    def __init__(self, compute: Callable[[Any, list[Any]], list[Any]], limits: Limits):
        self._compute, self._limits = compute, limits
        self._queue: asyncio.Queue[tuple[Any, Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, group: Any, item: Any) -> Any:
        """The result of one item.

        Raises:
            Refused: if too many wait.
        """
        if self._queue.qsize() >= self._limits.waiting:
            raise Refused(503, f"{self._limits.waiting} requests are waiting; try again in a moment.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((group, item, future))
        return await future

    async def _run(self) -> None:
        while True:
            waiting = [await self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            groups: dict[Any, list[tuple[Any, asyncio.Future[Any]]]] = {}
            for group, item, future in waiting:
                if not future.cancelled():  # its client went away
                    groups.setdefault(group, []).append((item, future))
            for group, members in groups.items():
                for start in range(0, len(members), self._limits.batch):
                    await self._together(group, members[start : start + self._limits.batch])

    async def _together(self, group: Any, members: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        items = [item for item, _ in members]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, group, items)
        except Exception as error:
            results = [error] * len(members)
        for (_, future), result in zip(members, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


class Service:
    """Adaptation and prediction for many clients.

    Args:
        learned: the learner.
        limits: what is taken on.
    """

    def __init__(self, learned: TrainedLearner, limits: Limits = Limits()):
        self.learned, self.limits = learned, limits
        self.adapting = Batcher(self._adapt_together, limits)
        self.predicting = Batcher(self._predict_together, limits)
        self._tasks: OrderedDict[str, Kept] = OrderedDict()
        self._number = 0

    def warm(self) -> None:
        """Compile what most requests need, and run it once."""
        counts, numbers = self.learned.preparation.sizes
        inputs = Inputs(np.zeros((WARM_ROWS, counts), np.uint8), np.zeros((WARM_ROWS, numbers), np.float32))
        labels = self.learned.labels or ("a", "b")
        rows = [labels[i % len(labels)] for i in range(WARM_ROWS)]
        target = np.arange(WARM_ROWS, dtype=np.float64) if self.learned.regression else np.array(rows, object)
        *_, outputs, y = encoded_labels(self.learned, target)
        examples = pad(inputs, y, WARM_ROWS)[0]
        for number in (1, SMALL_BATCH, self.limits.batch):
            adapted = [each for each, _ in self._adapt_together((WARM_ROWS, outputs), [examples] * number)]
            self._predict_together((WARM_ROWS, outputs), [(examples.x, each) for each in adapted])

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
                raise Refused(404, f"There is no task {body['task']!r} (any more); adapt again.")
            self._tasks.move_to_end(str(body["task"]))
        else:
            task, _ = await self._adapted(body)
        inputs = self._encoded(body.get("query"), "query")
        count = len(inputs.numbers)
        if not count:
            return {"predictions": []}
        size = padded_size(count, WARM_ROWS)
        padded = pad(inputs, np.zeros(count), size)[0].x
        scores = (await self.predicting((size, task.outputs), (padded, task.adapted)))[:count]
        if self.learned.regression:
            return {"predictions": [float(each) for each in scores[:, 0]]}
        scores = scores[:, list(task.places)].astype(np.float64)
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        best = [task.original[i] for i in chances.argmax(axis=1)]
        return {"predictions": best, "labels": list(task.original), "probabilities": chances.round(6).tolist()}

    async def _adapted(self, body: Mapping[str, Any]) -> tuple[Kept, list[float]]:
        inputs = self._encoded(body.get("support"), "support")
        values = body.get("target")
        if not isinstance(values, list) or len(values) != len(inputs.numbers):
            raise Refused(422, f"target must be a list of {len(inputs.numbers)} values, one for each support row.")
        original: dict[str, Any] = {}
        if self.learned.regression:
            if not all(isinstance(each, int | float) and not isinstance(each, bool) for each in values):
                raise Refused(422, "target must hold numbers; this learner is one of regression.")
            target = np.array(values, np.float64)
        else:
            texts = [label_text(each) for each in values]
            if None in texts or any(isinstance(each, list | dict) for each in values):
                raise Refused(422, "target must hold a label for each support row.")
            original = dict(zip(texts, values, strict=True))  # pyright: ignore[reportAssignmentType]
            target = np.array(texts, object)
        labels, places, outputs, y = encoded_labels(self.learned, target)
        size = padded_size(len(y), WARM_ROWS)
        adapted, curve = await self.adapting((size, outputs), pad(inputs, y, size)[0])
        shown = tuple(original.get(each, each) for each in labels)
        return Kept(labels, shown, places, outputs, adapted), curve

    def _encoded(self, rows: Any, what: str) -> Inputs:
        """Rows of a request as the network reads them: a list of objects by feature, or an object of columns."""
        features = self.learned.preparation.features
        if isinstance(rows, list) and all(isinstance(each, dict) for each in rows):
            missing = [f.name for f in features if any(f.name not in each for each in rows)]
            columns = {f.name: [each.get(f.name) for each in rows] for f in features}
        elif isinstance(rows, dict) and all(isinstance(each, list) for each in rows.values()):
            missing = [f.name for f in features if f.name not in rows]
            columns = rows
        else:
            raise Refused(422, f"{what} must be a list of rows (objects by feature), or an object of columns (lists).")
        if missing:
            raise Refused(422, f"{what} lacks the features {listed(missing)}.")
        lengths = {len(columns[f.name]) for f in features}
        if len(lengths) != 1 or max(lengths) > self.limits.rows:
            raise Refused(
                422 if len(lengths) != 1 else 413,
                f"{what} has columns of {sorted(lengths)[:5]} rows; all need the same number, at most "
                f"{self.limits.rows}.",
            )
        arrays = {}
        for feature in features:
            values = columns[feature.name]
            try:
                if feature.kind == "categories":
                    arrays[feature.name] = np.array([None if each is None else str(each) for each in values], object)
                else:
                    arrays[feature.name] = np.array(values, np.float64).reshape(len(values), *_width(feature.width))
            except (TypeError, ValueError) as error:
                kind = "a number" if feature.width == 1 else f"a list of {feature.width} numbers"
                raise Refused(422, f"{feature.name!r} of {what} must hold {kind} in each row.") from error
        return self.learned.preparation.encode(arrays)

    def _adapt_together(self, group: tuple[int, int], items: list[Examples]) -> list[Any]:
        filled = _filled(items, self.limits.batch)
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        adapted = jax.device_get(learner.adapt_tasks(self.learned.design, group[1], self.learned.meta, stacked))
        curves = np.asarray(adapted.losses).tolist()
        return [(jax.tree.map(lambda leaf, i=i: leaf[i], adapted), curves[i]) for i in range(len(items))]

    def _predict_together(self, group: tuple[int, int], items: list[tuple[Inputs, Adapted]]) -> list[np.ndarray]:
        filled = _filled(items, self.limits.batch)
        x, adapted = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
        scores = learner.outputs_of_tasks(self.learned.design, group[1], self.learned.meta, adapted, x)
        return list(np.asarray(scores)[: len(items)])


def _width(width: int) -> tuple[int, ...]:
    return (width,) if width > 1 else ()


def _filled(items: Sequence[Any], largest: int) -> list[Any]:
    """Items filled up with the first to one of three sizes, so that few programs are compiled."""
    size = next(each for each in (1, SMALL_BATCH, largest) if each >= len(items))
    return [*items, *[items[0]] * (size - len(items))]


def application(service: Service) -> Any:
    """The ASGI application of a service."""
    applications = require("starlette.applications", "serve", "Serving")
    responses = require("starlette.responses", "serve", "Serving")
    routing = require("starlette.routing", "serve", "Serving")

    def answering(handle: Callable[[Mapping[str, Any]], Any]) -> Callable[[Any], Any]:
        async def endpoint(request: Any) -> Any:
            try:
                answer, status = await handle(await _body(request, service.limits.body)), 200
            except Refused as refused:
                answer, status = {"error": str(refused)}, refused.status
            except InnerloopError as error:
                answer, status = {"error": str(error)}, 422
            return responses.JSONResponse(answer, status)

        return endpoint

    async def health(request: Any) -> Any:
        return responses.JSONResponse({"status": "ok"})

    async def openapi(request: Any) -> Any:
        return responses.JSONResponse(description(service.learned))

    async def page(request: Any) -> Any:
        text = json.dumps(description(service.learned), indent=1).replace("<", "&lt;")
        return responses.HTMLResponse(f"<title>innerloop</title><h1>innerloop serve</h1><pre>{text}</pre>")

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        service.adapting.start()
        service.predicting.start()
        yield
        await service.adapting.stop()
        await service.predicting.stop()

    return applications.Starlette(
        routes=[
            routing.Route("/adapt", answering(service.adapt), methods=["POST"]),
            routing.Route("/predict", answering(service.predict), methods=["POST"]),
            routing.Route("/health", health),
            routing.Route("/openapi.json", openapi),
            routing.Route("/", page),
        ],
        lifespan=lifespan,
    )


async def _body(request: Any, most: int) -> Mapping[str, Any]:
    """The request's JSON object.

    Raises:
        Refused: if it is too large, or none.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refused(413, f"The request is larger than {most} bytes; send fewer rows.")
        parts.append(part)
    try:
        body = json.loads(b"".join(parts))
    except (ValueError, RecursionError) as error:
        raise Refused(400, "The body is no JSON.") from error
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object.")
    return body


def description(learned: TrainedLearner) -> dict[str, Any]:
    """The OpenAPI description of a service."""
    scalar = {"numbers": "number", "counts": "number", "categories": "string"}
    of_feature = {
        each.name: (
            {"type": ["array"], "items": {"type": "number"}, "minItems": each.width, "maxItems": each.width}
            if each.width > 1
            else {"type": [scalar[each.kind], "null"]}
        )
        for each in learned.preparation.features
    }
    row = {"type": "object", "properties": of_feature, "required": list(of_feature)}
    rows = {"type": "array", "items": row}
    label = {"type": "number"} if learned.regression else {"type": ["string", "number", "boolean"]}
    support = {"support": rows, "target": {"type": "array", "items": label}}
    error = {"description": "One sentence that names what is wrong.", "content": _json({"error": {"type": "string"}})}
    refusals = dict.fromkeys(("400", "404", "413", "422", "503"), error)
    adapted = {"task": {"type": "string"}, "curve": {"type": "array", "items": {"type": "number"}}}
    predicted: dict[str, Any] = {"predictions": {"type": "array", "items": label}}
    if not learned.regression:
        labels = {"type": "array", "items": label}
        adapted["labels"] = labels
        chances = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
        predicted |= {"labels": labels, "probabilities": chances}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"innerloop: {learned.facts.get('name', 'a few-shot learner')}", "version": "1"},
        "paths": {
            "/adapt": {
                "post": {
                    "summary": "Adapt to the labelled rows of a task; gives its name.",
                    "requestBody": {"required": True, "content": _json(support, ["support", "target"])},
                    "responses": {"200": {"description": "Adapted.", "content": _json(adapted)}, **refusals},
                }
            },
            "/predict": {
                "post": {
                    "summary": "Predict rows of an adapted task, or adapt and predict at once.",
                    "requestBody": {
                        "required": True,
                        "content": _json({"task": {"type": "string"}, **support, "query": rows}, ["query"]),
                    },
                    "responses": {"200": {"description": "Predicted.", "content": _json(predicted)}, **refusals},
                }
            },
        },
    }


def _json(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"application/json": {"schema": {"type": "object", "properties": properties, "required": list(required)}}}


def serve(path: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve a run on loopback until a signal ends it.

    Args:
        path: the run directory, or the folder of a model.
        port: of 127.0.0.1.
        say: told where it is.

    Raises:
        InnerloopError: if there is no model, the port is taken, or the server library is not installed.
    """
    import socket

    uvicorn = require("uvicorn", "serve", "Serving")
    set_up(1)
    service = Service(learned_of(path))
    say("compiling")
    service.warm()
    app = application(service)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen(MOST_WAITING)  # now: who reads the line below may connect at once
        except OSError as error:
            raise InnerloopError(f"Port {port} cannot be used ({error.strerror}); choose another --port.") from error
        say(f"serving {path} on http://127.0.0.1:{listening.getsockname()[1]} (POST /adapt, POST /predict)")
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=2 * MOST_WAITING, timeout_keep_alive=30)
        uvicorn.Server(config).run(sockets=[listening])
