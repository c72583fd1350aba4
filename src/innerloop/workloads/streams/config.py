"""The configuration of an experiment with a long inner loop. Nothing here imports JAX."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

import tyro

from innerloop.errors import InnerloopError
from innerloop.runs.codec import LARGEST, BelowOne, Bounds, Count, Inside, NotNegative, Positive, Whole, require_bounds
from innerloop.runs.fields import Log

TRAINED: tuple[str, ...] = ("ttt", "window", "full")
"""Ways to read a stream: with test-time training, with the window alone, with attention over the whole stream."""
WEIGHTS = "data-weights"
IMAGES = 1797
"""Of scikit-learn's digits."""


@dataclass(frozen=True)
class DigitTasks:
    """scikit-learn's digits, 8x8, some of whose training labels are wrong; clean ones judge, and others test."""

    KIND: ClassVar[str] = "digits"

    training: Count = 1000
    """training images"""
    validation: Count = 200
    """images with right labels, whose loss after training is what the weights are learned by"""
    wrong: Inside = 0.4
    """share of the training labels that are replaced by another digit"""
    batch: Count = 100
    """training images of an inner step"""
    hidden: Count = 64
    """hidden units of the classifier"""
    split_seed: Whole = 0
    """which images are in which part, and which labels are wrong"""


@dataclass(frozen=True)
class RecallTasks:
    """Streams of keys and values: every key comes twice, and the second time its value is asked for."""

    KIND: ClassVar[str] = "recall"

    pairs: Annotated[int, Bounds(2, LARGEST)] = 32
    """keys in a stream, an even number; the stream has four tokens for each"""
    values: Annotated[int, Bounds(2, LARGEST)] = 16
    """different values, of which chance finds the right one once in so many times"""


@dataclass(frozen=True)
class TextTasks:
    """Streams of bytes from the help topics that come with Python."""

    KIND: ClassVar[str] = "text"

    length: Count = 256
    """bytes of a stream"""


Tasks: TypeAlias = DigitTasks | RecallTasks | TextTasks


@dataclass(frozen=True)
class Network:
    """The transformer that reads streams; the classifier of digits is set by --tasks.hidden."""

    width: Count = 32
    """numbers in a representation"""
    layers: Count = 2
    """blocks of attention and perceptron"""
    heads: Count = 2
    """heads of the attention"""
    window: Count = 8
    """tokens that a query attends to in a block, itself included"""
    chunk: Count = 8
    """tokens of an inner step"""


@dataclass(frozen=True)
class Inner:
    """The inner loop."""

    learning_rate: Positive = 1.0
    """step size; with test-time training that from which a learned one starts"""
    momentum: BelowOne = 0.0
    """digits: share of the step before that is kept"""
    decay: NotNegative = 0.0
    """digits: weight decay, the factor of half the squared norm in the loss"""
    steps: Whole = 0
    """digits: steps of a training; a stream has one for each chunk, given as 0"""
    levels: Annotated[int, Bounds(0, 6)] = 0
    """segments within segments so many times, recomputed instead of kept; 0 keeps the parameters of every step"""


@dataclass(frozen=True)
class Outer:
    """The outer loop."""

    iterations: Count = 1000
    """meta-steps"""
    meta_batch: Count = 16
    """streams in a meta-step, or trainings of the classifier"""
    learning_rate: Positive = 3e-3
    """step size of Adam"""
    clip: NotNegative = 0.0
    """largest norm of the meta-gradient; 0 for no bound"""


@dataclass(frozen=True)
class Evaluation:
    """What is measured when training ends."""

    tasks: Annotated[int, Bounds(2, LARGEST)] = 200
    """test streams, or trainings of the classifier for each row"""
    seed: Whole = 1
    """fixes the test streams, or what these trainings start from"""
    baselines: bool = True
    """whether to compare with other rows, for which networks are trained as long"""


@dataclass(frozen=True)
class Config:
    """An experiment with a long inner loop."""

    tasks: Tasks
    inner: Inner
    outer: Outer
    evaluation: Evaluation
    network: Network = field(default_factory=Network)
    recipe: tyro.conf.Suppress[str] = ""
    """the name of the recipe that it came from"""
    algorithm: Literal["data-weights", "ttt", "window", "full"] = "ttt"
    """weights of examples; or a stream read with test-time training, with a window alone, with full attention"""
    seed: Whole = 0
    """of the data, the initial parameters, and all training"""
    log: Log = field(default_factory=Log)
    run_dir: str | None = None
    """the run directory; else runs/RECIPE-seedN, or runs/RECIPE-ALGORITHM-seedN"""


def length(config: Config) -> int:
    """Tokens in a stream."""
    if isinstance(config.tasks, RecallTasks):
        return 4 * config.tasks.pairs
    return config.tasks.length if isinstance(config.tasks, TextTasks) else 0


def reach(config: Config) -> int:
    """How many tokens back a network with a window can see through all of its blocks."""
    return config.network.layers * (config.network.window - 1)


def check(config: Config) -> None:
    """Refuse what cannot work.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    require_bounds(config)
    digits = isinstance(config.tasks, DigitTasks)
    if (config.algorithm == WEIGHTS) != digits:
        fitting = WEIGHTS if digits else ", ".join(TRAINED)
        raise InnerloopError(f"--algorithm is {config.algorithm!r}, which does not fit these tasks; use {fitting}.")
    if isinstance(config.tasks, DigitTasks):
        _check_digits(config, config.tasks)
    else:
        _check_streams(config)


def _check_digits(config: Config, tasks: DigitTasks) -> None:
    if not config.inner.steps:
        raise InnerloopError("--inner.steps is 0, but the classifier has to be trained; give at least 1.")
    if tasks.training + tasks.validation >= IMAGES:
        raise InnerloopError(
            f"--tasks.training {tasks.training} and --tasks.validation {tasks.validation} leave none of the {IMAGES} "
            "images to test with; lower one of them."
        )
    if tasks.batch > tasks.training:
        raise InnerloopError(f"--tasks.batch is {tasks.batch}, more than --tasks.training {tasks.training}; lower it.")
    if config.network != Network():
        raise InnerloopError("--network.* is the transformer of streams; the classifier of digits has --tasks.hidden.")


def _check_streams(config: Config) -> None:
    network, total = config.network, length(config)
    if network.window > total:
        raise InnerloopError(
            f"--network.window is {network.window}, longer than the stream of {total} tokens; shorten it, or use "
            "--algorithm full."
        )
    if total % network.chunk:
        raise InnerloopError(
            f"--network.chunk is {network.chunk}, which does not divide the stream of {total} tokens; choose a divisor."
        )
    if network.width % (2 * network.heads):
        raise InnerloopError(
            f"--network.width is {network.width}; it must be a multiple of twice --network.heads {network.heads}."
        )
    for name in ("steps", "momentum", "decay"):
        if vars(config.inner)[name]:
            raise InnerloopError(
                f"--inner.{name} has no effect on streams, which have a plain step for each chunk; leave it out."
            )
    if isinstance(config.tasks, RecallTasks):
        pairs = config.tasks.pairs
        if pairs % 2:
            raise InnerloopError(f"--tasks.pairs is {pairs}; it must be even.")
        if reach(config) >= pairs + 2 and config.algorithm != "full":
            raise InnerloopError(
                f"--network.window {network.window} in {network.layers} layers sees {reach(config)} tokens back, and "
                f"questions come {pairs + 2} or more tokens after their answers; lower it, or raise --tasks.pairs."
            )
