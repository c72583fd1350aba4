"""The table of what is compared, and what each row provides."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.peers.problems import Arrays


class MetaStep(NamedTuple):
    """One implementation of one problem, ready to run.

    Attributes:
        run: take one whole meta-step the first time, `steps` later, and return when that is done.
        gradient: the meta-gradient of the first step, after one `run`, by the names of `Problem.params`.
        steps: meta-steps that every further `run` takes, in one dispatch.
    """

    run: Callable[[], None]
    gradient: Callable[[], Arrays]
    steps: int = 1


class Row(NamedTuple):
    """One implementation.

    Attributes:
        home: `module:function` of this package, `Problem -> MetaStep`.
        exact: whether it computes the exact meta-gradient.
    """

    home: str
    exact: bool = True


OURS, REVERSE, FIRST_ORDER = "innerloop", "innerloop, Reverse", "innerloop, first order"
IMPLEMENTATIONS = {
    OURS: Row("with_innerloop:exact"),
    REVERSE: Row("with_innerloop:reverse"),
    FIRST_ORDER: Row("with_innerloop:first_order", exact=False),
    "higher": Row("with_higher:by_higher"),
    "TorchOpt": Row("with_torchopt:by_torchopt"),
    "torch, task loop": Row("with_torch:by_loop"),
    "torch.func vmap": Row("with_torch:by_vmap"),
    "torch.compile of it": Row("with_torch:by_compile"),
    "jax, vmap of grad": Row("with_jax:mean_of_gradients"),
    "jax, grad of vmap": Row("with_jax:gradient_of_mean"),
}
CURVES = (OURS, REVERSE, FIRST_ORDER, "higher", "torch.func vmap")
"""The rows whose growth with inner steps and tasks is measured."""
