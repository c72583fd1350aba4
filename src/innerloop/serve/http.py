"""A trained learner over HTTP on loopback: adapt to a task, predict its rows."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.serve.batcher import MOST_WAITING, HTTPError
from innerloop.serve.connections import SILENCE_SECONDS, most_connections, protocol
from innerloop.serve.service import Service
from innerloop.tabular.artifact import TrainedLearner, load

SURROGATE = re.compile(rb"\\u[dD]")


def application(service: Service) -> Any:
    """The ASGI application of a service."""
    applications = require("starlette.applications", "serve", "Serving")
    responses = require("starlette.responses", "serve", "Serving")
    routing = require("starlette.routing", "serve", "Serving")
    requests = require("starlette.requests", "serve", "Serving")

    def answering(handle: Callable[[Mapping[str, Any]], Any]) -> Callable[[Any], Any]:
        async def endpoint(request: Any) -> Any:
            parts: list[bytes] = []
            try:
                content = await asyncio.wait_for(_content(request, service, parts), service.limits.seconds)
                answer, status = await handle(_object(content)), 200
            except requests.ClientDisconnect:  # nobody is left to be answered
                answer, status = {"error": "The request was cut off."}, 400
            except TimeoutError:
                answer, status = {"error": f"The request took longer than {service.limits.seconds:g} s to come."}, 408
            except HTTPError as error:
                answer, status = {"error": str(error)}, error.status
            except InnerloopError as error:
                answer, status = {"error": str(error)}, 422
            finally:
                service.held -= sum(map(len, parts))
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


async def _content(request: Any, service: Service, parts: list[bytes]) -> bytes:
    """The request's body, whose parts are noted as they come.

    Raises:
        HTTPError: if it is too large, or all requests together are.
    """
    limits, size = service.limits, 0
    async for part in request.stream():
        size += len(part)
        if size > limits.body:
            raise HTTPError(413, f"The request is larger than {limits.body} bytes; send fewer rows.")
        if service.held + len(part) > limits.held:
            raise HTTPError(503, "The server holds as much as it can; try again in a moment.")
        service.held += len(part)
        parts.append(part)
    return b"".join(parts)


def _object(content: bytes) -> Mapping[str, Any]:
    """The JSON object of a body.

    Raises:
        HTTPError: if it is none, or holds half a character, which no answer can repeat.
    """
    try:
        body = json.loads(content)
        if SURROGATE.search(content):
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise HTTPError(400, "The body holds a lone surrogate, which is no character.") from error
    except (ValueError, RecursionError) as error:
        raise HTTPError(400, "The body is no JSON.") from error
    if not isinstance(body, dict):
        raise HTTPError(400, "The body must be a JSON object.")
    return body


def description(learned: TrainedLearner) -> dict[str, Any]:
    """The OpenAPI description of a service."""
    scalar = {"numbers": "number", "counts": "number", "categories": "string", "texts": "string"}
    of_feature = {
        feature.name: (
            {"type": ["array"], "items": {"type": "number"}, "minItems": feature.width, "maxItems": feature.width}
            if feature.width > 1
            else {"type": [scalar[feature.kind], "null"]}
        )
        for feature in learned.preparation.features
    }
    row = {"type": "object", "properties": of_feature, "required": list(of_feature)}
    rows = {"type": "array", "items": row}
    label = {"type": "number"} if learned.regression else {"type": ["string", "number", "boolean"]}
    support = {"support": rows, "target": {"type": "array", "items": label}}
    error = {"description": "One sentence that names what is wrong.", "content": _json({"error": {"type": "string"}})}
    refusals = dict.fromkeys(("400", "404", "408", "413", "422", "503"), error)
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


def server(service: Service, *, connections_kept: int | None = None, silence: float = SILENCE_SECONDS) -> Any:
    """Uvicorn's server of a service, whose connections cannot wear it out.

    Args:
        service: what answers.
        connections_kept: connections at the same time; what file descriptors allow unless given.
        silence: seconds until a silent connection is closed.
    """
    uvicorn = require("uvicorn", "serve", "Serving")
    most = connections_kept or most_connections()
    config = uvicorn.Config(
        application(service), log_level="error", http=protocol(most, silence), ws="none", timeout_keep_alive=30
    )
    return uvicorn.Server(config)


def serve(path: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve a run on loopback until a signal ends it.

    Args:
        path: the run directory, or the folder of a model.
        port: of 127.0.0.1.
        say: told where it is.

    Raises:
        InnerloopError: if there is no model, the port is taken, or the server library is not installed.
    """
    service = Service(load(path))
    say("compiling")
    service.warm()
    running = server(service)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
            listening.listen(MOST_WAITING)  # now: who reads the line below may connect at once
        except OSError as error:
            raise InnerloopError(f"Port {port} cannot be used ({error.strerror}); choose another --port.") from error
        say(f"serving {path} on http://127.0.0.1:{listening.getsockname()[1]} (POST /adapt, POST /predict)")
        running.run(sockets=[listening])
