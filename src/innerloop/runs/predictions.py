"""What the program writes and says of predictions, whatever the kind of model."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.files import write_text


def write(out: Path, columns: Mapping[str, Sequence[Any]], rows: int) -> None:
    """Write columns as a CSV file, after one with the number of the row.

    Raises:
        InnerloopError: if it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["row", *columns])
    for i in range(rows):
        cells = [values[i] for values in columns.values()]
        writer.writerow([i + 1, *(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in cells)])
    if out.is_dir():
        raise InnerloopError(f"--out is {out}, which is a folder; give a file.")
    if out.exists() and not out.is_file():  # such as /dev/stdout, which is written to and not replaced
        _poured(out, text.getvalue())
    else:
        try:
            write_text(out, text.getvalue())
        except InnerloopError as error:
            raise InnerloopError(f"{error} The flag is --out.") from error


def _poured(out: Path, text: str) -> None:
    try:
        out.write_text(text)
    except OSError as error:
        raise InnerloopError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error


def require_apart(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse to write over what is read: the same file under any name, or an image of a folder.

    Args:
        out: the file that is to be written.
        inputs: files and folders that are read, by what gives them.

    Raises:
        InnerloopError: naming the input that would be lost.
    """
    whole = out.resolve()
    for name, path in inputs.items():
        inside = path.is_dir() and whole.exists() and whole.is_relative_to(path.resolve())
        same = whole == path.resolve() or (whole.exists() and path.exists() and whole.samefile(path))
        if same or inside:
            raise InnerloopError(f"--out is {out}, which {name} reads and which would be lost; choose another --out.")


def adapted(count: int, what: str, curve: Sequence[float]) -> str:
    """What is said of an adaptation: support loss after 0, 1, ..., k inner steps.

    Example:
        >>> adapted(16, "rows", [0.7, 0.25])
        'adapted to 16 rows: support loss 0.700 → 0.250 over 1 inner steps'
    """
    losses = " → ".join(f"{loss:.3f}" for loss in curve)
    return f"adapted to {count:,} {what}: support loss {losses} over {len(curve) - 1} inner steps"
