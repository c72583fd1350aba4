"""Small tables of tasks, as a spreadsheet user has them."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

HEAD = ["shop", "size", "price", "colour", "id", "bought", "paid"]
TRAIN = [
    *("--task-column=shop", "--target=bought", "--features=size,price,colour", "--training.iterations=24"),
    *("--preset=fast", "--learner.widths", "8", "--training.meta-batch=4", "--supports", "6", "--evaluation.draws=2"),
]
"""Settings under which training takes a moment."""


def rows(tasks: int = 12, each: int = 20, seed: int = 0) -> list[list[Any]]:
    """Rows under `HEAD`: who buys depends on size and price, in each shop the other way round or not."""
    random = np.random.default_rng(seed)
    table = []
    for task in range(tasks):
        sign = random.choice([-1, 1])
        for i in range(each):
            size, price = random.normal(), random.normal()
            score = sign * (size - price)
            bought = "yes" if (score > 0) ^ (i % 7 == 6) else "no"
            cells = [f"shop{task}", round(size, 4), round(1e6 * price, 1), "red" if i % 3 else "blue"]
            table.append([*cells, f"row {task} {i}", bought, round(50 + 10 * score, 3)])
    return table


def write(path: Path, table: list[list[Any]], head: list[str] | None = None) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head or HEAD, *table])
    return path
