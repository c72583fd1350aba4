"""A fourth kind of run in one file: a number learns the mean of noisy targets. It shows what a new kind has to say."""

import signal
import sys
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import codec, engine, machine
from innerloop.runs.codec import Count, Positive, Whole, require_bounds
from innerloop.runs.fields import ValidatedLog as Log
from innerloop.runs.recipe import Recipe
from innerloop.runs.results import Result, Section, Table, estimate
from innerloop.runs.workload import Comparable, Examined, StepInfo


@dataclass(frozen=True)
class Config:
    target: float = 3.0
    rate: Positive = 0.1
    iterations: Count = 40
    recipe: str = "toy"
    algorithm: str = "maml"
    seed: Whole = 0
    log: Log = field(default_factory=lambda: Log(every=5, checkpoint_seconds=0.0))
    run_dir: str | None = None


class State(NamedTuple):
    weight: jax.Array
    step: jax.Array
    key: jax.Array


class Session:
    unit, tasks_per_step = "meta-step", 1

    def __init__(self, config, progress):
        self.config, self.progress, self.costs = config, progress, {"compile_seconds": 0.0}
        self.settings, self.rates = codec.training_settings(config), {"--rate": config.rate}

    def describe(self):
        return [f"{self.config.iterations} steps"]

    def plan(self):
        return ["it needs next to nothing"]

    def init(self):
        return State(jnp.zeros(()), jnp.zeros((), jnp.int32), jax.random.key(self.config.seed))

    def begun(self, state):
        return state._replace(key=self.init().key)

    def step_of(self, state):
        return int(state.step)

    def learned(self, state):
        return state.weight

    def steps(self, state):
        while (done := int(state.step)) < self.config.iterations:
            target = self.config.target + jax.random.normal(jax.random.fold_in(state.key, done))
            weight = state.weight - self.config.rate * (state.weight - target)
            state = State(weight, state.step + 1, state.key)
            loss = float((weight - self.config.target) ** 2)
            score = None if (done + 1) % 10 else -loss
            yield StepInfo(state, done + 1, self.config.iterations, {"loss": loss}, f"loss {loss:.2f}", score=score)

    def examined(self, state, step):
        return Examined(state, [], {})

    def evaluate(self, state, aside, best=()):
        errors = (float(state.weight) - self.config.target + np.arange(4.0)) ** 2
        return Result({"settings": {"tasks": 4}, "error": estimate(errors)._asdict()}, {"error": errors[:, None]})

    def tables(self, result):
        return [Table("error", ("method", "mean"), (("toy", f"{result['error']['mean']:.3f}"),))]

    def remarks(self, result, records):
        return [f"{len(records)} records"]

    def sections(self, state, result, records):
        return [Section("What was learned", f"<p>{float(state.weight):.2f}</p>")]

    def export(self, state, folder, result):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weight.txt").write_text(repr(float(state.weight)))


class Toy:
    name, Config = "toy", Config
    recipes = MappingProxyType({"toy": Recipe(Config, "a number")})

    def configure(self, name, algorithm):
        return Config()

    def check(self, config):
        require_bounds(config)
        if config.target > 1e6:
            raise InnerloopError(f"--target is {config.target}; it must be at most a million.")

    def open(self, config, progress, *, resolve):
        machine.set_up(1)
        return Session(config, progress)

    def comparables(self, config, result, scores):
        return [Comparable("squared error", scores["error"], True)]

    def identity_of_test_tasks(self, config, result):
        return {"--evaluation.tasks": result["settings"]["tasks"]}


WORKLOAD = Toy()

if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests may run under nohup, which has it ignored
    sys.exit(engine.train(WORKLOAD, Config(run_dir=sys.argv[1], iterations=int(sys.argv[2]))))
