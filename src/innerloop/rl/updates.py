"""Outer updates: what is done with the meta-gradient of one iteration's experience."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from innerloop.errors import InnerloopError
from innerloop.types import Metrics, Params, Scalar


class Problem(NamedTuple):
    r"""The outer loss of one iteration, as a function of what is learned.

    Attributes:
        gradient: `learned -> (gradient of the loss, metrics)`; the metrics have `loss` and `kl`.
        curvature: `learned -> (vector -> product)` with the Hessian of the divergence from the policy with these
            parameters to others, where both are the same. There the divergence has no slope in the distributions, so
            this is exactly $J^\top M J$: $J$ from what is learned, through the adaptation, to the distributions, $M$
            the Hessian in these. No third derivative is taken.
        evaluate: `learned -> (loss, divergence)`.
    """

    gradient: Callable[[Params], tuple[Params, Metrics]]
    curvature: Callable[[Params], Callable[[Params], Params]]
    evaluate: Callable[[Params], tuple[Scalar, Scalar]]


@runtime_checkable
class OuterUpdate(Protocol):
    """One outer update: `innerloop.rl.TrustRegion`, or `innerloop.rl.Descent`."""

    def init(self, learned: Params, /) -> Any:
        """The state that it keeps from iteration to iteration."""
        ...

    def update(self, problem: Problem, learned: Params, state: Any, /) -> tuple[Params, Any, Metrics]:
        """`(learned, state, metrics)` afterwards; the metrics have `loss_before`, `loss_after` and `kl`."""
        ...


@dataclass(frozen=True)
class Descent:
    """Steps of any optax optimiser along the meta-gradient: by default one, the plain policy gradient.

    Args:
        optimizer: the optimiser; its state is kept from iteration to iteration.
        epochs: steps on the same experience.
        clip: the ratio of likelihoods is clipped to 1 - clip .. 1 + clip, as in PPO; `None`: not at all.
        penalty: weight of the divergence between the policies that acted before adaptation and the new ones, as in
            ProMP.

    Raises:
        InnerloopError: for fewer than one epoch, a clip that is not positive, or a negative penalty.
    """

    optimizer: optax.GradientTransformation
    epochs: int = 1
    clip: float | None = None
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.penalty < 0 or (self.clip is not None and not self.clip > 0):
            raise InnerloopError(
                f"Descent(epochs={self.epochs}, clip={self.clip}, penalty={self.penalty}) needs at least one epoch, a "
                "positive clip and no negative penalty."
            )

    def init(self, learned: Params) -> Any:
        """The optimiser's state."""
        return self.optimizer.init(learned)

    def update(self, problem: Problem, learned: Params, state: Any) -> tuple[Params, Any, Metrics]:
        """Take the steps."""

        def epoch(carry: Any, _: None) -> tuple[Any, Metrics]:
            learned, state = carry
            gradient, metrics = problem.gradient(learned)
            updates, state = self.optimizer.update(gradient, state, learned)
            return (optax.apply_updates(learned, updates), state), metrics | {"norm": optax.tree.norm(gradient)}

        if self.epochs == 1:
            (learned, state), metrics = epoch((learned, state), None)
            metrics = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], metrics)
        else:
            (learned, state), metrics = lax.scan(epoch, (learned, state), length=self.epochs)
        loss, kl = problem.evaluate(learned)
        before = {"loss_before": metrics["loss"][0], "gradient_norm": metrics["norm"][0]}
        return learned, state, before | {"loss_after": loss, "kl": kl}


def ppo(
    optimizer: optax.GradientTransformation, *, epochs: int = 5, clip: float = 0.3, penalty: float = 5e-4
) -> Descent:
    """The outer update of ProMP: several epochs on a clipped ratio, and a penalty on the divergence before adaptation.

    Args:
        optimizer: `optax.adam(1e-3)` in the paper.
        epochs: steps on the same experience.
        clip: of the ratio.
        penalty: weight of the divergence.

    Reference:
        Rothfuss et al.: ProMP: Proximal Meta-Policy Search, 2019, arXiv 1810.06784.
    """
    return Descent(optimizer, epochs, clip, penalty)
