"""What a configuration asks of a learner, in the library's terms."""

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
