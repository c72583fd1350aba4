"""Where the time of a meta-iteration goes: the simulator, the rest of collecting, and each piece of the outer update.

    python benchmarks/iteration.py [RECIPE ...]

Measured from outside, with the public functions: an iteration with 10 products of the trust region's curvature and one
with 1 differ by 9 products; collecting is timed by itself, and in it the simulator. Keeps the result in
benchmarks/results/iteration.json; `make results` writes it into docs/rl-measured.md.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from innerloop import rl
from innerloop.runs import machine
from innerloop.workloads.reinforcement import recipes
from innerloop.workloads.reinforcement.build import Clocked, Experiment, build

RESULT = Path(__file__).parent / "results" / "iteration.json"
RECIPES = ("rl-navigation-2d", "rl-cheetah-direction")
PRODUCTS, ROUNDS = 10, 5


def seconds(function: Callable[[], Any]) -> float:
    """The median over rounds, after one that compiles."""
    jax.block_until_ready(function())
    measured = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        jax.block_until_ready(function())
        measured.append(time.perf_counter() - start)
    return statistics.median(measured)


def measure(experiment: Experiment) -> dict[str, float]:
    """Seconds of the pieces, in the order in which they happen; they add up to an iteration."""
    config, env, policy = experiment.config, experiment.env, experiment.policy
    params_key, run_key, task_key = jax.random.split(jax.random.key(0), 3)
    params = policy.init(params_key)

    def iteration(products: int) -> float:
        outer = rl.TrustRegion(bound=config.outer.bound, iterations=products, tries=1)
        step = replace(experiment, outer=outer).train_step()
        state = experiment.layout.replicate(rl.init(params, experiment.rule, outer, run_key))
        return seconds(lambda: step(state))

    whole, few = iteration(PRODUCTS), iteration(1)
    count = config.outer.meta_batch
    tasks = env.tasks.sample(task_key, count)
    stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), params)
    steps = config.sampling.episodes * env.horizon
    began = env.seconds if isinstance(env, Clocked) else 0.0
    collect = 2 * seconds(lambda: rl.collect(env, policy, stacked, tasks, run_key, steps=steps))
    simulator = 2 * (env.seconds - began) / (ROUNDS + 1) if isinstance(env, Clocked) else 0.0
    curvature = PRODUCTS / (PRODUCTS - 1) * (whole - few)
    pieces = {"simulator": simulator} if simulator else {}
    return pieces | {
        "policy and records of collecting" if simulator else "collecting": collect - simulator,
        f"curvature, {PRODUCTS} products": curvature,
        "advantages, adaptation, meta-gradient, line search": whole - collect - curvature,
    }


def main(names: list[str]) -> None:
    machine.set_up()
    rows = {}
    for name in names:
        rows[name] = measure(build(recipes.configure(name)))
        whole = sum(rows[name].values())
        print(f"{name}: {whole:.2f} s an iteration")
        for piece, value in rows[name].items():
            print(f"  {piece:<52}{value:>8.2f} s{value / whole:>8.0%}")
    result = {
        "command": " ".join(["python", "benchmarks/iteration.py", *sys.argv[1:]]),
        "commit": machine.commit(),
        "environment": machine.description(),
        "seconds": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(RECIPES))
