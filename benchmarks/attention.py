r"""Attention in blocks beside JAX's own: temporary memory, time and error of a gradient and a Hessian-vector product.

python -m benchmarks.attention measure            the time hangs on the machine, so let it be idle
python -m benchmarks.attention write              the table of docs/streams.md
python -m benchmarks.attention write --check      exit with 1 if what is written is not up to date
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from benchmarks.pages import write_block
from innerloop import ops
from innerloop.runs import machine

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "attention.json", ROOT / "docs" / "streams.md"
LENGTH, HEADS, SIZE = 4096, 2, 32
TIMED = 5
"""Rounds in which both are run in turn; the quickest counts."""
WAYS = {"jax.nn": jax.nn.dot_product_attention, "ops": ops.dot_product_attention}


def derivatives(attention: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """What is measured, as functions of queries, keys and values."""
    value = lambda *qkv: jnp.mean(jnp.sin(3 * attention(*qkv, is_causal=True)))  # noqa: E731
    gradient = jax.grad(value, (0, 1, 2))
    return {
        "gradient": gradient,
        "Hessian-vector product": lambda *qkv: jax.jvp(gradient, qkv, jax.tree.map(jnp.cos, qkv))[1],
    }


def measure() -> None:
    """Measure both ways."""
    qkv = jax.random.normal(jax.random.key(0), (3, 1, LENGTH, HEADS, SIZE))
    rows = []
    for what in derivatives(WAYS["ops"]):
        compiled = {name: jax.jit(derivatives(way)[what]).lower(*qkv).compile() for name, way in WAYS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        found = {}
        for _ in range(TIMED):
            for name, program in compiled.items():
                start = time.perf_counter()
                found[name] = jax.block_until_ready(program(*qkv))
                seconds[name].append(time.perf_counter() - start)
        ours, theirs = (np.asarray(jax.flatten_util.ravel_pytree(found[name])[0]) for name in ("ops", "jax.nn"))
        row: dict[str, Any] = {"what": what, "error": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))}
        for name, program in compiled.items():
            row[name] = {"bytes": program.memory_analysis().temp_size_in_bytes, "seconds": min(seconds[name])}
        rows.append(row)
        print(row)
    result = {
        "command": "python -m benchmarks.attention measure",
        "commit": machine.commit(),
        "environment": machine.description(),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """Memory and time of both, and the error of ours against theirs."""
    known = result["environment"]["machine"]
    lines = [
        f"`{result['command']}`, commit {result['commit']}, {known['processor']} with {known['cores']} cores: "
        f"{LENGTH:,} positions, {HEADS} heads of {SIZE}, causal, single precision; memory is what the compiled program "
        "asks for beside its arguments and results.",
        "",
        "| | memory, `jax.nn` | in blocks | time, `jax.nn` | in blocks | relative difference |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        theirs, ours = row["jax.nn"], row["ops"]
        lines.append(
            f"| {row['what']} | {theirs['bytes'] / 2**20:,.0f} MiB | {ours['bytes'] / 2**20:,.1f} MiB "
            f"(1/{theirs['bytes'] / ours['bytes']:.0f}) | {theirs['seconds']:.2f} s | {ours['seconds']:.2f} s "
            f"({ours['seconds'] / theirs['seconds']:.2f}x) | {row['error']:.0e} |"
        )
    return "\n".join(lines)


def write(check: bool) -> int:
    """The table between its marks."""
    return write_block(PAGE, "attention", table(json.loads(RESULT.read_text())), check)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        sys.exit(write("--check" in sys.argv))
    machine.set_up()
    measure()
