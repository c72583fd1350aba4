"""One run in several processes, on one host or many: what they agree on. Without others, all of it does nothing.

Every process computes the tasks of its own devices. The first one reads and writes the run directory, so the others
need not see it; what it read is told to them.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs.codec import LARGEST, Bounds

LOST = ("Gloo", "NCCL", "Connection reset by peer", "coordination service", "CoordinationService")
"""Words in what JAX says when another process is gone."""


@dataclass(frozen=True)
class Together:
    """How the processes of a run find each other. What is left open is what Slurm, Kubernetes or Open MPI set."""

    coordinator: str | None = None
    """address and port of the first process, such as 10.0.0.1:1234"""
    processes: int | None = None
    """how many there are"""
    process: int | None = None
    """which one this is, from 0"""
    patience: Annotated[int, Bounds(5, LARGEST)] = 90
    """seconds to wait for a process that does not come, or no longer answers"""


class _Place:
    """Where this process stands among the others."""

    index, count, joined = 0, 1, False


def join(asked: Together) -> None:
    """Meet the other processes; before JAX computes anything.

    Raises:
        InnerloopError: if it is not known where and how many they are.
    """
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM away from us
    try:
        jax.distributed.initialize(
            asked.coordinator,
            asked.processes,
            asked.process,
            initialization_timeout=asked.patience,
            heartbeat_timeout_seconds=asked.patience,
            shutdown_timeout_seconds=asked.patience,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InnerloopError(
            f"--distributed does not know of the other processes ({error}); give --coordinator HOST:PORT, "
            "--processes N and --process I, or start it by Slurm, Kubernetes or Open MPI."
        ) from error
    _Place.index, _Place.count, _Place.joined = *_numbers(asked), True


def connect() -> None:
    """Open the connections between all devices, while the processes are still abreast of each other.

    Gloo waits for 30 seconds when a set of devices first computes together, and as long as it takes afterwards. Left to
    the first meta-step, one process whose compiler is half a minute slower than another's would end the run.
    """
    if _Place.count == 1:
        return
    import jax
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from_all(None)
    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    ones = np.ones(jax.device_count(), np.float32)
    spread = jax.make_array_from_callback(ones.shape, NamedSharding(mesh, PartitionSpec("all")), lambda i: ones[i])
    jax.block_until_ready(jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, PartitionSpec()))(spread))


def _numbers(asked: Together) -> tuple[int, int]:
    """Which process this is, and of how many, without starting JAX's devices."""
    if asked.processes is not None and asked.process is not None:
        return asked.process, asked.processes
    for index, count in (("SLURM_PROCID", "SLURM_NTASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")):
        if index in os.environ and count in os.environ:
            return int(os.environ[index]), int(os.environ[count])
    import jax

    return jax.process_index(), jax.process_count()


def leave() -> None:
    """Part from the other processes, once all are here."""
    if _Place.joined:
        import jax

        _Place.joined = False
        jax.distributed.shutdown()


def is_joined() -> bool:
    """Whether the other processes would notice if this one ended."""
    return _Place.joined


def is_first() -> bool:
    """Whether this process reads, writes and speaks for all."""
    return _Place.index == 0


def count() -> int:
    """How many processes there are."""
    return _Place.count


def described() -> str:
    """This process, in words."""
    return f"process {_Place.index} of {_Place.count}"


def is_lost(error: BaseException) -> bool:
    """Whether an error of JAX says that another process is gone."""
    return _Place.count > 1 and any(word in str(error) for word in LOST)


def require_devices(shards: int) -> None:
    """Refuse a layout of more devices than there are, or that leaves devices of some process without tasks.

    Raises:
        InnerloopError: naming both numbers.
    """
    import jax

    if _Place.count == 1 and shards > jax.device_count():
        raise InnerloopError(
            f"The tasks would be spread over {shards} devices, but there are {jax.device_count()} here; give "
            f"--layout.shards {jax.device_count()}."
        )
    if _Place.count > 1 and shards != jax.device_count():
        raise InnerloopError(
            f"The tasks would be spread over {shards} devices, but the {_Place.count} processes have "
            f"{jax.device_count()}; give --layout.shards {jax.device_count()} on all of them."
        )


def from_all(value: Any) -> list[Any]:
    """What every process has, as JSON values in their order."""
    if _Place.count == 1:
        return [value]
    from jax.experimental import multihost_utils

    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([content.size], np.int32)).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: content.size] = content
    found = multihost_utils.process_allgather(padded).reshape(_Place.count, -1)
    return [json.loads(row[:size].tobytes()) for row, size in zip(found, sizes, strict=True)]


def from_first(function: Callable[[], Any]) -> Any:
    """What a function of the first process returns, a JSON value; where it refuses, all do.

    Raises:
        InnerloopError: what the function raised.
    """
    if _Place.count == 1:
        return function()
    told, refused = None, ""
    if is_first():
        try:
            told = function()
        except InnerloopError as error:
            refused = str(error)
    told, refused = from_all([told, refused])[0]
    if refused:
        raise InnerloopError(refused)
    return told


def require_same(what: Mapping[str, Any]) -> None:
    """Refuse processes that differ in what their bits depend on.

    Args:
        what: JSON values by name.

    Raises:
        InnerloopError: in every process the same, naming the first difference.
    """
    first, *others = from_all(dict(what))
    for index, other in enumerate(others, 1):
        for name in dict.fromkeys([*first, *other]):
            if first.get(name) != other.get(name):
                raise InnerloopError(
                    f"The processes of this run differ in {name}: {first.get(name)!r} in process 0, "
                    f"{other.get(name)!r} in process {index}; make it the same on all of them."
                )


def agreed(stop: bool, due: bool, exhausted: bool) -> tuple[bool, bool, bool]:
    """Whether any process was asked to stop; what the first one finds of a checkpoint being due, of training's end."""
    if _Place.count == 1:
        return stop, due, exhausted
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.array([stop, due, exhausted], np.int32)).reshape(-1, 3)
    return bool(found[:, 0].any()), bool(found[0, 1]), bool(found[0, 2])


def content_from_first(content: bytes) -> bytes:
    """The first process's bytes, in every process."""
    if _Place.count == 1:
        return content
    from jax.experimental import multihost_utils

    size = from_all(len(content))[0]
    own = np.frombuffer(content, np.uint8) if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(own)).astype(np.uint8).tobytes()


def whole(tree: Any) -> Any:
    """Arrays that are divided among devices of several processes, whole on each; all processes must ask for it."""
    if _Place.count == 1:
        return tree
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.jit(lambda x: x, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)

    return jax.tree.map(of, tree)
