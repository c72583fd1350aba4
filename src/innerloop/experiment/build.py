"""From a configuration to the values that the library works with. Data flows one way: nothing below sees a `Config`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from innerloop import algorithms, losses, models, ops, rules, tasks
from innerloop.adjoint import Adjoint, Mixed, Reverse, Truncated
from innerloop.errors import InnerloopError
from innerloop.experiment.config import Config, MiniImageNetTasks, Network, OmniglotTasks, SinusoidTasks
from innerloop.experiment.data import miniimagenet, omniglot
from innerloop.experiment.data.omniglot import Labelled, Part
from innerloop.layout import Layout
from innerloop.models import Model, Normalisation
from innerloop.tasks.images import require_episodes
from innerloop.types import InnerRule, Loss, Meta, MetaLoss, TaskDistribution

IMAGE_SHAPES = {
    OmniglotTasks: (omniglot.SIDE, omniglot.SIDE, 1),
    MiniImageNetTasks: (miniimagenet.SIDE, miniimagenet.SIDE, 3),
}
RUNNING = "running"


class Data(NamedTuple):
    """What the tasks are drawn from: nothing for sinusoids, labelled images in three parts otherwise."""

    parts: dict[Part, Labelled] | None


@dataclass(frozen=True)
class Experiment:
    """Everything that training and evaluation need.

    Attributes:
        config: where it came from.
        model: the network.
        loss: the inner loss, and the outer one in training.
        judges: the losses by which query sets are judged at test, by name.
        algorithm: the row of the table.
        rule: the inner rule.
        meta_loss: what the outer loop minimises.
        optimizer: the outer optimiser.
        layout: how training tasks are laid out.
        data: what tasks are drawn from.
    """

    config: Config
    model: Model
    loss: Loss
    judges: dict[str, Loss]
    algorithm: algorithms.Algorithm
    rule: InnerRule
    meta_loss: MetaLoss
    optimizer: optax.GradientTransformation
    layout: Layout
    data: Data

    def distribution(self, part: Part, shots: int, queries: int) -> TaskDistribution:
        """The tasks of one part of the data; training tasks if `part` is `"train"`."""
        config = self.config
        if isinstance(config.tasks, SinusoidTasks):
            base: Any = tasks.Sinusoids(shots, queries, config.tasks.amplitude, config.tasks.phase, config.tasks.inputs)
        else:
            images = (self.data.parts or {})[part]
            base = tasks.Episodes.from_labels(*images, ways=config.tasks.ways, shots=shots, queries=queries)
        return tasks.Referenced(base) if "inductive" in self.judges else base

    def training_tasks(self) -> TaskDistribution:
        return self.distribution("train", self.config.tasks.shots, self.config.tasks.queries)

    def require_tasks(self) -> None:
        """Check before training that all the episodes of training and evaluation can be drawn.

        Raises:
            InnerloopError: naming the part of the data that cannot give them.
        """
        settings, evaluation = self.config.tasks, self.config.evaluation
        if isinstance(settings, SinusoidTasks) or not self.data.parts:
            self.training_tasks()
            return
        for part, images in self.data.parts.items():
            training = part == "train"
            for shots in (settings.shots,) if training else evaluation.shots:
                queries = settings.queries if training else evaluation.queries
                try:
                    require_episodes(images.y, ways=settings.ways, shots=shots, queries=queries)
                except InnerloopError as error:
                    raise InnerloopError(f"The {part} part of the data does not give such episodes: {error}") from error

    def scale_metric(self) -> tuple[str, float, str]:
        """What a score is: its metric, the factor to its unit, and the unit."""
        return (
            ("loss", 1.0, "mean squared error")
            if self.config.kind == "regression"
            else ("accuracy", 100.0, "% correct")
        )


def build(config: Config, announce: Callable[[str], None]) -> Experiment:
    """Everything that the configuration stands for.

    Raises:
        InnerloopError: if a name or number in it cannot work, or data is missing.
    """
    algorithms.algorithm(config.algorithm)  # before the data, which may take long
    return assemble(config, load_data(config, announce))


def assemble(config: Config, data: Data) -> Experiment:
    """The same, with data at hand."""
    row = algorithms.algorithm(config.algorithm)
    row = row._replace(adjoint=computed_as(row.adjoint, config))
    layout = Layout(config.layout.shards or 1, config.layout.chunk or None)
    layout.require(config.outer.meta_batch)
    model = network(config)
    criterion = losses.squared_error if config.kind == "regression" else losses.cross_entropy
    chosen = config.network.normalisation
    loss = losses.supervised(model, criterion, "support" if chosen == "support" else "batch")
    judges = {"transductive": losses.supervised(model, criterion)} if chosen != "none" else {"query": loss}
    if chosen != "none":
        judges["inductive"] = losses.supervised(model, criterion, "running" if chosen == "running" else "support")
    rule = adapted_leaves(row.rule(config.inner.learning_rate), config.network)
    return Experiment(
        config=config,
        model=model,
        loss=loss,
        judges=judges,
        algorithm=row,
        rule=rule,
        meta_loss=algorithms.build(row, loss, rule=rule, steps=config.inner.steps),
        optimizer=outer_optimizer(config),
        layout=layout,
        data=data,
    )


def load_data(config: Config, announce: Callable[[str], None]) -> Data:
    """The data of the configured tasks, read or fetched."""
    if isinstance(config.tasks, OmniglotTasks):
        each = config.tasks
        return Data(omniglot.load(config.data_dir, each.split, each.split_seed, each.rotations, announce))
    if isinstance(config.tasks, MiniImageNetTasks):
        return Data(miniimagenet.load(config.data_dir, announce))
    return Data(None)


def network(config: Config, outputs: int | None = None) -> Model:
    """The configured network.

    Args:
        config: the experiment.
        outputs: number of outputs, if not that of the tasks.
    """
    net = config.network
    normalisation = None if net.normalisation == "none" else Normalisation(net.scale, net.shift)
    image = IMAGE_SHAPES.get(type(config.tasks))
    outputs = outputs or (1 if isinstance(config.tasks, SinusoidTasks) else config.tasks.ways)
    convolution = lax.conv_general_dilated if config.layout.convolution == "lax" else ops.conv_general_dilated
    if net.kind == "mlp":
        inputs = int(np.prod(image)) if image else 1
        model = models.mlp(inputs, net.widths, outputs, initializer=models.glorot, normalisation=normalisation)
    elif image is None:
        raise InnerloopError(f"--network.kind {net.kind} takes images; for these tasks use mlp.")
    elif net.kind == "convnet":
        model = models.convnet(
            image,
            outputs,
            downsample=net.downsample,
            filters=net.widths[0],
            blocks=len(net.widths),
            normalisation=normalisation,
            convolution=convolution,
        )
    else:
        if normalisation is None:
            raise InnerloopError(
                "--network.kind resnet12 does not train without normalisation; choose one with --network.normalisation."
            )
        model = models.resnet12(
            image, outputs, filters=net.widths, normalisation=normalisation, convolution=convolution
        )
    if net.precision != "float32":
        model = models.in_precision(model, net.precision)
    if net.normalisation == "running":
        shape = image or (1,)
        return models.with_running_statistics(model, jax.ShapeDtypeStruct((2, *shape), np.float32))
    return model


def adapted_leaves(rule: InnerRule, net: Network) -> InnerRule:
    """The rule without what the inner loop leaves alone: running averages, and scale and shift unless asked for."""
    if net.normalisation == "none":
        return rule

    def where(path: str, leaf: Any) -> bool:
        parts = path.split("/")
        return parts[0] != RUNNING and (net.adapt_normalisation or parts[-1] not in ("scale", "shift"))

    return rules.masked(rule, where)


def outer_optimizer(config: Config) -> optax.GradientTransformation:
    """The configured outer optimiser; running averages follow their own rate instead."""
    outer = config.outer
    rate = outer.learning_rate
    schedule = optax.cosine_decay_schedule(rate, outer.iterations) if outer.schedule == "cosine" else rate
    optimizer = {"adam": optax.adam, "sgd": optax.sgd}[outer.optimizer](schedule)
    if outer.clip:
        optimizer = optax.chain(optax.clip(outer.clip), optimizer)
    if config.network.normalisation != "running":
        return optimizer
    averages = optax.sgd(1 - config.network.running_decay)

    def labels(meta: Meta) -> Meta:
        of_params = {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in meta.params.items()}
        return Meta(of_params, jax.tree.map(lambda _: "network", meta.rule))

    return optax.partition({"network": optimizer, RUNNING: averages}, labels)


def computed_as(adjoint: Adjoint, config: Any) -> Adjoint:
    """The algorithm's adjoint, computed as the configured layout says.

    Raises:
        InnerloopError: if the layout chooses among exact derivatives and the algorithm takes none.
    """
    layout = config.layout
    if isinstance(adjoint, Truncated):
        return replace(adjoint, adjoint=computed_as(adjoint.adjoint, config))
    if layout.adjoint != "auto" and not isinstance(adjoint, Mixed):
        raise InnerloopError(
            f"--layout.adjoint is {layout.adjoint}, but --algorithm {config.algorithm} takes no exact second "
            "derivatives; leave it out."
        )
    chosen = Reverse() if layout.adjoint == "reverse" else adjoint
    if layout.loop == "auto":
        return chosen
    return replace(chosen, unroll=config.inner.steps if layout.loop == "unrolled" else 0)  # pyright: ignore
