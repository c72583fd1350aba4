"""Where data sets lie, how they are fetched, and the cache of what was prepared from them."""

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from innerloop.errors import InnerloopError
from innerloop.files import cache_dir

VARIABLE = "INNERLOOP_DATA"


def places(data_dir: str | None, name: str) -> list[Path]:
    """Where a data set may lie: in the given directory, `INNERLOOP_DATA` and the cache, in a folder of its name or not.

    Raises:
        InnerloopError: if the given directory does not exist.
    """
    given = data_dir or os.environ.get(VARIABLE)
    if given and not Path(given).is_dir():
        source = "--data-dir" if data_dir else VARIABLE
        raise InnerloopError(f"{source} is {given}, which is not a directory; create it, or leave it out.")
    roots = [Path(given)] if given else []
    return [place for root in [*roots, cache_dir() / "data"] for place in (root / name, root)]


def find(data_dir: str | None, name: str, needed: Iterable[str]) -> Path | None:
    """The first of `places` that holds all the `needed` files."""
    needed = list(needed)
    for place in places(data_dir, name):
        if all((place / item).exists() for item in needed):
            return place
    return None


def download(url: str, target: Path, *, algorithm: str, checksum: str) -> None:
    """Fetch a file, and keep it only if its checksum is right.

    Args:
        url: where it lies.
        target: where it goes.
        algorithm: of the checksum, `"sha256"` or `"md5"`.
        checksum: hexadecimal.

    Raises:
        InnerloopError: if it cannot be fetched, or is not what it should be.
    """
    partial = target.with_suffix(f"{target.suffix}.part{os.getpid()}")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as file:
            while block := response.read(2**20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != checksum:
            raise InnerloopError(
                f"{url} has the {algorithm} {digest.hexdigest()}, not {checksum}; it was not kept. Fetch it by hand to "
                f"{target}."
            )
        partial.replace(target)
    except (urllib.error.URLError, OSError) as error:
        raise InnerloopError(f"{url} could not be fetched ({error}); put the file at {target} by hand.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def fingerprint(files: Iterable[Path], *settings: object) -> str:
    """SHA-256 over the content of files and the settings they are prepared with."""
    digest = hashlib.sha256(json.dumps([repr(setting) for setting in settings]).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def prepared(key: str, prepare: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from the cache, or prepared now and cached.

    The file carries the SHA-256 of its content; one that does not match (a flipped bit, a write cut off) is prepared
    anew.

    Args:
        key: from `fingerprint`, of everything that the arrays depend on.
        prepare: makes the arrays.
    """
    file = cache_dir() / "prepared" / f"{key}.safetensors"
    cached = _read(file)
    if cached is not None:
        return cached
    arrays = prepare()
    partial = file.with_suffix(f".part{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(save(arrays, metadata={"sha256": _content_hash(arrays)}))
        partial.replace(file)
    except OSError:  # a cache that cannot be written (full, read-only) costs time, not the run
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return arrays


def _read(file: Path) -> dict[str, np.ndarray] | None:
    try:
        with safe_open(file, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return arrays if (stored.metadata() or {}).get("sha256") == _content_hash(arrays) else None
    except (OSError, SafetensorError):
        return None


def _content_hash(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + str(arrays[name].dtype).encode() + str(arrays[name].shape).encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
