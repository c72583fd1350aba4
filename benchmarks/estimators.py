"""Where each inner estimator helps: 2D navigation with dense and with sparse rewards, several seeds, one table.

    python benchmarks/estimators.py [--seeds 5] [--iterations 50]

All rows have the same network, tasks and budget of episodes; only what the meta-gradient knows of how the policy shapes
its own data differs. Prints the table, and keeps it in benchmarks/results/estimators.json; `make results` writes
docs/estimators.md from that.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import Layout, rl, rules
from innerloop.experiment.run import commit, environment_of_machine

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "estimators.json"
PAGE = ROOT / "docs" / "estimators.md"
ENVIRONMENTS = ("Navigation2D", "Navigation2DSparse")
TASKS, EPISODES, RATE, UPDATES = 20, 10, 0.5, 3


def returns(name: str, estimator: str, iterations: int, seeds: int) -> tuple[np.ndarray, float]:
    """Mean returns on the test tasks, `[seeds, updates + 1]`, and the seconds of an iteration."""
    env = rl.envs.make(name)
    policy = rl.policies.for_environment(env)
    rule, outer = rules.sgd(RATE), rl.TrustRegion()
    layout = Layout(chunk=1)
    sampling = rl.Sampling(steps=EPISODES * env.horizon)
    step = rl.train_step(
        env, policy, rule=rule, num_tasks=TASKS, sampling=sampling, inner=estimator, outer=outer, layout=layout
    )
    found, seconds = [], 0.0
    for seed in range(seeds):
        params_key, run_key, test_key = jax.random.split(jax.random.key(seed), 3)
        state = rl.init(policy.init(params_key), rule, outer, run_key)
        state, _ = jax.block_until_ready(step(state))  # compiles, the first time
        start = time.perf_counter()
        for _ in range(iterations - 1):
            state, _ = step(state)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - start) / (iterations - 1)
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
    return np.stack(found), seconds


def page(result: dict[str, Any]) -> str:
    """docs/estimators.md."""
    machine = result["machine"]
    lines = [
        "# Inner estimators, measured",
        "",
        f"Written by `make results` from `benchmarks/results/estimators.json` (`{result['command']}`, commit "
        f"{(result['commit'] or 'unknown')[:10]}, {machine['processor']} with {machine['cores']} cores). Mean return on "
        f"the 40 test goals after 0 to {UPDATES} updates; mean over {result['seeds']} seeds and, in brackets, their "
        f"standard deviation. {result['iterations']} iterations of {TASKS} tasks x {EPISODES} episodes, trust region of "
        "0.01, inner step size 0.5.",
        "",
    ]
    for name, rows in result["returns"].items():
        updates = [f"after {update}" for update in range(UPDATES + 1)]
        lines += [
            f"## {name}",
            "",
            f"| inner estimator | {' | '.join(updates)} | seconds an iteration |",
            "|---|" + "---|" * (len(updates) + 1),
        ]
        for estimator, row in rows.items():
            values = np.array(row["returns"])
            cells = [f"{m:.2f} ({s:.2f})" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
            lines.append(f"| {estimator} | {' | '.join(cells)} | {row['seconds']:.2f} |")
        lines += ["", where_it_helps(rows), ""]
    return "\n".join(lines)


def where_it_helps(rows: dict[str, Any]) -> str:
    """What the last column of returns says, seed by seed, against the log-likelihood."""
    plain = np.array(rows["log-likelihood"]["returns"])[:, -1]
    said = []
    for name, row in rows.items():
        if name != "log-likelihood":
            gain = np.array(row["returns"])[:, -1] - plain
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            verdict = "better" if gain.mean() > 2 * error else "worse" if gain.mean() < -2 * error else "no different"
            said.append(f"{name} {gain.mean():+.2f} ± {2 * error:.2f} ({verdict})")
    return (
        f"Difference to the log-likelihood after {UPDATES} updates, seed by seed, with two standard errors: "
        + "; ".join(said)
        + "."
    )


def main(arguments: argparse.Namespace) -> None:
    result: dict[str, Any] = {
        "command": f"python benchmarks/estimators.py --seeds {arguments.seeds} --iterations {arguments.iterations}",
        "commit": commit(),
        **environment_of_machine(),
        "seeds": arguments.seeds,
        "iterations": arguments.iterations,
        "returns": {},
    }
    for name in ENVIRONMENTS:
        rows = result["returns"][name] = {}
        for estimator in rl.ESTIMATORS:
            values, seconds = returns(name, estimator, arguments.iterations, arguments.seeds)
            rows[estimator] = {"returns": values.tolist(), "seconds": seconds}
            print(f"{name:20} {estimator:15} {values.mean(axis=0).round(2)}  {seconds:.2f} s an iteration", flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is not what the result gives")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    chosen = parser.parse_args()
    if chosen.page or chosen.check:
        text = page(json.loads(RESULT.read_text()))
        if chosen.check:
            sys.exit(int(PAGE.read_text() != text))
        PAGE.write_text(text)
    else:
        main(chosen)
