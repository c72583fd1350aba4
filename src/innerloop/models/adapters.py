"""Models from Flax NNX, Flax Linen and Equinox modules. Each library is imported only when its adapter is called."""

import zlib
from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import jax
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.models.base import Kept, Model
from innerloop.types import Params, PRNGKey, State


def from_nnx(make: Callable[..., Any], **call: Any) -> Model:
    """A model from a Flax NNX module.

    `nnx.Param` variables are the parameters. Every other variable (`nnx.BatchStat`, `nnx.Cache`) is what the network
    keeps: `losses.stateful` hands it from inner step to inner step. In every other loss it has its initial value: batch
    statistics are those of the batch at hand as long as the layer computes them (`use_running_average=False`), and
    averages that a layer writes are dropped, so that nothing leaks from task to task. Every random stream of the
    module, dropout's above all, is seeded anew from the loss's key, whatever its name; to evaluate query sets without
    dropout, make a second model with `deterministic=True` and give its loss to `evaluate` as a query loss.

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

    def parts(key: PRNGKey) -> tuple[Any, Any, Any, Any]:
        return nnx.split(made(key), nnx.Param, nnx.RngState, ...)

    module = made(jax.random.key(0))
    graph, template, streams_template, constants = nnx.split(module, nnx.Param, nnx.RngState, ...)
    streams = {node.tag for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)}

    def init(key: PRNGKey) -> Params:
        return nnx.to_pure_dict(parts(key)[1])

    def filled(template: Any, values: Any) -> Any:
        state = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(state, values)
        return state

    def apply_kept(params: Params, x: Any, kept: State, key: PRNGKey | None) -> tuple[Array, State]:
        states = filled(template, params), streams_template, filled(constants, kept)
        module = nnx.merge(graph, *states, copy=True)
        if key is not None:
            seeds = {name: key if name == "default" else _stream_key(key, name) for name in streams}
            nnx.reseed(module, **seeds)
        outputs = module(x, **call)
        return outputs, nnx.to_pure_dict(nnx.split(module, nnx.Param, nnx.RngState, ...)[3])

    return _with_kept(init, apply_kept, nnx.to_pure_dict(constants))


def from_linen(module: Any, inputs: Any, **call: Any) -> Model:
    """A model from a Flax Linen module.

    The `params` collection is the parameters. Other collections (`batch_stats`, `cache`) are what the network keeps:
    `losses.stateful` hands them from inner step to inner step. In every other loss they have their initial value, and
    what the module writes to them is dropped. Dropout, and every other random stream that the module asks for, draws
    from the loss's key.

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

    def apply_kept(params: Params, x: Any, kept: State, key: PRNGKey | None) -> tuple[Array, State]:
        # A stream that is not named here falls back to that of the parameters.
        rngs = None if key is None else {"dropout": key, "params": _stream_key(key, "params")}
        outputs, written = module.apply(
            {"params": params, **kept}, x, rngs=rngs, mutable=linen.DenyList("params"), **call
        )
        return outputs, {name: written.get(name, value) for name, value in kept.items()}

    return _with_kept(init, apply_kept, constants)


def from_equinox(make: Callable[[PRNGKey], Any], *, vectorise: bool = True, axis_name: str = "batch") -> Model:
    """A model from an Equinox module.

    Args:
        make: `key -> module`, for example `lambda key: eqx.nn.MLP(1, 1, 40, 2, key=key)`; or `key -> (module, state)`
            of a module that keeps a state, such as `lambda key: eqx.nn.make_with_state(MyNetwork)(key)`, which
            `losses.stateful` hands from inner step to inner step and every other loss starts anew.
        vectorise: whether the module maps one example, as Equinox modules do, and is to be vmapped over the batch. A
            module that takes `key=` gets one for each example where the loss has a key.

        axis_name: what the module's `eqx.nn.BatchNorm` calls the batch.

    Returns:
        A model whose parameters are the module with everything but its floating-point arrays replaced by `None`.

    Raises:
        InnerloopError: if Equinox is not installed, or the module keeps a state that `make` does not return.
    """
    eqx = require("equinox", "equinox")
    example, *state = _as_tuple(make(jax.random.key(0)))
    nodes = jax.tree.leaves(example, is_leaf=lambda node: isinstance(node, eqx.nn.StateIndex))
    if not state and any(isinstance(node, eqx.nn.StateIndex) for node in nodes):
        raise InnerloopError(
            "from_equinox got a module with a state (eqx.nn.BatchNorm has one) and not the state; make both with "
            "lambda key: eqx.nn.make_with_state(MyNetwork)(key)."
        )
    if len(state) > 1 or any(not isinstance(part, eqx.nn.State) for part in state):
        raise InnerloopError("from_equinox takes a function that makes a module, or a pair (module, eqx.nn.State).")
    static = eqx.partition(example, eqx.is_inexact_array)[1]
    takes_key = "key" in signature(type(static).__call__).parameters
    leaves, structure = jax.tree.flatten(state)

    def init(key: PRNGKey) -> Params:
        return eqx.filter(_as_tuple(make(key))[0], eqx.is_inexact_array)

    def apply_kept(params: Params, x: Any, kept: State, key: PRNGKey | None) -> tuple[Array, State]:
        module, given = eqx.combine(params, static), jax.tree.unflatten(structure, kept)

        def called(x: Any, key: PRNGKey | None) -> tuple[Array, list[Any]]:
            outputs = module(x, *given) if key is None else module(x, *given, key=key)
            return (outputs[0], jax.tree.leaves(outputs[1])) if given else (outputs, [])

        keys = key if takes_key else None
        if not vectorise:
            return called(x, keys)
        if keys is not None:
            keys = jax.random.split(keys, jax.tree.leaves(x)[0].shape[0])
        in_axes = (0, None if keys is None else 0)
        return jax.vmap(called, in_axes, out_axes=(0, None), axis_name=axis_name)(x, keys)

    return _with_kept(init, apply_kept, leaves)


def _as_tuple(made: Any) -> tuple[Any, ...]:
    return made if isinstance(made, tuple) else (made,)


def _with_kept(
    init: Callable[[PRNGKey], Params], apply_kept: Callable[..., tuple[Array, State]], first: State
) -> Model:
    """A model of a network that keeps a state, `first` before its first call, or nothing if that is empty."""

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        return apply_kept(params, x, first, key)[0]

    kept = Kept(lambda params: first, apply_kept) if jax.tree.leaves(first) else None
    return Model(init, apply, kept=kept)


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
