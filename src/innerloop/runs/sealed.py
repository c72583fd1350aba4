"""JSON files that carry a checksum of their content, so that a flipped bit is never taken for a value."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.files import write_text

SEAL = "sha256"
NOT_FINITE = "not_finite_numbers"
"""Where a file that holds `null` in the place of NaN or infinity, which JSON does not know, says which it was."""


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object with its checksum, whole or not at all.

    Args:
        path: the file.
        values: what JSON can hold; no key may be `sha256`.

    Raises:
        InnerloopError: if it cannot be written.
    """
    content = json.loads(json.dumps(dict(values)))
    odd: dict[str, str] = {}
    content = _finite(content, "", odd)
    if odd:
        content[NOT_FINITE] = odd
    write_text(path, json.dumps({**content, SEAL: _checksum(content)}, indent=1, allow_nan=False))


def read(path: Path) -> dict[str, Any]:
    """The object that a file holds.

    Raises:
        InnerloopError: if there is none, or its checksum does not match.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InnerloopError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise InnerloopError(f"{path} is damaged: it is no JSON ({error}); restore it, or start anew.") from error
    if not isinstance(content, dict):
        raise InnerloopError(f"{path} is damaged: it holds no object; restore it, or start anew.")
    seal = content.pop(SEAL, None)
    if seal is None:
        raise InnerloopError(
            f"{path} carries no checksum: a version of innerloop before 0.2 wrote it, or it is damaged; finish that "
            "run with that version, or start anew in another --run-dir."
        )
    if seal != _checksum(content):
        raise InnerloopError(f"{path} is damaged: its checksum does not match; restore it, or start anew.")
    return _restored(content, "", content.pop(NOT_FINITE, {}))


def plain(values: Mapping[str, Any]) -> Any:
    """What JSON knows of values: `None` in the place of NaN and infinity."""
    return _finite(json.loads(json.dumps(dict(values))), "", {})


def _finite(value: Any, where: str, odd: dict[str, str]) -> Any:
    """A JSON value with `None` for numbers that are not finite, which are noted by where they stand."""
    if isinstance(value, dict):
        return {name: _finite(part, f"{where}/{name}", odd) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part, f"{where}/{i}", odd) for i, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        odd[where] = repr(value)
        return None
    return value


def _restored(value: Any, where: str, odd: Mapping[str, str]) -> Any:
    """The inverse of `_finite`."""
    if not odd:
        return value
    if isinstance(value, dict):
        return {name: _restored(part, f"{where}/{name}", odd) for name, part in value.items()}
    if isinstance(value, list):
        return [_restored(part, f"{where}/{i}", odd) for i, part in enumerate(value)]
    return float(odd[where]) if where in odd else value


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
