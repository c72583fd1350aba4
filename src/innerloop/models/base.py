"""What a network is to innerloop: two functions, and two more if it normalises by batch statistics."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jax import Array
from jaxtyping import PyTree

from innerloop.types import Params, PRNGKey, State


@runtime_checkable
class Apply(Protocol):
    """`params, inputs -> outputs`, with a key for dropout and the like, and statistics to normalise by."""

    def __call__(
        self, params: Params, x: PyTree[Array], /, *, key: PRNGKey | None = None, moments: Any = None
    ) -> Array: ...


class Kept(NamedTuple):
    """What a network keeps from call to call beside its parameters: running statistics, a cache, a recurrent state.

    Attributes:
        init: `params -> state`, the state before the first call.
        apply: `(params, x, state, key) -> (outputs, state)`.
    """

    init: Callable[[Params], State]
    apply: Callable[[Params, PyTree[Array], State, PRNGKey | None], tuple[Array, State]]


class Model(NamedTuple):
    """A network as pure functions.

    Attributes:
        init: `key -> params`.
        apply: `(params, x, key=, moments=) -> outputs`; `moments=None` normalises by the statistics of `x` itself.
        moments: `(params, x, key) -> moments`, the mean and variance that each normalisation layer sees on `x`; `None`
            in a network that has no such layer.
        running: `params -> moments`, the stored averages; `None` in a network that stores none.
        kept: what the network keeps from call to call, for `losses.stateful`; `apply` starts from its initial value and
            drops what becomes of it. `None` in a network that keeps nothing.
        products: whether all parameters called `kernel` are used as `x @ kernel` alone, so that `models.lora` can add
            to them in factors.
    """

    init: Callable[[PRNGKey], Params]
    apply: Apply
    moments: Callable[[Params, PyTree[Array], PRNGKey | None], Any] | None = None
    running: Callable[[Params], Any] | None = None
    kept: Kept | None = None
    products: bool = False


def from_functions(init: Callable[[PRNGKey], Params], apply: Callable[[Params, Any], Array]) -> Model:
    """A model of two plain functions.

    Args:
        init: `key -> params`, any pytree.
        apply: `(params, x) -> outputs`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import models
        >>> line = models.from_functions(lambda key: jnp.zeros(2), lambda params, x: params[0] * x + params[1])
        >>> print(line.apply(line.init(jax.random.key(0)), jnp.ones(3)))
        [0. 0. 0.]
    """
    return Model(init, lambda params, x, /, *, key=None, moments=None: apply(params, x))
