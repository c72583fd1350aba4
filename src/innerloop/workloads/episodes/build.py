"""From a configuration to the values that the library works with. Data flows one way: nothing below sees a `Config`."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax

from innerloop import models, ops, tasks
from innerloop.core import algorithms, losses, rules
from innerloop.core.adjoints import (
    Adjoint,
    Annealed,
    ConjugateGradient,
    FirstOrder,
    Implicit,
    Truncated,
)
from innerloop.core.algorithms import Algorithm, OuterUpdate
from innerloop.core.layout import Layout
from innerloop.core.metagrad import multi_step
from innerloop.core.outer import MetaStep, meta_step
from innerloop.errors import InnerloopError
from innerloop.models import Model, Normalisation
from innerloop.runs.adjoint import as_laid_out
from innerloop.runs.codec import flag
from innerloop.tasks.images import require_episodes
from innerloop.types import InnerRule, Loss, Meta, MetaLoss, TaskDistribution
from innerloop.workloads.episodes.config import (
    Config,
    MiniImageNetTasks,
    Network,
    OmniglotTasks,
    SinusoidTasks,
    Variant,
)
from innerloop.workloads.episodes.data import miniimagenet, omniglot
from innerloop.workloads.episodes.data.omniglot import Labelled, Part

IMAGE_SHAPES = {
    OmniglotTasks: (omniglot.SIDE, omniglot.SIDE, 1),
    MiniImageNetTasks: (miniimagenet.SIDE, miniimagenet.SIDE, 3),
}
RUNNING = "running"
PUBLISHED_RATE = 0.1
"""The inner step size from which MAML++ learns step sizes with the outer step size itself."""


class Data(NamedTuple):
    """What the tasks are drawn from: nothing for sinusoids, labelled images in three parts otherwise."""

    parts: dict[Part, Labelled] | None

    def settings(self) -> dict[str, str]:
        """What tells other images under the same name: a hash of all that training reads."""
        if not self.parts:
            return {}
        digest = hashlib.sha256()
        for part in sorted(self.parts):
            for array in self.parts[part]:
                digest.update(f"{part} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return {"data": digest.hexdigest()[:16]}


@dataclass(frozen=True)
class Experiment:
    """Everything that training and evaluation need.

    Attributes:
        config: where it came from.
        model: the network.
        loss: the inner loss.
        judges: the losses by which query sets are judged at test, by name.
        algorithm: the row of the table, with what the configuration sets of it.
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
    algorithm: Algorithm
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
        return tasks.WithSupportStatistics(base) if "inductive" in self.judges else base

    @property
    def forward(self) -> Adjoint:
        """Runs the inner loop where nothing is differentiated: that of `Implicit` is another than the others'."""
        return self.algorithm.adjoint if isinstance(self.algorithm.adjoint, Implicit) else FirstOrder()

    def meta_step(self) -> MetaStep:
        """One step of training."""
        outer = self.config.outer
        return meta_step(
            self.meta_loss,
            self.optimizer,
            meta_batch=outer.meta_batch,
            layout=self.layout,
            iterations=outer.iterations,
            radius=self.algorithm.outer.radius,
        )

    def remarks(self) -> list[str]:
        """What a user might not expect of the algorithm in this configuration, in sentences."""
        config, row = self.config, self.algorithm
        said = []
        if row.network == "per-step" and config.network.normalisation == "none":
            said.append(
                f"this network has no normalisation, so {config.algorithm} runs without scale and shift per step"
            )
        learned, steps = self.rule.learned_steps, config.evaluation.steps
        if learned is not None and steps > learned:
            beyond = f"{learned} inner {'step' if learned == 1 else 'steps'}"
            said.append(f"what was learned for {beyond} is evaluated at {steps}: beyond, that of the last step is used")
        return said

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
    require_fitting(config)  # before the data, which may take long
    return assemble(config, load_data(config, announce))


def assemble(config: Config, data: Data) -> Experiment:
    """The same, with data at hand."""
    row = varied(config)
    adjoint = as_laid_out(row.adjoint, config.layout, algorithm=config.algorithm, steps=config.inner.steps)
    row = row._replace(adjoint=adjoint)
    layout = Layout(config.layout.shards or 1, config.layout.chunk or None)
    layout.require(config.outer.meta_batch)
    model = network_for(row, config)
    criterion = losses.squared_error if config.kind == "regression" else losses.cross_entropy
    chosen = config.network.normalisation
    statistics = "support" if chosen == "support" else "batch"
    query_loss = losses.supervised(model, criterion, statistics)
    prototypes = row.network == "prototypes"
    loss = losses.supervised(model, losses.to_prototype, statistics) if prototypes else query_loss
    judges = {"transductive": losses.supervised(model, criterion)} if chosen != "none" else {"query": query_loss}
    if chosen != "none":
        judges["inductive"] = losses.supervised(model, criterion, "running" if chosen == "running" else "support")
    steps = min(config.inner.steps, 1) if prototypes else config.inner.steps  # the mean is reached in one
    rule = adapted_leaves(row.rule(config.inner.learning_rate, steps), config.network)
    if has_parts(row, config):
        rule = rules.counting(rule)
    return Experiment(
        config=config,
        model=model,
        loss=loss,
        judges=judges,
        algorithm=row,
        rule=rule,
        meta_loss=algorithms.build(row, loss, rule=rule, steps=steps, query_loss=query_loss),
        optimizer=outer_optimizer(config, row.outer),
        layout=layout,
        data=data,
    )


def varied(config: Config) -> Algorithm:
    """The configured row of the table, with what the configuration sets of it.

    Raises:
        InnerloopError: for a setting that the algorithm has no use for.
    """
    row, variant = algorithms.algorithm(config.algorithm), config.variant
    adjoint, default = row.adjoint, Variant()
    used = {
        "exact_steps": isinstance(adjoint, Truncated),
        "context": row.network == "context",
        "features": row.network == "prototypes",
        "regularisation": isinstance(adjoint, Implicit),
        "solver_steps": isinstance(adjoint, Implicit),
        "tolerance": isinstance(adjoint, Implicit),
        "radius": row.outer.radius > 0,
        "first_order_until": isinstance(adjoint, Annealed),
        "all_steps_until": row.objective.at is not None,
    }
    for name, useful in used.items():
        if not useful and getattr(variant, name) != getattr(default, name):
            raise InnerloopError(
                f"--variant.{flag(name)} has no effect with --algorithm {config.algorithm}; leave it out."
            )
    if isinstance(adjoint, Truncated):
        adjoint = replace(adjoint, last=variant.exact_steps)
    elif isinstance(adjoint, Annealed):
        adjoint = replace(adjoint, until=variant.first_order_until)
    elif isinstance(adjoint, Implicit):
        adjoint = Implicit(variant.regularisation, ConjugateGradient(variant.solver_steps, variant.tolerance))
    return row._replace(
        adjoint=adjoint,
        objective=row.objective if row.objective.at is None else multi_step(variant.all_steps_until),
        outer=row.outer._replace(radius=variant.radius if used["radius"] else 0.0),
    )


def require_fitting(config: Config) -> None:
    """Refuse an algorithm that cannot work on these tasks or with this network.

    Raises:
        InnerloopError: naming the mend.
    """
    row, name, network = varied(config), config.algorithm, config.network
    if row.network == "prototypes" and config.kind == "regression":
        raise InnerloopError(f"--algorithm {name} classifies, and these tasks are regression; leave it out.")
    if row.network == "prototypes" and not config.inner.steps:
        raise InnerloopError(f"--inner.steps is 0, but {name} needs one to find the prototypes; use 1.")
    if row.network == "context" and network.kind != "mlp":
        raise InnerloopError(f"--algorithm {name} takes --network.kind mlp, whose input a context can join.")
    if row.network != "any" and network.normalisation == "running":
        raise InnerloopError(
            f"--algorithm {name} does not take --network.normalisation running; use transductive or support."
        )
    if "bnps" in name.split("+") and network.normalisation == "none":
        raise InnerloopError(
            f"--algorithm {name} asks for normalisation with scale and shift of each step, but --network.normalisation "
            "is none; choose support or transductive, or leave out +bnps."
        )
    if not row.adapts and config.kind == "classification":
        raise InnerloopError(
            f"--algorithm {name} is for regression: the labels of an episode mean nothing outside of it. For "
            "classification every evaluation has pre-training on all classes as a baseline (--evaluation.baselines)."
        )


def has_parts(row: Algorithm, config: Config) -> bool:
    """Whether the network has some of its parameters once for each step."""
    return row.network == "per-step" and config.network.normalisation != "none"


def network_for(row: Algorithm, config: Config) -> Model:
    """The configured network, with what the algorithm asks of it."""
    if row.network == "context":
        return models.with_context(network(config, more_inputs=config.variant.context), config.variant.context)
    if row.network == "prototypes" and not isinstance(config.tasks, SinusoidTasks):
        size = config.variant.features
        return models.prototypical(network(config, outputs=size), size, config.tasks.ways)
    model = network(config)
    return models.per_step(model, config.inner.steps) if has_parts(row, config) else model


def load_data(config: Config, announce: Callable[[str], None]) -> Data:
    """The data of the configured tasks, read or fetched."""
    if isinstance(config.tasks, OmniglotTasks):
        each = config.tasks
        return Data(omniglot.load(config.data_dir, each.split, each.split_seed, each.rotations, announce))
    if isinstance(config.tasks, MiniImageNetTasks):
        return Data(miniimagenet.load(config.data_dir, announce))
    return Data(None)


def network(config: Config, outputs: int | None = None, more_inputs: int = 0) -> Model:
    """The configured network.

    Args:
        config: the experiment.
        outputs: number of outputs, if not that of the tasks.
        more_inputs: number of inputs beside those of the tasks, of a multilayer perceptron.
    """
    net = config.network
    normalisation = None if net.normalisation == "none" else Normalisation(net.scale, net.shift)
    image = IMAGE_SHAPES.get(type(config.tasks))
    outputs = outputs or (1 if isinstance(config.tasks, SinusoidTasks) else config.tasks.ways)
    convolution = lax.conv_general_dilated if config.layout.convolution == "lax" else ops.conv_general_dilated
    if net.kind == "mlp":
        inputs = (int(np.prod(image)) if image else 1) + more_inputs
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


def outer_optimizer(config: Config, update: OuterUpdate) -> optax.GradientTransformation:
    """The configured outer optimiser. Running averages follow their own rate instead.

    Step sizes that are learned are changed in proportion to where they start, at most by the outer step size itself, as
    MAML++ does from 0.1 on: Adam's step of 0.001 would make step sizes that start at 0.001 jump about, and training
    diverge.

    Args:
        config: the experiment.
        update: what the algorithm has of its own.
    """
    outer = config.outer
    rate, falls = outer.learning_rate, update.cosine or outer.schedule == "cosine"
    schedule = optax.cosine_decay_schedule(rate, outer.iterations) if falls else rate
    optimizer = {"adam": optax.adam, "sgd": optax.sgd}[outer.optimizer](schedule)
    if outer.clip:
        optimizer = optax.chain(optax.clip(outer.clip), optimizer)
    share = min(1.0, config.inner.learning_rate / PUBLISHED_RATE) if update.rates else 1.0
    parts: dict[Hashable, optax.GradientTransformation] = {
        "network": optimizer,
        "rates": optax.chain(optimizer, optax.scale(share)),
        RUNNING: optax.sgd(1 - config.network.running_decay),
    }
    averages = config.network.normalisation == "running"
    if share == 1 and not averages:
        return optimizer

    def labels(meta: Meta) -> Meta:
        def of_params(path: Any, _: Any) -> str:
            return RUNNING if averages and path[0].key == RUNNING else "network"

        of_rule = jax.tree.map(lambda _: "rates" if share < 1 else "network", meta.rule)
        return Meta(jax.tree_util.tree_map_with_path(of_params, meta.params), of_rule)

    return optax.partition(parts, labels)
