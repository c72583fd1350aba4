"""The time of a meta-iteration, before against after, in one run on one machine: what a change of code or recipe saves.

    python -m benchmarks.iteration_ratio --before TREE [--rounds 5] [--also FIELD=VALUE] [RECIPE ...]

TREE is another checkout, for example of `git worktree add --detach TREE COMMIT`. Each recipe is built twice, as that
tree has it and as this one does, in two processes that then take turns: one iteration here, one there, each from the
same first state, simulator and all. With `--also`, a third process has this tree with a field of the outer update
changed, such as `curvature_every=4`. What is kept is the median of the rounds' ratios, which other work on the machine
shifts less than the seconds. Written to benchmarks/results/iteration-ratio.json, recipe by recipe, and by
`make results` into docs/rl-measured.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from innerloop.runs import machine

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "iteration-ratio.json"
RECIPES = ("rl-navigation-2d", "rl-cheetah-direction", "rl-cheetah-velocity", "rl-ant-velocity", "rl-ant-direction")

# Runs in either tree: before 2026-11-25 the program lay in other modules.
WORKER = """
import dataclasses, json, sys, time
import jax
try:
    from innerloop.runs.machine import commit, set_up
    from innerloop.workloads.reinforcement import recipes, training
    from innerloop.workloads.reinforcement.build import Clocked, build
    configure = recipes.configure
except ImportError:
    from innerloop.experiment.recipes import config as configure
    from innerloop.experiment.rl import training
    from innerloop.experiment.rl.build import Clocked, build
    from innerloop.experiment.run import commit
    from innerloop.experiment.session import set_up
said, sys.stdout = sys.stdout, sys.stderr
set_up()
config = configure(sys.argv[1])
if sys.argv[2:]:
    name, value = sys.argv[2].split("=")
    config = dataclasses.replace(config, outer=dataclasses.replace(config.outer, **{name: int(value)}))
experiment = build(config)
step, env = experiment.train_step(), experiment.env
state = experiment.layout.replicate(training.initial_state(experiment))
jax.block_until_ready(step(state))
print(json.dumps({"commit": commit()}), file=said, flush=True)
for _ in sys.stdin:
    simulated = env.seconds if isinstance(env, Clocked) else 0.0
    start = time.perf_counter()
    jax.block_until_ready(step(state))
    seconds = time.perf_counter() - start
    simulated = env.seconds - simulated if isinstance(env, Clocked) else 0.0
    print(json.dumps({"seconds": seconds, "simulator": simulated}), file=said, flush=True)
"""


class Tree:
    """A recipe in a process of its own, with the library of one tree."""

    def __init__(self, tree: Path, recipe: str, change: str = ""):
        environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
        command = [sys.executable, "-c", WORKER, recipe, *([change] if change else [])]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tree
        )
        self.commit: str | None = self._answer()["commit"]

    def iteration(self) -> dict[str, float]:
        """The seconds of one iteration, and those of the simulator in it."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"The worker ended with status {self._process.wait()}; what it said is above.")
        return json.loads(line)


def compare(before: Path, recipe: str, rounds: int, change: str = "") -> list[dict[str, Any]]:
    """Both trees by turns, and this one with a change; each against the tree before."""
    trees = [Tree(before, recipe), Tree(ROOT, recipe), *([Tree(ROOT, recipe, change)] if change else [])]
    measured: list[list[dict[str, float]]] = [[] for _ in trees]
    for _ in range(rounds):
        for kept, tree in zip(measured, trees, strict=True):
            kept.append(tree.iteration())
    for tree in trees:
        tree.close()
    commits = [tree.commit for tree in trees]
    return [row([measured[0], measured[at]], [commits[0], commits[at]]) for at in range(1, len(trees))]


def row(measured: list[list[dict[str, float]]], commits: list[str | None]) -> dict[str, Any]:
    """One tree against another."""
    ratios = [after["seconds"] / before["seconds"] for before, after in zip(*measured, strict=True)]
    return {
        "commits": commits,
        "seconds": [statistics.median(each["seconds"] for each in kept) for kept in measured],
        "outside_of_simulator": [
            statistics.median(1 - each["simulator"] / each["seconds"] for each in kept) for kept in measured
        ],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="The time of a meta-iteration, before against after.")
    parser.add_argument("recipes", nargs="*", default=RECIPES)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--also", default="", help="a field of the outer update, changed in a third process")
    asked = parser.parse_args(arguments)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {"rows": {}}
    for recipe in asked.recipes:
        also = f"--also {asked.also} " if asked.also else ""
        command = f"python -m benchmarks.iteration_ratio --before TREE --rounds {asked.rounds} {also}{recipe}"
        names = [recipe, f"{recipe}, {asked.also.replace('_', '-').replace('=', ' ')}"]
        for name, found in zip(names, compare(asked.before.resolve(), recipe, asked.rounds, asked.also), strict=False):
            result["rows"][name] = found | {"command": command, "environment": machine.description()}
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
            before, after = found["seconds"]
            print(f"{name:<45}{found['ratio']:.2f} of the time: {before:.2f} s to {after:.2f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
