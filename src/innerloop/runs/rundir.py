"""A run directory: all that one experiment was and gave, and the lock that keeps a second process out of it."""

import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from innerloop.errors import InnerloopError
from innerloop.workloads.episodes.config import differences
from innerloop.workloads.kinds import AnyConfig, from_json, to_json


@dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes:
        path: the directory.
        config: the resolved configuration it was started with.
    """

    path: Path
    config: Any

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.safetensors"

    @property
    def costs(self) -> Path:
        return self.path / "costs.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def records(self) -> list[dict[str, Any]]:
        """What training recorded; a line that was cut off or damaged is left out."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_bytes().splitlines():
            with suppress(ValueError):
                records.append(json.loads(line))
        return [each for each in records if isinstance(each, dict) and isinstance(each.get("step"), int)]

    def result(self) -> dict[str, Any] | None:
        """The evaluation, or `None` if there is no whole one."""
        try:
            result = json.loads(self.evaluation.read_bytes())
            return result if {"tables", "settings", "meta_steps"} <= result.keys() else None
        except (OSError, ValueError, AttributeError):
            return None

    def known(self) -> dict[str, Any]:
        """What was known of versions and machine when the run was started.

        Raises:
            InnerloopError: if it is lost.
        """
        try:
            known = json.loads(self.environment.read_bytes())
            return {name: known[name] for name in ("command", "versions", "machine")} | known
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise InnerloopError(
                f"{self.environment} is missing or damaged, so the report cannot say where its figures come from; "
                "restore that file."
            ) from error

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, whole or not."""
        return any(self.checkpoints.glob("step-*"))

    def truncate_records(self, step: int) -> None:
        """Drop the records after `step`, which a resumed run writes again."""
        kept = [record for record in self.records() if record["step"] <= step]
        write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))


def directory_of(config: AnyConfig) -> Path:
    """Where the run of a configuration lies."""
    algorithm = "" if config.algorithm == "maml" else f"-{config.algorithm}"
    return Path(config.run_dir or f"runs/{config.recipe}{algorithm}-seed{config.seed}")


def stored(path: Path) -> Run | None:
    """The run that a directory holds, or `None`."""
    file = path / "config.json"
    try:
        return Run(path, from_json(file.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (InnerloopError, OSError, UnicodeDecodeError) as error:
        raise InnerloopError(f"{file} cannot be read: {error}") from error


def existing(path: Path) -> Run:
    """The run in a directory.

    Raises:
        InnerloopError: if there is none.
    """
    run = stored(path)
    if run is None:
        near = sorted(each.parent.name for each in path.parent.glob("*/config.json")) if path.parent.is_dir() else []
        mend = f"there are: {', '.join(near)}" if near else "start one with: innerloop train RECIPE"
        raise InnerloopError(f"{path} is no run directory (it has no config.json); {mend}.")
    return run


def create(path: Path, config: AnyConfig) -> Run:
    """A new run directory, holding its configuration and environment."""
    path.mkdir(parents=True, exist_ok=True)
    run = Run(path, config)
    write_text(run.environment, json.dumps(environment(config), indent=2))
    write_text(path / "config.json", to_json(config))
    return run


def require_same(run: Run, config: Any) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        InnerloopError: naming the settings that differ.
    """
    for name, asked in asdict(config.layout).items():
        resolved = getattr(run.config.layout, name)
        if asked not in (0, "auto", resolved):
            raise InnerloopError(
                f"--layout.{name} is {asked}, but {run.path} was started with {resolved}, on which its bits depend; "
                "leave it out, or choose another --run-dir."
            )
    config = replace(config, layout=run.config.layout)
    changed = differences(config, run.config)
    if changed:
        raise InnerloopError(
            f"{run.path} was started with {', '.join(changed)}; give the same settings to continue it, or another "
            f"--run-dir."
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep every other process out of a run directory; the lock vanishes with the process, however it ends.

    A directory that was not there before, and in which nothing was written, is removed again.

    Raises:
        InnerloopError: if another process is in it.
    """
    new = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / ".lock").open("a+")
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
        try:
            yield
        finally:
            if new and [each.name for each in path.iterdir()] == [".lock"]:
                (path / ".lock").unlink()
                with suppress(OSError):
                    for each in new:
                        each.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InnerloopError: if it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InnerloopError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InnerloopError(
            f"{path} could not be written ({error.strerror}); mend that and give the same command again."
        ) from error


def environment(config: AnyConfig) -> dict[str, Any]:
    """What the figures of a run depend on beyond its configuration."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["innerloop", *sys.argv[1:]],
        "seed": config.seed,
        "commit": commit(),
        **environment_of_machine(),
    }


def environment_of_machine() -> dict[str, Any]:
    """Versions and hardware."""
    import jax

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    devices = jax.devices()
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("innerloop", "jax", "jaxlib", "numpy", "optax", "safetensors")},
        },
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": cores(),
            "platform": devices[0].platform,
            "devices": [device.device_kind for device in devices],
        },
    }


def commit() -> str | None:
    """The commit of the source tree that innerloop runs from, marked if it has changes; `None` if there is none."""
    source = Path(__file__).parent
    git = ["git", "-C", str(source)]
    try:
        ours = [*git, "ls-files", "--error-unmatch", __file__]  # not a repository that merely surrounds an installation
        subprocess.run(ours, capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", str(source)], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head} (with changes)" if changes.stdout.strip() else head


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
