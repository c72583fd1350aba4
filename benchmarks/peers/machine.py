"""What the machine can do, and what a compiled meta-step holds. Each function runs in a process of its own."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import innerloop as il
from benchmarks.peers.problems import OMNIGLOT, problem
from benchmarks.peers.with_innerloop import meta_loss_of, params_of, tasks_of
from innerloop.runs.machine import description

SIZE = 2048
"""Rows and columns of the matrices whose product is timed."""
REPEATS = 10

ACTIVATIONS = replace(OMNIGLOT, tasks=1, support=25, query=25, steps=20)
"""A meta-step whose activations dwarf its parameters."""
ADJOINTS = {
    "FirstOrder": il.FirstOrder(),
    "Mixed": il.Mixed(),
    **{f"Mixed(segment={m})": il.Mixed(segment=m) for m in (2, 4, 5, 10)},
    "Reverse": il.Reverse(),
}


def environment() -> dict[str, Any]:
    """Versions and hardware."""
    known = description()
    for name in ("torch", "higher", "torchopt"):
        with suppress(PackageNotFoundError):
            known["versions"][name] = version(name)
    return known


def jax_product_rate() -> float:
    """Operations per second of a large matrix product: the better of one device, and all of them."""
    multiply = jax.jit(jnp.matmul)
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    matrix = jnp.ones((SIZE, SIZE))
    rows, copies = (jax.device_put(matrix, NamedSharding(mesh, spec)) for spec in (P("rows"), P()))
    return max(
        _rate(lambda pair=pair: multiply(*pair).block_until_ready()) for pair in ((matrix, matrix), (rows, copies))
    )


def torch_product_rate() -> float:
    """The same in PyTorch, with the threads that it takes by itself."""
    import torch

    matrix = torch.ones(SIZE, SIZE)
    return _rate(lambda: matrix @ matrix)


def _rate(multiply: Callable[[], object]) -> float:
    """Operations per second at the best of some repeats."""
    multiply()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(times)


def temporary_memory() -> dict[str, int]:
    """Temporary bytes of the meta-step `ACTIVATIONS` under each adjoint, by XLA's own account."""
    numbers = problem(ACTIVATIONS)

    def temporary(adjoint: il.Adjoint) -> int:
        gradient = jax.jit(il.meta_gradient(meta_loss_of(ACTIVATIONS, adjoint)))
        compiled = gradient.lower(il.Meta(params_of(numbers), ()), tasks_of(numbers), jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    return {name: temporary(adjoint) for name, adjoint in ADJOINTS.items()}
