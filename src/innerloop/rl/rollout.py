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
from innerloop.rl.types import HostEnv, JaxEnv, Policy, Rollouts, Step
from innerloop.types import Params, PRNGKey

NEVER = np.iinfo(np.int32).max  # the number of no episode: sorts behind all others


class _Rule(NamedTuple):
    """How much to collect of each task: `number` episodes, or, if it is a budget, episodes of `number` steps."""

    number: int
    budget: bool

    def shape(self, horizon: int) -> tuple[int, int]:
        """Rows and time of what is collected."""
        return (1, self.number + horizon - 1) if self.budget else (self.number, horizon)

    def at_once(self, horizon: int) -> int:
        """The most episodes of a task that may have to run at once."""
        return -(-self.number // horizon) if self.budget else self.number


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
) -> Rollouts:
    r"""Collect whole episodes of each task, a fixed number of them or as many as a budget of steps takes.

    The budget is the rule of rllab, and so of MAML's published results: episodes are numbered $0, 1, \dots$, and those
    kept are the first $m$ with $m$ the least number whose lengths $l$ reach the budget,
    $l_0 + \dots + l_{m-1} \ge \text{steps}$. So tasks in which episodes end early yield more of them, and none is left
    out because it took long: episodes run side by side, but one begins only if, were all that run to last until the
    horizon, there would still be too few steps. None is run in vain either.

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
        rule = _Rule(number, budget=episodes is None)
        return _on_host(env, policy, params, np.asarray(tasks), key, rule, next_observation)
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


def _keys_of(key: PRNGKey, number: Array) -> Array:
    """The keys of the episodes with these numbers, `[tasks, n]`: folded with 0 for the reset, with `t + 1` to act."""
    of_tasks = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(number.shape[0]))
    return jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)))(of_tasks, number)


def _act(policy: Policy, params: Any, observation: Array, keys: Array, t: Array) -> tuple[Array, Any]:
    """Actions of every environment, `[tasks, n, ...]`."""

    def one(params: Any, observation: Array, key: Array, t: Array) -> tuple[Array, Any]:
        return policy(params, observation, jax.random.fold_in(key, t + 1))

    return jax.vmap(jax.vmap(one, (None, 0, 0, 0)))(params, observation, keys, t)


def _sound(step: Step) -> tuple[Step, Any]:
    """The step without what is not finite, which ends the episode, and whether it was; for NumPy and JAX arrays."""
    where = jnp.where if isinstance(step.reward, Array) else np.where
    finite = jnp.isfinite if isinstance(step.reward, Array) else np.isfinite
    sound = finite(step.observation).all(axis=-1) & finite(step.reward)
    observation = where(sound[..., None], step.observation, 0)
    return Step(observation, where(sound, step.reward, 0), step.terminated | ~sound, step.truncated & sound), ~sound


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
            step, broken = _sound(step)
            truncated = ~step.terminated & (step.truncated | (t == env.horizon - 1))
            after = step.observation if keep_next else None
            record = Rollouts(
                observation, action, step.reward, info, t, running, step.terminated, truncated, broken, after
            )
            record = jax.tree.map(lambda leaf: jnp.where(running, leaf, jnp.zeros_like(leaf)), record)
            return (state, step.observation, running & ~step.terminated & ~truncated), record

        state, observation = env.reset(task, jax.random.fold_in(key, 0))
        return lax.scan(body, (state, observation, jnp.array(True)), jnp.arange(env.horizon))[1]

    keys = _keys_of(key, jnp.tile(jnp.arange(episodes), (tasks.shape[0], 1)))
    return jax.vmap(jax.vmap(episode, (None, None, 0)))(params, tasks, keys)


class _Slots(NamedTuple):
    """Where episodes run, `[tasks, slots]`, and how far each task is, `[tasks]`."""

    number: Any  # of the slot's episode
    t: Any  # steps of the slot's episode so far
    running: Any  # whether the slot has an episode that has not ended
    begun: Any  # episodes of the task that have begun
    ended: Any  # steps in episodes of the task that have ended


def _beginning(slots: _Slots, horizon: int, rule: _Rule) -> tuple[Any, _Slots]:
    """Which idle slots begin an episode, and the slots afterwards; for NumPy and JAX arrays alike."""
    if rule.budget:
        most = slots.ended + horizon * slots.running.sum(axis=1)
        needed = -((most - rule.number) // horizon)
    else:
        needed = rule.number - slots.begun
    rank = (~slots.running).cumsum(axis=1) - 1
    begins = ~slots.running & (rank < needed[:, None])
    number = slots.number + begins * (slots.begun[:, None] + rank - slots.number)
    begun = slots.begun + begins.sum(axis=1)
    return begins, slots._replace(number=number, t=slots.t * ~begins, running=slots.running | begins, begun=begun)


def _advanced(slots: _Slots, last: Any) -> _Slots:
    """The slots after a step of all that run, where `last` says whose episode ended with it."""
    t = slots.t + slots.running
    ended = slots.ended + (t * last).sum(axis=1)
    return slots._replace(t=t, running=slots.running & ~last, ended=ended)


@partial(jax.jit, static_argnames=("policy", "steps", "keep_next"))
def _budget(
    env: JaxEnv, policy: Policy, params: Any, tasks: Array, key: PRNGKey, steps: int, keep_next: bool
) -> Rollouts:
    """As many episodes as the budget takes.

    How many that is depends on what happens, but arrays have a fixed size. So each step is written behind those that
    its task already has, in the order in which they happen, and sorted by episode and time at the end.
    """
    rule, horizon, count = _Rule(steps, budget=True), env.horizon, tasks.shape[0]
    shape, (_, capacity) = (count, rule.at_once(horizon)), rule.shape(horizon)
    reset = jax.vmap(jax.vmap(lambda task, key: env.reset(task, jax.random.fold_in(key, 0)), (None, 0)))
    advance = jax.vmap(jax.vmap(env.step, (None, 0, 0)))
    write = jax.vmap(lambda rows, place, values: rows.at[place].set(values, mode="drop"))

    def begin(slots: _Slots, state: Any, observation: Array) -> tuple[_Slots, Any, Array, Array]:
        begins, slots = _beginning(slots, horizon, rule)
        keys = _keys_of(key, slots.number)

        def choose(new: Array, old: Array) -> Array:
            return jnp.where(begins.reshape(begins.shape + (1,) * (new.ndim - 2)), new, old)

        return slots, *jax.tree.map(choose, reset(tasks, keys), (state, observation)), keys

    def take_step(slots: _Slots, state: Any, observation: Array, keys: Array) -> tuple[Any, Array, Rollouts]:
        action, info = _act(policy, params, observation, keys, slots.t)
        state, step = advance(tasks, state, action)
        step, broken = _sound(step)
        truncated = ~step.terminated & (step.truncated | (slots.t == horizon - 1))
        after = step.observation if keep_next else None
        record = Rollouts(
            observation, action, step.reward, info, slots.t, slots.running, step.terminated, truncated, broken, after
        )
        return state, step.observation, record

    def body(carry: Any) -> Any:
        now, written, numbers, buffer = carry
        slots = now[0]
        state, observation, record = take_step(*now)
        place = written[:, None] + slots.running.cumsum(axis=1) - 1
        place = jnp.where(slots.running, place, capacity)  # beyond the end, where it is dropped
        numbers, buffer = jax.tree.map(
            lambda rows, values: write(rows, place, values), (numbers, buffer), (slots.number, record)
        )
        written = written + slots.running.sum(axis=1)
        now = begin(_advanced(slots, slots.running & record.last), state, observation)
        return now, written, numbers, buffer

    zeros, none = jnp.zeros(shape, int), jnp.zeros(count, int)
    now = begin(_Slots(zeros, zeros, zeros > 0, none, none), *reset(tasks, _keys_of(key, zeros)))
    record = jax.eval_shape(take_step, *now)[2]
    buffer = jax.tree.map(lambda leaf: jnp.zeros((count, capacity, *leaf.shape[2:]), leaf.dtype), record)
    carry = (now, none, jnp.full((count, capacity), NEVER, int), buffer)
    _, _, numbers, buffer = lax.while_loop(lambda carry: carry[0][0].running.any(), body, carry)
    order = jnp.lexsort((buffer.t, numbers), axis=-1)
    return jax.tree.map(lambda leaf: jax.vmap(lambda rows, order: rows[order])(leaf, order)[:, None], buffer)


@partial(jax.jit, static_argnames="policy")
def _act_at_once(policy: Policy, params: Any, observation: Array, keys: Array, t: Array) -> tuple[Array, Any]:
    """`_act`, compiled for itself."""
    # For 40 sets of parameters, 800 environments and two hidden layers of 100 units, this takes 0.8 to 1.4 ms on two
    # cores, and NumPy's batched products 0.4 to 0.7 ms. But the physics takes 5 to 29 ms: it would not pay to write
    # every policy a second time, with other random numbers.
    return _act(policy, params, observation, keys, t)


@jax.jit
def _begin_at_once(key: PRNGKey, number: Array) -> tuple[Array, Array]:
    """Keys of the episodes with these numbers, `[tasks, slots]`, and seeds for their resets."""
    keys = _keys_of(key, number)
    bits = jax.vmap(jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(key, 0), dtype=jnp.uint32)))(keys)
    return keys, (bits >> 1).astype(jnp.int32)


def _on_host(
    env: HostEnv, policy: Policy, params: Any, tasks: np.ndarray, key: PRNGKey, rule: _Rule, keep_next: bool
) -> Rollouts:
    """Either rule, with environments outside of JAX."""
    count, horizon, float_type = len(tasks), env.horizon, np.dtype(jnp.result_type(float))
    shape = (count, min(env.num_envs // count, rule.at_once(horizon)))
    size = (count, *rule.shape(horizon))
    task_of = np.repeat(np.arange(count), shape[1])
    observation = np.zeros((count * shape[1], env.observation_size), float_type)
    slots = _Slots(np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool), *np.zeros((2, count), int))
    written, numbers = np.zeros(count, int), np.full((count, size[2]), NEVER)
    keys: Any = None
    buffer: Any = None
    while True:
        begins, slots = _beginning(slots, horizon, rule)
        if begins.any():
            keys, seeds = _begin_at_once(key, slots.number)
            ids = np.flatnonzero(begins)
            observation[ids] = env.reset(tasks[task_of[ids]], np.asarray(seeds).reshape(-1)[ids], ids)
        ids = np.flatnonzero(slots.running)
        if not ids.size:
            break
        chosen = _act_at_once(policy, params, observation.reshape(*shape, -1), keys, slots.t)
        action, info = jax.tree.map(partial(_rows_of, ids=ids), chosen)
        step, broken = _sound(env.step(tasks[task_of[ids]], action, ids))
        number, t = _rows_of(slots.number, ids), _rows_of(slots.t, ids)
        after = step.observation.astype(float_type)
        truncated = ~step.terminated & (step.truncated | (t == horizon - 1))
        fields: dict[str, Any] = {
            "observation": observation[ids],
            "action": action,
            "reward": step.reward.astype(float_type),
            "info": info,
            "t": t,
            "mask": np.ones(len(ids), bool),
            "terminated": step.terminated,
            "truncated": truncated,
            "broken": broken,
            "next_observation": after if keep_next else None,
        }
        record = Rollouts(**fields)
        if buffer is None:
            buffer = jax.tree.map(lambda leaf: np.zeros((*size, *leaf.shape[1:]), leaf.dtype), record)
        place: Any = (task_of[ids], number, t)
        if rule.budget:  # in the order in which steps happen, as in `_budget`
            order = written[:, None] + slots.running.cumsum(axis=1) - 1
            place = (task_of[ids], 0, _rows_of(order, ids))
            numbers[place[0], place[2]] = number
            written = written + slots.running.sum(axis=1)
        for rows, values in zip(jax.tree.leaves(buffer), jax.tree.leaves(record), strict=True):
            rows[place] = values
        observation[ids] = after
        last = np.zeros(shape, bool)
        last.reshape(-1)[ids] = step.terminated | truncated
        slots = _advanced(slots, last)
    if rule.budget:
        order = np.lexsort((buffer.t[:, 0], numbers), axis=-1)
        buffer = jax.tree.map(lambda leaf: leaf[np.arange(count)[:, None], 0, order][:, None], buffer)
    return jax.tree.map(jnp.asarray, buffer)


def _rows_of(values: Any, ids: np.ndarray) -> np.ndarray:
    """The rows `ids` of `[tasks, slots, ...]`, `[n, ...]`."""
    values = np.asarray(values)
    return values.reshape(-1, *values.shape[2:])[ids]
