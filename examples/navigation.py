"""MAML on 2D navigation: a policy that finds a goal it does not see from the rewards of 20 episodes.

The settings are those of the paper: 20 tasks and 20 episodes of each in an iteration, an inner step size of 0.5, and a
trust region of 0.01 for the outer update. It is then judged on the paper's 40 test goals.

    python examples/navigation.py [ITERATIONS]
"""

import sys
import time

import jax
import numpy as np

import innerloop as il
from innerloop import rl, rules

PUBLISHED = (-40.41, -11.68, -3.33, -3.23)


def main(iterations: int = 100) -> np.ndarray:
    """Train, and return the mean return on the test goals after 0, 1, 2 and 3 updates."""
    env = rl.envs.make("Navigation2D")
    policy = rl.policies.for_environment(env)
    rule, outer = rules.sgd(0.5), rl.TrustRegion(bound=0.01)
    step = rl.train_step(
        env,
        policy,
        rule=rule,
        num_tasks=20,
        sampling=rl.Sampling(steps=2000),
        outer=outer,
        layout=il.Layout(chunk=1),  # on a CPU a task's activations then stay in the cache
    )
    state = rl.init(policy.init(jax.random.key(0)), rule, outer, jax.random.key(1))

    start = time.perf_counter()
    for iteration in range(iterations):
        state, metrics = step(state)
        if iteration % 10 == 0 or iteration == iterations - 1:
            before, after = metrics["returns"]
            print(f"{iteration:4d}  {time.perf_counter() - start:5.1f} s  return {before:7.2f} → {after:7.2f}")

    returns = rl.evaluate(
        env,
        policy,
        state.meta,
        rl.envs.reference_tasks("Navigation2D"),
        jax.random.key(2),
        rule=rl.smaller_later(rule, 0.5),
        sampling=rl.Sampling(steps=4000),
    ).returns
    mean, interval = il.summarise(returns)
    for updates, numbers in enumerate(zip(mean, interval, PUBLISHED, strict=True)):
        print("after {} updates: {:7.2f} ± {:4.2f}   (published: {:6.2f})".format(updates, *numbers))
    return mean


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
