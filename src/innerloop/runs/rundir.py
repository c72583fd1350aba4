"""A run directory: all that one run was and gave, and the lock that keeps a second process out of it."""

import fcntl
import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors.numpy import load, save

from innerloop.errors import InnerloopError
from innerloop.files import LOCK, remove_partial, write_bytes, write_text
from innerloop.runs import codec, machine, sealed
from innerloop.runs.workload import Workload

FORMAT = 3
"""Of `config.json`; 3 is the first one that names its workload."""


class Beginning(NamedTuple):
    """A checkpoint of another run with which a run begins, and the SHA-256 of its state."""

    checkpoint: str
    sha256: str


@dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes:
        path: the directory.
        workload: the kind of run.
        config: the resolved configuration that it was started with.
        beginning: the checkpoint of another run that it goes on from; `None` if it begins with nothing.
    """

    path: Path
    workload: Workload[Any]
    config: Any
    beginning: Beginning | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """What was learned at the best validation scores."""
        return self.path / "best"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The exported model, which is all that another machine needs."""
        return self.path / "model"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, whole or not."""
        return any(self.checkpoints.glob("step-*"))

    def records(self) -> list[dict[str, Any]]:
        """What training recorded; a line that was cut off or damaged is left out."""
        if not self.metrics.exists():
            return []
        records = [record_of(line) for line in self.metrics.read_bytes().splitlines()]
        return [record for record in records if record is not None]

    def truncate_records(self, step: int) -> int:
        """Drop the records after `step`, which a resumed run writes again.

        Returns:
            How many lines were damaged, and are dropped with them.
        """
        lines = self.metrics.read_bytes().splitlines() if self.metrics.exists() else []
        found = [record_of(line) for line in lines]
        kept = [record for record in found if record is not None and record["step"] <= step]
        write_text(self.metrics, "".join(line_of(record) for record in kept))
        return sum(record is None for record in found)

    def result(self) -> dict[str, Any] | None:
        """The evaluation, or `None` if there is none, or it is damaged: then it is measured again."""
        try:
            result = sealed.read(self.path / "evaluation.json")
        except InnerloopError:
            return None
        return result if {"settings", "meta_steps", "remarks"} <= result.keys() else None

    def scores(self) -> dict[str, np.ndarray]:
        """The scores of single test tasks.

        Raises:
            InnerloopError: if there are none.
        """
        try:
            content = (self.path / "scores.safetensors").read_bytes()
            if (self.result() or {}).get("scores_sha256") != hashlib.sha256(content).hexdigest():
                raise ValueError
            return load(content)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise InnerloopError(
                f"{self.path} holds no scores of single tasks, or damaged ones; give: innerloop evaluate {self.path}"
            ) from error

    def write_result(self, values: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> None:
        """Keep an evaluation."""
        content = save({name: np.asarray(array) for name, array in scores.items()})
        write_bytes(self.path / "scores.safetensors", content)
        checksum = {"scores_sha256": hashlib.sha256(content).hexdigest()}
        sealed.write(self.path / "evaluation.json", {**values, **checksum})

    def costs(self) -> dict[str, Any]:
        """What compiling and a meta-step took; empty if that was not kept."""
        try:
            return sealed.read(self.path / "costs.json")
        except InnerloopError:
            return {}

    def write_costs(self, costs: Mapping[str, Any]) -> None:
        """Keep what compiling and a meta-step took."""
        sealed.write(self.path / "costs.json", costs)

    def environment(self) -> dict[str, Any]:
        """Command, commit, versions and machine of when the run was started.

        Raises:
            InnerloopError: if they are lost.
        """
        file = self.path / "environment.json"
        try:
            known = sealed.read(file)
            return {name: known[name] for name in ("command", "versions", "machine")} | known
        except (InnerloopError, KeyError) as error:
            raise InnerloopError(
                f"{file} is missing or damaged, so the report cannot say where its figures come from; "
                "restore that file."
            ) from error


def line_of(record: Mapping[str, Any]) -> str:
    """A record as a line of `metrics.jsonl`, which ends with a checksum of what stands before."""
    text = json.dumps(dict(record))
    return f'{text[:-1]}, "crc32": {zlib.crc32(text.encode())}}}\n'


def record_of(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or `None` if it is not what was written."""
    with suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            checksum = record.pop("crc32", None)
            return record if checksum == zlib.crc32(json.dumps(record).encode()) else None
    return None


def directory_of(workload: Workload[Any], config: Any) -> Path:
    """Where the run of a configuration lies; an algorithm that is the recipe's own is not named."""
    own = workload.configure(config.recipe, None).algorithm
    algorithm = "" if config.algorithm == own else f"-{config.algorithm}"
    return Path(config.run_dir or f"runs/{config.recipe}{algorithm}-seed{config.seed}")


def stored(path: Path, workloads: Mapping[str, Workload[Any]]) -> Run | None:
    """The run that a directory holds, or `None`.

    Raises:
        InnerloopError: if it is damaged, of another version, or of a kind that is not among the workloads.
    """
    file = path / "config.json"
    if not file.exists():
        return None
    values = sealed.read(file)
    if values.get("format") != FORMAT:
        raise InnerloopError(
            f"{path} was made by another version of innerloop (its config.json has the format {values.get('format')}, "
            f"this version reads {FORMAT}); finish it with that version, or train anew in another --run-dir."
        )
    name = values.get("workload")
    if not isinstance(name, str) or name not in workloads:
        raise InnerloopError(
            f"{path} is a run of the kind {name!r}, not {' or '.join(workloads)}; choose another --run-dir."
        )
    workload = workloads[name]
    try:
        beginning = Beginning(**values["from"]) if "from" in values else None
        return Run(path, workload, codec.decoded(workload.Config, values["config"]), beginning)
    except (InnerloopError, KeyError) as error:
        raise InnerloopError(f"{file} cannot be read: {error}") from error


def existing(path: Path, workloads: Mapping[str, Workload[Any]]) -> Run:
    """The run in a directory.

    Raises:
        InnerloopError: if there is none.
    """
    run = stored(path, workloads)
    if run is None:
        near = sorted(file.parent.name for file in path.parent.glob("*/config.json")) if path.parent.is_dir() else []
        mend = f"there are: {', '.join(near)}" if near else "start one with: innerloop train RECIPE"
        raise InnerloopError(f"{path} is no run directory (it has no config.json); {mend}.")
    return run


def create(path: Path, workload: Workload[Any], config: Any, beginning: Beginning | None = None) -> Run:
    """A new run directory, holding its configuration and environment."""
    path.mkdir(parents=True, exist_ok=True)
    environment = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["innerloop", *sys.argv[1:]],
        "seed": config.seed,
        "commit": machine.commit(),
        **machine.description(),
    }
    sealed.write(path / "environment.json", environment)
    _write_config(path, workload, config, beginning)
    return Run(path, workload, config, beginning)


def require_origin(run: Run, origin: Run) -> None:
    """Refuse to go on with a run that did not begin from the one that is asked for.

    Raises:
        InnerloopError: naming both.
    """
    begun = None if run.beginning is None else Path(run.beginning.checkpoint).parents[1]
    if begun != origin.path.resolve():
        how = "with nothing" if begun is None else f"from {begun}"
        raise InnerloopError(f"{run.path} began {how}, not from {origin.path}; choose another --run-dir.")


def prepare(path: Path, workload: Workload[Any], config: Any) -> None:
    """A directory in which `resume` starts the run of a configuration, perhaps in another process."""
    path.mkdir(parents=True, exist_ok=True)
    _write_config(path, workload, config)


def keep_devices(run: Run, config: Any) -> Run:
    """Note the number of devices that a run goes on with, if it is another one."""
    before, now = dict(codec.leaves(run.config)), dict(codec.leaves(config))
    other = {name: now[name] for name in codec.DEVICES if name in now and now[name] != before[name]}
    if other:
        _write_config(run.path, run.workload, codec.changed(run.config, other), run.beginning)
    return replace(run, config=config)


def _write_config(path: Path, workload: Workload[Any], config: Any, beginning: Beginning | None = None) -> None:
    values = {"format": FORMAT, "workload": workload.name, "config": codec.encoded(config)}
    sealed.write(path / "config.json", values if beginning is None else values | {"from": beginning._asdict()})


def continued(run: Run, config: Any, note: Callable[[str], None]) -> Any:
    """The configuration to go on with: the one that is asked for, with what was chosen when the run was started.

    The number of devices may be another one.

    Args:
        run: what goes on.
        config: what is asked for.
        note: told if the devices are others.

    Raises:
        InnerloopError: naming the settings that differ.
    """
    asked = dict(codec.leaves(config))
    chosen = {
        name: value
        for name, value in codec.leaves(run.config)
        if name.startswith("layout.") or (asked.get(name) in ("auto", -1) and not isinstance(asked[name], bool))
    }
    for name in codec.DEVICES:
        if asked.get(name) not in (None, 0, chosen.get(name)):
            note(
                f"--{codec.flag(name)} was {chosen[name]} and is now {asked[name]}; the tasks stay the same, but "
                "sums over them are rounded otherwise, so the bits are not those of before"
            )
            chosen[name] = asked[name]
    for name, value in chosen.items():
        if asked[name] not in (0, -1, "auto", value):
            raise InnerloopError(
                f"--{name} is {asked[name]}, but {run.path} was started with {value}, on which its bits depend; "
                "leave it out, or choose another --run-dir."
            )
    config = codec.changed(config, chosen)
    changes = codec.differences(config, run.config)
    if changes:
        raise InnerloopError(
            f"{run.path} was started with {', '.join(changes)}; give the same settings to continue it, or another "
            f"--run-dir."
        )
    return config


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep every other process out of a run directory; the lock vanishes with the process, however it ends.

    What a process that was killed left half written in it is removed; so is, at the end, a directory that was not
    there before and in which nothing was written.

    Raises:
        InnerloopError: if another process is in it.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("a+")
    except OSError as error:
        raise InnerloopError(
            f"The run directory {path} cannot be written ({error.strerror}); choose another --run-dir."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise InnerloopError(
                f"{path} is in use by the process {owner}; wait for it, stop it, or choose another --run-dir."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        remove_partial(path)
        try:
            yield
        finally:
            remove_partial(path)
            if new and [entry.name for entry in path.iterdir()] == [LOCK]:
                (path / LOCK).unlink()
                with suppress(OSError):
                    for folder in new:
                        folder.rmdir()
