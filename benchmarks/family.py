"""The family measured: step sizes, what happens when the inner loop grows longer, and memory.

    python -m benchmarks.family search     the step size of each row on sinusoids, chosen on validation tasks
    python -m benchmarks.family steps      N = 1, 5, 20, 50 inner steps, 5 seeds, on sinusoids
    python -m benchmarks.family memory     what a meta-step needs as N grows, on sinusoids and Omniglot

Each writes benchmarks/results/family-*.json. The comparison of the rows themselves is one command of the program,
`innerloop compare sinusoid --algorithms ...`, whose comparison.json is kept as family-sinusoid.json.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import outer
from innerloop.evaluate import evaluate
from innerloop.experiment import plan, recipes, session, training
from innerloop.experiment.build import Experiment, assemble, build
from innerloop.experiment.config import Config
from innerloop.experiment.recipes import changed
from innerloop.experiment.run import commit, environment_of_machine

RESULTS = Path(__file__).parent / "results"
VALIDATION_SEED, TEST_SEED, TASKS, TEST_STEPS = 10_000, 1, 200, 10

RATES = (0.001, 0.003, 0.01, 0.03)
SEARCH_STEPS = 2000
SEARCHED: dict[str, tuple[float, ...]] = {
    "maml": RATES,
    "fomaml": RATES,
    "truncated-maml": RATES,
    "maml++": RATES,
    "meta-sgd": RATES,
    "alfa": RATES,
    "meta-curvature": RATES,
    "anil": RATES,
    "boil": RATES,
    "cavia": (0.1, 0.3, 1.0),
    "imaml": (0.003, 0.01, 0.03),
    "reptile": RATES,
    "sharp-maml": RATES,
    "joint": RATES,
}
"""The rows that sinusoids suit, and the step sizes that each chooses from."""

LONG = ("maml", "maml+msl", "maml+lslr", "maml+da", "maml++", "fomaml", "truncated-maml", "imaml")
STEPS = (1, 5, 20, 50)
SEEDS = 5


def sinusoids(algorithm: str, **changes: Any) -> Config:
    """The sinusoid recipe of a row, with other values of some fields; `__` stands for the dot."""
    config = recipes.config("sinusoid", algorithm)
    assert isinstance(config, Config)
    fixed = {"layout.shards": 1, "layout.loop": "auto" if algorithm == "imaml" else "scanned"}
    return changed(config, fixed | {name.replace("__", "."): value for name, value in changes.items()})


def trained(experiment: Experiment, seeds: int) -> tuple[Any, float]:
    """The meta-parameters of several seeds, trained beside each other, and the seconds of a meta-step of all."""
    total = experiment.config.outer.iterations
    configs = [replace(experiment.config, seed=seed) for seed in range(seeds)]
    states = [training.initial_state(replace(experiment, config=config)) for config in configs]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    run = jax.jit(jax.vmap(outer.repeat(experiment.meta_step()), in_axes=(0, None, None)))
    tasks = experiment.training_tasks()
    state, _ = jax.block_until_ready(run(state, tasks, np.int32(1)))
    start = time.perf_counter()
    state, _ = jax.block_until_ready(run(state, tasks, np.int32(total - 1)))
    return state.meta, (time.perf_counter() - start) / (total - 1)


def losses(experiment: Experiment, meta: Any, seed: int, shots: int) -> np.ndarray:
    """The mean loss after 0, 1, ... inner steps, `[seeds, steps + 1]`."""
    part = "val" if seed == VALIDATION_SEED else "test"
    run = partial(
        evaluate,
        experiment.loss,
        rule=experiment.rule,
        steps=experiment.config.evaluation.steps,
        num_tasks=TASKS,
        query_losses=experiment.judges,
        adjoint=experiment.forward,
    )
    tasks = experiment.distribution(part, shots, 100)
    curves = jax.jit(jax.vmap(run, in_axes=(0, None, None)))(meta, tasks, jax.random.key(seed))
    return np.asarray(curves["query/loss"]).mean(axis=1)


def search() -> Iterator[dict[str, Any]]:
    """Each row at each step size: the loss on validation tasks, 5 shots, after ten inner steps."""
    for algorithm, rates in SEARCHED.items():
        for rate in rates:
            config = sinusoids(algorithm, inner__learning_rate=rate, outer__iterations=SEARCH_STEPS)
            experiment = build(config, print)
            meta, _ = trained(experiment, 1)
            loss = float(losses(experiment, meta, VALIDATION_SEED, 5)[0, -1])
            yield {"algorithm": algorithm, "rate": rate, "inner_steps": config.inner.steps, "loss": loss}


def long_loops(rate: float, iterations: int, meta_batch: int) -> Iterator[dict[str, Any]]:
    """Rows at growing numbers of inner steps, in training as at test."""
    for steps in STEPS:
        for algorithm in LONG:
            config = sinusoids(
                algorithm,
                inner__learning_rate=rate,
                inner__steps=steps,
                outer__iterations=iterations,
                outer__meta_batch=meta_batch,
                evaluation__steps=steps,
            )
            experiment = build(config, print)
            meta, seconds = trained(experiment, SEEDS)
            final = losses(experiment, meta, TEST_SEED, 10)[:, -1]
            yield {
                "algorithm": algorithm,
                "inner_steps": steps,
                "losses": [float(each) if np.isfinite(each) else None for each in final],
                "diverged": int(np.sum(~np.isfinite(final))),
                "seconds_per_meta_step": seconds / SEEDS,
                "temporary_bytes": temporary(experiment),
            }


def temporary(experiment: Experiment) -> int:
    """What a meta-step needs beside state and data, by XLA's own account."""
    return plan.memory_of(compiled(experiment)).temporary


def compiled(experiment: Experiment) -> Any:
    layout = experiment.layout
    state, tasks = training.initial_state(experiment), experiment.training_tasks()
    return plan.compiled_steps(experiment, layout.replicate(state), layout.replicate(tasks))


def memory() -> Iterator[dict[str, Any]]:
    """Bytes of a meta-step of rows at growing numbers of inner steps."""
    for algorithm in ("maml", "truncated-maml", "fomaml", "imaml"):
        for steps in (1, 5, 20, 50, 100):
            config = sinusoids(algorithm, inner__steps=steps)
            yield {
                "recipe": "sinusoid",
                "algorithm": algorithm,
                "inner_steps": steps,
                "meta_batch": config.outer.meta_batch,
                "temporary_bytes": temporary(build(config, print)),
            }
    data = None
    for chunk, steps, algorithm in ((1, 50, "maml"), (32, 50, "maml"), (1, 5, "imaml"), (1, 100, "imaml")):
        config = recipes.config("omniglot-5way-1shot", algorithm)
        assert isinstance(config, Config)
        loop = "auto" if algorithm == "imaml" else "scanned"
        config = changed(
            config,
            {
                "inner.steps": steps,
                "outer.meta_batch": 32,
                "layout.shards": 1,
                "layout.chunk": chunk,
                "layout.loop": loop,
                "layout.convolution": "patches",
            },
        )
        experiment = build(config, print) if data is None else assemble(config, data)
        data = experiment.data
        yield {
            "recipe": "omniglot-5way-1shot",
            "algorithm": algorithm,
            "inner_steps": steps,
            "meta_batch": 32,
            "tasks_at_a_time": chunk,
            "temporary_bytes": temporary(experiment),
        }


def main(arguments: argparse.Namespace) -> None:
    session.set_up(1)
    settings: dict[str, Any] = {}
    if arguments.what == "steps":
        settings = {"rate": arguments.rate, "iterations": arguments.iterations, "meta_batch": arguments.meta_batch}
    measure = {"search": search, "steps": partial(long_loops, **settings), "memory": memory}[arguments.what]
    result: dict[str, Any] = {
        "benchmark": f"family-{arguments.what}",
        "command": " ".join(["python -m benchmarks.family", *sys.argv[1:]]),
        "commit": commit(),
        **environment_of_machine(),
        "settings": settings | {"test_tasks": TASKS, "seeds": SEEDS if arguments.what == "steps" else 1},
        "rows": [],
    }
    if arguments.what == "search":
        result["settings"]["iterations"] = SEARCH_STEPS
    place = arguments.output or RESULTS / f"family-{arguments.what}.json"
    for row in measure():
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        place.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("search", "steps", "memory"))
    parser.add_argument("--rate", type=float, default=0.01, help="inner step size of `steps`")
    parser.add_argument("--iterations", type=int, default=2000, help="meta-steps of `steps`")
    parser.add_argument("--meta-batch", type=int, default=8, help="tasks in a meta-step of `steps`")
    parser.add_argument("--output", type=Path, help="where the result is kept")
    main(parser.parse_args())
