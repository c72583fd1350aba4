"""Networks, and adapters that make innerloop models of networks written elsewhere."""

from innerloop.models.adapters import from_equinox, from_linen, from_nnx
from innerloop.models.base import Apply, Kept, Model, from_functions
from innerloop.models.convnet import SHIFT_ONLY, convnet
from innerloop.models.description import NetworkDescription, from_description
from innerloop.models.field import neural_field
from innerloop.models.layers import glorot, normal, truncated_normal
from innerloop.models.lora import lora
from innerloop.models.mlp import mlp
from innerloop.models.norm import Normalisation, with_running_statistics
from innerloop.models.parts import ensemble, per_step, prototypical, shared_head, with_context
from innerloop.models.precision import in_precision
from innerloop.models.pretrained import read_transformer
from innerloop.models.resnet import resnet12
from innerloop.models.transformer import TransformerDescription, transformer

__all__ = [
    "SHIFT_ONLY",
    "Apply",
    "Kept",
    "Model",
    "NetworkDescription",
    "Normalisation",
    "TransformerDescription",
    "convnet",
    "ensemble",
    "from_description",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "glorot",
    "in_precision",
    "lora",
    "mlp",
    "neural_field",
    "normal",
    "per_step",
    "prototypical",
    "read_transformer",
    "resnet12",
    "shared_head",
    "transformer",
    "truncated_normal",
    "with_context",
    "with_running_statistics",
]
