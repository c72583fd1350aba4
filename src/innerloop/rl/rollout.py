"""Collect whole episodes: many tasks, each with its own parameters, policy and environments in one loop.

Every episode has a number, and all of its randomness is a function of the key, its task, its number and the time. So
what is collected does not depend on which copy of an environment an episode ran in, nor on what ran beside it, but for
the rounding of the policy's matrix products, whose order of summation may depend on their size.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from innerloop.errors import InnerloopError
from innerloop.rl.episodes import NEVER, Rule, act, keys_of, sound
from innerloop.rl.host_rollout import collect_on_host
from innerloop.rl.types import HostEnv, JaxEnv, Policy, Rollouts
from innerloop.types import Params, PRNGKey


def collect(
    env: JaxEnv | HostEnv,
    policy: Policy,
    params: Params,
    tasks: Array | np.ndarray,
    key: PRNGKey,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    next_observation: bool = False,
    first_task: int = 0,
) -> Rollouts:
    r"""Collect whole episodes of each task, a fixed number of them or as many as a budget of steps takes.

    The budget is the rule of rllab, and so of MAML's published results: episodes are numbered $0, 1, \dots$, and those
    kept are the first $m$ with $m$ the least number whose lengths $l$ reach the budget,
    $l_0 + \dots + l_{m-1} \ge \text{steps}$. So tasks in which episodes end early yield more of them, and none is left
    out because it took long. Episodes run side by side. On the host none is run in vain: one begins only if, were all
    that run to last until the horizon, there would still be too few steps. In JAX, where a step of all environments
    costs what a step of one does, those that turn out to be too many are dropped.

    With a `JaxEnv` this is a pure function, compiled as a whole, to be called within other compiled functions too. With
    a `HostEnv` it is a loop over time on the host: one compiled call chooses all actions, one call steps all
    environments. Episodes run in `num_envs // tasks` copies for each task at once.

    An episode whose observation or reward is no longer finite ends there; it is marked, and the numbers become 0.

    Args:
        env: the environment.
        policy: chooses actions; compiled once for each function, so hand over the same one, not a new `lambda`.
        params: the policy's parameters for each task, leaves `[tasks, ...]`.
        tasks: `[tasks, *shape]`.
        key: all randomness.
        episodes: whole episodes of each task.
        steps: or else, the steps of each task that whole episodes must reach.
        next_observation: whether to keep the observation after each step too.
        first_task: the number of the first of these tasks, from which its randomness derives: where other processes
            collect the tasks before it. Of a `HostEnv` alone.

    Returns:
        The episodes: `[tasks, episodes, horizon]`, or `[tasks, 1, steps + horizon - 1]`.

    Raises:
        InnerloopError: if not just one of `episodes` and `steps` is given, if parameters, tasks and environment do not
            match, or if the policy does not return what it should.

    Reference:
        Duan et al.: Benchmarking Deep Reinforcement Learning for Continuous Control, 2016, whose code samples so.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from innerloop.rl import collect, envs
        >>> def policy(params, observation, key):
        ...     return params + jax.random.normal(key, (2,)), {}
        >>> env = envs.make("Navigation2D")
        >>> goals = envs.reference_tasks("Navigation2D")
        >>> rollouts = collect(env, policy, jnp.zeros((40, 2)), jnp.asarray(goals), jax.random.key(0), episodes=20)
        >>> rollouts.reward.shape, rollouts.mean_return.shape
        ((40, 20, 100), (40,))
    """
    if (number := steps if episodes is None else episodes) is None or None not in (episodes, steps) or number < 1:
        raise InnerloopError(
            f"collect takes a positive number of either episodes or steps, not episodes={episodes}, steps={steps}."
        )
    _require_matching(env, policy, params, tasks, key)
    if isinstance(env, HostEnv):
        rule = Rule(number, budget=episodes is None)
        return collect_on_host(env, policy, params, np.asarray(tasks), key, rule, next_observation, first_task)
    compiled = _budget if episodes is None else _episodes
    return compiled(env, policy, params, jnp.asarray(tasks), key, number, next_observation)


def _require_matching(env: Any, policy: Any, params: Any, tasks: Any, key: Any) -> None:
    """Refuse what would fail deep inside."""
    if not isinstance(env, JaxEnv | HostEnv):
        raise InnerloopError(f"collect needs an environment such as envs.make('Navigation2D'), not {env!r}.")
    if not isinstance(env, HostEnv) and any(leaf is env for leaf in jax.tree.leaves(env)):
        raise InnerloopError(
            f"{env.name} is no pytree; decorate its class with jax.tree_util.register_static or register_dataclass."
        )
    if tasks.shape[:1] in ((), (0,)) or tasks.shape[1:] != tuple(env.tasks.shape):
        raise InnerloopError(
            f"{env.name} has tasks of shape {list(env.tasks.shape)}; give them stacked, "
            f"{['tasks', *env.tasks.shape]}, not {list(tasks.shape)}.".replace("'", "")
        )
    if isinstance(env, HostEnv) and any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((params, tasks, key))):
        raise InnerloopError(f"{env.name} is stepped on the host; call collect outside of jit, vmap and grad.")
    count = tasks.shape[0]
    for leaf in jax.tree.leaves(params):
        if jnp.shape(leaf)[:1] != (count,):
            raise InnerloopError(
                f"There are {count} tasks, but parameters of shape {list(jnp.shape(leaf))}; stack one tree for each "
                "task along a leading axis."
            )
    if isinstance(env, HostEnv) and env.num_envs < count:
        raise InnerloopError(
            f"{env.name} has num_envs={env.num_envs} copies, too few for {count} tasks; give it at least one for each."
        )
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), params)
    observation = jax.ShapeDtypeStruct((env.observation_size,), jnp.result_type(float))
    result = jax.eval_shape(policy, one, observation, key)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise InnerloopError(f"The policy must return (action, info), not a {type(result).__name__}.")
    action, kind = result[0], jnp.integer if env.discrete else jnp.floating
    shape = () if env.discrete else (env.action_size,)
    if action.shape != shape or not jnp.issubdtype(action.dtype, kind):
        raise InnerloopError(
            f"The policy's action is {action.dtype}{list(action.shape)}; {env.name} needs "
            f"{'an integer' if env.discrete else f'{env.action_size} floating-point numbers'}."
        )


@partial(jax.jit, static_argnames=("policy", "episodes", "keep_next"))
def _episodes(
    env: JaxEnv, policy: Policy, params: Any, tasks: Array, key: PRNGKey, episodes: int, keep_next: bool
) -> Rollouts:
    """A fixed number of episodes, all at once."""

    def episode(params: Any, task: Array, key: PRNGKey) -> Rollouts:
        def body(carry: tuple[Any, Array, Array], t: Array) -> tuple[Any, Rollouts]:
            state, observation, running = carry
            action, info = policy(params, observation, jax.random.fold_in(key, t + 1))
            state, step = env.step(task, state, action)
            step, broken = sound(step)
            truncated = ~step.terminated & (step.truncated | (t == env.horizon - 1))
            after = step.observation if keep_next else None
            record = Rollouts(
                observation, action, step.reward, info, t, running, step.terminated, truncated, broken, after
            )
            record = jax.tree.map(lambda leaf: jnp.where(running, leaf, jnp.zeros_like(leaf)), record)
            return (state, step.observation, running & ~step.terminated & ~truncated), record

        state, observation = env.reset(task, jax.random.fold_in(key, 0))
        return lax.scan(body, (state, observation, jnp.array(True)), jnp.arange(env.horizon))[1]

    keys = keys_of(key, jnp.tile(jnp.arange(episodes), (tasks.shape[0], 1)))
    return jax.vmap(jax.vmap(episode, (None, None, 0)))(params, tasks, keys)


class _Lanes(NamedTuple):
    """Where episodes run, `[tasks, lanes]`, and how far each task is, `[tasks]`."""

    number: Array  # of the lane's episode
    t: Array  # steps of the lane's episode so far
    running: Array  # whether the lane has an episode that has not ended
    before: Array  # steps in episodes with smaller numbers that have ended
    begun: Array  # episodes of the task that have begun
    ended: Array  # steps in episodes of the task that have ended


@partial(jax.jit, static_argnames=("policy", "steps", "keep_next"))
def _budget(
    env: JaxEnv, policy: Policy, params: Any, tasks: Array, key: PRNGKey, steps: int, keep_next: bool
) -> Rollouts:
    """As many episodes as the budget takes.

    Here a step of all lanes costs what a step of one does, so an episode begins in every lane that is free unless it is
    certain that it will not be kept, and stops as soon as that is. The steps, `[time, tasks, lanes]` in the order in
    which they happen, are sorted by episode and time at the end: there, one at place `p` and time `t` of its episode
    has `p - t` steps in earlier episodes.
    """
    count, horizon = tasks.shape[0], env.horizon
    width = -(-steps // horizon)
    length = -(-steps // width) + horizon - 1  # lanes are all full until the budget is reached, and then run out
    reset = jax.vmap(jax.vmap(lambda task, key: env.reset(task, jax.random.fold_in(key, 0)), (None, 0)))
    advance = jax.vmap(jax.vmap(env.step, (None, 0, 0)))

    def begin(lanes: _Lanes, state: Any, observation: Array) -> tuple[_Lanes, Any, Array, Array]:
        wanted = lanes.ended + (lanes.t * lanes.running).sum(axis=1) < steps
        begins = ~lanes.running & wanted[:, None]
        number = jnp.where(begins, lanes.begun[:, None] + begins.cumsum(axis=1) - 1, lanes.number)
        keys = keys_of(key, number)

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(begins.reshape(begins.shape + (1,) * (new.ndim - 2)), new, old)

        begun = lanes.begun + begins.sum(axis=1)
        t, before = jnp.where(begins, 0, lanes.t), jnp.where(begins, lanes.ended[:, None], lanes.before)
        lanes = _Lanes(number, t, lanes.running | begins, before, begun, lanes.ended)
        return lanes, *jax.tree.map(choose, reset(tasks, keys), (state, observation)), keys

    def take_step(lanes: _Lanes, state: Any, observation: Array, keys: Array) -> tuple[Any, Array, Rollouts]:
        action, info = act(policy, params, observation, keys, lanes.t)
        state, step = advance(tasks, state, action)
        step, broken = sound(step)
        truncated = ~step.terminated & (step.truncated | (lanes.t == horizon - 1))
        after = step.observation if keep_next else None
        record = Rollouts(
            observation, action, step.reward, info, lanes.t, lanes.running, step.terminated, truncated, broken, after
        )
        return state, step.observation, record

    def end(lanes: _Lanes, last: Any) -> _Lanes:
        last = last & lanes.running
        t = lanes.t + lanes.running
        earlier = lanes.number[:, :, None] > lanes.number[:, None, :]
        before = lanes.before + (earlier * (t * last)[:, None, :]).sum(axis=2)
        running = lanes.running & ~last & (before < steps)
        return lanes._replace(t=t, running=running, before=before, ended=lanes.ended + (t * last).sum(axis=1))

    def body(carry: Any) -> Any:
        now, i, numbers, buffer = carry
        lanes = now[0]
        state, observation, record = take_step(*now)
        seen = jnp.where(lanes.running, lanes.number, NEVER), record
        numbers, buffer = jax.tree.map(lambda rows, values: rows.at[i].set(values), (numbers, buffer), seen)
        return begin(end(lanes, record.last), state, observation), i + 1, numbers, buffer

    zeros, none = jnp.zeros((count, width), int), jnp.zeros(count, int)
    now = begin(_Lanes(zeros, zeros, zeros > 0, zeros, none, none), *reset(tasks, keys_of(key, zeros)))
    record = jax.eval_shape(take_step, *now)[2]
    buffer = jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), record)
    carry = (now, 0, jnp.full((length, count, width), NEVER, int), buffer)
    _, _, numbers, buffer = lax.while_loop(lambda carry: carry[0][0].running.any(), body, carry)

    def ordered(numbers: Array, buffer: Rollouts) -> Rollouts:
        order = jnp.lexsort((buffer.t, numbers))[: Rule(steps, budget=True).shape(horizon)[1]]
        rows = jax.tree.map(lambda leaf: leaf[order], buffer)
        kept = (numbers[order] < NEVER) & (jnp.arange(len(order)) - rows.t < steps)

        def chosen(leaf: Array) -> Array:
            return jnp.where(kept.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros_like(leaf))[None]

        return jax.tree.map(chosen, rows)

    def flat(leaf: Array) -> Array:
        return leaf.swapaxes(0, 1).reshape(count, -1, *leaf.shape[3:])

    return jax.vmap(ordered)(flat(numbers), jax.tree.map(flat, buffer))
