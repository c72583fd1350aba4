"""Where each inner estimator helps: 2D navigation with dense and with sparse rewards, several seeds, one table.

    python benchmarks/estimators.py [--seeds 5] [--iterations 20]

All rows have the same network, tasks and budget of episodes; only what the meta-gradient knows of how the policy shapes
its own data differs. Prints the table, and keeps it in benchmarks/results/estimators.json; `make results` writes
docs/rl-measured.md from that.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import Layout, rl, rules
from innerloop.runs import machine

RESULT = Path(__file__).parent / "results" / "estimators.json"
ENVIRONMENTS = ("Navigation2D", "Navigation2DSparse")
TASKS, EPISODES, RATE, UPDATES = 20, 5, 0.5, 3


def returns(name: str, estimator: str, iterations: int, seeds: int) -> np.ndarray:
    """Mean returns on the test tasks, `[seeds, updates + 1]`."""
    env = rl.envs.make(name)
    policy = rl.policies.for_environment(env)
    rule, outer = rules.sgd(RATE), rl.TrustRegion()
    layout = Layout(chunk=1)
    sampling = rl.Sampling(steps=EPISODES * env.horizon)
    step = rl.train_step(
        env, policy, rule=rule, num_tasks=TASKS, sampling=sampling, inner=estimator, outer=outer, layout=layout
    )
    found = []
    for seed in range(seeds):
        params_key, run_key, test_key = jax.random.split(jax.random.key(seed), 3)
        state = rl.init(policy.init(params_key), rule, outer, run_key)
        for _ in range(iterations):
            state, _ = step(state)
        adaptation = rl.evaluate(
            env,
            policy,
            state.meta,
            jnp.asarray(rl.envs.reference_tasks(name)),
            test_key,
            rule=rl.smaller_later(rule, 0.5),
            sampling=sampling,
            steps=UPDATES,
            inner=estimator,
            layout=layout,
        )
        found.append(np.asarray(adaptation.returns).mean(axis=0))
    return np.stack(found)


def main(arguments: argparse.Namespace) -> None:
    result: dict[str, Any] = {
        "command": f"python benchmarks/estimators.py --seeds {arguments.seeds} --iterations {arguments.iterations}",
        "commit": machine.commit(),
        "environment": machine.description(),
        "seeds": arguments.seeds,
        "settings": f"{arguments.iterations} iterations of {TASKS} tasks x {EPISODES} episodes, trust region of "
        f"{rl.TrustRegion().bound} nats, inner step size {RATE}, halved after the first update",
        "returns": {},
    }
    for name in ENVIRONMENTS:
        rows = result["returns"][name] = {}
        for estimator in rl.ESTIMATORS:
            values = returns(name, estimator, arguments.iterations, arguments.seeds)
            rows[estimator] = {"returns": values.tolist()}
            print(f"{name:20} {estimator:15} {values.mean(axis=0).round(2)}", flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    main(parser.parse_args())
