"""Models from Flax NNX, Flax Linen and Equinox modules. Each library is imported only when its adapter is called."""

import zlib
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import jax
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.models.base import Model
from innerloop.types import Params, PRNGKey


def from_nnx(make: Callable[..., Any], **call: Any) -> Model:
    """A model from a Flax NNX module.

    `nnx.Param` variables are the parameters. Every other variable keeps its initial value: batch statistics are those
    of the batch at hand as long as the layer computes them (`use_running_average=False`), and averages that a layer
    writes are dropped, so that nothing leaks from task to task. Every random stream of the module, dropout's above all,
    is seeded anew from the loss's key, whatever its name; to evaluate query sets without dropout, make a second model
    with `deterministic=True` and give its loss to `evaluate` as a query loss.

    Args:
        make: `rngs -> module`, for example `lambda rngs: MyNetwork(rngs=rngs)`; or a class whose `rngs` is a keyword.
        call: keyword arguments of every call of the module.

    Returns:
        A model whose parameters are the nested dict of the module's `nnx.Param` values.

    Raises:
        InnerloopError: if Flax is not installed, or `make` is a module.
    """
    nnx = require("flax.nnx", "flax")
    if isinstance(make, nnx.Module):
        raise InnerloopError(
            "from_nnx takes a function that makes the module, such as lambda rngs: MyNetwork(rngs=rngs), not a module."
        )

    keyword_only = _takes_keyword_only(make, "rngs")

    def made(key: PRNGKey) -> Any:
        rngs = nnx.Rngs(params=key, default=jax.random.fold_in(key, 0))
        return make(rngs=rngs) if keyword_only else make(rngs)

    def parts(key: PRNGKey) -> tuple[Any, Any, Any]:
        return nnx.split(made(key), nnx.Param, ...)

    module = made(jax.random.key(0))
    graph, template, constants = nnx.split(module, nnx.Param, ...)
    streams = {node.tag for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)}

    def init(key: PRNGKey) -> Params:
        return nnx.to_pure_dict(parts(key)[1])

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        state = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(graph, state, constants, copy=True)
        if key is not None:
            seeds = {name: key if name == "default" else _stream_key(key, name) for name in streams}
            nnx.reseed(module, **seeds)
        return module(x, **call)

    return Model(init, apply)


def from_linen(module: Any, inputs: Any, **call: Any) -> Model:
    """A model from a Flax Linen module.

    The `params` collection is the parameters. Other collections keep their initial value, and what the module writes to
    them is dropped. Dropout, and every other random stream that the module asks for, draws from the loss's key.

    Args:
        module: the module.
        inputs: an example batch (or its shape, as `jax.ShapeDtypeStruct`) to initialise with.
        call: keyword arguments of every call of the module.

    Returns:
        A model whose parameters are the module's `params` collection.

    Raises:
        InnerloopError: if Flax is not installed.
    """
    linen = require("flax.linen", "flax")
    zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape, leaf.dtype), inputs)

    def variables(key: PRNGKey) -> dict[str, Any]:
        return dict(module.init({"params": key, "dropout": key}, zeros, **call))

    constants = {name: value for name, value in variables(jax.random.key(0)).items() if name != "params"}

    def init(key: PRNGKey) -> Params:
        return variables(key)["params"]

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        # A stream that is not named here falls back to that of the parameters.
        rngs = None if key is None else {"dropout": key, "params": _stream_key(key, "params")}
        outputs = module.apply({"params": params, **constants}, x, rngs=rngs, mutable=linen.DenyList("params"), **call)
        return outputs[0]

    return Model(init, apply)


def from_equinox(make: Callable[[PRNGKey], Any], *, vectorise: bool = True) -> Model:
    """A model from an Equinox module.

    Args:
        make: `key -> module`, for example `lambda key: eqx.nn.MLP(1, 1, 40, 2, key=key)`.
        vectorise: whether the module maps one example, as Equinox modules do, and is to be vmapped over the batch. A
            module that takes `key=` gets one for each example where the loss has a key.

    Returns:
        A model whose parameters are the module with everything but its floating-point arrays replaced by `None`.

    Raises:
        InnerloopError: if Equinox is not installed, or the module keeps a state of its own.
    """
    eqx = require("equinox", "equinox")
    example = make(jax.random.key(0))
    nodes = jax.tree.leaves(example, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    if isinstance(example, tuple) or any(isinstance(node, eqx.nn.StateIndex) for node in nodes):
        raise InnerloopError(
            "from_equinox takes modules without a state of their own (eqx.nn.BatchNorm has one); use a layer such as "
            "eqx.nn.GroupNorm or eqx.nn.LayerNorm in its place."
        )
    static = eqx.partition(example, eqx.is_inexact_array)[1]
    takes_key = "key" in signature(type(static).__call__).parameters

    def init(key: PRNGKey) -> Params:
        return eqx.filter(make(key), eqx.is_inexact_array)

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        module = eqx.combine(params, static)
        if not (takes_key and key is not None):
            return jax.vmap(module)(x) if vectorise else module(x)
        if not vectorise:
            return module(x, key=key)
        keys = jax.random.split(key, jax.tree.leaves(x)[0].shape[0])
        return jax.vmap(lambda example, key: module(example, key=key))(x, keys)

    return Model(init, apply)


def _stream_key(key: PRNGKey, name: str) -> PRNGKey:
    """A key for the random stream of that name, of its own for every name."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _takes_keyword_only(make: Callable[..., Any], name: str) -> bool:
    """Whether a function takes an argument by its name alone."""
    try:
        parameters = signature(make.__init__ if isinstance(make, type) else make).parameters
    except (TypeError, ValueError):  # some callables do not tell
        return False
    return name in parameters and parameters[name].kind is Parameter.KEYWORD_ONLY
