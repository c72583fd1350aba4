"""The meta-step in PyTorch: in a loop over tasks, with `torch.func`, and compiled.

The networks are modules as anyone would write them. Parameters get PyTorch's names and axes on the way in, and
gradients lose them on the way out.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.peers.implementations import MetaStep
from benchmarks.peers.problems import (
    ADAM_SHARE,
    BATCH_EPSILON,
    LAYER_EPSILON,
    OUTER_RATE,
    Arrays,
    Convnet,
    Mlp,
    Problem,
    Transformer,
)

Tensors = dict[str, Tensor]
LEAVES = {"kernel": "weight", "table": "weight", "scale": "weight", "shift": "bias", "bias": "bias"}
"""What PyTorch calls the parts of a layer."""


class BatchNorm(nn.Module):
    """Normalisation by the batch at hand, with a shift alone."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(channels))
        self.register_buffer("ones", torch.ones(channels), persistent=False)  # no scale has no second derivative

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, self.ones, self.bias, training=True, eps=BATCH_EPSILON)


class ChannelsLast(nn.Module):
    """All positions flattened in the order that the head's kernel expects."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)


def mlp(network: Mlp) -> nn.Module:
    widths, parts = network.widths, OrderedDict()
    for i in range(1, len(widths) - 1):
        parts |= {f"dense{i}": nn.Linear(*widths[i - 1 : i + 1]), f"relu{i}": nn.ReLU()}
    return nn.Sequential(parts | {"head": nn.Linear(*widths[-2:])})


def convnet(network: Convnet) -> nn.Module:
    parts, stride = OrderedDict(), 1 if network.pooled else 2
    for i, (side, _) in enumerate(network.sides()[:-1], 1):
        padding = -side % stride + 3 - stride  # of both sides together; an odd one has its surplus at the end
        if padding % 2:
            parts[f"pad{i}"] = nn.ZeroPad2d((0, 1, 0, 1))
        inputs = network.image[2] if i == 1 else network.filters
        parts[f"conv{i}"] = nn.Conv2d(inputs, network.filters, 3, stride, padding // 2, bias=False)
        parts |= {f"norm{i}": BatchNorm(network.filters), f"relu{i}": nn.ReLU()}
        if network.pooled:
            parts[f"pool{i}"] = nn.MaxPool2d(2)
    if not network.pooled:
        parts["mean"] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(parts | {"flat": ChannelsLast(), "head": nn.Linear(network.features(), network.ways)})


class LayerNorm(nn.LayerNorm):
    """Written out, because the second derivative of PyTorch's own is inexact under `vmap` (by 0.1 to 1 % in 2.13)."""

    def __init__(self, width: int):
        super().__init__(width, LAYER_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class Block(nn.Module):
    """Causal attention and dense layers, each after a normalisation and beside a shortcut."""

    def __init__(self, network: Transformer):
        super().__init__()
        width = network.width
        self.heads = network.heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, network.hidden), nn.Linear(network.hidden, width)
        self.register_buffer(
            "later", torch.ones(network.sequence, network.sequence, dtype=torch.bool).triu(1), persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (each.transpose(1, 2) for each in qkv.unbind(2))  # [examples, heads, sequence, width / heads]
        scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).masked_fill(self.later, -torch.inf)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Embedding(nn.Module):
    """A vector for each token plus one for each position."""

    def __init__(self, network: Transformer):
        super().__init__()
        self.token = nn.Embedding(network.vocabulary, network.width)
        self.position = nn.Embedding(network.sequence, network.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.token(tokens) + self.position.weight


def transformer(network: Transformer) -> nn.Module:
    blocks = {f"block{i}": Block(network) for i in range(1, network.layers + 1)}
    norm, head = LayerNorm(network.width), nn.Linear(network.width, network.vocabulary)
    return nn.Sequential(OrderedDict({"embed": Embedding(network), **blocks, "norm": norm, "head": head}))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


NETWORKS: dict[type, Callable[..., nn.Module]] = {Mlp: mlp, Convnet: convnet, Transformer: transformer}


class Prepared:
    """A network with its outer optimiser and its tasks, which leave PyTorch again as they came.

    Attributes:
        tasks: support inputs and targets, query inputs and targets, `[tasks, examples, ...]`.
    """

    def __init__(self, problem: Problem):
        self.steps, self.rate = problem.case.steps, problem.case.rate
        self.names = {name: torch_name(name) for name in problem.params}
        self.net = NETWORKS[type(problem.case.network)](problem.case.network)
        self.net.load_state_dict({self.names[name]: to_torch(name, array) for name, array in problem.params.items()})
        self.params = dict(self.net.named_parameters())
        self.optimizer = torch.optim.Adam(self.params.values(), OUTER_RATE, fused=True)
        self.tasks = [torch.from_numpy(array) for array in map(in_torch_order, [*problem.support, *problem.query])]

    def loss(self, params: Tensors, x: Tensor, y: Tensor) -> Tensor:
        """The loss of given parameters."""
        return loss(functional_call(self.net, params, x), y)

    def mean(self, query_loss: Tensor) -> Tensor:
        """What a task adds to the mean over tasks."""
        return query_loss / len(self.tasks[0])

    def meta_step(self, backward: Callable[[], None]) -> MetaStep:
        """The meta-step around `backward`, which puts the meta-gradient into the parameters' `grad`."""

        def run() -> None:
            self.optimizer.zero_grad()
            backward()
            self.optimizer.step()

        def gradient() -> Arrays:
            moment = lambda name: self.optimizer.state[self.params[self.names[name]]]["exp_avg"]  # noqa: E731
            return {name: from_torch(name, moment(name)) / ADAM_SHARE for name in self.names}

        return MetaStep(run, gradient)


def torch_name(name: str) -> str:
    """`"conv1/kernel"` as `"conv1.weight"`."""
    *layers, leaf = name.split("/")
    return ".".join([*layers, LEAVES[leaf]])


def to_torch(name: str, array: np.ndarray) -> Tensor:
    """A parameter with PyTorch's axes: filters or outputs first."""
    if name.endswith("kernel"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return torch.from_numpy(np.ascontiguousarray(array))


def from_torch(name: str, tensor: Tensor) -> np.ndarray:
    """The inverse of `to_torch`."""
    array = tensor.numpy()
    if name.endswith("kernel"):
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return array


def in_torch_order(data: np.ndarray) -> np.ndarray:
    """Images with channels before height and width; whole numbers as 64 bits."""
    if data.ndim == 5:
        data = np.ascontiguousarray(np.moveaxis(data, -1, 2))
    return data.astype(np.int64) if data.dtype == np.int32 else data


def by_loop(problem: Problem) -> MetaStep:
    """Tasks one after the other, `autograd.grad(create_graph=True)` within."""
    this = Prepared(problem)

    def backward() -> None:
        for support_x, support_y, query_x, query_y in zip(*this.tasks, strict=True):
            fast = this.params
            for _ in range(this.steps):
                gradients = torch.autograd.grad(
                    this.loss(fast, support_x, support_y), list(fast.values()), create_graph=True
                )
                fast = {name: fast[name] - this.rate * each for name, each in zip(fast, gradients, strict=True)}
            this.mean(this.loss(fast, query_x, query_y)).backward()

    return this.meta_step(backward)


def vmapped(this: Prepared) -> Callable[..., Tensors]:
    """The meta-gradient as a function: tasks under `vmap`, `grad` within and around."""

    def adapted_loss(params: Tensors, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
        for _ in range(this.steps):
            gradients = grad(this.loss)(params, support_x, support_y)
            params = {name: params[name] - this.rate * each for name, each in gradients.items()}
        return this.loss(params, query_x, query_y)

    def mean_loss(params: Tensors, *tasks: Tensor) -> Tensor:
        return vmap(adapted_loss, (None, 0, 0, 0, 0))(params, *tasks).mean()

    return grad(mean_loss)


def functional(this: Prepared, gradient: Callable[..., Tensors]) -> MetaStep:
    """The meta-step of a meta-gradient that is a function."""

    def backward() -> None:
        for name, each in gradient(this.params, *this.tasks).items():
            this.params[name].grad = each

    return this.meta_step(backward)


def by_vmap(problem: Problem) -> MetaStep:
    """`torch.func`: all tasks at once."""
    this = Prepared(problem)
    return functional(this, vmapped(this))


def by_compile(problem: Problem) -> MetaStep:
    """`torch.func`, compiled."""
    this = Prepared(problem)
    return functional(this, torch.compile(vmapped(this)))
