r"""LoRA inside: temporary memory of exact meta-gradients through AdamW steps in a transformer of 12 layers, and errors.

    python -m benchmarks.lora measure            about ten minutes, nearly all of it compilation
    python -m benchmarks.lora write              the table of docs/streams.md
    python -m benchmarks.lora write --check      exit with 1 if what is written is not up to date

Memory is what the compiled program asks for beside its arguments and results. Errors are of the meta-gradient in double
precision.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.pages import write_block
from innerloop import Adjoint, Examples, FirstOrder, Meta, Mixed, Reverse, Task, losses, meta_loss, models, rules
from innerloop.runs import machine

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "lora.json", ROOT / "docs" / "streams.md"
TRANSFORMER = models.TransformerDescription(vocabulary=256, width=64, layers=12, heads=4, length=128)
SEQUENCES, RANK, STEPS = 8, 4, 4
ADJOINTS: dict[str, tuple[Adjoint, int]] = {
    "first-order": (FirstOrder(), 1),
    "exact": (Mixed(unroll=0), STEPS),
    "Reverse": (Reverse(), STEPS),
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocks recomputed": {"recompute": True},
    "2 micro-batches": {"parts": 2},
    "blocks recomputed, 2 micro-batches": {"recompute": True, "parts": 2},
}


def gradient(adjoint: Adjoint, steps: int, *, frozen: bool, recompute: bool = False, parts: int = 1) -> Any:
    """The compiled meta-gradient of one task, and its arguments."""
    plain = models.transformer(TRANSFORMER, recompute=recompute)
    rule = rules.masked(rules.from_optax(optax.adamw(1e-2, eps_root=1e-8)), lambda path, leaf: path.startswith("lora/"))
    where = lambda path, leaf: path.endswith(("query/kernel", "value/kernel"))  # noqa: E731
    weights = plain.init(jax.random.key(0))

    def value(params: Any, weights: Any, task: Task) -> Any:
        model = models.lora(plain, where, RANK, frozen=weights if frozen else None)
        loss = losses.micro_batched(losses.supervised(model, losses.cross_entropy), parts)
        return meta_loss(loss, rule=rule, steps=steps, adjoint=adjoint)(Meta(params, ()), task, jax.random.key(3))[0]

    tokens = jax.random.randint(jax.random.key(1), (2, SEQUENCES, TRANSFORMER.length + 1), 0, TRANSFORMER.vocabulary)
    task = Task(*(Examples(part[:, :-1], part[:, 1:]) for part in tokens))
    params = models.lora(plain, where, RANK, frozen=weights if frozen else None).init(jax.random.key(0))
    noise = lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(2), leaf.shape)  # noqa: E731
    params["lora"] = jax.tree.map(noise, params["lora"])
    params, weights = jax.tree.map(lambda leaf: leaf.astype(jnp.result_type(float)), (params, weights))
    arguments = params, weights if frozen else None, task
    return jax.jit(jax.grad(value)).lower(*arguments).compile(), arguments


def measure() -> None:
    """Memory of every way and, in double precision, the errors."""
    rows: list[dict[str, Any]] = []
    for frozen in (True, False):
        for way, options in WAYS.items():
            row: dict[str, Any] = {"frozen": frozen, "way": way}
            for name, (adjoint, steps) in ADJOINTS.items():
                if name != "Reverse" or way == "plain":
                    compiled, _ = gradient(adjoint, steps, frozen=frozen, **options)
                    row[name] = compiled.memory_analysis().temp_size_in_bytes
            rows.append(row)
            print(row, flush=True)
    with jax.enable_x64(True):
        found = {}
        asked = {"Reverse": (Reverse(), 1), "exact": (Mixed(unroll=0), 1), "micro-batches": (Mixed(unroll=0), 2)}
        for name, (adjoint, parts) in asked.items():
            compiled, arguments = gradient(adjoint, STEPS, frozen=True, parts=parts, recompute=True)
            found[name] = np.asarray(jax.flatten_util.ravel_pytree(compiled(*arguments))[0])
    errors = {
        f"{name} against {reference}": float(
            np.linalg.norm(found[name] - found[reference]) / np.linalg.norm(found[reference])
        )
        for name, reference in (("exact", "Reverse"), ("micro-batches", "exact"))
    }
    print(errors)
    result = {
        "command": "python -m benchmarks.lora measure",
        "commit": machine.commit(),
        "environment": machine.description(),
        "rows": rows,
        "errors": errors,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """Memory, and how much more the exact steps take than the first-order one."""
    known = result["environment"]["machine"]
    errors = result["errors"]
    plain = {row["frozen"]: row for row in result["rows"] if row["way"] == "plain"}
    lines = [
        f"`{result['command']}`, commit {result['commit']}, {known['processor']} with {known['cores']} cores: "
        f"{TRANSFORMER.layers} layers of width {TRANSFORMER.width}, {SEQUENCES} sequences of {TRANSFORMER.length} "
        f"tokens, rank {RANK} in queries and values, {STEPS} AdamW steps; temporary memory of the compiled "
        "meta-gradient. One first-order step is `FirstOrder()` with a single inner step. In double precision the "
        f"exact meta-gradient differs from that of `Reverse` by {errors['exact against Reverse']:.0e}, and two "
        f"micro-batches from one batch by {errors['micro-batches against exact']:.0e}.",
        "",
        f"| pretrained weights | | one first-order step | {STEPS} exact steps | as a multiple | of the plain one |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        first, exact = row["first-order"], row["exact"]
        lines += [
            f"| {'frozen' if row['frozen'] else 'meta-learned'} | {row['way']} | {first / 2**20:,.0f} MiB | "
            f"{exact / 2**20:,.0f} MiB | {exact / first:.2f}x | "
            f"{exact / plain[row['frozen']]['first-order']:.2f}x |"
        ]
    reverse = ", ".join(
        f"{plain[frozen]['Reverse'] / 2**20:,.0f} MiB {'frozen' if frozen else 'meta-learned'}"
        for frozen in (True, False)
    )
    return "\n".join([*lines, "", f"`Reverse` takes {reverse} where nothing is recomputed."])


def write(check: bool) -> int:
    """The table between its marks."""
    return write_block(PAGE, "lora", table(json.loads(RESULT.read_text())), check)


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        sys.exit(write("--check" in sys.argv))
    machine.set_up()
    measure()
