"""How fast simulated robots step: ours against gymnasium's vector environments, with the same physics.

    python benchmarks/simulators.py

All rows do the same work: the same compiled model, frame skip 1, the whole state computed after each step, the same
observation and reward, and a reset when a robot falls or 200 steps are over. Gymnasium's environments hold the plain
loop over MuJoCo's own functions that the tests use as their reference. Prints a table, and keeps it in
benchmarks/results/simulators.json.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

ROOT = Path(__file__).parents[1]
TESTS = str(ROOT / "tests")
sys.path.insert(0, TESTS)

from rl.plain import Plain  # noqa: E402

NAMES = ["HalfCheetahVelocity", "AntVelocity"]
ROUNDS, SECONDS, HORIZON = 5, 1.0, 200


class PlainEnv(gymnasium.Env):
    """The plain loop as gymnasium has it."""

    def __init__(self, name: str, model: Any, observation_size: int) -> None:
        self.plain = Plain(name, model)
        self.observation_space = gymnasium.spaces.Box(-1e6, 1e6, (observation_size,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (model.nu,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.t, self.goal = 0, 1.0
        return self.plain.reset(int(self.np_random.integers(2**31))), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        observation, reward, fallen = self.plain.step(action, self.goal)
        return observation, float(reward), bool(fallen), self.t == HORIZON, {}


class Row(NamedTuple):
    environment: str
    stepper: str
    num_envs: int
    steps_per_second: float
    microseconds_per_step: float


def of_gymnasium(vector: Any, num_envs: int) -> Callable[[], None]:
    """One step of a vector environment, which resets by itself what has ended."""
    size = vector.single_action_space.shape[0]
    actions = actions_of(num_envs, size)
    vector.reset(seed=0)
    return lambda: vector.step(next(actions).astype(np.float32))


def of_ours(env: Any) -> Callable[[], None]:
    """One step of all simulations, and the resets that are due."""
    actions, tasks = actions_of(env.num_envs, env.action_size), np.ones(env.num_envs)
    rng, t = np.random.default_rng(0), np.zeros(env.num_envs, int)
    env.reset(tasks, rng.integers(2**31, size=env.num_envs))

    def step() -> None:
        answer = env.step(tasks, next(actions))
        t[:] += 1
        ended = np.flatnonzero(answer.terminated | (t == HORIZON))
        if ended.size:
            env.reset(tasks[ended], rng.integers(2**31, size=ended.size), ended)
            t[ended] = 0

    return step


def of_collect(env: Any, num_tasks: int, episodes: int) -> Callable[[], int]:
    """A whole batch of a meta-step, with the paper's policy and parameters of its own for each task."""
    import jax

    from innerloop import models
    from innerloop.rl import collect

    net = models.mlp(env.observation_size, (100, 100), env.action_size, initializer=models.glorot)

    def policy(params: Any, observation: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        mean = net.apply(params, observation[None])[0]
        action = mean + jax.random.normal(key, mean.shape)
        return action, {"mean": mean}

    params = jax.vmap(net.init)(jax.random.split(jax.random.key(0), num_tasks))
    tasks = np.ones(num_tasks)
    return lambda: int(collect(env, policy, params, tasks, jax.random.key(1), episodes=episodes).mask.sum())


def actions_of(num_envs: int, size: int) -> Iterator[np.ndarray]:
    drawn = np.random.default_rng(1).uniform(-1, 1, (64, num_envs, size))
    while True:
        yield from drawn


def rate(step: Callable[[], None], num_envs: int) -> float:
    """Environment steps per second, over about `SECONDS`."""
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        step()
        count += num_envs
    return count / elapsed


def measure(name: str) -> list[Row]:
    from innerloop.rl import envs

    few, many, cores = 16, 800, run.cores()
    described: Any = envs.make(name)
    make = partial(PlainEnv, name, described.robot.model, described.observation_size)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    vectors = {
        "gymnasium SyncVectorEnv": gymnasium.vector.SyncVectorEnv([make] * few),
        "gymnasium AsyncVectorEnv": gymnasium.vector.AsyncVectorEnv([make] * few, context="spawn"),
    }
    steppers = {what: (of_gymnasium(vector, few), few) for what, vector in vectors.items()}
    for num_envs, threads in ((few, 1), (few, cores), (many, cores)):
        env = envs.make(name, num_envs=num_envs, threads=threads)
        steppers[f"innerloop, {threads} thread{'s' * (threads > 1)}, {num_envs} simulations"] = (of_ours(env), num_envs)
    for step, _ in steppers.values():
        for _ in range(20):
            step()
    # In turns, so that whatever else the machine does falls on all alike.
    rates: dict[str, list[float]] = {what: [] for what in steppers}
    for _ in range(ROUNDS):
        for what, (step, num_envs) in steppers.items():
            rates[what].append(rate(step, num_envs))
    rows = [Row(name, what, steppers[what][1], *both(statistics.median(each))) for what, each in rates.items()]
    for vector in vectors.values():
        vector.close()
    batch = of_collect(envs.make(name, num_envs=many), num_tasks=40, episodes=20)
    steps = batch()
    whole = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        batch()
        whole.append(steps / (time.perf_counter() - start))
    rows.append(Row(name, "innerloop, collect 40 x 20", many, *both(statistics.median(whole))))
    return rows


def both(rate: float) -> tuple[float, float]:
    return round(rate, 1), round(1e6 / rate, 2)


def main() -> None:
    import mujoco

    from innerloop.runs import machine

    rows = [row for name in NAMES for row in measure(name)]
    ratios = {}
    print(f"{'environment':<22}{'stepper':<44}{'steps/s':>10}{'µs/step':>10}{'x Async':>9}{'x Sync':>9}")
    for row in rows:
        of = {each.stepper: each.steps_per_second for each in rows if each.environment == row.environment}
        sync, other = of["gymnasium SyncVectorEnv"], of["gymnasium AsyncVectorEnv"]
        ratio = {"of_async": row.steps_per_second / other, "of_sync": row.steps_per_second / sync}
        ratios[f"{row.environment}, {row.stepper}"] = {key: round(value, 2) for key, value in ratio.items()}
        print(
            f"{row.environment:<22}{row.stepper:<44}{row.steps_per_second:>10,.0f}{row.microseconds_per_step:>10.1f}"
            f"{ratio['of_async']:>9.2f}{ratio['of_sync']:>9.2f}"
        )
    result = {
        "benchmark": "simulators",
        "command": ["python", "benchmarks/simulators.py"],
        "commit": machine.commit(),
        "environment": machine.description(),
        "versions": {"gymnasium": gymnasium.__version__, "mujoco": mujoco.__version__},
        "rows": [row._asdict() for row in rows],
        "ratios": ratios,
    }
    target = ROOT / "benchmarks" / "results" / "simulators.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(target)


if __name__ == "__main__":
    main()
