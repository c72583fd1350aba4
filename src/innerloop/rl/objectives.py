r"""What is minimised: inner estimators as a table, and surrogates for the outer update.

All are a `Loss` over one task's `Experience`, a flat mean over its steps. At the parameters that acted, every inner
estimator has the same gradient in expectation, that of the expected return per step; they differ in *its* derivative,
which is what the meta-gradient goes through. Write $g_t = \nabla\log\pi(a_t \mid s_t)$ and
$H_t = \nabla^2\log\pi(a_t \mid s_t)$. The Hessian of the expected return is

$$ \mathbb{E}\sum_t A_t \Bigl( H_t + g_t g_t^\top
   + \sum_{t' < t} \bigl(g_t g_{t'}^\top + g_{t'} g_t^\top\bigr) \Bigr) , $$

of which the log-likelihood keeps the first term, LVC the first two, DiCE all. The first alone is right for another
question: how the adapted parameters change *for given trajectories*. What is then missing from the derivative of the
return after adaptation is that other trajectories would be drawn, and that is E-MAML's term, `exploration`.

The default is the log-likelihood: it is what MAML's published results were made with.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array, lax

from innerloop.errors import InnerloopError
from innerloop.rl.policies import StochasticPolicy
from innerloop.rl.returns import Experience, decayed_sum
from innerloop.types import Loss, Metrics, Params, PRNGKey, Scalar

Weighing: TypeAlias = Callable[[Array, Array, Experience], Array]
"""`(log-probability, log-ratio to the policy that acted, experience) -> gain of each step`"""


class Estimator(NamedTuple):
    """One row of the table.

    Attributes:
        gain: what each step contributes to the objective.
        exploration: the weight of E-MAML's term in the outer loss.
        stepwise: whether what a step contributes depends on that step alone, so that some of the steps estimate the
            gain of all.
        summary: what distinguishes it, in one line.
        reference: author, title, year, arXiv.
    """

    gain: Weighing
    exploration: float
    stepwise: bool
    summary: str
    reference: str

    def loss(self, policy: StochasticPolicy) -> Loss:
        """The inner loss, for `adapt`."""

        def loss(params: Params, batch: Experience, key: PRNGKey) -> tuple[Scalar, Metrics]:
            log_prob, log_ratio, _ = likelihood(policy, params, batch)
            return -mean(self.gain(log_prob, log_ratio, batch), batch.weight), {}

        return loss


def _log_likelihood(log_prob: Array, log_ratio: Array, batch: Experience) -> Array:
    return log_prob * batch.advantage


def _lvc(log_prob: Array, log_ratio: Array, batch: Experience) -> Array:
    return jnp.exp(log_ratio) * batch.advantage


def _dice(log_prob: Array, log_ratio: Array, batch: Experience) -> Array:
    past = _magic_box(decayed_sum(log_prob, _same_episode(batch, 1.0)))
    return past * batch.reward + (1.0 - _magic_box(log_prob)) * batch.value


def loaded_dice(decay: float = 1.0) -> Weighing:
    """Loaded DiCE with the given λ for the influence of earlier actions: 1 is unbiased, 0 is LVC.

    Raises:
        InnerloopError: if it is not within 0..1.
    """
    if not 0 <= decay <= 1:
        raise InnerloopError(f"The decay of Loaded DiCE is {decay}; it must be between 0 and 1.")

    def gain(log_prob: Array, log_ratio: Array, batch: Experience) -> Array:
        past = decayed_sum(log_prob, _same_episode(batch, decay))
        return (_magic_box(past) - _magic_box(past - log_prob)) * batch.advantage

    return gain


MAML = "Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, arXiv 1703.03400"

# fmt: off
ESTIMATORS: dict[str, Estimator] = {
    "log-likelihood": Estimator(
        _log_likelihood, 0.0, True, "log π · A; no credit for which trajectories are drawn before adaptation", MAML),
    "lvc": Estimator(
        _lvc, 0.0, True, "π / stop(π) · A; low variance, leaves out how earlier actions change later ones' worth",
        "Rothfuss et al.: ProMP: Proximal Meta-Policy Search, 2019, arXiv 1810.06784"),
    "dice": Estimator(
        _dice, 0.0, False, "magic box of all actions so far · reward; unbiased, the most variance",
        "Foerster et al.: DiCE: The Infinitely Differentiable Monte Carlo Estimator, 2018, arXiv 1802.05098"),
    "loaded-dice": Estimator(
        loaded_dice(), 0.0, False, "the same with advantages: unbiased, less variance",
        "Farquhar, Whiteson, Foerster: Loaded DiCE, 2019, arXiv 1909.10549"),
    "e-maml": Estimator(
        _log_likelihood, 1.0, True, "log π · A, and credit to what was drawn for the return after adaptation",
        "Stadie et al.: Some Considerations on Learning to Explore via Meta-Reinforcement Learning, 2018, arXiv "
        "1803.01118"),
}
# fmt: on


def estimator(name: str) -> Estimator:
    """The row of that name.

    Raises:
        InnerloopError: if there is none; the message lists the names.

    Example:
        >>> estimator("lvc").exploration
        0.0
    """
    if name not in ESTIMATORS:
        raise InnerloopError(f"There is no inner estimator {name!r}; choose one of: {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[name]


def surrogate(policy: StochasticPolicy, clip: float | None = None) -> Loss:
    r"""The outer loss: minus the mean of $\rho A$, $\rho$ the ratio of likelihoods to the policy that acted.

    With `clip` it is $\min\bigl(\rho A, \operatorname{clip}(\rho, 1 - \epsilon, 1 + \epsilon) A\bigr)$. Where the ratio
    is 1 its gradient is the policy gradient. The metrics have the mean divergence from the policy that acted, `kl`.

    Args:
        policy: the policy.
        clip: $\epsilon$, or `None`.

    Raises:
        InnerloopError: if `clip` is not positive.

    Reference:
        Schulman et al.: Proximal Policy Optimization Algorithms, 2017, arXiv 1707.06347.
    """
    if clip is not None and not clip > 0:
        raise InnerloopError(f"The ratio is clipped at {clip}; it must be positive, or None.")

    def loss(params: Params, batch: Experience, key: PRNGKey) -> tuple[Scalar, Metrics]:
        _, log_ratio, divergence = likelihood(policy, params, batch)
        gain = jnp.exp(log_ratio) * batch.advantage
        if clip is not None:
            gain = jnp.minimum(gain, jnp.clip(jnp.exp(log_ratio), 1 - clip, 1 + clip) * batch.advantage)
        return -mean(gain, batch.weight), {"kl": mean(divergence, batch.weight)}

    return loss


def exploration(policy: StochasticPolicy, params: Params, batch: Experience, score: Array) -> Scalar:
    r"""E-MAML's term: minus the mean log-likelihood of what was drawn before an update, times what came of it.

    With the score of the adapted policy as a constant, its gradient is the part of the meta-gradient that comes from
    drawing other trajectories. That part is a *sum* over the steps: times their number this is exact, in expectation.
    The mean is what is used, since the noise of the sum grows with the number of steps.

    Args:
        policy: the policy.
        params: the parameters that drew the batch.
        batch: one task's experience before the update.
        score: what the parameters after the update are worth, in units of the outer loss.
    """
    log_prob, _, _ = likelihood(policy, params, batch)
    return -mean(log_prob, batch.weight) * lax.stop_gradient(score)


def likelihood(policy: StochasticPolicy, params: Params, batch: Experience) -> tuple[Array, Array, Array]:
    """Log-probability of each action, its difference to that when it was drawn, and the divergence from then to now.

    All are `[rows, time]`, and 0 at padding.
    """
    now = policy.distribution(params, batch.observation)
    present = batch.weight > 0
    log_prob = jnp.where(present, policy.log_prob(now, batch.action), 0.0)
    log_ratio = jnp.where(present, log_prob - batch.info["log_prob"], 0.0)
    return log_prob, log_ratio, jnp.where(present, policy.kl(batch.info, now), 0.0)


def mean(values: Array, weight: Array) -> Scalar:
    """The mean over a task's steps: short episodes do not count for more than their length."""
    return jnp.sum(values * weight) / jnp.maximum(jnp.sum(weight), jnp.finfo(values.dtype).tiny)


def _magic_box(x: Array) -> Array:
    """1, whose derivatives are those of exp at 0 along `x`."""
    return jnp.exp(x - lax.stop_gradient(x))


def _same_episode(batch: Experience, decay: float) -> Array:
    """The decay, cut where an episode begins."""
    return jnp.where(batch.t == 0, 0.0, decay).astype(batch.weight.dtype)
