"""A network as plain values, from which it is built: what a configuration or an exported model says of it."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax import lax

from innerloop import ops
from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.models.convnet import convnet
from innerloop.models.field import neural_field
from innerloop.models.layers import glorot
from innerloop.models.mlp import mlp
from innerloop.models.norm import Normalisation, with_running_statistics
from innerloop.models.precision import in_precision
from innerloop.models.resnet import resnet12


@dataclass(frozen=True)
class NetworkDescription:
    """What a network is.

    Attributes:
        kind: multilayer perceptron, four-convolution network, twelve-layer residual network, or neural field.
        inputs: the shape of an example: height, width and channels of an image, the number of features, or the points
            (of which a field takes any number) and their coordinates.
        outputs: of the last layer.
        widths: mlp, field: hidden layers; convnet: filters of each block, all the same; resnet12: filters of each
            block.
        downsample: convnet: how a block halves the image.
        normalised: whether layers normalise by batch statistics.
        scale: whether normalisation has a learned scale.
        shift: whether normalisation has a learned shift.
        running: whether running averages of these statistics are stored.
        more_inputs: mlp, field: numbers beside the example, such as a context.
        precision: in which it computes.
        convolution: patches and a matrix product, or XLA's own.
        frequencies: field: Fourier features, each a sine and a cosine.
        bandwidth: field: standard deviation of their angular frequencies.
    """

    kind: Literal["mlp", "convnet", "resnet12", "field"]
    inputs: tuple[int, ...]
    outputs: int
    widths: tuple[int, ...]
    downsample: Literal["stride", "max-pool"] = "stride"
    normalised: bool = False
    scale: bool = False
    shift: bool = True
    running: bool = False
    more_inputs: int = 0
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    convolution: Literal["patches", "lax"] = "patches"
    frequencies: int = 256
    bandwidth: float = 30.0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "NetworkDescription":
        """From the object that `dataclasses.asdict` gives, with its tuples as lists.

        Raises:
            TypeError: if a field is missing or unknown.
        """
        entries: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**entries)


def from_description(network: NetworkDescription) -> Model:
    """The network that a description says.

    Args:
        network: what it is.

    Raises:
        InnerloopError: if the description cannot be built.

    Example:
        >>> import jax
        >>> from innerloop import models
        >>> model = models.from_description(models.NetworkDescription("mlp", (1,), 1, (40, 40)))
        >>> sorted(model.init(jax.random.key(0)))
        ['dense1', 'dense2', 'head']
    """
    normalisation = Normalisation(network.scale, network.shift) if network.normalised else None
    convolution = lax.conv_general_dilated if network.convolution == "lax" else ops.conv_general_dilated
    if network.kind == "mlp":
        inputs = int(np.prod(network.inputs)) + network.more_inputs
        model = mlp(inputs, network.widths, network.outputs, initializer=glorot, normalisation=normalisation)
    elif network.kind == "field":
        model = neural_field(
            network.widths,
            frequencies=network.frequencies,
            bandwidth=network.bandwidth,
            dimensions=network.inputs[-1],
            context=network.more_inputs,
        )
    elif len(network.inputs) != 3:
        raise InnerloopError(f"A {network.kind} takes images, but the inputs are {list(network.inputs)}; use an mlp.")
    elif network.kind == "convnet":
        height, width, channels = network.inputs
        model = convnet(
            (height, width, channels),
            network.outputs,
            downsample=network.downsample,
            filters=network.widths[0],
            blocks=len(network.widths),
            normalisation=normalisation,
            convolution=convolution,
        )
    else:
        if normalisation is None:
            raise InnerloopError("A resnet12 does not train without normalisation; describe it with normalised=True.")
        height, width, channels = network.inputs
        model = resnet12(
            (height, width, channels),
            network.outputs,
            filters=network.widths,
            normalisation=normalisation,
            convolution=convolution,
        )
    if network.precision != "float32":
        model = in_precision(model, network.precision)
    if network.running:
        return with_running_statistics(model, jax.ShapeDtypeStruct((2, *network.inputs), np.float32))
    return model
