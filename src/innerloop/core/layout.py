"""How the tasks of a meta-batch are laid out: sharded over devices, scanned in chunks, vmapped within a chunk.

The layout changes time and memory, not the result (beyond the order of a sum). A convolutional network on CPU wants one
device for each core and one task at a time, since a task's activations then stay in the cache; a tiny network wants all
tasks in one vmap.

The devices may belong to several processes, on several hosts: see `jax.distributed`. Every process then calls the same
functions in the same order, and each computes the tasks of its own devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from innerloop.core.devices import is_key, own_copy, placed, sum_over_shards
from innerloop.core.trees import as_arrays
from innerloop.errors import InnerloopError
from innerloop.ops import row_major

AXIS = "tasks"
PARAMETERS = "parameters"

Products: TypeAlias = Literal["auto", "row-major", "as-written"]
"""How matrix products are computed: by `ops.row_major`; as they are written; or the first on a CPU, else the second."""


@dataclass(frozen=True)
class Layout:
    """Shards x chunks x vmap.

    Args:
        shards: number of devices that the tasks are spread over.
        chunk: number of tasks that are vmapped together; the chunks of a shard are scanned. `None`: all at once.
        products: how matrix products are computed, see `Products`.
        parameters: number of devices among which what is learned and the optimiser's state are divided between
            meta-steps; each group of so many holds them once. A meta-step still needs them whole for its time.
    """

    shards: int = 1
    chunk: int | None = None
    products: Products = "auto"
    parameters: int = 1

    def __post_init__(self) -> None:
        if self.shards < 1 or (self.chunk is not None and self.chunk < 1):
            raise InnerloopError(f"{self} is not a layout; use at least 1 shard and at least 1 task in a chunk.")
        if self.parameters < 1 or self.shards % self.parameters:
            raise InnerloopError(
                f"The layout divides parameters among {self.parameters} of {self.shards} shard(s); the number of "
                "shards must be a multiple of it."
            )
        if self.products not in get_args(Products):
            raise InnerloopError(f"products is {self.products!r}; it must be one of {', '.join(get_args(Products))}.")

    @property
    def rewrites_products(self) -> bool:
        """Whether matrix products are rewritten by `ops.row_major` on this machine."""
        return self.products == "row-major" or (self.products == "auto" and jax.default_backend() == "cpu")

    def fast_products(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with its matrix products in the form that the layout says."""
        return row_major(function) if self.rewrites_products else function

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of the mesh, over all of which tasks are spread."""
        return (AXIS,) if self.parameters == 1 else (AXIS, PARAMETERS)

    def mesh(self) -> Mesh:
        """The devices as a mesh with the axis `"tasks"`, and with `"parameters"` where these are divided.

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
        sizes = (self.shards,) if self.parameters == 1 else (self.shards // self.parameters, self.parameters)
        kinds = (AxisType.Auto,) * len(sizes)
        return jax.make_mesh(sizes, self.axes, axis_types=kinds, devices=jax.devices()[: self.shards])

    def replicate(self, tree: Any) -> Any:
        """A copy of `tree` on every device of the layout.

        Give the first step of a sharded layout a replicated state and data: no step then has to move them, and the
        second call, whose state comes from the first, finds the compiled program.
        """
        if (sharding := self.whole) is None:
            return jax.device_put(tree)
        return jax.tree.map(lambda leaf: placed(leaf, sharding), tree)

    def divide(self, tree: Any) -> Any:
        """A training's state, or a part of it, on the devices of the layout: whole on each, or divided.

        What a device holds of an array then is the same as after `meta_step`.
        """
        if self.parameters == 1:
            return self.replicate(tree)
        return jax.tree.map(lambda leaf: placed(leaf, self._divided(leaf)), tree)

    def keep_divided(self, tree: Any) -> Any:
        """The same inside a compiled function: `tree` comes out as `divide` would place it."""
        if self.parameters == 1:
            return tree
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, self._divided(leaf)), tree)

    def _divided(self, leaf: Any) -> NamedSharding:
        """The first axis whose size the number of devices divides is divided; without one, the array stays whole."""
        sizes = () if is_key(leaf) else jnp.shape(leaf)
        place = next((axis for axis, size in enumerate(sizes) if size and size % self.parameters == 0), None)
        spec = P() if place is None else P(*(None,) * place, PARAMETERS)
        return NamedSharding(self.mesh(), spec)

    @property
    def whole(self) -> NamedSharding | None:
        """How an array lies of which every device of the layout has all; of a single device nothing is said."""
        return None if self.shards == 1 else NamedSharding(self.mesh(), P())

    def everywhere(self, tree: Any) -> Any:
        """Inside a compiled function: the same values whole on every device.

        What is summed afterwards is summed in one order, however the devices are spread over processes.
        """
        if (sharding := self.whole) is None:
            return tree
        return jax.tree.map(lambda leaf: lax.with_sharding_constraint(leaf, sharding), tree)

    def gather(self, tree: Any) -> Any:
        """A copy of `tree` on the first device of this process, for what is computed outside of a sharded step.

        Otherwise every device would compute it, and on a CPU many small programs for several devices that wait for each
        other may wait for ever.
        """
        if self.shards == 1:
            return tree
        if jax.process_count() == 1:
            return jax.device_put(tree, self.mesh().devices.flat[0])
        return jax.tree.map(own_copy, tree)

    def own_share(self, number: int) -> slice:
        """Which of so many tasks fall to this process.

        Raises:
            InnerloopError: if they do not divide among the devices.
        """
        if jax.process_count() == 1:
            return slice(0, number)
        if number % self.shards or self.shards != jax.device_count():
            raise InnerloopError(
                f"{number} tasks do not divide among {jax.device_count()} devices of {jax.process_count()} processes "
                f"(shards={self.shards}); change the number of tasks."
            )
        share = number // jax.process_count()
        return slice(jax.process_index() * share, (jax.process_index() + 1) * share)

    def joined(self, tree: Any, number: int) -> Any:
        """From each process's share of so many tasks, leaves `[share, ...]`, to arrays over all tasks and devices."""
        if self.shards == 1:
            return tree
        if jax.process_count() == 1 and number % self.shards:
            return self.replicate(tree)
        sharding = NamedSharding(self.mesh(), P(self.axes))
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        place = lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf))  # noqa: E731
        return jax.tree.map(place, tree)

    def told(self, tree: Any) -> Any:
        """From each process's share of the tasks, leaves `[share, ...]`, to all `[tasks, ...]` in every process."""
        if jax.process_count() == 1:
            return tree
        return jax.tree.map(jnp.asarray, multihost_utils.process_allgather(tree, tiled=True))

    def within(self, devices: int) -> "Layout":
        """The layout for what a process with so many devices computes alone, of a run of many."""
        if self.shards <= devices:
            return self
        return Layout(devices, self.chunk, self.products)

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
        return total if layout.shards == 1 else sum_over_shards(total, layout.axes, layout.shards)

    def mean(shared: Any, items: Any) -> tuple[Any, Any]:
        shared, items = as_arrays((shared, items))
        number = jax.tree.leaves(items)[0].shape[0]
        layout.require(number)
        filled, counts = _filled(items, layout)
        total = _sharded(shard_sum, layout, P(), P())(shared, (filled, counts))
        return jax.tree.map(lambda leaf: leaf / number, total)

    return mean


def map_over_tasks(
    function: Callable[[Any, Any], Any], layout: Layout, *, transposed: bool = False
) -> Callable[[Any, Any], Any]:
    """Apply a function to every task.

    Args:
        function: `(shared, item) -> result` of one task.
        layout: how the tasks are laid out.
        transposed: whether it is to be differentiated in reverse: then the parts of `shared`'s derivative that come
            from several devices are summed in one order, however these are spread over processes. Each device gets a
            copy of `shared` for each shard, so it must be small.

    Returns:
        `(shared, items) -> results`, both stacked over tasks.
    """
    copies = transposed and layout.shards > 1

    def shard_map(shared: Any, chunks: Any) -> Any:
        if copies:
            shared = jax.tree.map(lambda leaf: leaf[0], shared)
        of_chunk = layout.fast_products(lambda chunk: vectorised(lambda item: function(shared, item), chunk))
        flat = lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:])  # noqa: E731
        return jax.tree.map(flat, lax.map(of_chunk, chunks))

    def results(shared: Any, items: Any) -> Any:
        shared, items = as_arrays((shared, items))
        number = jax.tree.leaves(items)[0].shape[0]
        filled, _ = _filled(items, layout)
        if copies:
            shared = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (layout.shards, *jnp.shape(leaf))), shared)
            shared = layout.everywhere(shared)
        of_shared = P(layout.axes) if copies else P()
        found = _sharded(shard_map, layout, P(layout.axes), of_shared)(shared, filled)
        return jax.tree.map(lambda leaf: leaf[:number], found)

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


def _sharded(function: Callable[[Any, Any], Any], layout: Layout, out: P, shared: P) -> Callable[[Any, Any], Any]:
    """Run `function` on every shard with its chunks."""
    if layout.shards == 1:
        return function
    specs = (shared, P(layout.axes))
    return jax.shard_map(function, mesh=layout.mesh(), in_specs=specs, out_specs=out, check_vma=False)
