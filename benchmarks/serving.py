"""Load on `innerloop serve`: adapt and predict in one request, many clients at once, on loopback.

    python -m benchmarks.serving RUN [--concurrency 32] [--seconds 20] [--shots 16] [--keep]
    python -m benchmarks.serving RUN --rough --concurrency 64 [--keep]

RUN is a run on one's own tasks with columns of numbers and categories. Each request carries a support set of 16 rows
and a query of 16. `--keep` writes benchmarks/results/serving.json. With `--rough`, one request in ten is cut off in
mid-body, 300 connections lie idle, and a shape that must be compiled arrives every few seconds; every answer is
compared with that of a calm server. `--keep` then writes benchmarks/results/serving-rough.json.
"""

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.runs import machine
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.artifact import load as trained

IDLE = 300
CUT_OFF = 10
"""One request in so many is left in mid-body."""
NEW_SHAPES = (40, 90, 150, 300, 600, 1000)
NEW_EVERY = 3.0

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WARM_UP = 5.0


def body(learned: TrainedLearner, rows: int, seed: int) -> bytes:
    """A request with random rows."""
    random = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for feature in learned.preparation.features:
        if feature.of_text:
            columns[feature.name] = random.choice(feature.categories or feature.levels or ("a", "b"), 2 * rows).tolist()
        else:
            values = random.normal(size=(2 * rows, feature.width)).round(4)
            columns[feature.name] = (values if feature.width > 1 else values[:, 0]).tolist()
    support = {name: values[:rows] for name, values in columns.items()}
    query = {name: values[rows:] for name, values in columns.items()}
    labels = list(learned.labels) or ["a", "b"]
    target: list[Any] = random.normal(size=rows).tolist() if learned.regression else (labels * rows)[:rows]
    return json.dumps({"support": support, "target": target, "query": query}).encode()


def request(content: bytes) -> bytes:
    """What is sent for a body."""
    return f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def answer_to(content: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
    """The status and the body of an answer."""
    writer.write(request(content))
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    return int(head.split()[1]), await reader.readexactly(int(length[1]) if length else 0)


async def client(port: int, bodies: list[bytes], until: float, seen: list[tuple[float, float, int]]) -> None:
    """One keep-alive connection that asks, waits for the answer, and asks again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    i = 0
    while (start := time.perf_counter()) < until:
        status, _ = await answer_to(bodies[i % len(bodies)], reader, writer)
        seen.append((start, time.perf_counter() - start, status))
        i += 1
    writer.close()


async def load(port: int, bodies: list[bytes], concurrency: int, seconds: float) -> dict[str, Any]:
    """Requests a second and their times, after a warm-up."""
    begin = time.perf_counter() + WARM_UP
    seen: list[tuple[float, float, int]] = []
    await asyncio.gather(*(client(port, bodies[i::concurrency], begin + seconds, seen) for i in range(concurrency)))
    counted = [each for each in seen if each[0] >= begin]
    times = np.array([1000 * each[1] for each in counted])
    return {
        "requests": len(counted),
        "errors": sum(each[2] != 200 for each in counted),
        "requests_per_second": round(len(counted) / seconds, 1),
        "milliseconds": {f"p{p}": round(float(np.percentile(times, p)), 1) for p in (50, 90, 99)},
    }


class Rough:
    """Clients that leave, connections that say nothing, shapes that no one has asked for, and what comes of it."""

    def __init__(self, port: int, bodies: list[bytes]):
        self.port = port
        self.bodies = bodies
        self.right: list[bytes] = []
        self.milliseconds: list[float] = []
        self.count = dict.fromkeys(("right", "other", "refused", "failed", "cut_off", "reset"), 0)
        self.compiled: list[float] = []

    async def calm(self) -> None:
        """Keep what a calm server answers."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for content in self.bodies:
            self.right.append((await answer_to(content, reader, writer))[1])
        writer.close()

    async def small(self, first: int, until: float) -> None:
        """A client of small requests that now and then leaves in mid-body, and comes again."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        i = first
        while time.perf_counter() < until:
            i += 1
            which = i * 7919 % len(self.bodies)
            if i % CUT_OFF == 0:
                writer.write(request(self.bodies[which])[:-100])
                writer.close()
                self.count["cut_off"] += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                continue
            start = time.perf_counter()
            try:
                status, answer = await answer_to(self.bodies[which], reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                self.count["reset"] += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                continue
            self.milliseconds.append(1000 * (time.perf_counter() - start))
            same = status == 200 and self.same(answer, self.right[which])
            name = "right" if same else "other" if status == 200 else "refused" if status < 500 else "failed"
            self.count[name] += 1
        writer.close()

    @staticmethod
    def same(answer: bytes, right: bytes) -> bool:
        """Whether two answers hold the same predictions, to the rounding of another batch."""
        (one, other) = (json.loads(each)["predictions"] for each in (answer, right))
        if isinstance(one[0], float):
            return bool(np.allclose(one, other, rtol=1e-3, atol=1e-4))
        return bool(one == other)

    async def new_shapes(self, learned: TrainedLearner, until: float) -> None:
        """One request after the other of a shape that the server must compile for."""
        for rows in NEW_SHAPES:
            await asyncio.sleep(NEW_EVERY)
            if time.perf_counter() > until:
                return
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            start = time.perf_counter()
            status, _ = await answer_to(body(learned, rows, rows), reader, writer)
            self.count["right" if status == 200 else "failed"] += 1
            self.compiled.append(round(time.perf_counter() - start, 2))
            writer.close()

    async def run(self, learned: TrainedLearner, concurrency: int, seconds: float) -> None:
        """All of it at once."""
        await self.calm()
        idle = [await asyncio.open_connection("127.0.0.1", self.port) for _ in range(IDLE)]
        until = time.perf_counter() + seconds
        await asyncio.gather(
            *(self.small(1000 * i + i % CUT_OFF, until) for i in range(concurrency)), self.new_shapes(learned, until)
        )
        for _, writer in idle:
            writer.close()

    def result(self) -> dict[str, Any]:
        """What was seen."""
        return {
            **self.count,
            "idle": IDLE,
            "milliseconds": {f"p{p}": round(float(np.percentile(self.milliseconds, p)), 1) for p in (50, 90, 99, 100)},
            "milliseconds_p99_at_most": 1000,
            "seconds_of_new_shapes": self.compiled,
        }


def memory(process: int) -> dict[str, int]:
    """Resident bytes of a process, now and at most."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: 1024 * int(value.split()[0]) for name, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--rough", action="store_true")
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    learned = trained(asked.run)
    bodies = [body(learned, asked.shots, seed) for seed in range(4 * asked.concurrency)]
    command = [sys.executable, "-m", "innerloop", "serve", str(asked.run), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stdout or ())
            port = next(int(found[1]) for line in lines if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
            if asked.rough:
                before, rough = memory(server.pid), Rough(port, bodies)
                asyncio.run(rough.run(learned, asked.concurrency, asked.seconds))
                result = rough.result() | {"memory": {"before": before, "after": memory(server.pid)}}
            else:
                result = asyncio.run(load(port, bodies, asked.concurrency, asked.seconds))
        finally:
            server.terminate()
    result |= {
        "concurrency": asked.concurrency,
        "support": asked.shots,
        "query": asked.shots,
        "bytes": len(bodies[0]),
        "features": len(learned.preparation.features),
        "environment": {
            "command": ["python", "-m", "benchmarks.serving", *sys.argv[1:]],
            "commit": machine.commit(),
            "seed": 0,
            **machine.description(),
        },
    }
    print(json.dumps({name: each for name, each in result.items() if name != "environment"}, indent=1))
    if asked.keep:
        name = "serving-rough.json" if asked.rough else "serving.json"
        (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n")
    return int(any(result.get(name, 0) for name in ("errors", "other", "failed", "reset")))


if __name__ == "__main__":
    sys.exit(main())
