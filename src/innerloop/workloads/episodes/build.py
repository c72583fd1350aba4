"""From a configuration to the values that the library works with. Data flows one way: nothing below sees a `Config`."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from innerloop import models, tasks
from innerloop.core import losses
from innerloop.core.algorithms import Algorithm, MetaLearner
from innerloop.core.algorithms.learner import partitioned
from innerloop.core.layout import Layout
from innerloop.core.outer import Diagnostics, MetaState, MetaStep
from innerloop.errors import InnerloopError
from innerloop.models import Model
from innerloop.runs.adjoint import as_laid_out
from innerloop.tasks.images import require_episodes
from innerloop.types import Adjoint, InnerRule, Loss, MetaLoss, TaskDistribution
from innerloop.workloads.episodes.config import (
    Config,
    GlyphTasks,
    MiniImageNetTasks,
    OmniglotTasks,
    PhantomTasks,
    SinusoidTasks,
)
from innerloop.workloads.episodes.data import glyphs, miniimagenet, omniglot
from innerloop.workloads.episodes.data.omniglot import Labelled, Part
from innerloop.workloads.episodes.network import network, ways_of
from innerloop.workloads.episodes.row import require_fitting, sizes_of, varied

ACCURACY = ("accuracy", 100.0, "% correct")


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
        algorithm: the row of the table, with what the configuration sets of it.
        learner: the algorithm on the configured network.
        eval_losses: the losses by which query sets are evaluated at test, by name.
        layout: how training tasks are laid out.
        data: what tasks are drawn from.
    """

    config: Config
    algorithm: Algorithm
    learner: MetaLearner
    eval_losses: dict[str, Loss]
    layout: Layout
    data: Data

    @property
    def model(self) -> Model:
        """The network, with what the algorithm asks of it."""
        return self.learner.model

    @property
    def loss(self) -> Loss:
        """The inner loss."""
        return self.learner.loss

    @property
    def rule(self) -> InnerRule:
        """The inner rule."""
        return self.learner.rule

    @property
    def meta_loss(self) -> MetaLoss:
        """What the outer loop minimises."""
        return self.learner.meta_loss

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The outer optimiser."""
        return self.learner.optimizer

    @property
    def forward(self) -> Adjoint:
        """Runs the inner loop where nothing is differentiated."""
        return self.learner.forward

    @property
    def test_steps(self) -> int:
        """Inner steps at test that change anything: class means are reached in one."""
        steps = self.config.evaluation.steps
        return min(steps, 1) if self.algorithm.network == "prototypes" else steps

    @property
    def diagnostics(self) -> Diagnostics | None:
        """What is computed where training is logged, beside the metrics of every step: for `outer.repeat`."""
        return self.learner.diagnostics

    def alone(self) -> "Experiment":
        """The same for what this process computes without the others."""
        return replace(self, layout=self.layout.within(jax.device_count()))

    def at_test(self) -> "Experiment":
        """The same on tasks of as many classes as are asked for at test; what was learned fits it as it is."""
        ways = self.config.evaluation.ways
        if not ways or ways == ways_of(self.config):
            return self
        return assemble(replace(self.config, tasks=replace(self.config.tasks, ways=ways)), self.data)

    @property
    def losses_together(self) -> dict[str, Loss]:
        """The same of several members of an ensemble, along a leading axis of the parameters."""
        probabilities = self.config.kind == "classification"
        together = models.ensemble(self.model, probabilities=probabilities)
        return _judges(self.config, together, losses.cross_entropy if probabilities else losses.squared_error)

    def initial_state(self) -> MetaState:
        """The state before the first meta-step, which the seed fixes."""
        return self.learner.init(jax.random.key(self.config.seed, impl="threefry2x32"))

    def meta_step(self) -> MetaStep:
        """One step of training."""
        return self.learner.update

    def distribution(self, part: Part, shots: int, queries: int) -> TaskDistribution:
        """The tasks of one part of the data; training tasks if `part` is `"train"`."""
        config = self.config
        if isinstance(config.tasks, SinusoidTasks):
            base: Any = tasks.Sinusoids(shots, queries, config.tasks.amplitude, config.tasks.phase, config.tasks.inputs)
        elif isinstance(config.tasks, PhantomTasks):
            trained = part == "train"
            base = tasks.Phantoms(shots, config.tasks.resolution, queries, angles="random" if trained else "even")
        else:
            images = (self.data.parts or {})[part]
            base = tasks.Episodes.from_labels(*images, ways=ways_of(config), shots=shots, queries=queries)
        return tasks.WithSupportStatistics(base) if "inductive" in self.eval_losses else base

    def remarks(self) -> list[str]:
        """What a user might not expect of the algorithm in this configuration, in sentences."""
        config, row = self.config, self.algorithm
        said = []
        if row.network == "per-step" and config.network.normalisation == "none":
            said.append(
                f"this network has no normalisation, so {config.algorithm} runs without scale and shift per step"
            )
        learned, steps = self.rule.learned_steps, config.evaluation.steps
        if (ways := config.evaluation.ways) and ways != ways_of(config):
            said.append(f"trained on tasks of {ways_of(config)} classes, evaluated on tasks of {ways}")
        if learned is not None and steps > learned:
            beyond = f"{learned} inner {'step' if learned == 1 else 'steps'}"
            said.append(f"what was learned for {beyond} is evaluated at {steps}: beyond, that of the last step is used")
        return said

    def training_tasks(self) -> TaskDistribution:
        """The tasks of training, each inner step on as many support examples as are configured."""
        inner = self.config.inner
        whole = self.whole_training_tasks()
        return tasks.Minibatched(whole, inner.steps, inner.batch) if inner.batch else whole

    def whole_training_tasks(self) -> TaskDistribution:
        """The same with one support set for all inner steps."""
        return self.distribution("train", self.config.tasks.shots, self.config.tasks.queries)

    def require_tasks(self) -> None:
        """Check before training that all the episodes of training and evaluation can be drawn.

        Raises:
            InnerloopError: naming the part of the data that cannot give them.
        """
        settings, evaluation = self.config.tasks, self.config.evaluation
        if not ways_of(self.config) or not self.data.parts:
            self.training_tasks()
            return
        for part, images in self.data.parts.items():
            training = part == "train"
            ways = ways_of(self.config) if training else evaluation.ways or ways_of(self.config)
            for shots in (settings.shots,) if training else evaluation.shots:
                queries = settings.queries if training else evaluation.queries
                try:
                    require_episodes(images.y, ways=ways, shots=shots, queries=queries)
                except InnerloopError as error:
                    raise InnerloopError(f"The {part} part of the data does not give such episodes: {error}") from error

    def scale_metric(self) -> tuple[str, float, str]:
        """What a score is: its metric, the factor to its unit, and the unit."""
        if isinstance(self.config.tasks, PhantomTasks):
            return "psnr", 1.0, "PSNR in dB"
        return ("loss", 1.0, "mean squared error") if self.config.kind == "regression" else ACCURACY


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
    parameters = config.layout.parameters or 1
    layout = Layout(config.layout.shards or parameters, config.layout.chunk or None, config.layout.products, parameters)
    layout.require(config.outer.meta_batch)
    criterion = losses.squared_error if config.kind == "regression" else losses.cross_entropy
    chosen, inner, outer = config.network.normalisation, config.inner, config.outer
    sizes = sizes_of(row, config)
    learner = row(
        network(config, outputs=sizes.get("features"), more_inputs=sizes.get("context", 0)),
        criterion,
        inner_rate=inner.learning_rate,
        steps=inner.steps,
        optimizer=base_optimizer(config, falls=not row.outer.cosine),
        meta_batch=outer.meta_batch,
        iterations=outer.iterations,
        layout=layout,
        statistics="support" if chosen == "support" else "batch",
        adapt_normalisation=config.network.adapt_normalisation,
        running_decay=config.network.running_decay,
        **sizes,
    )
    return Experiment(config, row, learner, _judges(config, learner.model, criterion), layout, data)


def _judges(config: Config, model: Model, criterion: losses.Criterion) -> dict[str, Loss]:
    """The losses by which query sets are evaluated at test, by name."""
    chosen = config.network.normalisation
    if isinstance(config.tasks, PhantomTasks):
        return {"query": losses.with_psnr(losses.supervised(model, criterion))}
    if chosen == "none":
        return {"query": losses.supervised(model, criterion)}
    inductive = "running" if chosen == "running" else "support"
    return {
        "transductive": losses.supervised(model, criterion),
        "inductive": losses.supervised(model, criterion, inductive),
    }


def load_data(config: Config, announce: Callable[[str], None]) -> Data:
    """The data of the configured tasks, read or fetched."""
    if isinstance(config.tasks, OmniglotTasks):
        chosen = config.tasks
        return Data(omniglot.load(config.data_dir, chosen.split, chosen.split_seed, chosen.rotations, announce))
    if isinstance(config.tasks, MiniImageNetTasks):
        return Data(miniimagenet.load(config.data_dir, announce))
    if isinstance(config.tasks, GlyphTasks):
        return Data(glyphs.load(config.tasks.rotations, announce))
    return Data(None)


def base_optimizer(config: Config, *, falls: bool) -> optax.GradientTransformation:
    """The configured outer optimiser, with its schedule if it `falls`, or else a constant step size."""
    outer = config.outer
    rate: optax.ScalarOrSchedule = outer.learning_rate
    if falls and outer.schedule == "cosine":
        rate = optax.cosine_decay_schedule(outer.learning_rate, outer.iterations)
    elif falls and outer.schedule == "linear":
        rate = optax.linear_schedule(outer.learning_rate, 0.0, outer.iterations)
    optimizer = {"adam": optax.adam, "sgd": optax.sgd}[outer.optimizer](rate)
    return optax.chain(optax.clip(outer.clip), optimizer) if outer.clip else optimizer


def outer_optimizer(config: Config) -> optax.GradientTransformation:
    """The configured outer optimiser where no algorithm adds to it; running averages follow their own rate."""
    running = config.network.running_decay if config.network.normalisation == "running" else None
    optimizer = base_optimizer(config, falls=True)
    return partitioned(optimizer, rule_share=1.0, running_decay=running)
