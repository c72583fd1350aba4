r"""Variance and bias of the inner estimators' meta-gradients at one checkpoint of 2D navigation.

    python -m benchmarks.estimator_variance [--repeats 50] [--references 100] [--iterations 20] [--width 8]

The checkpoint is fixed: `--iterations` of the recipe with one hidden layer of `--width` units, whose meta-gradient has
few enough numbers that its biases can be told from noise within minutes. There, tasks and episodes are drawn anew again
and again, and on each draw the meta-gradient is computed with every estimator, and once to first order, without the
derivative of the inner update. The difference $d$ of an estimator's to the first-order one is the part that it
estimates. The reference is the mean over `--references` draws of 10 times the episodes, with Loaded DiCE, whose
derivative is unbiased. Told are, for the whole meta-gradient and for the part $d$, in units of the reference's norm:
the standard deviation $\sqrt{\mathbb{E}\lVert g - \bar g\rVert^2}$, and the bias $\lVert\bar g - g^*\rVert$ less what
noise makes of it, with the size of that noise. Written to benchmarks/results/estimator-variance.json, and by `make
results` into docs/rl-measured.md.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.flatten_util
import numpy as np

from innerloop import FirstOrder, Layout, Meta, rl
from innerloop.rl import train
from innerloop.rl.problem import outer_problem
from innerloop.runs import machine
from innerloop.workloads.reinforcement import recipes
from innerloop.workloads.reinforcement.build import Experiment, build

RESULT = Path(__file__).parent / "results" / "estimator-variance.json"
RECIPE, UNBIASED, LARGER = "rl-navigation-2d", "loaded-dice", 10
FIRST_ORDER = "first order"


def checkpoint(experiment: Experiment, iterations: int) -> Meta:
    """What the recipe has learned after so many iterations."""
    step = experiment.train_step()
    params_key, run_key = jax.random.split(jax.random.key(0))
    state = experiment.layout.replicate(
        rl.init(experiment.policy.init(params_key), experiment.rule, experiment.outer, run_key)
    )
    for _ in range(iterations):
        state, _ = step(state)
    return experiment.layout.gather(state.meta)


def gradients(experiment: Experiment, names: Sequence[str], episodes: int) -> Callable[[Meta, Any], np.ndarray]:
    """`(meta, key) -> [names, parameters]`: the meta-gradients on one draw of tasks and episodes, compiled once."""
    env, policy, rule, layout = experiment.env, experiment.policy, experiment.rule, Layout(chunk=1)
    rows = {name: rl.ESTIMATORS["log-likelihood" if name == FIRST_ORDER else name] for name in names}
    # The first inner update is the same for all: their gradients agree, and only the derivatives of these differ.
    sampling = rl.Sampling(steps=episodes * env.horizon)
    collected = train._adaptation(env, policy, rule, sampling, 1, rows[names[0]], rl.advantages(), layout)
    adjoints = {name: FirstOrder() if name == FIRST_ORDER else experiment.algorithm.adjoint for name in names}
    problems = {
        name: outer_problem(policy, rule, 1, row, experiment.outer, adjoints[name], layout)
        for name, row in rows.items()
    }

    @jax.jit
    def of(meta: Meta, key: Any) -> list[Any]:
        task_key, sample_key, key = jax.random.split(key, 3)
        drawn = collected(meta, env.tasks.sample(task_key, experiment.config.outer.meta_batch), sample_key)
        score = train._score(drawn.experience, drawn.returns[:, -1], drawn.episodes[:, -1])
        nothing = jax.tree.map(lambda leaf: None, meta)
        found = [each(nothing, drawn.experience, score, key).gradient(meta)[0] for each in problems.values()]
        return [jax.flatten_util.ravel_pytree(gradient)[0] for gradient in found]

    return lambda meta, key: np.asarray(of(meta, key), np.float64)


def statistics(found: np.ndarray, reference: np.ndarray, error: float, norm: float) -> dict[str, float]:
    """Deviation and bias of `[repeats, parameters]` against a reference with a squared standard error."""
    centred = found - found.mean(axis=0)
    variance = float((centred**2).sum(axis=1).sum() / (len(found) - 1))
    bias = float(((found.mean(axis=0) - reference) ** 2).sum())
    noise = variance / len(found) + error
    return {
        "deviation": variance**0.5 / norm,
        "bias": max(bias - noise, 0.0) ** 0.5 / norm,  # the mean's own noise is no bias
        "error": noise**0.5 / norm,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Variance and bias of the inner estimators' meta-gradients.")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--references", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--width", type=int, default=8)
    asked = parser.parse_args(arguments)
    machine.set_up()
    config = recipes.configure(RECIPE)
    experiment = build(replace(config, policy=replace(config.policy, widths=(asked.width,))))
    meta, episodes = checkpoint(experiment, asked.iterations), experiment.config.sampling.episodes
    names = [*rl.ESTIMATORS, FIRST_ORDER]
    keys = jax.random.split(jax.random.key(1), asked.references)
    large = gradients(experiment, [UNBIASED, FIRST_ORDER], LARGER * episodes)
    exact = np.stack([large(meta, key) for key in keys])
    small = gradients(experiment, names, episodes)
    found = np.stack([small(meta, key) for key in jax.random.split(jax.random.key(2), asked.repeats)])
    plain = names.index(FIRST_ORDER)

    def told(values: np.ndarray, references: np.ndarray) -> dict[str, float]:
        reference = references.mean(axis=0)
        error = float(((references - reference) ** 2).sum() / (len(references) - 1) / len(references))
        return statistics(values, reference, error, float(np.linalg.norm(reference)))

    rows = {
        name: {
            "whole": told(found[:, at], exact[:, 0]),
            "part": told(found[:, at] - found[:, plain], exact[:, 0] - exact[:, 1]),
        }
        for at, name in enumerate(names)
    }
    result = {
        "command": " ".join(
            ["python -m benchmarks.estimator_variance", *(f"--{name} {value}" for name, value in vars(asked).items())]
        ),
        "commit": machine.commit(),
        "environment": machine.description(),
        "checkpoint_of": RECIPE,
        "tasks": experiment.config.outer.meta_batch,
        "episodes": episodes,
        "larger": LARGER,
        **vars(asked),
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        told_of = (f"{part} {values['deviation']:6.2f} {values['bias']:6.2f}" for part, values in row.items())
        print(f"{name:<16}", *told_of)


if __name__ == "__main__":
    main()
