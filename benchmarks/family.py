"""The family measured: its settings, its rows beside each other, what happens when the inner loop grows, and memory.

    python -m benchmarks.family search     step size and number of inner steps of each row on sinusoids, chosen on
                                           validation tasks
    python -m benchmarks.family compare    all rows on sinusoids with what `search` chose
    python -m benchmarks.family steps      N = 1, 5, 20, 50 inner steps, several seeds, on sinusoids or Omniglot
    python -m benchmarks.family memory     what a meta-step needs as N grows, on sinusoids and Omniglot

Each writes benchmarks/results/family-*.json. The comparison on Omniglot is one command of the program,
`innerloop compare omniglot-20way-1shot --algorithms ...`, whose comparison.json is kept as family-omniglot.json.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from innerloop.core import outer
from innerloop.core.evaluate import evaluate
from innerloop.runs import compare, machine
from innerloop.runs.codec import changed
from innerloop.workloads.episodes import memory as memory_plan
from innerloop.workloads.episodes import recipes, training
from innerloop.workloads.episodes.build import Experiment, assemble, build
from innerloop.workloads.episodes.config import Config
from innerloop.workloads.episodes.data.omniglot import Part
from innerloop.workloads.episodes.workload import WORKLOAD

RESULTS = Path(__file__).parent / "results"
VALIDATION_SEED, TEST_SEED, TASKS, TEST_STEPS = 10_000, 1, 200, 10

RATES = (0.001, 0.003, 0.01, 0.03)
INNER_STEPS = (1, 5)
SEARCH_STEPS, SEARCH_SEEDS = 2000, 2
SEARCHED: dict[str, dict[str, tuple[float, ...]]] = {
    "maml": {},
    "fomaml": {},
    "truncated-maml": {"inner.steps": (5,)},
    "maml++": {"inner.steps": (5, 10)},
    "meta-sgd": {},
    "alfa": {"inner.steps": (1, 5, 10)},
    "meta-curvature": {},
    "anil": {},
    "boil": {},
    "cavia": {"inner.learning_rate": (0.1, 0.3, 1.0)},
    "reptile": {"inner.steps": (5, 10)},
    "sharp-maml": {},
    "joint": {"inner.steps": (1,)},
    "imaml": {"inner.steps": (20,), "variant.regularisation": (1.0, 10.0)},
}
"""The rows that sinusoids suit, and what each chooses from if not from `RATES` and `INNER_STEPS`.

Those that learn every step apart cannot take more steps at test, so they may learn ten.
"""

LONG = ("maml", "maml+msl", "maml+lslr", "maml+da", "maml++", "fomaml", "truncated-maml", "imaml")
LONG_ON_IMAGES = ("maml", "maml+lslr", "maml+bnps", "maml++", "fomaml", "truncated-maml")
STEPS = (1, 5, 20, 50)
ON_IMAGES = {
    "network.widths": (16, 16, 16, 16),
    "network.scale": True,
    "layout.chunk": 1,
    "layout.convolution": "patches",
}
"""So that long inner loops on images end today on one core: a quarter of the filters of the recipe."""


def configured(recipe: str, algorithm: str, **changes: Any) -> Config:
    """The recipe of a row, with other values of some fields; `__` stands for the dot."""
    config = recipes.configure(recipe, algorithm)
    assert isinstance(config, Config)
    fixed = {"layout.shards": 1, "layout.loop": "auto" if algorithm == "imaml" else "scanned"}
    return changed(config, fixed | {name.replace("__", "."): value for name, value in changes.items()})


sinusoids = partial(configured, "sinusoid")


def trained(experiment: Experiment, seeds: int) -> tuple[Any, float]:
    """The meta-parameters of several seeds, and the seconds of a meta-step of one.

    Seeds of a tiny network are trained beside each other, those of a convolutional one after each other.
    """
    total = experiment.config.outer.iterations
    configs = [replace(experiment.config, seed=seed) for seed in range(seeds)]
    states = [training.initial_state(replace(experiment, config=config)) for config in configs]
    state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    steps = outer.repeat(experiment.meta_step())

    def every(state: Any, tasks: Any, count: Any) -> Any:
        one = lambda each: steps(each, tasks, count)  # noqa: E731
        return jax.vmap(one)(state) if experiment.data.parts is None else lax.map(one, state)

    run = jax.jit(every)
    tasks = experiment.training_tasks()
    state, _ = jax.block_until_ready(run(state, tasks, np.int32(1)))
    start = time.perf_counter()
    state, _ = jax.block_until_ready(run(state, tasks, np.int32(total - 1)))
    return state.meta, (time.perf_counter() - start) / (total - 1) / seeds


def curves(experiment: Experiment, meta: Any, part: Part, shots: int) -> dict[str, np.ndarray]:
    """Loss, and accuracy if there is one, after 0, 1, ... inner steps, averaged over tasks: `[seeds, steps + 1]`."""
    run = partial(
        evaluate,
        experiment.loss,
        rule=experiment.rule,
        steps=experiment.config.evaluation.steps,
        num_tasks=TASKS,
        query_losses=experiment.eval_losses,
        adjoint=experiment.forward,
        layout=experiment.layout,
    )
    tasks = experiment.distribution(part, shots, experiment.config.evaluation.queries)
    key = jax.random.key({"val": VALIDATION_SEED, "test": TEST_SEED}[part])
    found = jax.jit(lambda meta: lax.map(lambda each: run(each, tasks, key), meta))(meta)
    judge = next(iter(experiment.eval_losses))
    return {name.split("/")[1]: np.asarray(found[name]).mean(axis=1) for name in found if name.startswith(judge + "/")}


def search(before: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each row with each setting: the loss on 5-shot validation tasks, after as many steps as in training and ten.

    What is among the rows of an earlier search that was stopped is not computed again.
    """
    for algorithm, own in SEARCHED.items():
        choices = {"inner.learning_rate": RATES, "inner.steps": INNER_STEPS} | own
        for values in product(*choices.values()):
            settings = dict(zip(choices, values, strict=True))
            config = changed(sinusoids(algorithm, outer__iterations=SEARCH_STEPS), settings)
            known = [
                row for row in before if row["algorithm"] == algorithm and settings.items() <= row["settings"].items()
            ]
            if known:
                yield from known
                continue
            steps = build(config, print).rule.learned_steps or max(config.inner.steps, TEST_STEPS)
            experiment = build(changed(config, {"evaluation.steps": steps}), print)
            meta, _ = trained(experiment, SEARCH_SEEDS)
            losses = curves(experiment, meta, "val", 5)["loss"].mean(axis=0)
            for after in sorted({config.inner.steps, steps}):
                loss = float(losses[after])
                yield {
                    "algorithm": algorithm,
                    "settings": settings | {"evaluation.steps": after},
                    "loss": loss if np.isfinite(loss) else None,
                }


def chosen() -> dict[str, dict[str, Any]]:
    """The settings of each row that `search` found best, of those that no whole training showed to be unstable."""
    result = json.loads((RESULTS / "family-search.json").read_text())
    best: dict[str, Any] = {}
    for row in result["rows"]:
        rival = best.get(row["algorithm"])
        out = any(no_gentler(row, each) for each in result.get("unstable", ()))
        if row["loss"] is not None and not out and (rival is None or row["loss"] < rival["loss"]):
            best[row["algorithm"]] = row
    return {algorithm: row["settings"] for algorithm, row in best.items()}


def no_gentler(row: dict[str, Any], unstable: dict[str, Any]) -> bool:
    """Whether a row has no fewer and no smaller steps than one that diverged, and is regularised no more."""
    ours, theirs = row["settings"], unstable["settings"]
    return (
        row["algorithm"] == unstable["algorithm"]
        and all(ours[name] >= theirs[name] for name in ("inner.learning_rate", "inner.steps"))
        and ours.get("variant.regularisation", 0.0) <= theirs.get("variant.regularisation", 0.0)
    )


def note_unstable(groups: dict[str, Any], settings: dict[str, dict[str, Any]]) -> None:
    """Keep beside the search what diverged over a whole training, so that `chosen` takes gentler settings."""
    path = RESULTS / "family-search.json"
    result = json.loads(path.read_text())
    result.setdefault("unstable", []).extend(
        {"algorithm": name, "settings": settings[name], "seeds": group["diverged"], "meta_steps": group["meta_steps"]}
        for name, group in groups.items()
        if group["diverged"]
    )
    path.write_text(json.dumps(result, indent=1) + "\n")


def compare_rows(algorithms: Sequence[str], iterations: int, output: Path) -> dict[str, Any]:
    """The rows with what `search` chose, trained at three seeds by the program itself."""
    fixed = {
        "outer.iterations": iterations,
        "layout.shards": 1,
        "evaluation.shots": (5,),
        "evaluation.baselines": False,
    }
    configs = []
    for algorithm, settings in chosen().items():
        config = recipes.configure("sinusoid", algorithm)
        assert isinstance(config, Config)
        if not algorithms or algorithm in algorithms:
            configs.append(changed(config, fixed | settings))
    if stopped := compare.train_and_compare(WORKLOAD, configs, range(3), None, output):
        sys.exit(stopped)
    return json.loads((output / "comparison.json").read_text())


def long_loops(recipe: str, rate: float, iterations: int, meta_batch: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Rows at growing numbers of inner steps, in training as at test."""
    data = None
    images = recipe != "sinusoid"
    for steps in STEPS:
        for algorithm in LONG_ON_IMAGES if images else LONG:
            config = configured(
                recipe,
                algorithm,
                inner__learning_rate=rate,
                inner__steps=steps,
                outer__iterations=iterations,
                outer__meta_batch=meta_batch,
                evaluation__steps=steps,
            )
            if images:
                config = changed(config, ON_IMAGES)
            experiment = build(config, print) if data is None else assemble(config, data)
            data = experiment.data
            meta, seconds = trained(experiment, seeds)
            final = {
                name: values[:, -1] for name, values in curves(experiment, meta, "test", config.tasks.shots).items()
            }
            yield {
                "algorithm": algorithm,
                "inner_steps": steps,
                "losses": [float(each) if np.isfinite(each) else None for each in final["loss"]],
                **({"accuracies": [float(each) for each in final["accuracy"]]} if images else {}),
                "diverged": int(np.sum(~np.isfinite(final["loss"]))),
                "seconds_per_meta_step": seconds,
                "temporary_bytes": temporary(experiment),
            }


def temporary(experiment: Experiment) -> int:
    """What a meta-step needs beside state and data, by XLA's own account."""
    return memory_plan.memory_of(compiled(experiment)).temporary


def compiled(experiment: Experiment) -> Any:
    layout = experiment.layout
    state, tasks = training.initial_state(experiment), experiment.training_tasks()
    return memory_plan.compiled_steps(experiment, layout.replicate(state), layout.replicate(tasks))


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
        config = recipes.configure("omniglot-5way-1shot", algorithm)
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
    machine.set_up(1)
    command = " ".join(["python -m benchmarks.family", *sys.argv[1:]])
    if arguments.what == "compare":
        result = compare_rows(arguments.algorithms, arguments.iterations, arguments.runs)
        settings = chosen()
        result |= {"command": command, "chosen": settings}
        note_unstable(result["groups"], settings)
        (arguments.output or RESULTS / "family-sinusoid.json").write_text(json.dumps(result, indent=1) + "\n")
        return
    place = arguments.output or RESULTS / f"family-{arguments.what}.json"
    settings: dict[str, Any] = {"test_tasks": TASKS}
    if arguments.what == "search":
        settings |= {"iterations": SEARCH_STEPS, "seeds": SEARCH_SEEDS}
        rows = search(json.loads(place.read_text())["rows"] if place.exists() else [])
    elif arguments.what == "steps":
        asked = {name: getattr(arguments, name) for name in ("recipe", "rate", "iterations", "meta_batch", "seeds")}
        settings |= asked
        rows = long_loops(**asked)
    else:
        rows = memory()
    result = {
        "benchmark": f"family-{arguments.what}",
        "command": command,
        "commit": machine.commit(),
        **machine.description(),
        "settings": settings,
        "rows": [],
    }
    for row in rows:
        result["rows"].append(row)
        print(json.dumps(row), flush=True)
        place.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("search", "compare", "steps", "memory"))
    parser.add_argument("--recipe", default="sinusoid", help="of `steps`")
    parser.add_argument("--rate", type=float, default=0.01, help="inner step size of `steps`")
    parser.add_argument("--iterations", type=int, default=2000, help="meta-steps of `steps` and `compare`")
    parser.add_argument("--meta-batch", type=int, default=8, help="tasks in a meta-step of `steps`")
    parser.add_argument("--seeds", type=int, default=5, help="of `steps`")
    parser.add_argument("--algorithms", type=lambda text: text.split(","), default=(), help="of `compare`, if not all")
    parser.add_argument("--runs", type=Path, default=Path("sinusoid"), help="where `compare` keeps its runs")
    parser.add_argument("--output", type=Path, help="where the result is kept")
    main(parser.parse_args())
