"""What the program writes and says of predictions, whatever the kind of model."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError


def write(out: Path, columns: Mapping[str, Sequence[Any]], rows: int) -> None:
    """Write columns as a CSV file, after one with the number of the row.

    Raises:
        InnerloopError: if it cannot be written.
    """
    try:
        with out.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", *columns])
            for i in range(rows):
                cells = [values[i] for values in columns.values()]
                writer.writerow([i + 1, *(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells)])
    except OSError as error:
        raise InnerloopError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error


def adapted(count: int, what: str, curve: Sequence[float]) -> str:
    """What is said of an adaptation: support loss after 0, 1, ..., k inner steps.

    Example:
        >>> adapted(16, "rows", [0.7, 0.25])
        'adapted to 16 rows: support loss 0.700 → 0.250 over 1 inner steps'
    """
    losses = " → ".join(f"{loss:.3f}" for loss in curve)
    return f"adapted to {count:,} {what}: support loss {losses} over {len(curve) - 1} inner steps"
