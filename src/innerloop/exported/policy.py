"""A policy that was trained by MAML-RL: adapted to an environment of gymnasium by its own episodes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import artifacts, models, rl
from innerloop.artifacts import CONFIG, WEIGHTS, Artifact
from innerloop.core import algorithms
from innerloop.core.adapt import adapt
from innerloop.core.adjoints import FirstOrder
from innerloop.errors import InnerloopError
from innerloop.rl.returns import Advantages, Baseline, Experience
from innerloop.rl.train import smaller_later
from innerloop.rl.types import Rollouts
from innerloop.types import Meta, Params, PerStep

KIND = "policy"
LONGEST = 1000
"""Steps of an episode at most, where neither the environment nor the caller says."""


@runtime_checkable
class GymnasiumEnv(Protocol):
    """What is used of `gymnasium.Env`."""

    observation_space: Any
    action_space: Any
    spec: Any

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...


@dataclass(frozen=True)
class Description:
    """All that is needed to rebuild a policy and adapt it.

    Attributes:
        environment: in which it was trained.
        observations: numbers in an observation.
        actions: numbers in an action, or choices.
        discrete: whether an action is one of some choices.
        widths: hidden layers.
        algorithm: a row of the table of algorithms.
        inner_rate: the (initial) step size of an update.
        steps: updates in training.
        later_factor: by which updates after the first are multiplied.
        estimator: a row of the table of inner estimators.
        baseline: what is subtracted from returns.
        discount: of future rewards.
        trace: lambda of generalised advantage estimation.
        facts: scores, versions, for the model card.
    """

    environment: str
    observations: int
    actions: int
    discrete: bool = False
    widths: tuple[int, ...] = (100, 100)
    algorithm: str = "maml"
    inner_rate: float = 0.1
    steps: int = 1
    later_factor: float = 0.5
    estimator: str = "log-likelihood"
    baseline: Literal["linear", "network", "none"] = "linear"
    discount: float = 0.99
    trace: float = 1.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Description":
        """From the object that `dataclasses.asdict` gives.

        Raises:
            KeyError, TypeError: if it is no such object.
        """
        known: dict[str, Any] = {name: values[name] for name in cls.__dataclass_fields__}
        known["widths"] = tuple(known["widths"])
        return cls(**known)

    def policy(self) -> rl.StochasticPolicy:
        """The policy, without parameters."""
        model = models.mlp(self.observations, self.widths, self.actions, initializer=models.glorot)
        return (rl.policies.Categorical if self.discrete else rl.policies.Gaussian)(model, self.actions)

    def experience(self) -> Advantages:
        """How rollouts become experience."""
        baselines: dict[str, Baseline] = {
            "linear": rl.returns.linear_features(),
            "network": rl.returns.value_network(
                models.mlp(self.observations + 1, (32, 32), 1, initializer=models.glorot)
            ),
            "none": rl.returns.no_baseline(),
        }
        return rl.advantages(baselines[self.baseline], discount=self.discount, trace=self.trace)


class PolicyModel:
    """A policy that learned to adapt. Read it with `innerloop.load`.

    Args:
        description: what it is.
        meta: what was learned.
    """

    def __init__(self, description: Description, meta: Meta):
        self.description, self.meta = description, meta
        self.policy = description.policy()
        row = algorithms.algorithm(description.algorithm)
        self._rule = smaller_later(row.rule(description.inner_rate, description.steps), description.later_factor)
        self._loss = rl.objectives.estimator(description.estimator).loss(self.policy)
        self._act = jax.jit(self.policy)
        self._distribution = jax.jit(self.policy.distribution)
        self._experience = jax.jit(description.experience())
        self._updated = jax.jit(self._after)

    def adapt_policy(
        self,
        env: GymnasiumEnv,
        *,
        updates: int = 1,
        episodes: int = 20,
        horizon: int | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> "AdaptedPolicy":
        """Adapt to an environment by policy gradients on episodes that the policy itself collects.

        Before every update the policy of that time collects whole episodes. What is to be adapted to must not change
        between them: if the environment draws its task in `reset`, fix it by `options`.

        Args:
            env: an environment of gymnasium with the observations and actions that the policy was trained with; an
                action outside of its bounds is clipped.
            updates: policy-gradient updates.
            episodes: collected before each.
            horizon: steps after which an episode is broken off; that of the environment unless given.
            options: of every `reset`, such as `{"task": goal}` for the environments of innerloop.
            seed: of all randomness.

        Returns:
            The adapted policy, with the mean return before every update.

        Raises:
            InnerloopError: if observations or actions do not fit, or a number is not positive.
        """
        for name, number in {"updates": updates, "episodes": episodes}.items():
            if number < 1:
                raise InnerloopError(f"{name} is {number}; it must be at least 1.")
        self._require_fitting(env)
        length = horizon or (env.spec.max_episode_steps if env.spec is not None else None) or LONGEST
        batches: list[Experience] = []
        returns, params = [], self.meta.params
        for _ in range(updates):
            seeds = range(seed + len(batches) * episodes, seed + (len(batches) + 1) * episodes)
            rollouts = self._collected(env, params, seeds, length, dict(options or {}))
            returns.append(float(rollouts.reward.sum()) / episodes)
            batches.append(self._experience(rollouts))
            params = self._updated(self.meta, jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches))
        return AdaptedPolicy(self, params, returns)

    def act(self, observation: Any, *, params: Params | None = None, key: jax.Array | None = None) -> np.ndarray:
        """An action.

        Args:
            observation: `[observation]`.
            params: of the policy; those before adaptation unless given.
            key: draws the action; `None` takes the most probable one.
        """
        params = self.meta.params if params is None else params
        observed = jnp.asarray(observation, jnp.float32)
        if key is not None:
            return np.asarray(self._act(params, observed, key)[0])
        found = self._distribution(params, observed)
        return np.asarray(found["logits"].argmax() if self.description.discrete else found["mean"])

    def _after(self, meta: Meta, batches: Experience) -> Params:
        """The parameters after one update on each of some batches, leaves `[updates, ...]`."""
        steps = batches.weight.shape[0]
        found = adapt(
            self._loss,
            meta,
            PerStep(batches),
            jax.random.key(0),
            rule=self._rule,
            steps=steps,
            adjoint=FirstOrder(),
        )
        return found.params

    def _require_fitting(self, env: GymnasiumEnv) -> None:
        wanted, observed = self.description, env.observation_space.shape
        if tuple(observed) != (wanted.observations,):
            raise InnerloopError(
                f"The environment's observations have the shape {list(observed)}; this policy of "
                f"{wanted.environment} takes [{wanted.observations}]."
            )
        actions = env.action_space.n if wanted.discrete and hasattr(env.action_space, "n") else env.action_space.shape
        if actions != (wanted.actions if wanted.discrete else (wanted.actions,)):
            raise InnerloopError(
                f"The environment's action space is {env.action_space}; this policy of {wanted.environment} has "
                f"{wanted.actions} {'choices' if wanted.discrete else 'numbers in an action'}."
            )

    def _collected(
        self, env: GymnasiumEnv, params: Params, seeds: range, length: int, options: dict[str, Any]
    ) -> Rollouts:
        """One episode for each seed, as rows of one task, padded to the horizon."""
        rows = len(seeds)
        observations = np.zeros((rows, length, self.description.observations), np.float32)
        reward = np.zeros((rows, length), np.float32)
        mask, terminated, truncated = (np.zeros((rows, length), bool) for _ in range(3))
        kept: dict[tuple[int, int], tuple[Any, Any]] = {}
        for row, seed in enumerate(seeds):
            key, observation = jax.random.key(seed), env.reset(seed=seed, options=options or None)[0]
            for t in range(length):
                observations[row, t] = observation
                action, info = jax.device_get(self._act(params, observations[row, t], jax.random.fold_in(key, t)))
                kept[row, t] = action, info
                observation, gain, terminal, broken, _ = env.step(self._within_bounds(env, action))
                reward[row, t], mask[row, t], terminated[row, t] = gain, True, terminal
                truncated[row, t] = not terminal and (broken or t == length - 1)
                if terminal or broken:
                    break
        action, info = jax.tree.map(lambda leaf: np.zeros((rows, length, *np.shape(leaf)), leaf.dtype), kept[0, 0])
        for (row, t), chosen in kept.items():
            for whole, part in zip(jax.tree.leaves((action, info)), jax.tree.leaves(chosen), strict=True):
                whole[row, t] = part
        arrays = (
            observations,
            action,
            reward,
            info,
            np.tile(np.arange(length), (rows, 1)),
            mask,
            terminated,
            truncated,
        )
        return Rollouts(*jax.tree.map(jnp.asarray, arrays), broken=jnp.zeros((rows, length), bool))

    def _within_bounds(self, env: GymnasiumEnv, action: np.ndarray) -> Any:
        if self.description.discrete:
            return int(action)
        space = env.action_space
        return np.clip(action, space.low, space.high).astype(space.dtype)


class AdaptedPolicy:
    """A policy adapted to one environment.

    Attributes:
        params: its parameters.
        returns: the mean undiscounted return of the episodes before every update.
    """

    def __init__(self, source: PolicyModel, params: Params, returns: list[float]):
        self.params, self.returns, self._source = params, returns, source

    def act(self, observation: Any, *, key: jax.Array | None = None) -> np.ndarray:
        """An action; without a key the most probable one."""
        return self._source.act(observation, params=self.params, key=key)


def save(folder: Path, description: Description, meta: Meta) -> None:
    """Write a policy as a folder that `innerloop.load` reads.

    Args:
        folder: made if it is not there.
        description: what the policy is.
        meta: what was learned.

    Raises:
        InnerloopError: if it cannot be written.
    """
    artifacts.write(folder, KIND, asdict(description), meta, card(description))


def from_artifact(stored: Artifact) -> PolicyModel:
    """The policy that a folder holds.

    Raises:
        InnerloopError: if it does not fit this version.
    """
    try:
        description = Description.from_json(stored.config)
        policy = description.policy()
        rule = algorithms.algorithm(description.algorithm).rule(description.inner_rate, description.steps)

        def initial() -> Meta:
            params = policy.init(jax.random.key(0))
            return Meta(params, rule.init(params))

        template = jax.eval_shape(initial)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InnerloopError):
            raise
        raise InnerloopError(f"{stored.folder} is no model of this version of innerloop ({error}).") from error
    return PolicyModel(description, stored.restored(template))


def card(description: Description) -> str:
    """The model card, as Markdown."""
    facts, name = description.facts, description.environment
    lines = [
        f"# {facts.get('name', f'A policy of {name}')}",
        "",
        f"A policy of {name} (multilayer perceptron, hidden layers of {', '.join(map(str, description.widths))}), "
        f"trained by meta-reinforcement learning with innerloop ({description.algorithm}) to adapt to a new task by "
        "policy gradients on a few of its own episodes.",
        "",
        "```python",
        "import gymnasium",
        "import innerloop as il",
        "",
        "il.rl.envs.register()",
        f'env = gymnasium.make("innerloop/{name}-v0")',
        'model = il.load("this folder")',
        'task = env.reset()[1]["task"]  # what to adapt to, the same in every episode',
        'adapted = model.adapt_policy(env, updates=1, episodes=20, options={"task": task})',
        "adapted.returns, adapted.act(env.reset(options={'task': task})[0])",
        "```",
        "",
        f"- observations: {description.observations} numbers; actions: {description.actions} "
        + ("choices" if description.discrete else "numbers, clipped to -1..1"),
        f"- an update: {description.inner_rate:g} of the policy gradient ({description.estimator}, baseline "
        f"{description.baseline}), later ones times {description.later_factor:g}",
        *(f"- {key}: {value}" for key, value in facts.items() if key != "name"),
        "",
        f"`{WEIGHTS}`: all parameters; `{CONFIG}`: the rest as JSON, with checksums. Loading runs no code.",
        "",
    ]
    return "\n".join(lines)
