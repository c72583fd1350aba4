"""Returns of finished runs of 2D navigation under other inner steps at test, on goals drawn as in training.

    python -m benchmarks.inner_steps RUN [RUN ...]

What bounds the returns after the second and third update: the first step is that of training, and the later ones are
0.5 of it, as published. On other goals than the 40 of the test, so that nothing is chosen by those. Written to
benchmarks/results/inner-steps.json, and by `make results` into docs/rl-measured.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from innerloop import Meta, rl, rules, workloads
from innerloop.core.evaluate import summarise
from innerloop.runs import checkpoint, machine, rundir
from innerloop.runs.progress import Progress
from innerloop.workloads.reinforcement.build import Experiment, build
from innerloop.workloads.reinforcement.session import ReinforcementSession

RESULT = Path(__file__).parent / "results" / "inner-steps.json"
GOALS = 100
SETTINGS = ((0.5, 0.5), (0.35, 0.5), (0.7, 0.5), (0.5, 0.25), (0.5, 1.0))
"""First step size, and by what the later ones are multiplied."""


def learned(path: Path) -> tuple[Experiment, Meta]:
    """What a run trained, and what it has learned."""
    run = rundir.existing(path, workloads.registered())
    session = ReinforcementSession(build(run.config), Progress())
    state = checkpoint.read_newest(run.checkpoints, session.init(), session.settings, print)
    if state is None:
        sys.exit(f"{path} has no checkpoint")
    return session.experiment, state.meta


def main(paths: list[str]) -> None:
    machine.set_up(1)
    rows = []
    for path in paths:
        experiment, meta = learned(Path(path))
        goals = experiment.env.tasks.sample(jax.random.key(777), GOALS)
        for rate, later in SETTINGS:
            found = rl.evaluate(
                experiment.env,
                experiment.policy,
                Meta(meta.params, ()),
                goals,
                jax.random.key(5),
                rule=rl.smaller_later(rules.sgd(rate), later),
                sampling=rl.Sampling(steps=experiment.config.evaluation.steps),
                inner=experiment.config.inner.estimator,
                experience=experiment.judge,
                layout=experiment.layout,
            )
            mean, half = (np.asarray(each).tolist() for each in summarise(np.asarray(found.returns)))
            name = Path(path).resolve().name
            rows.append({"run": name, "rate": rate, "later": later, "mean": mean, "interval": half})
            print(name, rate, later, " ".join(f"{value:.2f}" for value in mean), flush=True)
            keep(paths, rows)


def keep(paths: list[str], rows: list[dict[str, Any]]) -> None:
    """Write what is measured so far: a run that is stopped has not measured in vain."""
    result = {
        "command": " ".join(["python -m benchmarks.inner_steps", *(Path(path).name for path in paths)]),
        "commit": machine.commit(),
        "environment": machine.description(),
        "goals": GOALS,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
