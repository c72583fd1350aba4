"""The evaluation of a run: returns on the 40 test tasks of the paper, beside its baselines."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
import optax

from innerloop import rl
from innerloop.core import rules
from innerloop.rl.types import HostEnv
from innerloop.runs import codec, simpler
from innerloop.runs.aside import Aside
from innerloop.runs.results import Result, estimate
from innerloop.runs.workload import Comparable, StepInfo
from innerloop.types import InnerRule, Meta
from innerloop.workloads.reinforcement.build import Experiment, environment, judge
from innerloop.workloads.reinforcement.config import Config, Evaluation
from innerloop.workloads.reinforcement.training import training_line

RANDOM, PRETRAINED, ORACLE = "random", "pre-trained", "oracle"
"""The baselines: never trained; trained on all tasks; trained on all tasks, and observing which one it is in."""
BASELINE_SEED = 30_000
PRETRAINING_RATE = 1e-3
"""Step size of Adam in pre-training; its usual one."""
BASELINE_TASKS, BASELINE_EPISODES = 20, 5
"""What a baseline collects in an iteration: 100 episodes, as in the paper, and as many tasks as that takes."""
BASELINE_BOUND = 0.01
"""The trust region of a baseline's update in nats, as in the paper, whatever bounds the meta-update."""
BASELINE_CURVATURE_EVERY = 4
"""Every so-manyth step of these is in its curvature, the dearest part of the update."""


def score(experiment: Experiment, meta: Meta, aside: Aside) -> Result:
    """Evaluate what was learned.

    Args:
        experiment: what was trained; its `config.evaluation` says what is measured.
        meta: what was learned.
        aside: trains the baselines.

    Returns:
        One table of methods, in the form of supervised evaluations, with the mean undiscounted return after 0, 1, ...,
        k updates; its shots are episodes of full length. The returns of the single tasks are by `score_name`.
    """
    config = experiment.config
    settings, progress = config.evaluation, aside.progress
    found: list[tuple[str, float, rl.Adaptation]] = []
    with progress.timed(f"evaluating {config.algorithm} on {len(tasks(config))} test tasks"):
        found.append((config.algorithm, config.inner.learning_rate, walk(experiment, meta)))
    if settings.baselines:
        params = experiment.policy.init(_key(BASELINE_SEED + config.seed))
        random = RANDOM, params, settings.random_rate
        progress.say(f"pre-training the baseline: {settings.baseline_iterations:,} iterations, the first also compiles")
        pretrained = PRETRAINED, baseline(experiment, aside, oracle=False)[1], settings.pretrained_rate
        for method, params, rate in (random, pretrained):
            with progress.timed(f"evaluating: {method}"):
                found.append((method, rate, walk(experiment, Meta(params, ()), rules.sgd(rate))))
        progress.say(f"training the oracle: {iterations(settings, oracle=True):,} iterations, the first also compiles")
        seeing, params = baseline(experiment, aside, oracle=True)
        with progress.timed(f"evaluating: {ORACLE}"):
            found.append((ORACLE, 0.0, walk(seeing, Meta(params, ()), rules.sgd(0.0), updates=0)))
    values = {
        "metric": "return",
        "factor": 1.0,
        "unit": "mean return",
        "digits": 1,
        "settings": asdict(settings),
        "test_tasks": len(tasks(config)),
        "test_seed": settings.seed,
        "tables": [{"shots": settings.steps // experiment.horizon, "rows": [_row(*adapted) for adapted in found]}],
    }
    scores = {score_name(method): np.asarray(adapted.returns) for method, _, adapted in found}
    return Result(values | {"simpler": as_well(config, values, scores)}, scores)


def as_well(config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> list[str]:
    """Which baselines do as well, in sentences; the oracle, which observes the task, is none to be compared with."""
    return simpler.remarks(comparables(config, result, scores), (RANDOM, PRETRAINED), digits=result["digits"])


def score_name(method: str) -> str:
    """What the returns of the single tasks are called in `scores.safetensors`: arrays `[tasks, updates + 1]`."""
    return f"{method}/return"


def comparables(config: Config, result: Mapping[str, Any], scores: Mapping[str, np.ndarray]) -> list[Comparable]:
    """The returns of a finished run that other runs can be compared with.

    Args:
        config: its configuration.
        result: its evaluation.
        scores: of single tasks, as `score` gives them.

    Raises:
        KeyError: if the returns of the run's own method are not among them.
    """
    methods = [row["method"] for table in result["tables"] for row in table["rows"]]
    return [
        Comparable(result["unit"], scores[score_name(method)], False, "" if method == config.algorithm else method)
        for method in methods
        if method == config.algorithm or score_name(method) in scores
    ]


def identity_of_test_tasks(config: Config, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the returns on test tasks depend on beside the policy, by flag."""
    names = ("steps", "later_factor", "seed")
    measured = {f"--evaluation.{codec.flag(name)}": result["settings"][name] for name in names}
    return {"--environment": config.environment, **measured}


def tasks(config: Config) -> np.ndarray:
    """The test tasks."""
    return rl.envs.reference_tasks(config.environment)


def walk(
    experiment: Experiment, meta: Meta, rule: InnerRule | None = None, updates: int | None = None
) -> rl.Adaptation:
    """Adapt to the test tasks.

    Args:
        experiment: its environment, policy and settings.
        meta: where to start.
        rule: the inner rule, of which updates after the first are made smaller; that of training unless given.
        updates: how many; those of the settings unless given.
    """
    config, settings = experiment.config, experiment.config.evaluation
    goals = tasks(config)
    env = experiment.env
    needed = len(goals) * -(-settings.steps // env.horizon)
    if isinstance(env, HostEnv):
        oracle = env.observation_size != rl.envs.make(config.environment).observation_size
        env = environment(config, needed, oracle=oracle)
    return rl.evaluate(
        env,
        experiment.policy,
        meta,
        jax.numpy.asarray(goals, float),
        _key(settings.seed),
        rule=rl.smaller_later(rule or experiment.rule, settings.later_factor),
        sampling=rl.Sampling(steps=settings.steps, next_observation=config.advantages.bootstrap),
        steps=settings.updates if updates is None else updates,
        inner=config.inner.estimator,
        experience=experiment.judge,
        layout=experiment.layout,
    )


def iterations(settings: Evaluation, *, oracle: bool) -> int:
    """How many a baseline is trained for."""
    return (oracle and settings.oracle_iterations) or settings.baseline_iterations


def baseline(experiment: Experiment, aside: Aside, *, oracle: bool) -> tuple[Experiment, Any]:
    """One policy for all tasks, without inner updates: by a trust region, or as the settings say.

    Args:
        experiment: what it is compared with.
        aside: trains it.
        oracle: whether it observes the task.

    Returns:
        The experiment with its environment and policy, and the parameters.
    """
    config = experiment.config
    env = environment(config, BASELINE_TASKS * BASELINE_EPISODES, oracle=oracle)
    policy = rl.policies.for_environment(env, hidden=config.policy.widths)
    rule, judged = rules.sgd(0.0), judge(config, env)
    by_adam = config.evaluation.pretraining == "adam" and not oracle
    natural = rl.TrustRegion(BASELINE_BOUND, curvature_every=BASELINE_CURVATURE_EVERY)
    outer = rl.Descent(optax.adam(PRETRAINING_RATE)) if by_adam else natural
    step = rl.train_step(
        env,
        policy,
        rule=rule,
        num_tasks=BASELINE_TASKS,
        sampling=rl.Sampling(episodes=BASELINE_EPISODES, next_observation=config.advantages.bootstrap),
        steps=0,
        outer=outer,
        experience=judged,
        layout=experiment.layout,
    )
    params_key, run_key = jax.random.split(_key(BASELINE_SEED + config.seed))
    total = iterations(config.evaluation, oracle=oracle)

    def steps(state: rl.RLState) -> Iterator[StepInfo]:
        for done in range(int(state.step) + 1, total + 1):
            state, metrics = step(state)
            yield StepInfo(state, done, total, {}, training_line({"return_0": float(metrics["returns"][0])}))

    state = aside.train(
        ORACLE if oracle else PRETRAINED,
        rl.init(policy.init(params_key), rule, outer, run_key),
        lambda state: steps(experiment.layout.replicate(state)),
        total=total,
        step_of=lambda state: int(state.step),
        settings={
            name: value
            for name, value in codec.leaves(config)
            if name.partition(".")[0] in ("environment", "policy", "advantages", "layout", "seed")
        }
        | {"pretraining": config.evaluation.pretraining},
        tasks_per_step=BASELINE_TASKS,
    )
    return replace(experiment, env=env, policy=policy, judge=judged), state.meta.params


def _row(method: str, rate: float, found: rl.Adaptation) -> dict[str, Any]:
    mean, interval = estimate(np.asarray(found.returns))
    return {
        "method": method,
        "judge": "query",
        "learning_rate": rate,
        "metrics": {"return": {"mean": mean.tolist(), "interval": interval.tolist()}},
        "per_task": np.asarray(found.returns).tolist(),
        "episodes": float(np.mean(found.episodes)),
        "broken": int(np.sum(found.broken)),
    }


def _key(seed: int) -> Any:
    return jax.random.key(seed, impl="threefry2x32")
