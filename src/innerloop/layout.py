"""How the tasks of a meta-batch are laid out: sharded over devices, scanned in chunks, vmapped within a chunk.

The layout changes time and memory, not the result (beyond the order of a sum). A convolutional network on CPU wants one
device for each core and one task at a time, since a task's activations then stay in the cache; a tiny network wants all
tasks in one vmap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from innerloop.errors import InnerloopError

AXIS = "tasks"


@dataclass(frozen=True)
class Layout:
    """Shards x chunks x vmap.

    Args:
        shards: number of devices that the tasks are spread over.
        chunk: number of tasks that are vmapped together; the chunks of a shard are scanned. `None`: all at once.
    """

    shards: int = 1
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.shards < 1 or (self.chunk is not None and self.chunk < 1):
            raise InnerloopError(f"{self} is not a layout; use at least 1 shard and at least 1 task in a chunk.")

    def mesh(self) -> Mesh:
        """The devices as a mesh with the single axis `"tasks"`."""
        if self.shards > jax.device_count():
            raise InnerloopError(
                f"The layout asks for shards={self.shards}, but JAX sees {jax.device_count()} device(s); lower it, or "
                f"on a "
                f'CPU call jax.config.update("jax_num_cpu_devices", {self.shards}) before anything else.'
            )
        return jax.make_mesh((self.shards,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[: self.shards])

    def replicate(self, tree: Any) -> Any:
        """A copy of `tree` on every device of the layout.

        Give the first step of a sharded layout a replicated state and data: no step then has to move them, and the
        second call, whose state comes from the first, finds the compiled program.
        """
        return jax.device_put(tree, NamedSharding(self.mesh(), P()) if self.shards > 1 else None)

    def chunk_of(self, num_tasks: int) -> int:
        """The chunk for this number of tasks.

        Raises:
            InnerloopError: if the tasks do not divide evenly.
        """
        chunk = self.chunk or max(num_tasks // self.shards, 1)
        if num_tasks % (self.shards * chunk):
            raise InnerloopError(
                f"{num_tasks} tasks do not divide into {self.shards} shard(s) of chunks of {chunk}; "
                "choose a meta-batch that is a multiple of shards x chunk."
            )
        return chunk


def mean_over_tasks(function: Callable[[Any, Any], Any], layout: Layout) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The mean over tasks of a function's value and gradient.

    Args:
        function: `(shared, item) -> (scalar, metrics)` of one task, differentiated with respect to `shared[0]`.
        layout: how the tasks are laid out.

    Returns:
        `(shared, items) -> (gradient, metrics)` with `items` stacked over tasks, leaves `[tasks, ...]`.
    """

    def chunk_mean(learned: Any, rest: Any, items: Any) -> tuple[Any, Any]:
        values, metrics = vectorised(lambda item: function((learned, *rest), item), items)
        return jnp.mean(values), jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), metrics)

    def shard_mean(shared: Any, items: Any) -> tuple[Any, Any]:
        def chunk_gradient(items: Any) -> tuple[Any, Any]:
            return jax.grad(chunk_mean, has_aux=True)(shared[0], shared[1:], items)

        chunks = jax.tree.leaves(items)[0].shape[0]
        if chunks == 1:
            result = chunk_gradient(jax.tree.map(lambda leaf: leaf[0], items))
        else:
            start = jax.eval_shape(chunk_gradient, jax.tree.map(lambda leaf: leaf[0], items))
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), start)
            add = lambda total, chunk: (jax.tree.map(jnp.add, total, chunk_gradient(chunk)), None)  # noqa: E731
            total, _ = lax.scan(add, zeros, items)
            result = jax.tree.map(lambda leaf: leaf / chunks, total)
        return lax.pmean(result, AXIS) if layout.shards > 1 else result

    return _sharded(shard_mean, layout, P())


def map_over_tasks(function: Callable[[Any, Any], Any], layout: Layout) -> Callable[[Any, Any], Any]:
    """Apply a function to every task.

    Args:
        function: `(shared, item) -> result` of one task.
        layout: how the tasks are laid out.

    Returns:
        `(shared, items) -> results`, both stacked over tasks.
    """

    def shard_map(shared: Any, items: Any) -> Any:
        results = lax.map(lambda chunk: vectorised(lambda item: function(shared, item), chunk), items)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)

    return _sharded(shard_map, layout, P(AXIS))


def vectorised(function: Callable[[Any], Any], items: Any) -> Any:
    """`vmap`, except that a single task is computed without a task axis, which XLA does faster."""
    if jax.tree.leaves(items)[0].shape[0] > 1:
        return jax.vmap(function)(items)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], function(jax.tree.map(lambda leaf: leaf[0], items)))


def _sharded(function: Callable[[Any, Any], Any], layout: Layout, out: P) -> Callable[[Any, Any], Any]:
    """Run `function` on every shard with its items as `[chunks, chunk, ...]`."""

    def run(shared: Any, items: Any) -> Any:
        chunk = layout.chunk_of(jax.tree.leaves(items)[0].shape[0])
        chunked = jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), items)
        if layout.shards == 1:
            return function(shared, chunked)
        return jax.shard_map(function, mesh=layout.mesh(), in_specs=(P(), P(AXIS)), out_specs=out, check_vma=False)(
            shared, chunked
        )

    return run
