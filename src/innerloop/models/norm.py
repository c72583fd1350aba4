r"""Normalisation by batch statistics, as a named choice.

Each layer normalises channel by channel, $y = \gamma\,(x - \mu)/\sqrt{\sigma^2 + \epsilon} + \beta$. *Whose* mean and
variance these are is decided where the network is applied: `moments=None` takes those of the batch at hand; otherwise
`moments` holds, for each layer by name, the mean and variance to use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.models.base import Model
from innerloop.models.layers import Weights
from innerloop.types import Params, PRNGKey

Moments: TypeAlias = dict[str, dict[str, Array]]
"""`{layer: {"mean": [channels], "variance": [channels]}}`"""


@dataclass(frozen=True)
class Normalisation:
    r"""What each normalisation layer has.

    Args:
        scale: a learned factor $\gamma$, starting at 1.
        shift: a learned offset $\beta$, starting at 0.
        epsilon: added to the variance.
    """

    scale: bool = True
    shift: bool = True
    epsilon: float = 1e-3

    def init(self, channels: int) -> Weights:
        scale = {"scale": jnp.ones(channels)} if self.scale else {}
        return scale | ({"shift": jnp.zeros(channels)} if self.shift else {})

    def apply(
        self,
        layer: str,
        weights: Weights,
        x: Array,
        moments: Moments | None,
        between: Callable[[Array], Array] = lambda x: x,
    ) -> tuple[Array, Moments]:
        """Normalise over all axes but the last.

        Args:
            layer: the name of the layer.
            weights: from `init`.
            x: `[examples, ..., channels]`.
            moments: mean and variance to use in each layer; `None`: those of `x`.
            between: what is done to `x` after its moments are taken and before it is normalised.

        Returns:
            The normalised array, and the moments that were used in this layer, which are in at least single precision.
        """
        short, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if moments is None:
            axes = tuple(range(x.ndim - 1))
            mean = jnp.mean(x, axes)
            used = {"mean": mean, "variance": jnp.mean((x - mean) ** 2, axes)}
        else:
            used = moments[layer]
        factor = lax.rsqrt(used["variance"] + self.epsilon)
        if self.scale:
            factor *= weights["scale"]
        offset = -used["mean"] * factor
        if self.shift:
            offset += weights["shift"]
        return (between(x) * factor + offset).astype(short), {layer: used}


Forward: TypeAlias = Callable[[Params, Any, PRNGKey | None, Moments | None], tuple[Array, Moments]]
"""`(params, x, key, moments) -> (outputs, moments used)`"""


def from_forward(init: Callable[[PRNGKey], Params], forward: Forward, normalised: bool) -> Model:
    """A model of one forward pass that also tells the statistics it normalised by."""

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Moments | None = None) -> Array:
        return forward(params, x, key, moments)[0]

    def statistics(params: Params, x: Any, key: PRNGKey | None) -> Moments:
        return forward(params, x, key, None)[1]

    return Model(init, apply, statistics if normalised else None)


def with_running_statistics(model: Model, inputs: jax.ShapeDtypeStruct) -> Model:
    """The model with stored averages of its statistics, as a part of its parameters named `running`.

    They are not adapted: leave them out with `rules.masked`. The loss supplies their gradient, see
    `innerloop.losses.track`; give them plain gradient descent with the rate 1 - decay as their outer optimiser
    (`optax.partition`).

    Args:
        model: a network that normalises.
        inputs: the shape of a batch of inputs.

    Returns:
        A model with parameters `{"network": ..., "running": ...}`.

    Raises:
        InnerloopError: if the network does not normalise.
    """
    moments_of = model.moments
    if moments_of is None:
        raise InnerloopError("This network has no normalisation, so it has no statistics to average; give it one.")

    def init(key: PRNGKey) -> Params:
        network = model.init(key)
        shapes = jax.eval_shape(lambda params, x: moments_of(params, x, None), network, inputs)
        running = {
            layer: {"mean": jnp.zeros(seen["mean"].shape), "variance": jnp.ones(seen["variance"].shape)}
            for layer, seen in shapes.items()
        }
        return {"network": network, "running": running}

    def apply(params: Params, x: Any, /, *, key: PRNGKey | None = None, moments: Moments | None = None) -> Array:
        return model.apply(params["network"], x, key=key, moments=moments)

    return Model(
        init,
        apply,
        moments=lambda params, x, key: moments_of(params["network"], x, key),
        running=lambda params: params["running"],
    )
