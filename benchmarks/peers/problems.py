"""The problems: sizes, initial parameters and data, in NumPy alone. Every framework starts from the same numbers.

Parameters are a flat dict such as `{"conv1/kernel": ...}`, with dense kernels `[inputs, outputs]`, convolution kernels
`[height, width, channels, filters]` and images `[height, width, channels]`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

Arrays: TypeAlias = dict[str, np.ndarray]

SEED = 0
OUTER_RATE = 1e-3
"""Of Adam, in the outer step."""
ADAM_SHARE = 0.1
"""Adam's first moment after one step is this share of the gradient; so the program that is timed is also checked."""
SHIFT = 3.0
"""Where the shifts of the convolutional network start. Single precision decides on which side of a ReLU an input within
rounding of 0 falls, each implementation in its own way, and one such input moves a task's gradient by up to a tenth.
Three deviations from 0 hardly any input is that close."""
BATCH_EPSILON = 1e-3
"""Added to the variance over a batch."""
LAYER_EPSILON = 1e-5
"""Added to the variance over a layer, in the transformer."""


@dataclass(frozen=True)
class Mlp:
    """Dense layers with ReLU between them; regression."""

    widths: tuple[int, ...] = (1, 40, 40, 1)


@dataclass(frozen=True)
class Convnet:
    """Blocks of a 3x3 convolution, normalisation by the batch with a shift, and ReLU, then a linear head.

    `pooled`: stride 1 and 2x2 max-pooling, all positions flattened; otherwise stride 2 and the mean over space.
    """

    image: tuple[int, int, int] = (28, 28, 1)
    ways: int = 5
    filters: int = 64
    pooled: bool = False
    blocks: int = 4

    def sides(self) -> list[tuple[int, int]]:
        """Height and width before the first block and after each."""
        sides = [self.image[:2]]
        for _ in range(self.blocks):
            height, width = sides[-1]
            sides.append((height // 2, width // 2) if self.pooled else ((height + 1) // 2, (width + 1) // 2))
        return sides

    def features(self) -> int:
        """Inputs of the head."""
        height, width = self.sides()[-1]
        return height * width * self.filters if self.pooled else self.filters


@dataclass(frozen=True)
class Transformer:
    """A causal language model with normalisation before attention and before the dense layers."""

    layers: int = 12
    width: int = 128
    heads: int = 4
    hidden: int = 512
    sequence: int = 32
    vocabulary: int = 64


@dataclass(frozen=True)
class Case:
    """One meta-step.

    Attributes:
        network: what is adapted.
        tasks: in the meta-batch.
        support: examples that a task adapts on.
        query: examples that it is judged on.
        steps: inner steps.
        rate: inner step size.
    """

    network: Mlp | Convnet | Transformer
    tasks: int
    support: int
    query: int
    steps: int
    rate: float


class Batch(NamedTuple):
    """Inputs and targets, `[tasks, examples, ...]`."""

    x: np.ndarray
    y: np.ndarray


class Problem(NamedTuple):
    """A case with its numbers."""

    case: Case
    params: Arrays
    support: Batch
    query: Batch


SINUSOID = Case(Mlp(), tasks=25, support=10, query=10, steps=1, rate=0.01)
OMNIGLOT = Case(Convnet(), tasks=32, support=5, query=5, steps=1, rate=0.1)
OMNIGLOT_20 = Case(Convnet(ways=20), tasks=16, support=20, query=20, steps=5, rate=0.1)
MINIIMAGENET = Case(Convnet((84, 84, 3), filters=32, pooled=True), tasks=4, support=25, query=75, steps=5, rate=1e-3)
TRANSFORMER = Case(Transformer(), tasks=4, support=8, query=8, steps=1, rate=0.1)

MAIN = {
    **{f"sinusoid-{steps}": replace(SINUSOID, steps=steps) for steps in (1, 5, 10, 50)},
    **{f"omniglot-5way-1shot-{steps}": replace(OMNIGLOT, steps=steps) for steps in (1, 5)},
    "omniglot-20way-1shot-5": OMNIGLOT_20,
    "miniimagenet-5way-5shot-5": MINIIMAGENET,
    **{f"transformer-{steps}": replace(TRANSFORMER, steps=steps) for steps in (1, 5)},
}
"""The cases in which implementations are compared."""

STEPS = (1, 2, 5, 10, 20, 50)
TASKS = (1, 2, 4, 8, 16, 32, 64)
GROWTH = {
    "sinusoid-steps": {steps: replace(SINUSOID, steps=steps) for steps in STEPS},
    "omniglot-steps": {steps: replace(OMNIGLOT, tasks=4, steps=steps) for steps in STEPS},
    "omniglot-tasks": {tasks: replace(OMNIGLOT, tasks=tasks) for tasks in TASKS},
}
"""The curves: how time and memory grow with inner steps and with tasks."""

CASES = MAIN | {f"{curve}-{size}": case for curve, cases in GROWTH.items() for size, case in cases.items()}


def problem(case: Case) -> Problem:
    """The numbers of a case, the same in every process."""
    rng = np.random.default_rng(SEED)
    params = {name: value.astype(np.float32) for name, value in _parameters(case.network, rng)}
    x, y = _examples(case, rng)
    support = Batch(x[:, : case.support], y[:, : case.support])
    return Problem(case, params, support, query=Batch(x[:, case.support :], y[:, case.support :]))


def _parameters(network: Mlp | Convnet | Transformer, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    def dense(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{name}/kernel", _glorot(rng, inputs, outputs)
        yield f"{name}/bias", np.zeros(outputs)

    def norm(name: str, width: int) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{name}/scale", np.ones(width)
        yield f"{name}/shift", np.zeros(width)

    if isinstance(network, Mlp):
        layers = len(network.widths) - 1
        for i, (inputs, outputs) in enumerate(pairwise(network.widths), 1):
            yield from dense(f"dense{i}" if i < layers else "head", inputs, outputs)
    elif isinstance(network, Convnet):
        for i in range(1, network.blocks + 1):
            yield (
                f"conv{i}/kernel",
                _glorot(rng, 3, 3, network.image[2] if i == 1 else network.filters, network.filters),
            )
            yield f"norm{i}/shift", np.full(network.filters, SHIFT)
        yield from dense("head", network.features(), network.ways)
    else:
        width = network.width
        yield "embed/token/table", rng.normal(0, 0.1, (network.vocabulary, width))
        yield "embed/position/table", rng.normal(0, 0.1, (network.sequence, width))
        for i in range(1, network.layers + 1):
            yield from norm(f"block{i}/norm1", width)
            yield from dense(f"block{i}/qkv", width, 3 * width)
            yield from dense(f"block{i}/out", width, width)
            yield from norm(f"block{i}/norm2", width)
            yield from dense(f"block{i}/up", width, network.hidden)
            yield from dense(f"block{i}/down", network.hidden, width)
        yield from norm("norm", width)
        yield from dense("head", width, network.vocabulary)


def _glorot(rng: np.random.Generator, *shape: int) -> np.ndarray:
    window = int(np.prod(shape[:-2]))
    limit = np.sqrt(6 / (window * (shape[-2] + shape[-1])))
    return rng.uniform(-limit, limit, shape)


def _examples(case: Case, rng: np.random.Generator) -> Batch:
    """Support and query sets of every task, one after the other."""
    network, leading = case.network, (case.tasks, case.support + case.query)
    if isinstance(network, Mlp):
        amplitude, phase = rng.uniform(0.1, 5, (case.tasks, 1, 1)), rng.uniform(0, np.pi, (case.tasks, 1, 1))
        x = rng.uniform(-5, 5, (*leading, network.widths[0]))
        return Batch(x.astype(np.float32), (amplitude * np.sin(x - phase)).astype(np.float32))
    if isinstance(network, Convnet):
        x = rng.normal(size=(*leading, *network.image))
        labels = np.arange(leading[1]) % network.ways
        return Batch(x.astype(np.float32), np.broadcast_to(labels, leading).astype(np.int32))
    text = rng.integers(0, network.vocabulary, (*leading, network.sequence + 1), np.int32)
    return Batch(text[..., :-1], text[..., 1:])
