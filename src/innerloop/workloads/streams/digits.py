r"""Weights of training examples, learned through the whole training of a classifier.

With weights $w$ of the training examples and $\theta_T(w)$ the classifier after $T$ steps on their weighted loss, the
outer loop descends the loss of $\theta_T(w)$ on a few clean examples. Each meta-step draws a new start of the
classifier and new batches, so that the weights hold for any training.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from innerloop import extras, models
from innerloop.core import rules
from innerloop.core.adapt import adapt
from innerloop.core.adjoints import Mixed
from innerloop.core.losses import cross_entropy
from innerloop.core.metagrad import meta_loss
from innerloop.types import Adapted, Meta, Metrics, Params, PerStep, PRNGKey, Scalar, Task
from innerloop.workloads.streams.config import Config, DigitTasks

SIDE, CLASSES, GREYS = 8, 10, 16
LEARNED, UNIFORM, EARLY = "learned weights", "uniform weights", "uniform weights, stopped early"
THRESHOLD, CLEAN, FEW = "loss threshold", "right labels alone", "validation part alone"
SIMPLER = (UNIFORM, EARLY, THRESHOLD, FEW)
"""The baselines that are not told which labels are right."""
CHECKS = 20
"""Times in a training at which early stopping looks at the validation part."""


class Part(NamedTuple):
    """Images as they are stored, `[examples, 64]` from 0 to 16, with their labels, `[examples]`."""

    x: Array
    y: Array


class Data(NamedTuple):
    """scikit-learn's digits in three parts.

    Attributes:
        training: with the labels that training sees.
        right: the right labels of the training images, `[examples]`.
        validation: with right labels.
        test: with right labels.
    """

    training: Part
    right: np.ndarray
    validation: Part
    test: Part

    @property
    def wrong(self) -> np.ndarray:
        """Which of the training labels are wrong."""
        return np.asarray(self.training.y) != self.right


def read(tasks: DigitTasks) -> Data:
    """The digits, shuffled and spoilt by the tasks' seed.

    Raises:
        InnerloopError: if scikit-learn is not installed.
    """
    extras.require("sklearn", "tabular", "The recipe data-weights")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(tasks.split_seed)
    order = generator.permutation(len(labels))
    x, y = pixels[order].astype(np.uint8), labels[order].astype(np.int32)
    spoilt = generator.permutation(tasks.training)[: round(tasks.wrong * tasks.training)]
    given = y[: tasks.training].copy()
    given[spoilt] = (given[spoilt] + generator.integers(1, CLASSES, len(spoilt))) % CLASSES
    a, b = tasks.training, tasks.training + tasks.validation
    training = Part(jnp.asarray(x[:a]), jnp.asarray(given))
    return Data(
        training, y[:a], Part(jnp.asarray(x[a:b]), jnp.asarray(y[a:b])), Part(jnp.asarray(x[b:]), jnp.asarray(y[b:]))
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class Batches:
    """Trainings as tasks: which images each inner step sees, drawn anew for every training.

    Attributes:
        examples: that there are.
        steps: of a training.
        batch: images of a step.
    """

    examples: int
    steps: int
    batch: int

    def sample(self, key: PRNGKey, num_tasks: int) -> Task:
        """The numbers of the images; the query is always the validation part."""
        shape = num_tasks, self.steps, self.batch
        return Task(PerStep(jax.random.randint(key, shape, 0, self.examples)), jnp.zeros((num_tasks, 0)))


class Digits:
    """The problem of digits with wrong labels.

    Args:
        config: a configuration of digits.
        data: the digits.
    """

    def __init__(self, config: Config, data: Data):
        assert isinstance(config.tasks, DigitTasks)
        self.config, self.data = config, data
        settings = config.inner
        self.tasks = Batches(config.tasks.training, settings.steps, config.tasks.batch)
        self.model = models.mlp(SIDE**2, (config.tasks.hidden,), CLASSES, initializer=models.glorot)
        descent = optax.chain(
            optax.add_decayed_weights(settings.decay), optax.sgd(settings.learning_rate, settings.momentum or None)
        )
        self.inner_rule = rules.masked(rules.from_optax(descent), lambda path, leaf: path.startswith("network/"))
        self.rule = rules.sgd(0.0)  # of the outer loop, for which there is nothing to learn in a rule
        self._adjoint = Mixed(levels=settings.levels) if settings.levels else Mixed(unroll=0)
        self._whole = meta_loss(
            self.weighted, rule=self.inner_rule, steps=settings.steps, adjoint=self._adjoint, query_loss=self.clean
        )
        content = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(data)]
        self.fingerprint = hashlib.sha256(b"".join(content)).hexdigest()[:16]

    @classmethod
    def open(cls, config: Config) -> "Digits":
        """Read the digits."""
        assert isinstance(config.tasks, DigitTasks)
        return cls(config, read(config.tasks))

    def describe(self) -> str:
        tasks, wrong = self.config.tasks, int(self.data.wrong.sum())
        assert isinstance(tasks, DigitTasks)
        return (
            f"{tasks.training:,} digits with {wrong:,} wrong labels, {tasks.validation:,} clean ones judge; "
            f"trainings of {self.config.inner.steps:,} steps, differentiated to their beginning"
        )

    def init(self, key: PRNGKey) -> Params:
        return jnp.zeros(self.tasks.examples)

    def weighted(self, params: Params, batch: Array, key: PRNGKey) -> tuple[Scalar, Metrics]:
        """The weighted loss of the training images of a batch, given by their numbers."""
        losses, metrics = self.losses(params["network"], self.data.training, batch)
        weights = jax.nn.sigmoid(params["weights"])[batch]
        return jnp.mean(weights * losses), {name: jnp.mean(metric) for name, metric in metrics.items()}

    def clean(self, params: Params, batch: Any, key: PRNGKey) -> tuple[Scalar, Metrics]:
        """The loss of the validation part."""
        losses, metrics = self.losses(params["network"], self.data.validation)
        return jnp.mean(losses), {name: jnp.mean(metric) for name, metric in metrics.items()}

    def losses(self, network: Params, part: Part, chosen: Any = slice(None)) -> tuple[Array, Metrics]:
        """The loss and metrics of single images."""
        x = part.x[chosen].astype(jnp.float32) / GREYS  # integers until here, for which no derivative is computed
        return cross_entropy(self.model.apply(network, x), part.y[chosen])

    def meta_loss(self, meta: Meta, task: Task, key: PRNGKey, progress: Any = None) -> tuple[Scalar, Metrics]:
        """The clean loss after a whole training from a new start, as a function of the weights' logits."""
        start, rest = jax.random.split(key)
        value, metrics = self._whole(self.begun(meta.params, start), task, rest)
        weights, wrong = jax.lax.stop_gradient(jax.nn.sigmoid(meta.params)), jnp.asarray(self.data.wrong)
        shares = {
            "weight_right": jnp.sum(jnp.where(wrong, 0, weights)) / jnp.sum(~wrong),
            "weight_wrong": jnp.sum(jnp.where(wrong, weights, 0)) / jnp.maximum(jnp.sum(wrong), 1),
        }
        return value, metrics | shares

    def begun(self, logits: Array, key: PRNGKey) -> Meta:
        """A classifier before its training on examples whose weights have these logits."""
        return Meta({"network": self.model.init(key), "weights": logits}, ())

    def trained(self, logits: Array, key: PRNGKey, trajectory: bool = False) -> Adapted:
        """A training on examples whose weights have these logits."""
        start, batches = jax.random.split(key)
        support = jax.tree.map(lambda leaf: leaf[0], self.tasks.sample(batches, 1).support)
        return adapt(
            self.weighted,
            self.begun(logits, start),
            support,
            key,
            rule=self.inner_rule,
            steps=self.config.inner.steps,
            trajectory=trajectory,
        )

    def line(self, values: Mapping[str, float]) -> str:
        return (
            f"clean loss {values['loss_after']:.3f}  weights: right {values['weight_right']:.2f}, "
            f"wrong {values['weight_wrong']:.2f}"
        )
