"""What the tests of several processes compare: runs alone, and a process of a run in reinforcement learning.

`python spread.py DEVICES` prints what both kinds of run learn in one process, to the last bit; `python spread.py
DEVICES COORDINATOR PROCESSES PROCESS` what the processes of a run in reinforcement learning do.
"""

import hashlib
import json
import sys
from typing import Any

import jax
import numpy as np

from innerloop import Layout, rl, rules
from innerloop.runs import checkpoint, codec, distributed, machine
from innerloop.runs.progress import Progress
from innerloop.workloads.episodes.workload import WORKLOAD
from rl.wanderer import Wanderer

TASKS = 12
SETTINGS: dict[str, Any] = {
    "tasks.shots": 3,
    "tasks.queries": 3,
    "network.widths": (4,),
    "outer.iterations": 600,
    "outer.meta_batch": 8,
    "layout.shards": 4,
    "layout.adjoint": "mixed",
    "log.every": 5,
}
"""Of the recipe `demo`."""


def policy_learned(iterations: int) -> dict[str, Any]:
    """What a few iterations of the trust region learn, as a hash, and what they tell."""
    env, rule, outer = Wanderer(2 * TASKS // distributed.count()), rules.sgd(0.1), rl.TrustRegion(iterations=2)
    policy = rl.policies.for_environment(env, hidden=(4,))
    layout = Layout(shards=jax.device_count(), chunk=1)
    sampling = rl.Sampling(episodes=2)
    step = rl.train_step(env, policy, rule=rule, num_tasks=TASKS, sampling=sampling, outer=outer, layout=layout)
    key = jax.random.key(0)
    state = layout.replicate(rl.init(policy.init(key), rule, outer, key))
    told = []
    for _ in range(iterations):
        state, metrics = step(state)
        told.append({name: np.asarray(value).tolist() for name, value in metrics.items()})
    bits = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.meta))
    return {"policy": hashlib.sha256(bits).hexdigest(), "told": told, "simulated": env.steps}


def checkpoint_of_demo() -> str:
    """The hash of the last checkpoint's content of a run on episodes."""
    config = codec.changed(WORKLOAD.configure("demo", None), SETTINGS)
    session = WORKLOAD.open(config, Progress(sys.stderr), resolve=True)
    state = session.init()
    for info in session.steps(state):
        state = info.state
    return hashlib.sha256(checkpoint.encoded(state)).hexdigest()


def main(devices: str, coordinator: str = "", processes: str = "1", process: str = "0") -> None:
    if coordinator:
        distributed.join(distributed.Together(coordinator, int(processes), int(process)))
    machine.set_up(int(devices) * int(processes))
    if coordinator:
        distributed.connect()
    found = policy_learned(iterations=2)
    distributed.leave()
    if not coordinator:
        found["checkpoint"] = checkpoint_of_demo()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
