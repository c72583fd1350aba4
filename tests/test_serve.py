"""The server: the same answers as the library, in batches, and nothing that a client does takes it down."""

import asyncio
import concurrent.futures
import http.client
import json
import socket
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest

from innerloop.serve.batcher import Batcher, HTTPError, Limits
from innerloop.serve.http import description
from innerloop.serve.http import server as server_of
from innerloop.serve.service import ServedTask, Service
from innerloop.tabular import adaptation
from innerloop.tabular.adaptation import SupportTargets
from innerloop.tabular.learner import Adapted
from learners import task, untrained

pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def served():
    service = Service(untrained(), Limits(body=20_000, rows=100, tasks=3, seconds=3.0))
    server = server_of(service, connections_kept=40, silence=3.0)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield listening.getsockname()[1], service
    server.should_exit = True
    thread.join(30)
    listening.close()


def post(port, path, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    status, said = answer.status, json.loads(answer.read())
    connection.close()
    return status, said


def expected(service, rows, labels, query):
    columns = lambda rows: {name: np.array([row[name] for row in rows]) for name in rows[0]}  # noqa: E731
    adapted = adaptation.adapt(service.learned, columns(rows), np.array(labels, object))
    return adapted.probabilities(columns(query))


def test_answers_are_those_of_the_library_also_when_they_come_together(served):
    port, service = served
    (rows, labels), (query, _) = task(16), task(5, seed=2)
    status, adapted = post(port, "/adapt", {"support": rows, "target": labels})
    assert status == 200
    assert adapted["labels"] == ["no", "yes"]
    assert len(adapted["curve"]) == 2
    status, said = post(port, "/predict", {"task": adapted["task"], "query": query})
    chances = expected(service, rows, labels, query)
    assert status == 200
    np.testing.assert_allclose(said["probabilities"], chances, atol=1e-5)
    assert said["predictions"] == [adapted["labels"][i] for i in chances.argmax(axis=1)]

    tasks = [task(8 + i % 3 * 8, seed=i) for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        bodies = [{"support": rows, "target": labels, "query": query} for rows, labels in tasks]
        answers = list(pool.map(lambda body: post(port, "/predict", body), bodies))
    for (rows, labels), (status, said) in zip(tasks, answers, strict=True):
        assert status == 200
        np.testing.assert_allclose(said["probabilities"], expected(service, rows, labels, query), atol=1e-5)


def test_columns_serve_as_well_as_rows_and_labels_keep_their_type(served):
    port, _ = served
    rows, labels = task(8)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    truth = [each == "yes" for each in labels]
    status, said = post(port, "/predict", {"support": columns, "target": truth, "query": columns})
    assert status == 200
    assert set(said["labels"]) == {False, True}
    assert post(port, "/predict", {"support": columns, "target": truth, "query": []})[1] == {"predictions": []}


def test_mistakes_are_answered_and_the_server_goes_on(served):
    port, _ = served
    rows, labels = task(8)
    good = {"support": rows, "target": labels}
    for path, body, status, said in [
        ("/adapt", b"{", 400, "no JSON"),
        ("/adapt", b"[1]", 400, "must be a JSON object"),
        ("/adapt", b"[" * 15_000, 400, "no JSON"),
        ("/adapt", b"x" * 30_000, 413, "larger than 20000 bytes"),
        ("/adapt", {"support": rows, "target": labels[:3]}, 422, "target must be a list of 8"),
        ("/adapt", {"support": rows, "target": ["yes"] * 8}, 422, "one class only"),
        ("/adapt", {"support": rows, "target": [None] * 8}, 422, "a label for each support row"),
        (
            "/adapt",
            {"support": [{"size": 1}] * 8, "target": labels},
            422,
            "lacks 2 of the 3 features of the learner: price, bits",
        ),
        ("/adapt", {"support": [{**row, "size": "big"} for row in rows], "target": labels}, 422, "must hold a number"),
        ("/adapt", {"support": [{**row, "bits": [1, 2]} for row in rows], "target": labels}, 422, "a list of 3"),
        ("/adapt", {"support": 5, "target": labels}, 422, "must be a list of rows"),
        ("/predict", {"task": "nobody", "query": rows}, 404, "There is no task 'nobody'"),
        ("/predict", {**good, "query": [rows[0]] * 101}, 413, "at most 100"),
    ]:
        answered, answer = post(port, path, body)
        assert answered == status
        assert said in answer["error"]
    for _ in range(5):  # clients that go away in the middle of a request, or before the answer
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /adapt HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{")
        body = json.dumps({**good, "query": rows}).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    names = [post(port, "/adapt", good)[1]["task"] for _ in range(4)]
    assert post(port, "/predict", {"task": names[0], "query": rows})[0] == 404  # three are kept
    assert post(port, "/predict", {"task": names[-1], "query": rows})[0] == 200


def test_it_describes_itself(served):
    port, service = served
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/openapi.json")
    said = json.loads(connection.getresponse().read())
    assert said == json.loads(json.dumps(description(service.learned)))
    body = said["paths"]["/adapt"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["support"]["items"]["required"] == ["size", "price", "bits"]
    connection.request("GET", "/")
    assert b"/predict" in connection.getresponse().read()
    connection.close()


def test_numbers_and_texts_that_nothing_can_hold_are_refused(served):
    port, _ = served
    rows, labels = task(8)
    huge = json.dumps({"support": [{**row, "size": 7} for row in rows], "target": labels})
    half = json.dumps({"support": rows, "target": ["\ud800", "a"] * 4})
    for body, status, said in [
        (huge.replace('"size": 7', '"size": 1' + "0" * 400).encode(), 422, "'size' of support must hold a number"),
        (half.encode(), 400, "a lone surrogate"),
        (half.replace("\\ud800", "\\ud83d\\ude00").encode(), 200, ""),
        (json.dumps({"support": [{**row, "size": 1e308} for row in rows], "target": labels}).encode(), None, ""),
    ]:
        answered, answer = post(port, "/adapt", body)
        assert answered in ((200, 422) if status is None else (status,))
        assert said in answer.get("error", "")


def test_targets_beyond_single_precision_are_answered_or_refused():
    learned = untrained(kind="regression")
    rows, _ = task(8)
    for values in ([1e38, -1e38] * 4, [1e308, -1e308] * 4, [10**400, 1] * 4):
        body = {"support": rows, "target": values, "query": rows}
        status, found = asyncio.run(answered(Service(learned), body))
        assert status == 422 or np.isfinite(found["predictions"]).all()


async def answered(service, body):
    service.adapting.start()
    service.predicting.start()
    try:
        return 200, await service.predict(body)
    except HTTPError as error:
        return error.status, {}
    finally:
        await service.adapting.stop()
        await service.predicting.stop()


def test_silent_connections_make_room_and_are_closed(served):
    port, _ = served
    rows, labels = task(8)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(120)]
    for client in silent[::2]:
        client.sendall(b"POST /adapt HTTP/1.1\r\nHost: x\r\nContent-Le")
    assert post(port, "/adapt", {"support": rows, "target": labels})[0] == 200
    slow = socket.create_connection(("127.0.0.1", port))
    slow.sendall(b"POST /adapt HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
    slow.settimeout(20)
    assert b" 408 " in slow.recv(1000)
    silent[-1].settimeout(20)
    assert silent[-1].recv(10) == b""
    for client in (*silent, slow):
        client.close()


def test_kept_tasks_are_bounded_in_bytes():
    service = Service(untrained(), Limits(kept=3_000_000))
    task_of = ServedTask(
        SupportTargets(("a",), (0,), 1, np.zeros(10**5)), ("a",), Adapted({"w": np.zeros(25_000)}, *[jnp.zeros(1)] * 3)
    )
    for number in range(10):
        service._keep(str(number), task_of)
    assert list(service._tasks) == ["8", "9"]


def test_small_requests_do_not_wait_while_a_new_shape_is_compiled():
    started, release = threading.Event(), threading.Event()

    def compute(group, items):
        if group == "new":
            started.set()
            assert release.wait(30)
        return [f"{group} {item}" for item in items]

    async def meanwhile():
        batcher = Batcher(compute, Limits(batch=4))
        batcher.warm("known", 0)
        batcher.start()
        first, second = (asyncio.create_task(batcher("new", i)) for i in range(2))
        await asyncio.to_thread(started.wait, 30)
        assert await asyncio.wait_for(batcher("known", 7), 30) == "known 7"
        assert not first.done()
        release.set()
        assert [await first, await second] == ["new 0", "new 1"]
        await batcher.stop()

    asyncio.run(meanwhile())
