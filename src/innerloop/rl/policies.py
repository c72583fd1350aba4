r"""Stochastic policies $\pi_\theta(a \mid s)$ made of any `Model`, with their likelihoods, divergences and entropies.

A policy's `distribution` is a dict of arrays with the leading axes of the observations. It is what `collect` keeps in
`Rollouts.info`, along with `log_prob`, so likelihood ratios and divergences to the policy that acted need no second
copy of its parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from innerloop.errors import InnerloopError
from innerloop.models import Model, glorot, mlp
from innerloop.rl.types import HostEnv, JaxEnv
from innerloop.types import Params, PRNGKey

Distribution: TypeAlias = dict[str, Array]
"""The parameters of one action distribution for each observation."""

MIN_LOG_STD = float(np.log(1e-6))
"""Below this, a standard deviation is taken to be this."""


@runtime_checkable
class StochasticPolicy(Protocol):
    """A policy for `collect` whose distribution is known. It must be hashable: compiled once for each."""

    def init(self, key: PRNGKey, /) -> Params:
        """Its initial parameters."""
        ...

    def __call__(self, params: Params, observation: Array, key: PRNGKey, /) -> tuple[Array, Distribution]:
        """Draw an action: `(action, info)`, where `info` has the distribution and the action's `log_prob`."""
        ...

    def distribution(self, params: Params, observation: Array, /) -> Distribution:
        """What actions are drawn from, for observations `[..., observation]`."""
        ...

    def log_prob(self, distribution: Distribution, action: Array, /) -> Array:
        """The log-density of actions, summed over their dimensions, `[...]`."""
        ...

    def kl(self, one: Distribution, other: Distribution, /) -> Array:
        """The divergence from `one` to `other`, `[...]`."""
        ...

    def entropy(self, distribution: Distribution, /) -> Array:
        """The entropy in nats, `[...]`."""
        ...


@dataclass(frozen=True)
class Gaussian:
    r"""Normal actions with the mean of a network and a log standard deviation that is a parameter of its own.

    $$ \log\pi(a \mid s) = -\sum_d \Bigl[\tfrac12\Bigl(\frac{a_d - \mu_d(s)}{\sigma_d}\Bigr)^2 + \log\sigma_d
       + \tfrac12\log 2\pi\Bigr] $$

    Its parameters are `{"mean": the model's, "log_std": [actions]}`; the inner loop adapts both.

    Args:
        model: the mean, `[examples, observation] -> [examples, actions]`.
        actions: numbers in an action.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop import models
        >>> policy = Gaussian(models.mlp(3, (8,), 2), 2)
        >>> action, info = policy(policy.init(jax.random.key(0)), jnp.ones(3), jax.random.key(1))
        >>> action.shape, sorted(info)
        ((2,), ['log_prob', 'log_std', 'mean'])
    """

    model: Model
    actions: int

    def init(self, key: PRNGKey) -> Params:
        """The model's parameters, and a standard deviation of 1."""
        return {"mean": self.model.init(key), "log_std": jnp.zeros(self.actions)}

    def __call__(self, params: Params, observation: Array, key: PRNGKey) -> tuple[Array, Distribution]:
        """Draw an action."""
        chosen = self.distribution(params, observation)
        mean = chosen["mean"]
        action = mean + jnp.exp(chosen["log_std"]) * jax.random.normal(key, mean.shape, mean.dtype)
        return action, {"log_prob": self.log_prob(chosen, action), **chosen}

    def distribution(self, params: Params, observation: Array) -> Distribution:
        """`mean` and `log_std`, both `[..., actions]`."""
        mean = _outputs(self.model, params["mean"], observation, self.actions)
        log_std = jnp.maximum(params["log_std"], MIN_LOG_STD)
        return {"mean": mean, "log_std": jnp.broadcast_to(log_std, mean.shape)}

    def log_prob(self, distribution: Distribution, action: Array) -> Array:
        """The log-density, summed over the dimensions of an action."""
        scaled = (action - distribution["mean"]) * jnp.exp(-distribution["log_std"])
        return -jnp.sum(0.5 * scaled**2 + distribution["log_std"] + 0.5 * np.log(2 * np.pi), axis=-1)

    def kl(self, one: Distribution, other: Distribution) -> Array:
        """The divergence of two normal distributions."""
        shift = one["log_std"] - other["log_std"]
        scaled = (one["mean"] - other["mean"]) * jnp.exp(-other["log_std"])
        return jnp.sum(0.5 * (jnp.expm1(2 * shift) + scaled**2) - shift, axis=-1)

    def entropy(self, distribution: Distribution) -> Array:
        """The differential entropy."""
        return jnp.sum(distribution["log_std"] + 0.5 * np.log(2 * np.pi * np.e), axis=-1)


@dataclass(frozen=True)
class Categorical:
    r"""One of several actions: $\pi(a \mid s) = \operatorname{softmax}(f_\theta(s))_a$.

    Args:
        model: the logits, `[examples, observation] -> [examples, actions]`.
        actions: the number of choices.
    """

    model: Model
    actions: int

    def init(self, key: PRNGKey) -> Params:
        """The model's parameters."""
        return self.model.init(key)

    def __call__(self, params: Params, observation: Array, key: PRNGKey) -> tuple[Array, Distribution]:
        """Draw an action."""
        chosen = self.distribution(params, observation)
        action = jax.random.categorical(key, chosen["logits"])
        return action, {"log_prob": self.log_prob(chosen, action), **chosen}

    def distribution(self, params: Params, observation: Array) -> Distribution:
        """`logits`, normalised, `[..., actions]`."""
        return {"logits": jax.nn.log_softmax(_outputs(self.model, params, observation, self.actions))}

    def log_prob(self, distribution: Distribution, action: Array) -> Array:
        """The log-probability."""
        return jnp.take_along_axis(distribution["logits"], action[..., None], axis=-1)[..., 0]

    def kl(self, one: Distribution, other: Distribution) -> Array:
        """The divergence of two categorical distributions."""
        return jnp.sum(jnp.exp(one["logits"]) * (one["logits"] - other["logits"]), axis=-1)

    def entropy(self, distribution: Distribution) -> Array:
        """The entropy."""
        return -jnp.sum(jnp.exp(distribution["logits"]) * distribution["logits"], axis=-1)


def for_environment(
    env: JaxEnv | HostEnv, model: Model | None = None, *, hidden: Sequence[int] = (100, 100)
) -> Gaussian | Categorical:
    """The policy that suits an environment: `Gaussian`, or `Categorical` if its actions are discrete.

    Args:
        env: the environment.
        model: any network from observations to the mean or the logits; a multilayer perceptron with rectified linear
            units, Xavier-uniform kernels and zero biases unless given, as in the paper.
        hidden: width of each of its hidden layers.

    Example:
        >>> import jax
        >>> from innerloop.rl import envs
        >>> policy = for_environment(envs.make("Navigation2D"))
        >>> policy.init(jax.random.key(0))["mean"]["dense2"]["kernel"].shape
        (100, 100)

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, section 5.3.
    """
    model = model or mlp(env.observation_size, hidden, env.action_size, initializer=glorot)
    return (Categorical if env.discrete else Gaussian)(model, env.action_size)


def _outputs(model: Model, params: Params, observation: Array, actions: int) -> Array:
    """The network's outputs for observations with any leading axes."""
    leading = observation.shape[:-1]
    outputs = model.apply(params, observation.reshape(-1, observation.shape[-1]))
    if outputs.shape[-1:] != (actions,):
        raise InnerloopError(
            f"The policy's network returns {list(outputs.shape)}, but there are {actions} actions for its last axis."
        )
    return outputs.reshape(*leading, actions)
