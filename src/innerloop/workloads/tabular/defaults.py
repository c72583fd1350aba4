"""What a configuration asks of a learner, in the library's terms."""

from dataclasses import replace

from innerloop.tabular.design import Design
from innerloop.tabular.plan import Choices
from innerloop.workloads.tabular.config import Config


def choices_of(config: Config) -> Choices:
    """What the user chose; what is open stays open, for `innerloop.tabular.plan` to choose from the data."""
    learner, training = config.learner, config.training
    return Choices(
        preset=config.preset,
        algorithm=config.algorithm,
        supports=config.supports,
        ways=config.ways,
        widths=learner.widths,
        start=learner.start,
        targets=learner.targets,
        pooled=learner.pooled,
        steps=learner.steps,
        inner_learning_rate=learner.learning_rate,
        dropout=learner.dropout,
        dropout_inputs=learner.dropout_inputs,
        iterations=training.iterations,
        meta_batch=training.meta_batch,
        outer_learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        evaluation_sizes=config.evaluation.sizes,
        time_limit=config.time_limit,
        seed=config.seed,
    )


def resolved(config: Config, design: Design) -> Config:
    """The configuration with the design that was chosen, so that a run that goes on chooses nothing."""
    pooled = "trees" if design.pooled else "none"
    learner = replace(config.learner, start=design.start, steps=design.steps, targets=design.targets, pooled=pooled)
    return replace(config, learner=learner)
