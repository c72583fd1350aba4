"""2D navigation: a point that goes to a goal it does not see, in JAX."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from innerloop.errors import InnerloopError
from innerloop.rl.envs.distributions import Uniform
from innerloop.rl.types import Step, TaskSampler
from innerloop.types import PRNGKey

GOALS = Uniform(-0.5, 0.5, (2,))
REWARDS = ("distance", "squared", "sparse")

HORIZON = 100
SPEED = 0.1  # the longest step along one axis
ARRIVED = 0.01  # an episode ends when both coordinates are this close: a box, not a disc


@jax.tree_util.register_static
@dataclass(frozen=True)
class Navigation2D:
    r"""Move a point from the origin to a goal in the plane.

    With the goal $g$ and the action $a$, clipped to $[-1, 1]^2$, the position moves by $p' = p + 0.1\,a$, is the
    observation, and earns $-\lVert p' - g\rVert$. An episode ends when both coordinates are within 0.01 of the goal, or
    after 100 steps.

    Args:
        reward: `"distance"`, as above, which is what MAML's published numbers were made with; `"squared"`,
            $-\lVert p' - g\rVert^2$, which is what its text says; `"sparse"`, $1 - \lVert p' - g\rVert$ within `radius`
            of the goal and 0 elsewhere, where arriving does not end the episode, as that would cost reward.
        radius: how near the goal a sparse reward begins.
        oracle: whether the observation also holds the goal.
        tasks: the distribution of goals, `[2]`.
        name: the environment's name.

    Raises:
        InnerloopError: if there is no such reward, or if the radius is not positive.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning, 2017, section 5.3. Sparse: after Rakelly et al., Efficient
        Off-Policy Meta-Reinforcement Learning, 2019, where goals are further away.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> env, goal = Navigation2D(), jnp.array([0.3, 0.4])
        >>> state, observation = env.reset(goal, jax.random.key(0))
        >>> state, step = env.step(goal, state, jnp.array([1.0, 2.0]))
        >>> print(step.observation, step.reward, step.terminated)
        [0.1 0.1] -0.36055514 False
    """

    reward: str = "distance"
    radius: float = 0.1
    oracle: bool = False
    tasks: TaskSampler = GOALS
    name: str = "Navigation2D"

    def __post_init__(self) -> None:
        if self.reward not in REWARDS:
            raise InnerloopError(f"Navigation2D has no reward {self.reward!r}; choose distance, squared or sparse.")
        if not self.radius > 0:
            raise InnerloopError(f"The radius of a sparse reward is {self.radius}; it must be positive.")

    @property
    def observation_size(self) -> int:
        return 4 if self.oracle else 2

    @property
    def action_size(self) -> int:
        return 2

    @property
    def discrete(self) -> bool:
        return False

    @property
    def horizon(self) -> int:
        return HORIZON

    def reset(self, task: Float[Array, "2"], key: PRNGKey) -> tuple[Float[Array, "2"], Float[Array, " observation"]]:
        """The position, which is the state, and the observation. Every episode starts at the origin."""
        position = jnp.zeros(2)
        return position, self._observe(task, position)

    def step(
        self, task: Float[Array, "2"], state: Float[Array, "2"], action: Float[Array, "2"]
    ) -> tuple[Float[Array, "2"], Step]:
        """Move."""
        position = state + SPEED * jnp.clip(action, -1.0, 1.0)
        offset = position - task
        arrived = (jnp.abs(offset) < ARRIVED).all()
        squared = (offset**2).sum()
        if self.reward == "squared":
            reward = -squared
        elif self.reward == "distance":
            reward = -jnp.sqrt(squared)
        else:
            distance = jnp.sqrt(squared)
            reward = jnp.where(distance <= self.radius, 1.0 - distance, 0.0)
            arrived = jnp.zeros_like(arrived)
        return position, Step(self._observe(task, position), reward, arrived, jnp.zeros_like(arrived))

    def _observe(self, task: Array, position: Array) -> Array:
        return jnp.concatenate([position, task]) if self.oracle else position
