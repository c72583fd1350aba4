"""Checkpoints that survive being killed at any moment, a full disk, and a flipped bit.

A checkpoint is a directory with `state.safetensors` and `manifest.json`, which holds the SHA-256 of the former. It is
written under another name, flushed, and renamed; whatever has no valid manifest is not there.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from safetensors.numpy import load, save

from innerloop.core.trees import arrays_of, path_name
from innerloop.errors import InnerloopError

FORMAT = 2
STATE = "state.safetensors"
MANIFEST = "manifest.json"
NAME = re.compile(r"step-\d{9}")

Tree = TypeVar("Tree")
Settings: TypeAlias = Mapping[str, Any]
"""Settings by the names of their flags."""


def write(directory: Path, step: int, state: Any, keep: int, settings: Settings) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`.

    Args:
        directory: where the run's checkpoints are.
        step: number of meta-steps taken.
        state: a pytree of arrays and keys.
        keep: how many checkpoints to keep.
        settings: what training depends on, kept with it.

    Raises:
        InnerloopError: if it cannot be written; the checkpoints before it are untouched.
    """
    final = directory / f"step-{step:09d}"
    partial = directory / f"partial-{os.getpid()}-{step}"
    content = save(arrays_of(state))
    manifest = {
        "format": FORMAT,
        "step": step,
        "settings": dict(settings),
        "sha256": {STATE: hashlib.sha256(content).hexdigest()},
    }
    manifest["checksum"] = _checksum(manifest)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write_flushed(partial / STATE, content)
        _write_flushed(partial / MANIFEST, json.dumps(manifest, indent=2).encode())
        _flush_directory(partial)
        if final.exists():
            _remove(final)
        partial.rename(final)
        _flush_directory(directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InnerloopError(
            f"The checkpoint of step {step} could not be written to {directory} ({error.strerror}); the ones before it "
            "are whole. Mend that, then give the same command again."
        ) from error
    _WHOLE.add(final)
    for old in [*_superseded(directory, step, keep), *directory.glob("trash-*"), *_stale(directory)]:
        _remove(old)
    return final


_WHOLE: set[Path] = set()
"""Checkpoints that this process has written or verified."""


def _superseded(directory: Path, step: int, keep: int) -> list[Path]:
    """What is no longer kept beside the checkpoint of `step`: all but the newest whole ones before it.

    A checkpoint of a later step is one that was passed over as damaged when training was resumed.
    """
    kept = 1
    superseded = []
    for path in _all(directory):
        if path.name == f"step-{step:09d}":
            continue
        earlier = int(path.name.removeprefix("step-")) < step
        if earlier and kept < keep and (path in _WHOLE or _verified(path) is not None):
            _WHOLE.add(path)
            kept += 1
        else:
            superseded.append(path)
            _WHOLE.discard(path)
    return superseded


def read_newest(directory: Path, template: Tree, settings: Settings, warn: Callable[[str], None]) -> Tree | None:
    """The newest whole checkpoint, or `None` if there is none.

    Args:
        directory: where the run's checkpoints are.
        template: a state of the same structure, shapes and types.
        settings: what training depends on; those that the checkpoint was written under must agree.
        warn: told of each checkpoint that is damaged and passed over.

    Raises:
        InnerloopError: if a whole checkpoint belongs to another configuration, or to another version of innerloop; or
            if there are checkpoints, and none is whole.
    """
    paths = _all(directory)
    for path in paths:
        verified = _verified(path)
        if verified is None:
            warn(f"{path} is damaged (its content does not match its manifest), and is passed over")
            continue
        written_under, content = verified
        for name, value in json.loads(json.dumps(dict(settings))).items():
            if name in written_under and written_under[name] != value:
                raise InnerloopError(
                    f"{path} belongs to another configuration: it was written with {name} {written_under[name]}, "
                    f"and this run has {value}."
                )
        return from_arrays(load(content), template, path)
    if paths:
        raise InnerloopError(
            f"No checkpoint in {directory} is whole, so training cannot go on; to start over, remove that folder."
        )
    return None


def newest_whole(directory: Path) -> tuple[str, str]:
    """Where the newest whole checkpoint lies, and the SHA-256 of its state.

    Raises:
        InnerloopError: if there is none.
    """
    for path in _all(directory):
        verified = _verified(path)
        if verified is not None:
            return str(path.resolve()), hashlib.sha256(verified[1]).hexdigest()
    raise InnerloopError(f"{directory} holds no whole checkpoint, so nothing can begin from it; choose another run.")


def read_as(path: Path, sha256: str, template: Tree) -> Tree:
    """The state of one checkpoint, whatever settings it was written under.

    Args:
        path: the checkpoint.
        sha256: of its state.
        template: a state of the same structure, shapes and types.

    Raises:
        InnerloopError: if it is gone, another one, or of another structure.
    """
    verified = _verified(path)
    if verified is None or hashlib.sha256(verified[1]).hexdigest() != sha256:
        raise InnerloopError(f"{path}, with which this run begins, is gone or another one; restore it, or start anew.")
    return from_arrays(load(verified[1]), template, path)


def _verified(path: Path) -> tuple[dict[str, Any], bytes] | None:
    """The settings and the content of a checkpoint, or `None` if it is not what its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        content = (path / STATE).read_bytes()
        whole = manifest.pop("checksum") == _checksum(manifest)
        whole &= manifest["sha256"][STATE] == hashlib.sha256(content).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if whole and manifest["format"] != FORMAT:
        raise InnerloopError(f"{path} has the format {manifest['format']}; this version of innerloop reads {FORMAT}.")
    return (manifest["settings"], content) if whole else None


def _checksum(manifest: dict[str, Any]) -> str:
    """The manifest's own SHA-256, without that entry."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _all(directory: Path) -> list[Path]:
    """The checkpoints, newest first; a folder of any other name is not one."""
    found = [path for path in directory.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def _stale(directory: Path) -> list[Path]:
    """Directories that a killed process left half written."""
    return [path for path in directory.glob("partial-*") if f"partial-{os.getpid()}-" not in path.name]


def _remove(path: Path) -> None:
    """Rename first, so that no half-removed checkpoint is ever taken for a whole one."""
    trash = path.with_name(f"trash-{os.getpid()}-{path.name}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def _write_flushed(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def encoded(state: Any) -> bytes:
    """A state as it stands in a file."""
    return save(arrays_of(state))


def decoded(content: bytes, template: Tree) -> Tree:
    """The inverse of `encoded`, for a state of the same structure."""
    return from_arrays(load(content), template, Path("what another process sent"))


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def from_arrays(arrays: dict[str, np.ndarray], template: Tree, path: Path) -> Tree:
    """The inverse of `arrays_of`, for a pytree like the template.

    Raises:
        InnerloopError: if they belong to another configuration; the message names the file.
    """

    def restore(name: str, leaf: Any) -> Any:
        wanted = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        stored = arrays.pop(name, None)
        if stored is None or stored.shape != wanted.shape or stored.dtype != wanted.dtype:
            found = "nothing" if stored is None else f"{stored.dtype}{list(stored.shape)}"
            raise InnerloopError(
                f"{path} belongs to another configuration: {name} should be {wanted.dtype}{list(wanted.shape)}, "
                f"but it holds {found}."
            )
        array = jax.numpy.asarray(stored)
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array

    restored = jax.tree.map_with_path(lambda where, leaf: restore(path_name(where), leaf), template)
    if arrays:
        raise InnerloopError(f"{path} belongs to another configuration: it also holds {', '.join(sorted(arrays))}.")
    return restored
