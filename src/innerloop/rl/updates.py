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

DIVERGENCES = ("adapted", "initial")
"""Which policies a divergence may be between: those after adaptation, or the one before it."""


class Values(NamedTuple):
    """What one iteration's experience says of some parameters.

    Attributes:
        loss: the outer loss.
        adapted: the mean divergence from the adapted policies that acted to those that the parameters adapt to, over
            all steps after adaptation, in nats.
        initial: that of the policy before adaptation, over all steps before it. Without inner updates, the same.
    """

    loss: Scalar
    adapted: Scalar
    initial: Scalar


class Problem(NamedTuple):
    r"""The outer loss of one iteration, as a function of what is learned.

    Attributes:
        gradient: `learned -> (gradient of the loss, metrics)`; the metrics have `loss`.
        curvature: `learned -> (vector -> product)` with the Hessian of the divergence (`Needs.divergence` says which)
            from the policy with these parameters to others, where both are the same. There the divergence has no slope
            in the distributions, so this is exactly $J^\top M J$: $J$ from what is learned, for the adapted policies
            through the adaptation, to the distributions, $M$ the Hessian in these. No third derivative is taken.
        evaluate: `learned -> Values`.
    """

    gradient: Callable[[Params], tuple[Params, Metrics]]
    curvature: Callable[[Params], Callable[[Params], Params]]
    evaluate: Callable[[Params], Values]


class Needs(NamedTuple):
    """What an outer update asks of the problem that it is given.

    Attributes:
        clip: the ratio of likelihoods is clipped to 1 - clip .. 1 + clip; `None`: not at all.
        penalty: weight of the divergence between the policies that acted before adaptation and the new ones.
        divergence: the one whose Hessian is the curvature.
        curvature_tasks: tasks that the curvature is the mean over, the first of the iteration; 0: all.
        curvature_every: of the steps of these tasks, it is the mean over every so-manyth; so is the adaptation in it,
            where the inner estimator is one of single steps.
        recompute: keep nothing from one product with the curvature to the next.
    """

    clip: float | None = None
    penalty: float = 0.0
    divergence: str = "adapted"
    curvature_tasks: int = 0
    curvature_every: int = 1
    recompute: bool = False


@runtime_checkable
class OuterUpdate(Protocol):
    """One outer update: `innerloop.rl.TrustRegion`, or `innerloop.rl.Descent`.

    Attributes:
        needs: what it asks of the problem.
    """

    @property
    def needs(self) -> Needs: ...

    def init(self, learned: Params, /) -> Any:
        """The state that it keeps from iteration to iteration."""
        ...

    def update(self, problem: Problem, learned: Params, state: Any, /) -> tuple[Params, Any, Metrics]:
        """`(learned, state, metrics)` afterwards; the metrics have those of `progress`."""
        ...


def progress(before: Scalar, after: Values, step: Params) -> Metrics:
    """What every outer update tells of itself.

    Args:
        before: the outer loss before it.
        after: what holds after it.
        step: by how much the parameters changed.

    Returns:
        `loss_before`, `loss_after`, the divergences `kl` (of the adapted policies) and `kl_initial` in nats, and
        `step_length`, the Euclidean norm of the step.
    """
    return {
        "loss_before": before,
        "loss_after": after.loss,
        "kl": after.adapted,
        "kl_initial": after.initial,
        "step_length": jnp.asarray(optax.tree.norm(step)),
    }


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

    @property
    def needs(self) -> Needs:
        """The clip and the penalty."""
        return Needs(clip=self.clip, penalty=self.penalty)

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
            (after, state), metrics = epoch((learned, state), None)
            metrics = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], metrics)
        else:
            (after, state), metrics = lax.scan(epoch, (learned, state), length=self.epochs)
        told = progress(metrics["loss"][0], problem.evaluate(after), optax.tree.sub(after, learned))
        return after, state, told | {"gradient_norm": metrics["norm"][0]}


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
