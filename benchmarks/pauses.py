"""What safety costs: the guard against gradients that are not finite, and the pause of a checkpoint.

    python benchmarks/pauses.py

The guard is timed on small, middle and large networks, with and without it by turns, in processor time, which other
processes on the machine disturb little; the figure is the median ratio of two turns that follow one another, with the
half-width of its 95 % interval (of a median, from the order of the ratios). The pause is that of writing a state of ten
million parameters with Adam's two moments, in seconds by the clock. Keeps the result in benchmarks/results/pauses.json.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

import innerloop as il
from innerloop import losses, models, rules, tasks
from innerloop.core import outer
from innerloop.runs import checkpoint, machine

RESULT = Path(__file__).parent / "results" / "pauses.json"
WIDTHS = {"sinusoid": (40, 40), "1 million parameters": (1000, 1000), "10 million parameters": (3160, 3160)}
STEPS = {"sinusoid": 1000, "1 million parameters": 4, "10 million parameters": 1}
ROUNDS = {"sinusoid": 101, "1 million parameters": 61, "10 million parameters": 21}
WRITES = 7
INTERVAL = 30.0
"""Seconds between checkpoints, unless a run's settings say otherwise."""


def compiled(widths: tuple[int, ...], *, guarded: bool) -> tuple[Callable[..., Any], Any]:
    """A program of meta-steps, and the state before the first."""
    model = models.mlp(1, widths, 1)
    rule, optimizer = rules.sgd(0.001), optax.adam(1e-4)
    loss = il.meta_loss(losses.supervised(model, losses.squared_error), rule=rule, steps=1)
    step = il.meta_step(loss, optimizer, meta_batch=4, skip_nonfinite=guarded)
    state = il.init(model.init(jax.random.key(0)), rule, optimizer, jax.random.key(1))
    return jax.jit(outer.repeat(step), donate_argnums=0), state


def guard(name: str) -> dict[str, Any]:
    """Processor time of a meta-step without and with the guard, the median over rounds, and their ratio."""
    programs = [compiled(WIDTHS[name], guarded=guarded) for guarded in (False, True)]
    states = [state for _, state in programs]
    spent: list[list[float]] = [[], []]
    for round_ in range(ROUNDS[name] + 1):
        for i in (0, 1) if round_ % 2 else (1, 0):
            began = time.process_time()
            states[i], metrics = programs[i][0](states[i], tasks.Sinusoids(), np.int32(STEPS[name]))
            jax.block_until_ready((states[i], metrics))
            if round_:
                spent[i].append((time.process_time() - began) / STEPS[name])
    ratios = np.sort(np.divide(spent[1], spent[0]))
    within = round(0.98 * len(ratios) ** 0.5)  # ranks from the median that hold it 19 times of 20
    middle = len(ratios) // 2
    return {
        "without_seconds": statistics.median(spent[0]),
        "with_seconds": statistics.median(spent[1]),
        "ratio": float(ratios[middle]),
        "ci95_half_width": float(ratios[middle + within] - ratios[middle - within]) / 2,
        "ratio_at_most": 1.02,
    }


def pause() -> dict[str, float]:
    """Seconds that writing a checkpoint of ten million parameters with Adam's moments takes."""
    _, state = compiled(WIDTHS["10 million parameters"], guarded=True)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state.meta))
    walls, processor = [], []
    with tempfile.TemporaryDirectory() as folder:
        for step in range(WRITES):
            began, used = time.perf_counter(), time.process_time()
            checkpoint.write(Path(folder), step, state, 2, {})
            walls.append(time.perf_counter() - began)
            processor.append(time.process_time() - used)
    wall = statistics.median(walls)
    return {
        "parameters": numbers,
        "seconds": wall,
        "processor_seconds": statistics.median(processor),
        "share_of_time": wall / (INTERVAL + wall),
        "share_at_most": 0.02,
    }


def main() -> int:
    result = {
        "commit": machine.commit(),
        "seed": 0,
        **machine.description(),
        "guard": {name: guard(name) for name in WIDTHS},
        "checkpoint": pause(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps({name: result[name] for name in ("guard", "checkpoint")}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
