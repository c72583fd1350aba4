r"""Time and memory of the meta-gradient through 10 to 10,000 inner steps, by every way to keep or recompute them.

    python -m benchmarks.horizons measure [--steps 10 100 1000]     the time hangs on the machine, so let it be idle
    python -m benchmarks.horizons write                             docs/horizons.md and its picture
    python -m benchmarks.horizons write --check                     exit with 1 if what is written is not up to date

The task: a network of 1,377 parameters on 256 examples, by gradient descent with momentum whose step sizes are learned.
Memory is what the compiled program asks for beside its arguments and results; *one step* is the same program with one
inner step. The error is of the whole meta-gradient in double precision, against the full unroll (`Reverse`).
"""

import argparse
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
import optax

from innerloop import Adjoint, Examples, Meta, Mixed, Reverse, Task, losses, meta_loss, models, rules
from innerloop.runs import machine, plots

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "horizons.json"
PAGE, PICTURE = ROOT / "docs" / "horizons.md", ROOT / "docs" / "images" / "horizons.svg"
START, END = "<!-- horizons: written by `make results` -->", "<!-- end of horizons -->"
STEPS = (10, 30, 100, 300, 1_000, 2_000, 3_000, 10_000)
TIMED = 3
"""Times that each is run; the quickest counts."""
UNROLL = "Reverse"
WAYS: dict[str, Callable[[int], Adjoint]] = {
    UNROLL: lambda steps: Reverse(unroll=0),
    "Mixed": lambda steps: Mixed(unroll=0),
    "Mixed(segment=√T)": lambda steps: Mixed(segment=round(steps**0.5)),
    "Mixed(levels=2)": lambda steps: Mixed(levels=2),
    "Mixed(levels=3)": lambda steps: Mixed(levels=3),
}


def problem(adjoint: Adjoint, steps: int) -> tuple[Callable[[Meta], Any], Meta]:
    """The meta-loss of one task as a function of what is learned, and a value of that."""
    model = models.mlp(8, (32, 32), 1)
    rule = rules.trainable(lambda rates: optax.sgd(rates["rate"], rates["decay"]), {"rate": 0.02, "decay": 0.5})
    keys = jax.random.split(jax.random.key(0), 4)
    examples = [
        Examples(x := jax.random.normal(key, (256, 8)), jnp.sin(jnp.sum(x, 1, keepdims=True))) for key in keys[:2]
    ]
    params = model.init(keys[2])
    value = meta_loss(losses.supervised(model, losses.squared_error), rule=rule, steps=steps, adjoint=adjoint)
    task = Task(*examples)
    dtype = jnp.result_type(float)
    meta = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), Meta(params, rule.init(params)))
    return lambda meta: value(meta, task, keys[3])[0], meta


def gradient(adjoint: Adjoint, steps: int) -> tuple[Any, Meta]:
    """The compiled meta-gradient and its argument."""
    value, meta = problem(adjoint, steps)
    return jax.jit(jax.grad(value)).lower(meta).compile(), meta


def measured(name: str, steps: int, reference: np.ndarray | None) -> tuple[dict[str, Any], np.ndarray]:
    """Memory, time and error of a way."""
    compiled, meta = gradient(WAYS[name](steps), steps)
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        jax.block_until_ready(compiled(meta))
        seconds.append(time.perf_counter() - start)
    with jax.enable_x64(True):
        double, meta = gradient(WAYS[name](steps), steps)
        found = np.asarray(jax.flatten_util.ravel_pytree(double(meta))[0])
    jax.clear_caches()
    row = {"bytes": compiled.memory_analysis().temp_size_in_bytes, "seconds": min(seconds)}
    if reference is not None:
        row["error"] = float(np.linalg.norm(found - reference) / np.linalg.norm(reference))
    return row, found


def measure(steps: list[int]) -> None:
    """Measure every way at every number of steps."""
    one, _ = measured(UNROLL, 1, None)
    rows: list[dict[str, Any]] = []
    for number in steps:
        reference = None
        for name in WAYS:
            row, found = measured(name, number, reference)
            reference = found if name == UNROLL else reference
            rows.append({"steps": number, "way": name, **row})
            print({key: round(value, 9) if isinstance(value, float) else value for key, value in rows[-1].items()})
    result = {
        "command": "python -m benchmarks.horizons measure",
        "commit": machine.commit(),
        "environment": machine.description(),
        "one_step": one,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """Memory in multiples of one step's, time in multiples of the full unroll's."""
    rows = {(row["steps"], row["way"]): row for row in result["rows"]}
    numbers = sorted({steps for steps, _ in rows})
    one = result["one_step"]["bytes"]
    known = result["environment"]
    processor = f"{known['processor']} with {known['cores']} cores" if "processor" in known else "a CPU"
    lines = [
        f"`{result['command']}`, commit {result['commit']}, {processor}. Memory as a multiple of one inner step's "
        f"({one / 1e3:,.0f} kB), time as a multiple of the full unroll's (`Reverse`, whose seconds are given), and the "
        "largest relative error of the meta-gradient against it.",
        "",
        f"| inner steps | {' | '.join(f'`{name}`' for name in WAYS)} | largest error |",
        "|---|" + "---|" * (len(WAYS) + 1),
    ]
    for number in numbers:
        full = rows[number, UNROLL]
        cells = [f"{full['bytes'] / one:,.1f}x, {full['seconds']:.3g} s"]
        cells += [
            f"{row['bytes'] / one:,.1f}x, {row['seconds'] / full['seconds']:.2f}x"
            for row in (rows[number, name] for name in WAYS if name != UNROLL)
        ]
        errors = max(rows[number, name]["error"] for name in WAYS if name != UNROLL)
        lines.append(f"| {number:,} | {' | '.join(cells)} | {errors:.0e} |")
    return "\n".join(lines)


def picture(result: dict[str, Any]) -> str:
    """Memory and time over the number of inner steps."""
    figure, axes = plots.pyplot().subplots(1, 2, figsize=(9, 3.2))
    one = result["one_step"]["bytes"]
    for name in WAYS:
        rows = [row for row in result["rows"] if row["way"] == name]
        steps = [row["steps"] for row in rows]
        axes[0].loglog(steps, [row["bytes"] / one for row in rows], "o-", label=name)
        axes[1].loglog(steps, [row["seconds"] for row in rows], "o-", label=name)
    axes[0].set(xlabel="inner steps", ylabel="memory, in one step's")
    axes[1].set(xlabel="inner steps", ylabel="seconds")
    axes[0].legend(fontsize=8)
    return plots.as_svg(figure)


def write(check: bool) -> int:
    """The table between its marks, and the picture."""
    result = json.loads(RESULT.read_text())
    text = PAGE.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    wanted = f"{before}{START}\n{table(result)}\n{END}{after}"
    if text == wanted and PICTURE.exists():
        return 0
    print(f"{PAGE.relative_to(ROOT)} {'is not up to date; run: make results' if check else 'written'}")
    if not check:
        PAGE.write_text(wanted)
        PICTURE.write_text(picture(result))
    return int(check)


def main() -> int:
    parser = argparse.ArgumentParser(description="The meta-gradient through long inner loops.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("measure").add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    verbs.add_parser("write").add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if asked.verb == "write":
        return write(asked.check)
    machine.set_up()
    measure(asked.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
