r"""Low-rank additions to a network's matrices, adapted in the place of the matrices."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from innerloop.core.names import LORA, SCALE_AND_SHIFT, paths_of
from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.models.base import Kept, Model
from innerloop.models.layers import normal
from innerloop.types import Params, PRNGKey, State

Where = Callable[[str, Any], bool]
"""`(path, leaf) -> bool`, as in `rules.masked`"""


@partial(jax.tree_util.register_dataclass)
@dataclass(frozen=True)
class LowRank:
    """A matrix and what is added to it, as factors, for networks that use their kernels as `x @ kernel` alone."""

    matrix: Array
    down: Array
    up: Array
    scale: float = field(metadata={"static": True})

    def __rmatmul__(self, x: Array) -> Array:
        return x @ self.matrix + self.scale * ((x @ self.down) @ self.up)

    def dense(self) -> Array:
        """The sum as a matrix."""
        return self.matrix + self.scale * (self.down @ self.up)


def lora(model: Model, where: Where, rank: int, *, scale: float = 1.0, frozen: Params | None = None) -> Model:
    r"""A network whose matrices $W$ become $W + s\,AB$ with $A$ `[inputs, rank]` and $B$ `[rank, outputs]`.

    The inner loop adapts $A$ and $B$ alone by `rules.masked(rule, lambda path, leaf: path.startswith("lora/"))`. They
    start as random numbers and as zeros, so that the network is at first what it was; the outer loop learns their
    start, and that of $W$ unless it is frozen. In a matrix with further axes in front, such as the stacked blocks of
    `models.transformer` or the kernel of a convolution, each index of these axes has its own $A$ and $B$.

    In `models.transformer` the sum is never a matrix, $xW + s\,(xA)B$; in other networks it is one for each task.

    Args:
        model: the network.
        where: `(path, leaf) -> bool`, which of its parameters, all of them matrices.
        rank: number of columns of $A$.
        scale: $s$.
        frozen: parameters of the network that neither loop changes, such as pretrained ones. They are then no part of
            the model's parameters. In a compiled function, make the model inside with `frozen` as one of the function's
            arguments, or else the weights are a part of the program.

    Returns:
        A model with parameters `{"network": ..., "lora": ...}`, where `lora` has `{"down": A, "up": B}` in the place of
        every chosen matrix; or `{"lora": ...}` alone if the network is frozen. For pretrained weights that are learned
        on, replace the entry `network` of what `init` gives.

    Raises:
        InnerloopError: if the rank is not positive or larger than a matrix allows, what is chosen is no matrix, nothing
            is chosen, or frozen parameters do not fit the model.

    Reference:
        Hu et al.: LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685.

    Example:
        >>> import jax
        >>> from innerloop import models, rules
        >>> model = models.lora(models.mlp(3, (8,), 2), lambda path, leaf: path == "dense1/kernel", rank=2)
        >>> params = model.init(jax.random.key(0))
        >>> jax.tree.map(lambda leaf: leaf.shape, params["lora"]["dense1"]["kernel"])
        {'down': (3, 2), 'up': (2, 8)}
        >>> rule = rules.masked(rules.sgd(0.1), lambda path, leaf: path.startswith("lora/"))
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    chosen = jax.tree.map_with_path(lambda path, leaf: bool(where(path_name(path), leaf)), shapes)
    _require_matrices(shapes, chosen, rank)
    if frozen is not None:
        _require_fit(frozen, shapes)

    def init(key: PRNGKey) -> Params:
        network_key, factors_key = jax.random.split(key)
        numbers = iter(range(len(jax.tree.leaves(shapes))))

        def factors(leaf: Any, taken: bool) -> Any:
            number = next(numbers)
            if not taken:
                return None
            *stack, rows, columns = leaf.shape
            down = normal(rows**-0.5)(jax.random.fold_in(factors_key, number), (*stack, rows, rank))
            return {"down": down.astype(leaf.dtype), "up": jnp.zeros((*stack, rank, columns), leaf.dtype)}

        added = {LORA: jax.tree.map(factors, shapes, chosen)}
        return added if frozen is not None else {"network": model.init(network_key), **added}

    def whole(params: Params) -> Params:
        def joined(path: Any, taken: bool, leaf: Any, factors: Any) -> Any:
            if not taken:
                return leaf
            low_rank = LowRank(leaf, factors["down"], factors["up"], scale)
            kernel = path_name(path).split("/")[-1] == "kernel"
            return low_rank if model.products and kernel else low_rank.dense()

        network = frozen if frozen is not None else params["network"]
        return jax.tree.map_with_path(joined, chosen, network, params[LORA])

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Any = None) -> Array:
        return model.apply(whole(params), x, key=key, moments=moments)

    moments, running, kept = model.moments, model.running, model.kept

    def apply_kept(params: Params, x: Any, state: State, key: PRNGKey | None) -> tuple[Array, State]:
        return kept.apply(whole(params), x, state, key)  # pyright: ignore[reportOptionalMemberAccess]

    return Model(
        init,
        apply,
        moments=moments and (lambda params, x, key: moments(whole(params), x, key)),
        running=running and (lambda params: running(whole(params))),
        kept=kept and Kept(lambda params: kept.init(whole(params)), apply_kept),
    )


def _require_matrices(shapes: Params, chosen: Params, rank: int) -> None:
    taken = [
        (path_name(path), leaf)
        for (path, leaf), take in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(chosen), strict=True)
        if take
    ]
    if rank < 1:
        raise InnerloopError(f"lora(rank={rank}) adds nothing; use a rank of 1 or more.")
    if not taken:
        raise InnerloopError(f"lora's where chooses no parameter; they are: {paths_of(shapes)}.")
    for name, leaf in taken:
        if len(leaf.shape) < 2 or name.split("/")[-1] in ("bias", *SCALE_AND_SHIFT):
            raise InnerloopError(
                f"lora's where chooses {name} of shape {list(leaf.shape)}, which is no matrix; leave it out, as in "
                'where=lambda path, leaf: path.endswith("kernel").'
            )
        if rank > min(leaf.shape[-2:]):
            raise InnerloopError(
                f"lora(rank={rank}) is larger than the matrix {name} of {leaf.shape[-2]} by {leaf.shape[-1]} allows; "
                f"use a rank of at most {min(leaf.shape[-2:])}."
            )


def _require_fit(frozen: Params, shapes: Params) -> None:
    """The frozen parameters are those of the model."""
    found, wanted = (
        {path_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (frozen, shapes)
    )
    differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if differing:
        raise InnerloopError(f"lora's frozen parameters are not those of the model; these differ: {differing}.")
