"""Sequence models that read a stream chunk by chunk, and train at test time on what they read."""

import math
from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from innerloop.core import rules
from innerloop.core.adjoints import Mixed, Reverse
from innerloop.core.metagrad import meta_loss
from innerloop.core.objectives import online
from innerloop.types import Adjoint, InnerRule, Params, PRNGKey, RuleParams, TaskDistribution
from innerloop.workloads.streams import transformer
from innerloop.workloads.streams.config import Config, RecallTasks, TextTasks, length, reach
from innerloop.workloads.streams.recall import Recall
from innerloop.workloads.streams.text import BYTES, Text, topics
from innerloop.workloads.streams.transformer import Shape

TRAINING, STILL = "ttt", "the same network, not trained at test time"
NAMES = {TRAINING: "test-time training", "window": "window alone", "full": "attention over the whole stream"}
SIMPLER = (STILL, NAMES["window"], NAMES["full"])
"""What reads with nothing learned while reading."""


class Reading:
    """The problem of streams.

    Args:
        config: a configuration of streams.
        tasks: the streams to train on.
        test_tasks: the streams to test on.
        fingerprint: of the data; empty where they are drawn.
    """

    def __init__(self, config: Config, tasks: TaskDistribution, test_tasks: TaskDistribution, fingerprint: str):
        self.config, self.tasks, self.test_tasks, self.fingerprint = config, tasks, test_tasks, fingerprint
        network, settings = config.network, config.inner
        self.shape = Shape(
            vocabulary=tasks.vocabulary if isinstance(tasks, Recall) else BYTES,
            width=network.width,
            layers=network.layers,
            heads=network.heads,
            window=length(config) if config.algorithm == "full" else network.window,
        )
        self.steps = length(config) // chunk_of(config)
        self.rule = training_rule(settings.learning_rate) if config.algorithm == TRAINING else resting_rule()
        adjoint: Adjoint = Mixed(levels=settings.levels) if settings.levels else Mixed(unroll=0)
        if config.algorithm != TRAINING:
            adjoint = Reverse()  # unrolled, so that the gradient that nobody uses is not computed
        loss = transformer.loss(self.shape)
        self.meta_loss = meta_loss(loss, rule=self.rule, steps=self.steps, adjoint=adjoint, objective=online())

    @classmethod
    def open(cls, config: Config) -> "Reading":
        """Read or draw the streams."""
        if isinstance(config.tasks, RecallTasks):
            streams = Recall(config.tasks.pairs, config.tasks.values, chunk_of(config))
            return cls(config, streams, streams, "")
        assert isinstance(config.tasks, TextTasks)
        training, held, fingerprint = topics()
        of = lambda part: Text(jnp.asarray(part), length(config), chunk_of(config))  # noqa: E731
        return cls(config, of(training), of(held), fingerprint)

    def other(self, algorithm: str) -> "Reading":
        """The same streams, read in another way."""
        config = replace(self.config, algorithm=algorithm)  # pyright: ignore[reportArgumentType]
        return Reading.open(config)

    def describe(self) -> str:
        whole, fast = transformer.size_of(jax.eval_shape(lambda: self.init(jax.random.key(0))))
        ways = {
            TRAINING: f"of which {fast:,} are trained at test time, after every {self.config.network.chunk} tokens",
            "window": "none of which is trained at test time",
            "full": "none of which is trained at test time",
        }
        sees = "the whole stream" if self.config.algorithm == "full" else f"{reach(self.config):,} tokens back"
        return (
            f"streams of {length(self.config):,} tokens, read by a transformer that sees {sees}: {whole:,} parameters, "
            f"{ways[self.config.algorithm]}"
        )

    def init(self, key: PRNGKey) -> Params:
        return transformer.init(self.shape, key)

    def line(self, values: Mapping[str, float]) -> str:
        if isinstance(self.config.tasks, RecallTasks):
            return f"loss {values['loss_after']:.3f}  recall {100 * values['accuracy_after']:.1f}%"
        return f"{values['nats_after'] / math.log(2):.3f} bits per byte"


def chunk_of(config: Config) -> int:
    """Tokens that are read at a time: without training at test time the whole stream, which gives the same numbers."""
    return config.network.chunk if config.algorithm == TRAINING else length(config)


def training_rule(learning_rate: float) -> InnerRule:
    """Gradient descent on the fast weights, whose step size is learned by its logarithm."""

    def make(learned: RuleParams) -> optax.GradientTransformation:
        return optax.sgd(jnp.exp(learned["log_rate"]))

    return rules.masked(rules.trainable(make, {"log_rate": math.log(learning_rate)}), transformer.is_fast)


def resting_rule() -> InnerRule:
    """No updates, so that the inner loop just reads."""
    return rules.masked(rules.from_optax(optax.set_to_zero()), transformer.is_fast)
