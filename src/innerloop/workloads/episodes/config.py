"""The configuration of an experiment: plain frozen dataclasses, one field for each thing that a user may set.

Nothing here imports JAX, so that the program answers `--help` at once. `check` refuses values that cannot work.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import tyro

from innerloop.errors import InnerloopError

T = TypeVar("T")
Kind: TypeAlias = Literal["regression", "classification"]


@dataclass(frozen=True)
class SinusoidTasks:
    """Sinusoids of random amplitude and phase."""

    shots: int = 10
    """support points of a training task"""
    queries: int = 10
    """query points of a training task"""
    amplitude: tuple[float, float] = (0.1, 5.0)
    """range of the amplitude"""
    phase: tuple[float, float] = (0.0, math.pi)
    """range of the phase in radians"""
    inputs: tuple[float, float] = (-5.0, 5.0)
    """range of the inputs"""


@dataclass(frozen=True)
class OmniglotTasks:
    """Episodes of Omniglot characters, 28x28, ink = 1, each rotation by a quarter a class of its own."""

    ways: int = 5
    """classes in an episode"""
    shots: int = 1
    """support images of each class"""
    queries: int = 1
    """query images of each class in training"""
    split: Literal["random", "vinyals"] = "random"
    """1100/100/423 characters drawn by seed, as in the paper, or the lists of Vinyals et al."""
    split_seed: int = 0
    """seed of the random split"""
    rotations: bool = True
    """whether each character turned by 90, 180 and 270 degrees is a further class"""


@dataclass(frozen=True)
class MiniImageNetTasks:
    """Episodes of miniImageNet images, 84x84, in the split of Ravi and Larochelle."""

    ways: int = 5
    """classes in an episode"""
    shots: int = 1
    """support images of each class"""
    queries: int = 15
    """query images of each class in training"""


Tasks: TypeAlias = SinusoidTasks | OmniglotTasks | MiniImageNetTasks


@dataclass(frozen=True)
class Network:
    """The network. A setting that does not concern its kind is refused by `check`, never ignored."""

    kind: Literal["mlp", "convnet", "resnet12"] = "mlp"
    """multilayer perceptron, four-convolution network, or twelve-layer residual network"""
    widths: tuple[int, ...] = (40, 40)
    """mlp: hidden layers; convnet: filters of each block; resnet12: filters of each block"""
    downsample: Literal["stride", "max-pool"] = "stride"
    """convnet: how a block halves the image"""
    normalisation: Literal["transductive", "support", "running", "none"] = "none"
    """whose statistics normalise a query batch: its own, the support set's, running averages; or no normalisation"""
    scale: bool = False
    """whether normalisation has a learned scale"""
    shift: bool = True
    """whether normalisation has a learned shift"""
    adapt_normalisation: bool = False
    """whether the inner loop adapts scale and shift"""
    running_decay: float = 0.9
    """decay of the running averages"""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """in which the network computes; what is learned stays float32 under bfloat16, and is float64 under float64"""


@dataclass(frozen=True)
class Inner:
    """The inner loop."""

    learning_rate: float = 0.01
    """step size on the mean loss of the support set"""
    steps: int = 1
    """updates in training"""


@dataclass(frozen=True)
class Outer:
    """The outer loop."""

    iterations: int = 1000
    """meta-steps"""
    meta_batch: int = 25
    """tasks in a meta-step"""
    optimizer: Literal["adam", "sgd"] = "adam"
    """outer optimiser"""
    learning_rate: float = 1e-3
    """its step size"""
    schedule: Literal["constant", "cosine"] = "constant"
    """course of the step size over the iterations"""
    clip: float = 0.0
    """largest absolute value of an entry of the meta-gradient; 0 for no bound"""


@dataclass(frozen=True)
class Variant:
    """What some algorithms have beyond the others. A setting that the algorithm has no use for is refused."""

    exact_steps: int = 1
    """truncated-maml: inner steps that are differentiated exactly, from the last one back"""
    context: int = 5
    """cavia: numbers in the context vector"""
    features: int = 64
    """protonet: numbers in the embedding"""
    regularisation: float = 1.0
    """imaml: strength of the pull towards the initialisation in the inner loop"""
    solver_steps: int = 20
    """imaml: largest number of steps of the conjugate gradient"""
    tolerance: float = 1e-4
    """imaml: relative residual at which the linear system counts as solved"""
    radius: float = 0.05
    """sharp-maml: distance at which the meta-gradient is taken"""
    first_order_until: float = 1 / 3
    """maml++ and +da: share of training that is first-order"""
    all_steps_until: float = 0.15
    """maml++ and +msl: share of training in which the loss after every inner step counts"""


@dataclass(frozen=True)
class Evaluation:
    """What is measured when training ends."""

    tasks: int = 600
    """test tasks"""
    shots: tuple[int, ...] = (5,)
    """support examples (of each class) of a test task, one table each; the first is what the report shows"""
    queries: int = 100
    """query examples (of each class) of a test task"""
    steps: int = 10
    """inner steps at test"""
    seed: int = 1
    """fixes the test tasks"""
    baselines: bool = True
    """whether to compare with training from scratch and with pre-training on all tasks"""
    baseline_iterations: int = 2000
    """gradient steps of the pre-training"""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Evaluation":
        """From the object that `evaluation.json` holds."""
        return cls(**values | {"shots": tuple(values["shots"])})  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Layout:
    """How a meta-step is computed, on which its time and memory depend, and its result up to rounding.

    What is left open (0, auto) is chosen by a short measurement, which is kept for the next time.
    """

    shards: int = 0
    """devices that the tasks are spread over, on a CPU one for each core; 0 chooses"""
    chunk: int = 0
    """tasks computed at once on a device; 0 chooses"""
    adjoint: Literal["auto", "mixed", "reverse"] = "auto"
    """exact derivatives: forward over reverse mode, recomputed where scanned, or reverse over reverse, all stored"""
    loop: Literal["auto", "unrolled", "scanned"] = "auto"
    """the inner steps: unrolled runs faster, scanned compiles faster and takes less memory"""
    convolution: Literal["auto", "patches", "lax"] = "auto"
    """image networks: patches and a matrix product, or XLA's own convolution"""


@dataclass(frozen=True)
class Log:
    """What is recorded along the way. Nothing here changes a result."""

    every: int = 100
    """meta-steps between records"""
    validate_every: int = 0
    """records between validations on held-out tasks; 0 for none"""
    checkpoint_seconds: float = 30.0
    """time between checkpoints"""
    keep: int = 2
    """checkpoints kept"""
    tensorboard: bool = False
    """also write TensorBoard files into the run directory"""


@dataclass(frozen=True)
class Config:
    """An experiment. `innerloop recipes` lists the ones that come with the program."""

    tasks: Tasks
    network: Network
    inner: Inner
    outer: Outer
    evaluation: Evaluation
    recipe: tyro.conf.Suppress[str] = ""
    """the name of the recipe that it came from"""
    algorithm: str = "maml"
    """a row of `innerloop algorithms`, or with pieces of MAML++, as maml+msl+lslr"""
    seed: int = 0
    """of the initial parameters and of all training tasks"""
    variant: Variant = field(default_factory=Variant)
    layout: Layout = field(default_factory=Layout)
    log: Log = field(default_factory=Log)
    data_dir: str | None = None
    """where data sets lie; else the environment variable INNERLOOP_DATA"""
    run_dir: str | None = None
    """the run directory; else runs/RECIPE-seedN"""

    @property
    def kind(self) -> Kind:
        return "regression" if isinstance(self.tasks, SinusoidTasks) else "classification"


TASKS: dict[str, type[Tasks]] = {
    "sinusoid": SinusoidTasks,
    "omniglot": OmniglotTasks,
    "miniimagenet": MiniImageNetTasks,
}
LARGEST = 2**31 - 1
"""No whole number may be larger: JAX counts in 32 bits."""
FREE = ("log", "data_dir", "run_dir")
"""The fields that may differ between two invocations of the same run."""


def check(config: Config) -> None:
    """Refuse what cannot work.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    at_least = {
        "tasks.shots": 1,
        "tasks.queries": 1,
        "tasks.ways": 2,
        "inner.steps": 0,
        "outer.iterations": 1,
        "outer.meta_batch": 1,
        "evaluation.tasks": 2,
        "evaluation.queries": 1,
        "evaluation.steps": 0,
        "evaluation.baseline_iterations": 1,
        "variant.exact_steps": 1,
        "variant.context": 1,
        "variant.features": 1,
        "variant.solver_steps": 1,
        "layout.shards": 0,
        "layout.chunk": 0,
        "seed": 0,
        "tasks.split_seed": 0,
        "evaluation.seed": 0,
        "log.every": 1,
        "log.validate_every": 0,
        "log.keep": 1,
    }
    values = dict(leaves(config))
    for name, value in values.items():
        if name in at_least and value < at_least[name]:
            raise InnerloopError(f"--{flag(name)} is {value}; it must be at least {at_least[name]}.")
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, int) and each > LARGEST:
                raise InnerloopError(f"--{flag(name)} is {each}; it must be at most {LARGEST}.")
    for name in ("inner.learning_rate", "outer.learning_rate", "variant.regularisation", "variant.radius"):
        if not 0 < values[name] < float("inf"):
            raise InnerloopError(f"--{flag(name)} is {values[name]}; it must be a positive number.")
    for name in ("outer.clip", "log.checkpoint_seconds"):
        if not 0 <= values[name] < float("inf"):
            raise InnerloopError(f"--{flag(name)} is {values[name]}; it must be a number of at least 0.")
    for name in ("variant.tolerance", "variant.first_order_until", "variant.all_steps_until"):
        if not 0 < values[name] < 1:
            raise InnerloopError(f"--{flag(name)} is {values[name]}; it must be a number between 0 and 1.")
    if not 0 <= config.network.running_decay < 1:
        raise InnerloopError(
            f"--network.running-decay is {config.network.running_decay}; it must be at least 0 and below 1."
        )
    if not config.network.widths or min(config.network.widths) < 1:
        raise InnerloopError(f"--network.widths is {config.network.widths}; give at least one width, each at least 1.")
    if config.network.kind == "convnet" and len(set(config.network.widths)) > 1:
        raise InnerloopError(
            f"--network.widths is {config.network.widths}; the blocks of a convnet have the same number of filters."
        )
    if not config.evaluation.shots or min(config.evaluation.shots) < 1:
        raise InnerloopError(
            f"--evaluation.shots is {config.evaluation.shots}; give at least one number, each at least 1."
        )
    if isinstance(config.tasks, OmniglotTasks) and config.tasks.split == "vinyals" and config.tasks.split_seed:
        raise InnerloopError("--tasks.split-seed has no effect with --tasks.split vinyals; leave one of them out.")
    network, default = config.network, Network()
    without_effect = {
        "downsample": network.kind != "convnet",
        "scale": network.normalisation == "none",
        "shift": network.normalisation == "none",
        "adapt_normalisation": network.normalisation == "none",
        "running_decay": network.normalisation != "running",
    }
    for name, unused in without_effect.items():
        if unused and getattr(network, name) != getattr(default, name):
            raise InnerloopError(
                f"--network.{flag(name)} has no effect with --network.kind {network.kind} and "
                f"--network.normalisation {network.normalisation}; leave it out, or change these."
            )
    if config.network.kind == "mlp" and config.layout.convolution != "auto":
        raise InnerloopError("--layout.convolution has no effect with --network.kind mlp; leave it out.")
    if config.network.kind != "mlp" and config.kind == "regression":
        raise InnerloopError(f"--network.kind is {config.network.kind}, which takes images; for sinusoids use mlp.")


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as `("inner.steps", 1)`."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{each.name}.")
        else:
            yield prefix + each.name, value


def training_settings(config: Any) -> dict[str, Any]:
    """What the state after a number of meta-steps depends on, by flag."""
    apart = ("recipe", "evaluation", *FREE)
    return {f"--{flag(name)}": value for name, value in leaves(config) if name.split(".")[0] not in apart}


def flag(name: str) -> str:
    """The spelling of a setting on the command line."""
    return name.replace("_", "-")


def to_json(config: Config) -> str:
    """The configuration as JSON, with the kind of tasks by name."""
    kind = next(name for name, cls in TASKS.items() if isinstance(config.tasks, cls))
    values = dataclasses.asdict(config)
    values["tasks"] = {"kind": kind, **values["tasks"]}
    return json.dumps(values, indent=2)


def from_json(text: str) -> Config:
    """The inverse of `to_json`.

    Raises:
        InnerloopError: if the text is not a configuration of this version.
    """
    parts: dict[str, type] = {
        "network": Network,
        "inner": Inner,
        "outer": Outer,
        "evaluation": Evaluation,
        "variant": Variant,
        "layout": Layout,
        "log": Log,
    }
    with readable():
        values = {"variant": {}, **json.loads(text)}
        kind = values["tasks"].pop("kind")
        config = parsed(Config, {"tasks": TASKS[kind], **parts}, values)
    check(config)
    return config


@contextmanager
def readable() -> Iterator[None]:
    """Say in one sentence that what is read is no configuration.

    Raises:
        InnerloopError: in place of any error that parsing gives.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InnerloopError(f"This is no configuration of this version of innerloop ({error}).") from error


def parsed(cls: type[T], parts: Mapping[str, type], values: dict[str, Any]) -> T:
    """The dataclass that JSON values describe.

    Args:
        cls: its class.
        parts: the classes of the fields that are dataclasses themselves.
        values: the fields.

    Raises:
        KeyError, TypeError, AttributeError, ValueError: for what does not fit.
    """
    for name, part in parts.items():
        entries = {key: tuple(value) if isinstance(value, list) else value for key, value in values[name].items()}
        _require_types(part, entries, f"{name}.")
        values[name] = part(**entries)
    _require_types(cls, {name: value for name, value in values.items() if name not in parts})
    return cls(**values)


def _require_types(cls: type, entries: dict[str, Any], prefix: str = "") -> None:
    hints = get_type_hints(cls)
    for name, value in entries.items():
        if name in hints and not _is_of(hints[name], value):
            raise TypeError(f"{prefix}{name} is {value!r}")


def _is_of(hint: Any, value: Any) -> bool:
    """Whether a value is of a type of the fields above."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(get_args(hint)[0], each) for each in value)
    if isinstance(hint, UnionType):
        return any(_is_of(each, value) for each in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def differences(ours: Any, theirs: Any) -> list[str]:
    """The settings in which two configurations differ, beyond those that a run may change along the way."""
    left, right = dict(leaves(ours)), dict(leaves(theirs))
    names = [name for name in left | right if name.split(".")[0] not in FREE and left.get(name) != right.get(name)]
    return [f"--{flag(name)} {right.get(name)} (now {left.get(name)})" for name in names]
