"""How long one's own tables take: training on 50 tasks, the first prediction of a fresh process, and many fits.

    python -m benchmarks.own_times           measure, and write benchmarks/results/own-times.json
    python -m benchmarks.own_times write     the figures into docs/own-tasks.md; --check: only whether they are there

Every figure is that of a process of its own, in a folder and with a cache of compiled programs of its own: what is
measured first finds the cache empty. Seconds of the processor are those of all cores and of all processes together;
they say more than the clock does where other programs run.
"""

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import write_block
from innerloop.runs import machine

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "own-times.json"
PAGE = ROOT / "docs" / "own-tasks.md"
TRAIN = ["train", "shops.csv", "--task-column=shop", "--target=sales", "--run-dir=run"]
ADAPT = ["adapt", "run", "--support=support.csv", "--query=query.csv", "--out=out.csv"]
FITS = 400
REPEATS = 3
IMPORTS = {
    "jax": "import jax",
    "scikit-learn": "import sklearn.base",
    "estimators": "from innerloop import FewShotRegressor",
}
ESTIMATOR = """
import numpy as np
from innerloop import FewShotRegressor
x = np.random.default_rng(0).normal(size=(40, 3))
FewShotRegressor("run").fit(x[:16], x[:16, 0]).predict(x[16:])
"""
JOBS = """
import json, sys, time
import numpy as np
from joblib import parallel_config
from sklearn.linear_model import Ridge
from sklearn.model_selection import ShuffleSplit, cross_val_score
from innerloop import FewShotRegressor
random = np.random.default_rng(0)
x = random.normal(size=(60, 3))
y = x @ [1.0, 2.0, 0.5] + 0.1 * random.normal(size=60)
parts = ShuffleSplit({fits}, train_size=16, test_size=40, random_state=0)
seconds = []
for _ in range(2):
    began = time.perf_counter()
    with parallel_config({backend!r}, n_jobs={jobs}):
        cross_val_score({estimator}, x, y, cv=parts)
    seconds.append(round(time.perf_counter() - began, 2))
print(json.dumps(seconds))
"""
WAYS = {
    "1": ("FewShotRegressor('run')", "loky", 1),
    "2": ("FewShotRegressor('run')", "loky", 2),
    "2 threads": ("FewShotRegressor('run')", "threading", 2),
    "2 for ridge regression": ("Ridge()", "loky", 2),
}
"""By name: the estimator, processes or threads, and how many. Ridge regression costs little beside its processes."""


def shops(file: Path, tasks: int = 50, rows: int = 40) -> None:
    """A table of shops, each with an intercept and slopes of its own."""
    random = np.random.default_rng(3)
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["shop", "month", "size", "price", "sales"])
        for task in range(tasks):
            level, slopes = random.normal(), 1 + 0.5 * random.normal(size=3)
            for _ in range(rows):
                x = random.normal(size=3)
                sales = level + x @ slopes + 0.3 * random.normal()
                writer.writerow([f"s{task}", *x.round(3), round(float(sales), 3)])


def timed(command: list[str], folder: Path, cache: str) -> tuple[dict[str, float], str]:
    """The seconds of a process, by the clock and of the processor, and what it said."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "INNERLOOP_CACHE": str(folder / cache)}
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(time.perf_counter() - began, 2), "processor": round(used, 2)}, done.stdout


def best(command: list[str], folder: Path, cache: str) -> dict[str, float]:
    """The least of a few."""
    return min((timed(command, folder, cache)[0] for _ in range(REPEATS)), key=lambda found: found["seconds"])


def measured(folder: Path) -> dict[str, Any]:
    """All figures."""
    shops(folder / "shops.csv")
    program = ["-m", "innerloop"]
    train = {"first": timed([*program, *TRAIN], folder, "cache")[0]}
    lines = (folder / "shops.csv").read_text().splitlines()
    (folder / "support.csv").write_text("\n".join(lines[:17]) + "\n")
    (folder / "query.csv").write_text("\n".join([lines[0], *lines[17:41]]) + "\n")
    model = (folder / "run").rename(folder / "trained")
    train["again"] = timed([*program, *TRAIN], folder, "cache")[0]
    adapt = {"first": timed([*program, *ADAPT], folder, "empty")[0], "again": best([*program, *ADAPT], folder, "empty")}
    script = ["-c", ESTIMATOR]
    estimator = {"first": timed(script, folder, "other")[0], "again": best(script, folder, "other")}
    jobs = {}
    for name, (estimator_made, backend, number) in WAYS.items():
        code = JOBS.format(fits=FITS, estimator=estimator_made, backend=backend, jobs=number)
        calls = [json.loads(timed(["-c", code], folder, "cache")[1].splitlines()[-1]) for _ in range(1 + REPEATS)]
        first, again = (min(seconds) for seconds in zip(*calls[1:], strict=True))
        jobs[name] = {"first": first, "again": again}
    return {
        "train": train,
        "import": {name: best(["-c", code], folder, "cache") for name, code in IMPORTS.items()},
        "adapt": adapt,
        "estimator": estimator,
        "jobs": jobs,
        "fits": FITS,
        "report": (model / "report.html").exists(),
    }


def block(result: dict[str, Any]) -> str:
    """The figures as a block of a page."""
    known, of = result["environment"], lambda found: f"{found['seconds']:.1f} s ({found['processor']:.1f} s)"
    rows = [
        ("`train` on 50 tasks of 40 rows, by its defaults, with evaluation and report", result["train"]),
        ("`adapt` from a shell", result["adapt"]),
        ("`FewShotRegressor(run).fit(x, y).predict(z)` in a fresh Python", result["estimator"]),
    ]
    lines = [
        "| | nothing compiled before | compiled before |",
        "|---|---|---|",
        *(f"| {name} | {of(found['first'])} | {of(found['again'])} |" for name, found in rows),
        "",
        "By the clock, and in brackets of the processor (all cores, all processes). Importing is a part of it: "
        + ", ".join(f"{name} {of(found)}" for name, found in result["import"].items())
        + ", the last with the other two.",
        "",
        f"| {result['fits']} fits in `cross_val_score`, compiled before | first call of a process | next call |",
        "|---|---|---|",
        *(
            f"| `n_jobs={name}` | {found['first']:.1f} s | {found['again']:.1f} s |"
            for name, found in result["jobs"].items()
        ),
        "",
        f"`python -m benchmarks.own_times`, commit {(known['commit'] or 'unknown')[:10]}, "
        f"{known['machine']['processor']} with {known['machine']['cores']} cores.",
    ]
    return "\n".join(lines)


def main() -> int:
    if "write" in sys.argv[1:]:
        return write_block(PAGE, "own-times", block(json.loads(RESULT.read_text())), "--check" in sys.argv)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = measured(Path(folder))
    result["load"] = [load, os.getloadavg()[0]]
    result["environment"] = {
        "command": ["python", "-m", "benchmarks.own_times"],
        "commit": machine.commit(),
        "seed": 0,
        **machine.description(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(block(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
