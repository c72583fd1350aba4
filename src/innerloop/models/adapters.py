"""Models from Flax NNX, Flax Linen and Equinox modules. Each library is imported only when its adapter is called."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import jax
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.models.base import Model
from innerloop.types import Params, PRNGKey


def from_nnx(make: Callable[[Any], Any], **call: Any) -> Model:
    """A model from a Flax NNX module.

    `nnx.Param` variables are the parameters. Every other variable keeps its initial value: batch statistics are those
    of the batch at hand as long as the layer computes them (`use_running_average=False`), and averages that a layer
    writes are dropped, so that nothing leaks from task to task. Dropout draws from the loss's key; to evaluate query sets
    without it, make a second model with `deterministic=True` and give its loss to `evaluate` as a query loss.

    Args:
        make: `rngs -> module`, for example `lambda rngs: MyNetwork(rngs=rngs)`.
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

    def parts(key: PRNGKey) -> tuple[Any, Any, Any]:
        return nnx.split(make(nnx.Rngs(params=key, default=jax.random.fold_in(key, 0))), nnx.Param, ...)

    graph, template, constants = parts(jax.random.key(0))

    def init(key: PRNGKey) -> Params:
        return nnx.to_pure_dict(parts(key)[1])

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        state = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(graph, state, constants, copy=True)
        if key is not None:
            nnx.reseed(module, default=key)
        return module(x, **call)

    return Model(init, apply)


def from_linen(module: Any, inputs: Any, **call: Any) -> Model:
    """A model from a Flax Linen module.

    The `params` collection is the parameters. Other collections keep their initial value, and what the module writes to
    them is dropped. Dropout draws from the loss's key.

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
        rngs = None if key is None else {"dropout": key}
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
        InnerloopError: if Equinox is not installed.
    """
    eqx = require("equinox", "equinox")
    static = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)[1]
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
