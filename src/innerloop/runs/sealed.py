"""JSON files that carry a checksum of their content, so that a flipped bit is never taken for a value."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.files import write_text

SEAL = "sha256"


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object with its checksum, whole or not at all.

    Args:
        path: the file.
        values: what JSON can hold; no key may be `sha256`.

    Raises:
        InnerloopError: if it cannot be written.
    """
    content = json.loads(json.dumps(dict(values)))
    write_text(path, json.dumps({**content, SEAL: _checksum(content)}, indent=1))


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
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
