"""A run in reinforcement learning, as a folder to be used elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innerloop.exported import policy
from innerloop.exported.policy import Description
from innerloop.runs import machine
from innerloop.types import Meta
from innerloop.workloads.reinforcement.build import Experiment


def export(experiment: Experiment, meta: Meta, folder: Path, result: Mapping[str, Any] | None) -> None:
    """Write what a run learned as a folder that `innerloop.load` reads.

    Args:
        experiment: what was trained.
        meta: what was learned.
        folder: made if it is not there.
        result: the evaluation, for the model card.

    Raises:
        InnerloopError: if it cannot be written.
    """
    config, env = experiment.config, experiment.env
    facts = {
        "name": f"{config.recipe or config.environment}, {config.algorithm}",
        "seed": config.seed,
        "iterations": (result or {}).get("meta_steps", config.outer.iterations),
        "versions": machine.description()["versions"],
        "commit": machine.commit(),
    }
    description = Description(
        environment=config.environment,
        observations=env.observation_size,
        actions=env.action_size,
        discrete=env.discrete,
        widths=config.policy.widths,
        algorithm=config.algorithm,
        inner_rate=config.inner.learning_rate,
        steps=config.inner.steps,
        later_factor=config.evaluation.later_factor,
        estimator=config.inner.estimator,
        baseline=config.advantages.baseline,
        discount=config.advantages.discount,
        trace=config.advantages.trace,
        facts=facts,
    )
    policy.save(folder, description, meta)
