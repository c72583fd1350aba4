# ruff: noqa: E501
"""What a meta-step takes on 8, 64 and 512 devices, on paper: docs/scale.md from benchmarks/results/scale.json.

    python -m benchmarks.scale            write the page
    python -m benchmarks.scale --check    exit with 1 if the page is not what the results say
    python -m benchmarks.scale count      count floating-point operations and bytes anew

Operations and bytes are those of the lowered program of one task's meta-gradient, by XLA's account; time on one device
is that of the training runs under benchmarks/results/ on the same card. The rest is arithmetic that the page shows.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import innerloop as il
from innerloop import rules
from innerloop.core.outer import meta_gradient
from innerloop.runs import machine
from innerloop.workloads.episodes import recipes
from innerloop.workloads.episodes.network import network

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RESULT, PAGE = RESULTS / "scale.json", ROOT / "docs" / "scale.md"
MEASURED = "omniglot-20way-1shot-maml-seed0.json"
IMAGES = {"omniglot-20way-1shot": (28, 28, 1), "miniimagenet-5way-1shot": (84, 84, 3)}
DEVICES = (1, 8, 64, 512)
WIDTH, LAYERS, RANK, TOKENS, SUPPORT, QUERY, STEPS = 2048, 20, 16, 512, 4, 4, 5
WITHIN, ACROSS, HOST = 450e9, 50e9, 8
"""Bytes a second that a device sends within a host of eight and between hosts, by their makers' account."""
LATENCY = 20e-6
"""Seconds that a collective takes to begin, for each doubling of the number of devices."""
DENSE = 0.4
"""Share of its peak at which a large transformer's products run, as is usual."""
PEAK = 989e12
"""bfloat16 operations a second of one H200, dense, by its maker's account."""


def cost(function: Any, *arguments: Any) -> dict[str, float]:
    """Operations and bytes of a lowered program."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments)
    found = jax.jit(function).lower(*shapes).cost_analysis() or {}
    return {"flops": float(found["flops"]), "bytes": float(found["bytes accessed"])}


def of_recipe(name: str) -> dict[str, Any]:
    """One task of a recipe, all inner steps unrolled."""
    config = recipes.configure(name, None)
    ways, queries, size = config.tasks.ways, config.tasks.queries, IMAGES[name]
    model = network(config, outputs=ways)
    loss = il.losses.supervised(model, il.losses.cross_entropy)
    rule = rules.sgd(config.inner.learning_rate)
    meta_loss = il.meta_loss(loss, rule=rule, steps=config.inner.steps, adjoint=il.Mixed(unroll=config.inner.steps))
    params = jax.eval_shape(model.init, jax.random.key(0))
    images = lambda number: jax.ShapeDtypeStruct((1, ways * number, *size), jnp.float32)  # noqa: E731
    labels = lambda number: jax.ShapeDtypeStruct((1, ways * number), jnp.int32)  # noqa: E731
    task = il.Task(
        il.Examples(images(config.tasks.shots), labels(config.tasks.shots)),
        il.Examples(images(queries), labels(queries)),
    )
    found = cost(meta_gradient(meta_loss), il.Meta(params, ()), task, jax.random.key(0))
    number = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
    return {**found, "learned": number, "meta_batch": config.outer.meta_batch, "inner_steps": config.inner.steps}


def block(base: Any, lora: Any, x: Any) -> Any:
    """A decoder block without biases, its six matrices each with a low-rank addition."""

    def product(name: str, x: Any) -> Any:
        return x @ base[name] + (x @ lora[name]["a"]) @ lora[name]["b"]

    def normal(x: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)

    heads = lambda x: x.reshape(*x.shape[:-1], WIDTH // 128, 128)  # noqa: E731
    h = normal(x)
    q, k, v = (heads(product(name, h)) for name in "qkv")
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(128)
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v).reshape(x.shape)
    x = x + product("o", mixed)
    return x + product("down", jax.nn.gelu(product("up", normal(x))))


def of_layers(layers: int, *, base_learned: bool) -> dict[str, float]:
    """One task of a transformer of so many layers, whose low-rank additions the inner loop adapts."""
    sizes = dict.fromkeys("qkvo", (WIDTH, WIDTH)) | {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    shape = lambda *size: jax.ShapeDtypeStruct(size, jnp.float32)  # noqa: E731
    base = [{name: shape(*size) for name, size in sizes.items()} for _ in range(layers)]
    lora = [{name: {"a": shape(a, RANK), "b": shape(RANK, b)} for name, (a, b) in sizes.items()} for _ in range(layers)]

    def gradient(base: Any, lora: Any, support: Any, query: Any) -> Any:
        def outer(base: Any, lora: Any) -> Any:
            def loss(params: Any, batch: Any, key: Any) -> Any:
                x = batch
                for one, added in zip(base, params, strict=True):
                    x = block(one, added, x)
                return jnp.mean(x**2), {}

            adapted = il.adapt(
                loss, il.Meta(lora, ()), support, jax.random.key(0), rule=rules.sgd(0.1), steps=STEPS,
                adjoint=il.Mixed(unroll=STEPS),
            )  # fmt: skip
            return loss(adapted.params, query, None)[0]

        return jax.grad(outer, argnums=(0, 1) if base_learned else 1)(base, lora)

    return cost(gradient, base, lora, shape(SUPPORT, TOKENS, WIDTH), shape(QUERY, TOKENS, WIDTH))


def of_transformer(*, base_learned: bool) -> dict[str, float]:
    """The whole model: every layer costs what the second one adds."""
    one, two = (of_layers(number, base_learned=base_learned) for number in (1, 2))
    found = {name: one[name] + (LAYERS - 1) * (two[name] - one[name]) for name in one}
    low_rank = LAYERS * RANK * (4 * 2 * WIDTH + 2 * 5 * WIDTH)
    return {**found, "learned": low_rank + (LAYERS * 12 * WIDTH**2 if base_learned else 0)}


def count() -> None:
    """Count, and keep what was counted."""
    found = {
        "command": "python -m benchmarks.scale count",
        "commit": machine.commit(),
        "environment": machine.description(),
        "omniglot": of_recipe("omniglot-20way-1shot"),
        "mini": of_recipe("miniimagenet-5way-1shot"),
        "lora": of_transformer(base_learned=False),
        "lora-all": of_transformer(base_learned=True),
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


def exchange(size: float, devices: int) -> float:
    """Seconds of one all-reduce of so many bytes: in rings within a host, then between hosts."""
    if devices == 1:
        return 0.0
    within = min(devices, HOST)
    seconds = 2 * (within - 1) / within * size / WITHIN + LATENCY * np.log2(devices)
    hosts = devices // HOST
    return float(seconds + (2 * (hosts - 1) / hosts * size / HOST / ACROSS if hosts > 1 else 0.0))


def rows(seconds: float, learned: float, tasks: int) -> list[str]:
    """A table's lines: a task takes so many seconds on one device, and each device has so many tasks."""
    lines = [
        "| devices | tasks in a meta-step | computing | sent by a device | exchange | a meta-step | efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    size = 4.0 * learned
    for devices in DEVICES:
        computing, moving = tasks * seconds, exchange(size, devices)
        sent = 0.0 if devices == 1 else 2 * (devices - 1) / devices * size
        lines.append(
            f"| {devices} | {devices * tasks:,} | {readable_time(computing)} | {readable(sent)} | {readable_time(moving)} | "
            f"{readable_time(computing + moving)} | {computing / (computing + moving):.1%} |"
        )
    return lines


def readable(size: float) -> str:
    """Bytes, with a decimal prefix."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def readable_time(seconds: float) -> str:
    """Seconds, milliseconds or microseconds."""
    for unit, name in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{1e6 * seconds:.3g} µs"


def page() -> str:
    """The page."""
    found, run = json.loads(RESULT.read_text()), json.loads((RESULTS / MEASURED).read_text())
    card = run["environment"]["machine"]["devices"][0]
    omniglot, mini = found["omniglot"], found["mini"]
    measured = 1 / run["tasks_per_second"]
    rate = omniglot["flops"] / measured
    lines = [
        "# At scale, on paper",
        "",
        "<!-- written by python -m benchmarks.scale -->",
        "",
        "Nothing on this page was run on more than one device. It derives, from what was measured on one and from the operations that XLA",
        "counts, what a meta-step would take on many: when the exchange of the meta-gradient would begin to count.",
        "",
        f"- **Measured**: exact MAML on `{run['recipe']}` on one {card} ({run['tasks_per_second']:,.0f} tasks/s, mean of the run in",
        f"  `benchmarks/results/{MEASURED}`, commit {run['environment']['commit'][:7]}).",
        f"- **Counted**: operations and bytes of one task's meta-gradient, `jax.jit(...).lower(...).cost_analysis()` ({found['command']}, commit",
        f"  {str(found['commit'])[:7]}). A program that is not compiled yet has no fusions, so its bytes are an upper bound.",
        f"- **Assumed**: a device sends {WITHIN / 1e9:.0f} GB/s within a host of {HOST} and {ACROSS / 1e9:.0f} GB/s between hosts; a collective",
        f"  takes {1e6 * LATENCY:.0f} µs to begin for each doubling of the devices, and waits for no slower device; nothing overlaps. The",
        "  exchange is one all-reduce of the meta-gradient in float32, in rings. A device keeps as many tasks as the",
        "  measured one had, so the meta-batch grows with the devices; fewer on each would fill it less, and take longer than in proportion.",
        "",
        "| one task | operations | bytes | learned numbers | meta-gradient | operations for each byte of it |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "omniglot": f"Omniglot 20-way 1-shot, {omniglot['inner_steps']} steps",
        "mini": f"miniImageNet 5-way 1-shot, {mini['inner_steps']} steps",
        "lora": f"1 billion, LoRA of rank {RANK} inside, {STEPS} steps; LoRA is learned",
        "lora-all": "the same; all of the model is learned",
    }
    for key, name in names.items():
        one = found[key]
        lines.append(
            f"| {name} | {one['flops'] / 1e9:,.3g} G | {readable(one['bytes'])} | {one['learned']:,} | "
            f"{readable(4 * one['learned'])} | {one['flops'] / (4 * one['learned']):,.3g} |"
        )
    lines += [
        "",
        "## Omniglot",
        "",
        f"{readable_time(measured)} a task as measured, which is {rate / 1e12:.2g} TFLOP/s.",
        "",
    ]
    lines += rows(measured, omniglot["learned"], omniglot["meta_batch"])
    lines += [
        "",
        "## miniImageNet",
        "",
        f"Not measured on this card: taken at the rate of Omniglot, {readable_time(mini['flops'] / rate)} a task.",
        "",
        *rows(mini["flops"] / rate, mini["learned"], mini["meta_batch"]),
        "",
        "## A model of a billion parameters with LoRA inside",
        "",
        f"{LAYERS} decoder blocks of width {WIDTH:,}; a task has {SUPPORT} sequences of {TOKENS} tokens as support and {QUERY} as query. Every",
        f"layer costs the same, so the whole is counted from one and two of them. At {DENSE:.0%} of the card's {PEAK / 1e12:,.0f} TFLOP/s in",
        "bfloat16, an assumption. The model fits one device; what is divided is the optimiser's state (`--layout.parameters`).",
        "",
        "Only the additions are learned:",
        "",
        *rows(found["lora"]["flops"] / (DENSE * PEAK), found["lora"]["learned"], 1),
        "",
        "All of it is learned:",
        "",
        *rows(found["lora-all"]["flops"] / (DENSE * PEAK), found["lora-all"]["learned"], 1),
        "",
        "What would be wrong with these figures first: stragglers, which a synchronous step waits for, and, for Omniglot, a meta-step so short that",
        "starting it counts. `--log.every` meta-steps are one dispatch, so the host is not in the way.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments == ["count"]:
        count()
    elif arguments == ["--check"]:
        if PAGE.read_text() != page():
            sys.exit("docs/scale.md is not what benchmarks/results/scale.json says; give: python -m benchmarks.scale")
        return
    PAGE.write_text(page())


if __name__ == "__main__":
    main(sys.argv[1:])
