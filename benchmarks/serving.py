"""Load on `innerloop serve`: adapt and predict in one request, many clients at once, on loopback.

    python -m benchmarks.serving RUN [--concurrency 32] [--seconds 20] [--shots 16] [--keep]

RUN is a run on one's own tasks with columns of numbers and categories. Each request carries a support set of 16 rows
and a query of 16. `--keep` writes benchmarks/results/serving.json.
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
from innerloop.workloads.tabular.session import learned_of

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "serving.json"
WARM_UP = 5.0


def body(learned: TrainedLearner, rows: int, seed: int) -> bytes:
    """A request with random rows."""
    random = np.random.default_rng(seed)
    columns: dict[str, list[Any]] = {}
    for feature in learned.preparation.features:
        if feature.kind == "categories":
            columns[feature.name] = random.choice(feature.categories, 2 * rows).tolist()
        else:
            values = random.normal(size=(2 * rows, feature.width)).round(4)
            columns[feature.name] = (values if feature.width > 1 else values[:, 0]).tolist()
    support = {name: values[:rows] for name, values in columns.items()}
    query = {name: values[rows:] for name, values in columns.items()}
    labels = list(learned.labels) or ["a", "b"]
    target: list[Any] = random.normal(size=rows).tolist() if learned.regression else (labels * rows)[:rows]
    return json.dumps({"support": support, "target": target, "query": query}).encode()


async def client(port: int, bodies: list[bytes], until: float, seen: list[tuple[float, float, int]]) -> None:
    """One keep-alive connection that asks, waits for the answer, and asks again."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    i = 0
    while (start := time.perf_counter()) < until:
        content = bodies[i % len(bodies)]
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answer.lower())
        await reader.readexactly(int(length[1]) if length else 0)
        seen.append((start, time.perf_counter() - start, int(answer.split()[1])))
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    learned = learned_of(asked.run)
    bodies = [body(learned, asked.shots, seed) for seed in range(4 * asked.concurrency)]
    command = [sys.executable, "-m", "innerloop", "serve", str(asked.run), "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = iter(server.stdout or ())
            port = next(int(found[1]) for line in lines if (found := re.search(r"127\.0\.0\.1:(\d+)", line)))
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
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    return int(bool(result["errors"]))


if __name__ == "__main__":
    sys.exit(main())
