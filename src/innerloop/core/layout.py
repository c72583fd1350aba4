"""How the tasks of a meta-batch are laid out: sharded over devices, scanned in chunks, vmapped within a chunk.

The layout changes time and memory, not the result (beyond the order of a sum). A convolutional network on CPU wants one
device for each core and one task at a time, since a task's activations then stay in the cache; a tiny network wants all
tasks in one vmap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from innerloop.core.trees import as_arrays
from innerloop.errors import InnerloopError
from innerloop.ops import row_major

AXIS = "tasks"

Products: TypeAlias = Literal["auto", "row-major", "as-written"]
"""How matrix products are computed: by `ops.row_major`; as they are written; or the first on a CPU, else the second."""


@dataclass(frozen=True)
class Layout:
    """Shards x chunks x vmap.

    Args:
        shards: number of devices that the tasks are spread over.
        chunk: number of tasks that are vmapped together; the chunks of a shard are scanned. `None`: all at once.
        products: how matrix products are computed, see `Products`.
    """

    shards: int = 1
    chunk: int | None = None
    products: Products = "auto"

    def __post_init__(self) -> None:
        if self.shards < 1 or (self.chunk is not None and self.chunk < 1):
            raise InnerloopError(f"{self} is not a layout; use at least 1 shard and at least 1 task in a chunk.")
        if self.products not in get_args(Products):
            raise InnerloopError(f"products is {self.products!r}; it must be one of {', '.join(get_args(Products))}.")

    @property
    def rewrites_products(self) -> bool:
        """Whether matrix products are rewritten by `ops.row_major` on this machine."""
        return self.products == "row-major" or (self.products == "auto" and jax.default_backend() == "cpu")

    def fast_products(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its matrix products in the form that the layout says."""
        return row_major(function) if self.rewrites_products else function

    def mesh(self) -> Mesh:
        """The devices as a mesh with the single axis `"tasks"`.

        A loop on a CPU that goes on without waiting for its steps needs twice as many devices as shards: XLA launches
        and runs them with as many threads as there are devices (or cores, if more). From 32 steps in flight on, each
        shard keeps one thread waiting to launch; without others, the devices wait for each other for ever.

        Raises:
            InnerloopError: if JAX sees too few devices.
        """
        if self.shards > jax.device_count():
            raise InnerloopError(
                f"The layout asks for shards={self.shards}, but JAX sees {jax.device_count()} device(s); lower it, or "
                f'on a CPU call jax.config.update("jax_num_cpu_devices", {2 * self.shards}) before anything else.'
            )
        return jax.make_mesh((self.shards,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[: self.shards])

    def replicate(self, tree: Any) -> Any:
        """A copy of `tree` on every device of the layout.

        Give the first step of a sharded layout a replicated state and data: no step then has to move them, and the
        second call, whose state comes from the first, finds the compiled program.
        """
        return jax.device_put(tree, NamedSharding(self.mesh(), P()) if self.shards > 1 else None)

    def gather(self, tree: Any) -> Any:
        """A copy of `tree` on the first device of the layout, for what is computed outside of a sharded step.

        Otherwise every device would compute it, and on a CPU many small programs for several devices that wait for each
        other may wait for ever.
        """
        return jax.device_put(tree, self.mesh().devices[0]) if self.shards > 1 else tree

    def require(self, num_tasks: int) -> None:
        """Refuse a number of tasks that leaves shards empty or does not fill one chunk.

        Raises:
            InnerloopError: naming both numbers.
        """
        if num_tasks < self.shards:
            raise InnerloopError(f"The layout spreads {num_tasks} task(s) over shards={self.shards}; use fewer shards.")
        share = -(-num_tasks // self.shards)
        if self.chunk is not None and self.chunk > share:
            raise InnerloopError(
                f"The layout computes chunk={self.chunk} tasks at a time, but of {num_tasks} tasks each of "
                f"{self.shards} shard(s) has {share}; use a chunk of at most {share}."
            )


def mean_over_tasks(function: Callable[[Any, Any], Any], layout: Layout) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The mean over tasks of a function's value and gradient.

    Args:
        function: `(shared, item) -> (scalar, metrics)` of one task, differentiated with respect to `shared[0]`.
        layout: how the tasks are laid out. Tasks that do not fill the last chunk are filled up with others, which are
            computed and do not count.

    Returns:
        `(shared, items) -> (gradient, metrics)` with `items` stacked over tasks, leaves `[tasks, ...]`.
    """

    def chunk_sum(trainable: Any, rest: Any, items: Any, counts: Array) -> tuple[Any, Any]:
        def counted(leaf: Array) -> Array:
            return jnp.sum(jnp.where(counts.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, 0), axis=0)

        values, metrics = vectorised(lambda item: function((trainable, *rest), item), items)
        return counted(values), jax.tree.map(counted, metrics)

    gradient = jax.jit(layout.fast_products(jax.grad(chunk_sum, has_aux=True)))  # jit: traced once for shape and value

    def shard_sum(shared: Any, chunks: Any) -> tuple[Any, Any]:
        trainable, rest = shared[0], shared[1:]
        first = jax.tree.map(lambda leaf: leaf[0], chunks)
        if jax.tree.leaves(chunks)[0].shape[0] == 1:
            total = gradient(trainable, rest, *first)
        else:
            shapes = jax.eval_shape(gradient, trainable, rest, *first)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            add = lambda total, chunk: (jax.tree.map(jnp.add, total, gradient(trainable, rest, *chunk)), None)  # noqa: E731
            total, _ = lax.scan(add, zeros, chunks)
        return lax.psum(total, AXIS) if layout.shards > 1 else total

    def mean(shared: Any, items: Any) -> tuple[Any, Any]:
        shared, items = as_arrays((shared, items))
        number = jax.tree.leaves(items)[0].shape[0]
        layout.require(number)
        filled, counts = _filled(items, layout)
        total = _sharded(shard_sum, layout, P())(shared, (filled, counts))
        return jax.tree.map(lambda leaf: leaf / number, total)

    return mean


def map_over_tasks(function: Callable[[Any, Any], Any], layout: Layout) -> Callable[[Any, Any], Any]:
    """Apply a function to every task.

    Args:
        function: `(shared, item) -> result` of one task.
        layout: how the tasks are laid out.

    Returns:
        `(shared, items) -> results`, both stacked over tasks.
    """

    def shard_map(shared: Any, chunks: Any) -> Any:
        of_chunk = layout.fast_products(lambda chunk: vectorised(lambda item: function(shared, item), chunk))
        flat = lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])  # noqa: E731
        return jax.tree.map(flat, lax.map(of_chunk, chunks))

    def results(shared: Any, items: Any) -> Any:
        shared, items = as_arrays((shared, items))
        number = jax.tree.leaves(items)[0].shape[0]
        filled, _ = _filled(items, layout)
        return jax.tree.map(lambda leaf: leaf[:number], _sharded(shard_map, layout, P(AXIS))(shared, filled))

    return results


def vectorised(function: Callable[[Any], Any], items: Any) -> Any:
    """`vmap`, except that a single task is computed without a task axis, which XLA does faster."""
    if jax.tree.leaves(items)[0].shape[0] > 1:
        return jax.vmap(function)(items)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], function(jax.tree.map(lambda leaf: leaf[0], items)))


def _filled(items: Any, layout: Layout) -> tuple[Any, Array]:
    """The items as `[chunks, chunk, ...]` for all shards, filled up with the first ones, and which of them count."""
    number = jax.tree.leaves(items)[0].shape[0]
    share = -(-number // layout.shards)
    chunk = min(layout.chunk or share, share)
    whole = layout.shards * chunk
    places = jnp.arange(-(-number // whole) * whole)
    if places.size > number:
        items = jax.tree.map(lambda leaf: leaf[places % number], items)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, chunk, *leaf.shape[1:]), (items, places < number))


def _sharded(function: Callable[[Any, Any], Any], layout: Layout, out: P) -> Callable[[Any, Any], Any]:
    """Run `function` on every shard with its chunks."""
    if layout.shards == 1:
        return function
    return jax.shard_map(function, mesh=layout.mesh(), in_specs=(P(), P(AXIS)), out_specs=out, check_vma=False)
