"""The machine that a run computes on: how JAX is set up for it, what it is called, what memory it has."""

import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from innerloop import programs
from innerloop.errors import InnerloopError
from innerloop.runs import distributed

PACKAGES = ("innerloop", "jax", "jaxlib", "numpy", "optax", "safetensors")
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""Where a container's limit and use stand, in the second and the first version of control groups."""


def set_up(shards: int = 0, precision: str = "float32", parameters: int = 0) -> None:
    """Prepare JAX: one CPU device for each shard, and compiled programs kept between sittings.

    Must come before JAX computes anything.

    Args:
        shards: devices that tasks are spread over; 0 for as many as there are cores.
        precision: in which the network computes.
        parameters: devices that these are divided among.

    Raises:
        InnerloopError: if the device does not compute in that.
    """
    import jax

    devices = -(-shards // distributed.count()) or max(cores(), -(-parameters // distributed.count()))
    if distributed.count() > 1:  # XLA cuts some sums by the number of its threads: as many as one process would have
        os.environ["NPROC"] = str(max(cores(), devices * distributed.count()))
    if jax.config.jax_num_cpu_devices < devices:  # pyright: ignore[reportAttributeAccessIssue]
        with suppress(RuntimeError):  # JAX runs already, and the layout says that there are too few
            jax.config.update("jax_num_cpu_devices", devices)
    if precision == "float64":
        jax.config.update("jax_enable_x64", True)
    _require_precision(precision)
    cache = programs.folder()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        programs.keep_in(cache)
    warnings.filterwarnings("ignore", message="Some donated buffers were not usable")


def _require_precision(precision: str) -> None:
    import jax
    import jax.numpy as jnp

    try:
        number = jnp.ones((2, 2), precision)
        jax.block_until_ready(number @ number)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InnerloopError(
            f"--network.precision is {precision}, which {jax.devices()[0].device_kind} does not compute in; choose "
            "float32."
        ) from error


class Clock:
    """Seconds."""

    seconds = 0.0


@contextmanager
def compile_clock() -> Iterator[Clock]:
    """The time of what is compiled inside, as it is when nothing was compiled before.

    What comes from the cache of compiled programs counts with the time that compiling it took.
    """
    import jax

    clock, start = Clock(), time.perf_counter()

    def saved(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/compilation_cache/compile_time_saved_sec":
            clock.seconds += duration_secs

    jax.monitoring.register_event_duration_secs_listener(saved)
    try:
        yield clock
    finally:
        jax.monitoring.unregister_event_duration_listener(saved)
        clock.seconds += time.perf_counter() - start


def memory_limit() -> int:
    """The bytes of memory that this process and its like may use: the machine's, or its container's if that is less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [limit for limit, _ in map(_container, CGROUPS) if limit is not None]
    return min([machine, *limits])


def free_memory() -> int:
    """The bytes of memory that are free now, in the machine and in its container."""
    info = Path("/proc/meminfo")
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        free = 1024 * int(lines["MemAvailable"].split()[0])
    left = [limit - used for limit, used in map(_container, CGROUPS) if limit is not None and used is not None]
    return max(min([free, *left]), 0)


def _container(files: tuple[Path, Path]) -> tuple[int | None, int | None]:
    """The limit of this process's container and what is used of it, where there is such a limit."""
    numbers = []
    for file in files:
        try:
            numbers.append(int(file.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            numbers.append(None)
    return numbers[0], numbers[1]


def device_memory() -> int:
    """The bytes of memory of one device; of a CPU, the share that falls to each of its devices."""
    import jax

    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return int((device.memory_stats() or {}).get("bytes_limit", 2**63))
    return memory_limit() // jax.local_device_count()


def description() -> dict[str, Any]:
    """Versions and hardware."""
    import jax

    devices = jax.devices()
    return {
        "versions": versions(),
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": cores(),
            "platform": devices[0].platform,
            "devices": [device.device_kind for device in devices],
        },
    }


def versions() -> dict[str, str | None]:
    """Of Python and of what the bits of a run depend on."""
    return {"python": platform.python_version(), **{name: _installed(name) for name in PACKAGES}}


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of the source tree that innerloop runs from, marked if it has changes.

    A copy without its repository, as in a container, is of the commit in `INNERLOOP_COMMIT`; without that, `None`.
    """
    source = Path(__file__).parents[1]
    git = ["git", "-C", str(source)]
    try:
        ours = [*git, "ls-files", "--error-unmatch", __file__]  # not a repository that merely surrounds an installation
        subprocess.run(ours, capture_output=True, check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", str(source)], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("INNERLOOP_COMMIT")
    return f"{head} (with changes)" if changes.stdout.strip() else head


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
