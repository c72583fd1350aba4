"""The configuration of an experiment: plain frozen dataclasses, one field for each thing that a user may set.

Nothing here imports JAX, so that the program answers `--help` at once. `check` refuses values that cannot work.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeAlias

import tyro

from innerloop.errors import InnerloopError
from innerloop.runs.codec import (
    LARGEST,
    BelowOne,
    Bounds,
    Count,
    Inside,
    NotNegative,
    Positive,
    Whole,
    flag,
    require_bounds,
)
from innerloop.runs.fields import Layout
from innerloop.runs.fields import ValidatedLog as Log

Kind: TypeAlias = Literal["regression", "classification"]


@dataclass(frozen=True)
class SinusoidTasks:
    """Sinusoids of random amplitude and phase."""

    KIND: ClassVar[str] = "sinusoid"

    shots: Count = 10
    """support points of a training task"""
    queries: Count = 10
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

    KIND: ClassVar[str] = "omniglot"

    ways: Annotated[int, Bounds(2, LARGEST)] = 5
    """classes in an episode"""
    shots: Count = 1
    """support images of each class"""
    queries: Count = 1
    """query images of each class in training"""
    split: Literal["random", "vinyals"] = "random"
    """1100/100/423 characters drawn by seed, as in the paper, or the lists of Vinyals et al."""
    split_seed: Whole = 0
    """seed of the random split"""
    rotations: bool = True
    """whether each character turned by 90, 180 and 270 degrees is a further class"""


@dataclass(frozen=True)
class MiniImageNetTasks:
    """Episodes of miniImageNet images, 84x84, in the split of Ravi and Larochelle."""

    KIND: ClassVar[str] = "miniimagenet"

    ways: Annotated[int, Bounds(2, LARGEST)] = 5
    """classes in an episode"""
    shots: Count = 1
    """support images of each class"""
    queries: Count = 15
    """query images of each class in training"""


@dataclass(frozen=True)
class GlyphTasks:
    """Episodes of letters in the typefaces of matplotlib, 28x28, ink = 1: Latin and Cyrillic in training, Greek in
    validation, Armenian and Georgian at test."""

    KIND: ClassVar[str] = "glyphs"

    ways: Annotated[int, Bounds(2, LARGEST)] = 20
    """classes in an episode"""
    shots: Count = 1
    """support images of each class"""
    queries: Count = 1
    """query images of each class in training"""
    rotations: bool = True
    """whether each letter turned by 90, 180 and 270 degrees is a further class"""


@dataclass(frozen=True)
class PhantomTasks:
    """Heads of random ellipses (Shepp-Logan), of which a few projections are given and the image is asked."""

    KIND: ClassVar[str] = "phantoms"

    shots: Count = 20
    """views of a training phantom, from random directions"""
    queries: Whole = 0
    """pixels of the image that a training task is judged by; 0: all"""
    resolution: Annotated[int, Bounds(2, 4096)] = 256
    """pixels along a side of the image, rays of a view, points of a ray"""


Tasks: TypeAlias = SinusoidTasks | OmniglotTasks | MiniImageNetTasks | GlyphTasks | PhantomTasks


@dataclass(frozen=True)
class Network:
    """The network. A setting that does not concern its kind is refused by `check`, never ignored."""

    kind: Literal["mlp", "convnet", "resnet12", "field"] = "mlp"
    """multilayer perceptron, four-convolution network, twelve-layer residual network, or neural field"""
    widths: tuple[int, ...] = (40, 40)
    """mlp, field: hidden layers; convnet: filters of each block; resnet12: filters of each block"""
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
    running_decay: BelowOne = 0.9
    """decay of the running averages"""
    frequencies: Count = 256
    """field: Fourier features, each a sine and a cosine"""
    bandwidth: Positive = 30.0
    """field: standard deviation of their angular frequencies, for a side of the image"""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """in which the network computes; what is learned stays float32 under bfloat16, and is float64 under float64"""


@dataclass(frozen=True)
class Inner:
    """The inner loop."""

    learning_rate: Positive = 0.01
    """step size on the mean loss of the support set"""
    steps: Whole = 1
    """updates in training"""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """gradient descent, or Adam without momentum (its first decay 0), as Reptile takes it"""
    batch: Whole = 0
    """support examples (of phantoms: rays) of an inner step in training, drawn without replacement; 0: all"""
    bound_growth: NotNegative = 0.0
    """largest norm of an inner gradient relative to the task's first, in training and at test; 0 for no bound"""
    bound_norm: NotNegative = 0.0
    """largest norm of an inner gradient, in training and at test; 0 for no bound"""


@dataclass(frozen=True)
class Outer:
    """The outer loop."""

    iterations: Count = 1000
    """meta-steps"""
    meta_batch: Count = 25
    """tasks in a meta-step"""
    optimizer: Literal["adam", "sgd"] = "adam"
    """outer optimiser"""
    learning_rate: Positive = 1e-3
    """its step size"""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """course of the step size over the iterations: constant, or falling to 0"""
    clip: NotNegative = 0.0
    """largest absolute value of an entry of the meta-gradient; 0 for no bound"""


@dataclass(frozen=True)
class Variant:
    """What some algorithms have beyond the others. A setting that the algorithm has no use for is refused."""

    exact_steps: Count = 1
    """truncated-maml: inner steps that are differentiated exactly, from the last one back"""
    context: Count = 5
    """cavia: numbers in the context vector"""
    features: Count = 64
    """protonet: numbers in the embedding"""
    regularisation: Positive = 1.0
    """imaml: strength of the pull towards the initialisation in the inner loop"""
    solver_steps: Count = 20
    """imaml: largest number of steps of the conjugate gradient"""
    tolerance: Inside = 1e-4
    """imaml: relative residual at which the linear system counts as solved"""
    line_search: bool = False
    """imaml: whether an inner step that does not lower the inner loss is not taken, and the step size searched"""
    radius: Positive = 0.05
    """sharp-maml: distance at which the meta-gradient is taken"""
    first_order_until: Inside = 1 / 3
    """maml++ and +da: share of training that is first-order"""
    all_steps_until: Inside = 0.15
    """maml++ and +msl: share of training in which the loss after every inner step counts"""


@dataclass(frozen=True)
class Evaluation:
    """What is measured when training ends."""

    tasks: Annotated[int, Bounds(2, LARGEST)] = 600
    """test tasks"""
    shots: tuple[int, ...] = (5,)
    """support examples (of each class; of phantoms: views) of a test task, one table each; the first is what the
    report shows"""
    queries: Count = 100
    """query examples (of each class) of a test task"""
    ways: Annotated[int, Bounds(0, LARGEST)] = 0
    """protonet: classes in a test task, at most as many as in training, and published with fewer; 0: as many"""
    steps: Whole = 10
    """inner steps at test"""
    seed: Whole = 1
    """fixes the test tasks"""
    ensemble: Annotated[int, Bounds(0, 5)] = 0
    """how many of the checkpoints best on validation tasks predict together, each adapted on its own, in a row more;
    0 for none. MAML++ is published with 5"""
    baselines: bool = True
    """whether to compare with training from scratch and with pre-training on all tasks"""
    baseline_iterations: Count = 2000
    """gradient steps of the pre-training"""
    modulations: Whole = 0
    """cavia on phantoms: how many further ones are fitted and exported as a data set, a context and an image's
    parameters each"""


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
    seed: Whole = 0
    """of the initial parameters and of all training tasks"""
    variant: Variant = field(default_factory=Variant)
    layout: Layout = field(default_factory=Layout)
    log: Log = field(default_factory=Log)
    data_dir: str | None = None
    """where data sets lie; else the environment variable INNERLOOP_DATA"""
    run_dir: str | None = None
    """the run directory; else runs/RECIPE-seedN, or runs/RECIPE-ALGORITHM-seedN"""

    @property
    def kind(self) -> Kind:
        return "regression" if isinstance(self.tasks, SinusoidTasks | PhantomTasks) else "classification"

    @property
    def test_queries(self) -> int:
        """Query examples (of each class) of a test task; 0 for all."""
        return 0 if isinstance(self.tasks, PhantomTasks) else self.evaluation.queries

    @property
    def shot(self) -> str:
        """What a support set is made of."""
        return "view" if isinstance(self.tasks, PhantomTasks) else "shot"


def check(config: Config) -> None:
    """Refuse what cannot work.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    require_bounds(config)
    if not config.network.widths or min(config.network.widths) < 1:
        raise InnerloopError(f"--network.widths is {config.network.widths}; give at least one width, each at least 1.")
    if config.network.kind == "convnet" and len(set(config.network.widths)) > 1:
        raise InnerloopError(
            f"--network.widths is {config.network.widths}; the blocks of a convnet have the same number of filters."
        )
    if config.inner.bound_growth and config.inner.bound_norm:
        raise InnerloopError("--inner.bound-growth and --inner.bound-norm exclude each other; leave one of them out.")
    if not config.evaluation.shots or min(config.evaluation.shots) < 1:
        raise InnerloopError(
            f"--evaluation.shots is {config.evaluation.shots}; give at least one number, each at least 1."
        )
    if isinstance(config.tasks, OmniglotTasks) and config.tasks.split == "vinyals" and config.tasks.split_seed:
        raise InnerloopError("--tasks.split-seed has no effect with --tasks.split vinyals; leave one of them out.")
    if isinstance(config.tasks, PhantomTasks):
        _check_phantoms(config, config.tasks)
    network, default = config.network, Network()
    without_effect = {
        "downsample": network.kind != "convnet",
        "scale": network.normalisation == "none",
        "shift": network.normalisation == "none",
        "adapt_normalisation": network.normalisation == "none",
        "running_decay": network.normalisation != "running",
        "frequencies": network.kind != "field",
        "bandwidth": network.kind != "field",
    }
    for name, unused in without_effect.items():
        if unused and vars(network)[name] != vars(default)[name]:
            raise InnerloopError(
                f"--network.{flag(name)} has no effect with --network.kind {network.kind} and "
                f"--network.normalisation {network.normalisation}; leave it out, or change these."
            )
    shards, parameters = config.layout.shards, config.layout.parameters or 1
    if shards % parameters:
        raise InnerloopError(
            f"--layout.parameters is {parameters}, which does not divide --layout.shards {shards}; change one of them."
        )
    if network.kind in ("mlp", "field") and config.layout.convolution != "auto":
        raise InnerloopError(f"--layout.convolution has no effect with --network.kind {network.kind}; leave it out.")
    if network.kind == "field" and not isinstance(config.tasks, PhantomTasks):
        raise InnerloopError("--network.kind is field, which takes points of an image; only phantoms have them.")
    if network.kind in ("convnet", "resnet12") and config.kind == "regression":
        raise InnerloopError(f"--network.kind is {network.kind}, which takes images; for sinusoids use mlp.")
    if config.evaluation.modulations and not (isinstance(config.tasks, PhantomTasks) and config.algorithm == "cavia"):
        raise InnerloopError(
            "--evaluation.modulations has no effect but with --algorithm cavia on phantoms; leave it out."
        )


def _check_phantoms(config: Config, tasks: PhantomTasks) -> None:
    """Refuse what does not fit phantoms."""
    if config.network.kind != "field" or config.network.normalisation != "none":
        raise InnerloopError(
            f"--network.kind is {config.network.kind} with --network.normalisation {config.network.normalisation}; "
            "phantoms take a field without normalisation."
        )
    if tasks.queries > tasks.resolution**2:
        raise InnerloopError(
            f"--tasks.queries is {tasks.queries}, but an image of {tasks.resolution} x {tasks.resolution} has "
            f"{tasks.resolution**2} pixels; ask for at most as many, or 0 for all."
        )
    if config.evaluation.queries != Evaluation().queries:
        raise InnerloopError("--evaluation.queries has no effect on phantoms, whose whole image counts; leave it out.")
    if config.inner.batch > tasks.shots * tasks.resolution:
        raise InnerloopError(
            f"--inner.batch is {config.inner.batch}, but {tasks.shots} views have {tasks.shots * tasks.resolution} "
            "rays; lower it, or 0 for all."
        )
