"""Whole episodes: which are kept, what is padding, that nothing depends on how they were run."""

import threading
from contextlib import contextmanager
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl import HostEnv, JaxEnv, Rollouts, collect, envs, host_rollout, rollout
from rl.countdown import Countdown, HostCountdown

KEY = jax.random.key(0)
TASKS = jnp.array([1.5, 4.0, 12.0])
PARAMS = jnp.array([[0.0], [10.0], [20.0]])  # one tree for each of the three tasks


def policy(params, observation, key):
    noise = jax.random.normal(key, params.shape)
    return params + noise, {"noise": noise}


def same(one, other):
    return all((a == b).all() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def episodes_of(rollouts, task):
    """The episodes of one task, each a tree with leaves `[length, ...]`."""
    rows = jax.tree.map(lambda leaf: np.asarray(leaf)[task], rollouts)
    found = []
    for row in range(rows.mask.shape[0]):
        flat = jax.tree.map(lambda leaf, row=row: leaf[row][rows.mask[row]], rows)
        starts = np.flatnonzero(flat.t == 0)
        ends = np.flatnonzero(flat.last) + 1
        assert len(starts) == len(ends)
        found += [
            jax.tree.map(lambda leaf, part=slice(*ends_of): leaf[part], flat)
            for ends_of in zip(starts, ends, strict=True)
        ]
    return found


# Few different sizes, since each is compiled.
RULES = pytest.mark.parametrize("rule", [{"episodes": 30}, {"steps": 50}], ids=["episodes", "steps"])


def collected(env, tasks=TASKS, key=KEY, **rule):
    """In NumPy, where looking at an array compiles nothing."""
    return jax.tree.map(np.asarray, collect(env, policy, PARAMS, tasks, key, **rule))


class InBackground(HostCountdown):
    """Stepped from another thread, some tasks while others choose."""

    background = True

    def __init__(self, num_envs):
        super().__init__(num_envs)
        self.busy, self.threads = threading.Lock(), set()

    def reset(self, tasks, seeds, ids=None):
        with self.alone():
            return super().reset(tasks, seeds, ids)

    def step(self, tasks, actions, ids=None):
        with self.alone():
            if np.isnan(actions).any():
                raise InnerloopError("An action is not finite.")
            return super().step(tasks, actions, ids)

    @contextmanager
    def alone(self):
        assert self.busy.acquire(blocking=False)  # one call at a time
        self.threads.add(threading.get_ident())
        try:
            yield
        finally:
            self.busy.release()


KINDS = {
    "jax": lambda: Countdown(),
    "host, all at once": lambda: HostCountdown(90),
    "host, few at once": lambda: HostCountdown(7),
    "host, one at a time": lambda: HostCountdown(3),
    "host, in the background": lambda: InBackground(7),
}


@pytest.fixture(params=KINDS)
def env(request):
    made = KINDS[request.param]()
    assert isinstance(made, JaxEnv | HostEnv)
    return made


def test_a_fixed_number_of_episodes_one_in_each_row(env):
    rollouts = collected(env, episodes=30)
    assert rollouts.observation.shape == (3, 30, 12, 2)
    assert rollouts.action.shape == rollouts.info["noise"].shape == (3, 30, 12, 1)
    lengths = rollouts.observation[:, :, 0, 0]  # the first observation tells it
    np.testing.assert_array_equal(rollouts.mask, np.arange(12) < lengths[..., None])
    np.testing.assert_array_equal(rollouts.t, np.arange(12) * rollouts.mask)
    np.testing.assert_array_equal(rollouts.terminated, np.arange(12) == lengths[..., None] - 1)
    assert not rollouts.truncated.any()
    np.testing.assert_array_equal(rollouts.num_episodes, [30] * 3)
    np.testing.assert_allclose(rollouts.reward, TASKS[:, None, None] * rollouts.mask)
    np.testing.assert_allclose(rollouts.mean_return, lengths.mean(axis=1) * TASKS, rtol=1e-6)
    assert rollouts.next_observation is None
    for leaf in jax.tree.leaves(rollouts):
        assert (leaf[~rollouts.mask] == 0).all()
    assert 1 < lengths[1].mean() < lengths[2].mean()
    mean = (rollouts.action - rollouts.info["noise"])[rollouts.mask]
    np.testing.assert_allclose(mean, np.broadcast_to(PARAMS[:, None, None], (3, 30, 12, 1))[rollouts.mask], atol=1e-5)


def test_a_budget_keeps_the_least_number_of_first_episodes_that_reaches_it(env):
    """Against the same episodes, numbered and collected by the other rule."""
    steps = 50
    every = collected(env, episodes=60)
    if isinstance(env, HostCountdown):
        env.steps = 0
    kept = collected(env, steps=steps)
    assert kept.reward.shape == (3, 1, steps + 11)
    for task in range(3):
        numbered = episodes_of(every, task)
        reached = np.cumsum([len(each.reward) for each in numbered])
        wanted = numbered[: np.searchsorted(reached, steps) + 1]
        found = episodes_of(kept, task)
        assert len(found) == len(wanted) == kept.num_episodes[task]
        for one, other in zip(found, wanted, strict=True):
            assert same(one, other)
    total = kept.mask.sum(axis=(1, 2))
    assert (total >= steps).all()
    assert (total < steps + 12).all()
    np.testing.assert_array_equal(kept.mask[:, 0], np.arange(steps + 11) < total[:, None])
    assert all((leaf[~kept.mask] == 0).all() for leaf in jax.tree.leaves(kept))
    if isinstance(env, HostCountdown):
        assert env.steps == total.sum()  # none was run in vain


def test_a_budget_of_one_step_is_one_episode():
    rollouts = collected(HostCountdown(7), steps=1)
    assert rollouts.reward.shape == (3, 1, 12)
    np.testing.assert_array_equal(rollouts.num_episodes, [1, 1, 1])


@RULES
def test_the_number_of_copies_does_not_change_a_bit(rule):
    several = [collected(HostCountdown(n), **rule) for n in (3, 7, 90)]
    assert same(several[0], several[1])
    assert same(several[0], several[2])


@RULES
def test_in_the_background_the_same_is_collected(rule):
    env = InBackground(7)
    assert same(collected(env, **rule), collected(HostCountdown(7), **rule))
    assert len(env.threads) == 1
    assert threading.get_ident() not in env.threads


def test_a_mistake_in_the_background_is_told_as_any_other():
    with pytest.raises(InnerloopError, match="An action is not finite"):
        collect(InBackground(7), policy, PARAMS.at[1].set(jnp.nan), TASKS, KEY, episodes=30)


@RULES
def test_the_key_fixes_everything(env, rule):
    first = collected(env, **rule)
    assert same(first, collected(env, **rule))
    other = collected(env, key=jax.random.key(1), **rule)
    assert (first.action != other.action).any()
    assert (first.observation != other.observation).any()


@jax.jit
def expected_noise(key, task, number):
    """The policy's noise in one episode, `[horizon, 1]`."""
    key = jax.random.fold_in(jax.random.fold_in(key, task), number)
    return jax.vmap(lambda t: jax.random.normal(jax.random.fold_in(key, t + 1), (1,)))(jnp.arange(12))


@RULES
def test_an_action_depends_on_key_task_episode_and_time_alone(env, rule):
    rollouts = collected(env, **rule)
    for task in range(3):
        for number, episode in enumerate(episodes_of(rollouts, task)):
            expected = expected_noise(KEY, task, number)
            np.testing.assert_array_equal(episode.info["noise"], expected[: len(episode.t)])
    noise = np.asarray(rollouts.info["noise"])[np.asarray(rollouts.mask)].ravel()
    assert len(np.unique(noise)) == noise.size


@RULES
def test_the_observation_after_each_step_may_be_kept(env, rule):
    rollouts = collected(env, next_observation=True, **rule)
    plain = collected(env, **rule)
    assert same(rollouts._replace(next_observation=None), plain)
    for task in range(3):
        for episode in episodes_of(rollouts, task):
            np.testing.assert_array_equal(episode.next_observation[:-1], episode.observation[1:])
            np.testing.assert_array_equal(episode.next_observation[-1], [0, TASKS[task]])


def towards(params, observation, key):
    """Go to the goal, more or less."""
    goal, gain = params
    return gain * (goal - observation + 0.04 * jax.random.normal(key, (2,))), {}


GOALS = jnp.array([[0.05, 0.08], [0.4, -0.3]])


@pytest.mark.parametrize("rule", [{"episodes": 3}, {"steps": 201}], ids=["episodes", "steps"])
def test_the_horizon_truncates(rule):
    rollouts = collect(envs.make("Navigation2D"), towards, (GOALS, jnp.zeros(2)), GOALS, KEY, **rule)
    rollouts = jax.tree.map(np.asarray, rollouts)
    assert not rollouts.terminated.any()
    np.testing.assert_array_equal(rollouts.truncated.sum(axis=(1, 2)), [3, 3])
    assert (rollouts.t[rollouts.truncated] == 99).all()
    np.testing.assert_allclose(rollouts.mean_return, -100 * np.linalg.norm(GOALS, axis=1), rtol=1e-5)


def test_the_environment_may_truncate_too():
    rollouts = collect(HostCountdown(2), policy, PARAMS[:1], jnp.array([200.0]), KEY, episodes=2)
    np.testing.assert_array_equal(rollouts.mask[0].sum(axis=1), [3, 3])
    np.testing.assert_array_equal(rollouts.truncated[0, :, 2], [True, True])
    assert not rollouts.terminated.any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("env", [Countdown(), HostCountdown(3)], ids=["jax", "host"])
def test_double_precision(env):
    rollouts = collect(env, policy, PARAMS, TASKS.astype(float), KEY, steps=50)
    assert rollouts.observation.dtype == rollouts.action.dtype == rollouts.reward.dtype == jnp.float64


def test_it_runs_inside_compiled_functions_and_compiles_once():
    @partial(jax.jit, static_argnames="steps")
    def mean_return(env, params, key, steps):
        tasks = env.tasks.sample(key, 3)
        return collect(env, policy, params, tasks, key, steps=steps).mean_return

    tasks = Countdown().tasks.sample(KEY, 3)
    inside = mean_return(Countdown(), PARAMS, KEY, 50)
    np.testing.assert_allclose(
        inside, collect(Countdown(), policy, PARAMS, tasks, KEY, steps=50).mean_return, rtol=1e-6
    )
    before = rollout._budget._cache_size()
    for seed in range(3):
        collect(Countdown(), policy, PARAMS + seed, tasks + seed, jax.random.key(seed), steps=50)
    assert rollout._budget._cache_size() == before


def test_both_kinds_of_environment_collect_the_same():
    """2D navigation compiled, and the same through gymnasium, step by step."""
    gymnasium = pytest.importorskip("gymnasium")
    pure = envs.make("Navigation2D")
    vector = envs.SyncVector(
        lambda: gymnasium.make("innerloop/Navigation2D-v0"),
        pure.tasks,
        lambda env, task: {"task": task},
        num_envs=4,
        horizon=100,
    )
    params = (GOALS, jnp.full(2, 5.0))
    compiled = collect(pure, towards, params, GOALS, KEY, steps=201)
    stepped = collect(vector, towards, params, GOALS, KEY, steps=201)
    assert compiled.terminated.any()
    for one, other in zip(jax.tree.leaves(compiled), jax.tree.leaves(stepped), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_discrete_actions():
    gymnasium = pytest.importorskip("gymnasium")
    env = envs.SyncVector(
        lambda: gymnasium.make("CartPole-v1"),
        envs.Uniform(0.3, 0.7),
        lambda env, task: setattr(env.unwrapped, "length", float(task)),
        num_envs=6,
        horizon=500,
    )

    def choose(params, observation, key):
        return jax.random.bernoulli(key, jax.nn.sigmoid(observation @ params)).astype(int), {}

    rollouts = collect(env, choose, jnp.zeros((2, 4)), np.array([0.3, 0.7]), KEY, steps=100)
    assert rollouts.action.shape == (2, 1, 599)
    assert rollouts.action.dtype == jnp.int32
    assert set(np.unique(rollouts.action)) == {0, 1}
    assert rollouts.terminated.sum() == rollouts.num_episodes.sum() > 4


def untrained(env, nets, activation=jax.nn.relu):
    """The paper's policy with unit variance, and parameters of several networks, Xavier uniform."""

    def policy(params, observation, key):
        *hidden, head = params
        for kernel in hidden:
            observation = activation(observation @ kernel)
        mean = observation @ head
        return mean + jax.random.normal(key, mean.shape), {}

    rng, widths = np.random.default_rng(0), [env.observation_size, 100, 100, env.action_size]
    bounds = [np.sqrt(6 / (a + b)) for a, b in pairwise(widths)]
    shapes = [(nets, a, b) for a, b in pairwise(widths)]
    return policy, [
        rng.uniform(-bound, bound, shape).astype(np.float32) for bound, shape in zip(bounds, shapes, strict=True)
    ]


def test_robots_are_collected_as_they_are_stepped():
    pytest.importorskip("mujoco")
    env = envs.make("AntVelocity", num_envs=6, horizon=50)
    policy, params = untrained(env, 2)
    tasks = envs.reference_tasks("AntVelocity")[:2]
    rollouts = collect(env, policy, params, tasks, KEY, steps=150)
    _, seeds = host_rollout._begin_at_once(KEY, jnp.tile(jnp.arange(20), (2, 1)))
    alone = envs.make("AntVelocity", num_envs=1)
    for task in range(2):
        for number, episode in enumerate(episodes_of(rollouts, task)):
            observation = alone.reset(tasks[task : task + 1], np.asarray(seeds)[task, number : number + 1])
            for t in range(len(episode.t)):
                np.testing.assert_array_equal(episode.observation[t], observation[0].astype(np.float32))
                step = alone.step(tasks[task : task + 1], episode.action[t : t + 1])
                observation = step.observation
                assert episode.reward[t] == np.float32(step.reward[0])
                assert episode.terminated[t] == step.terminated[0]
            assert episode.truncated[-1] == (len(episode.t) == 50 and not episode.terminated[-1])


def test_an_untrained_cheetah_is_that_of_the_published_results():
    """Published, of one network: control cost 36.15 an episode, and a sum of |velocity| of about 63.

    Measured over 20 networks: 39.6 with standard deviation 2.4, and 60 with 22.
    """
    pytest.importorskip("mujoco")
    env = envs.make("HalfCheetahVelocity", num_envs=100)
    policy, params = untrained(env, 20)
    rollouts = jax.tree.map(np.asarray, collect(env, policy, params, np.zeros(20), KEY, episodes=5))
    costs = 0.05 * (np.clip(rollouts.action, -1, 1) ** 2).sum(axis=(2, 3)).mean(axis=1)
    speeds = -(rollouts.mean_return + costs)
    for values, published in ((costs, 36.15), (speeds, 63.0)):
        assert abs(values.mean() - published) < 2 * values.std()
    assert abs(costs.mean() - 39.0) < 1.6


def test_an_untrained_ant_is_that_of_the_published_results():
    """Published, of one network: 137 steps an episode, and 0.0227 a step of alive bonus less costs.

    Measured over 240 networks: 151 steps with standard deviation 35, and 0.0245.
    """
    pytest.importorskip("mujoco")
    env = envs.make("AntDirection", num_envs=120)
    policy, params = untrained(env, 60)
    forward, backward = (
        jax.tree.map(np.asarray, collect(env, policy, params, sign * np.ones(60), KEY, episodes=2))
        for sign in (1.0, -1.0)
    )
    assert same(forward.action, backward.action)  # the task is not in the physics
    lengths = forward.mask.sum(axis=(1, 2)) / 2
    assert abs(lengths.mean() - 137) < lengths.std()
    assert abs(lengths.mean() - 151) < 15
    height = forward.observation[..., 2]  # before the last step: they fall upwards, none to the floor
    assert height[forward.terminated].min() > 0.8
    upkeep = ((forward.reward + backward.reward) / 2).sum() / forward.mask.sum()
    assert abs(upkeep - 0.0227) < 0.003


def test_untrained_navigation_is_that_of_the_published_results():
    """Published, of one network with tanh: mean return -82.66, with a standard deviation over tasks of 6.97.

    Measured over 30 networks: -88 with standard deviation 24, and 8.9 with 1.2; here 15.
    """
    env = envs.make("Navigation2D")
    goals = jnp.asarray(envs.reference_tasks("Navigation2D"))
    policy, params = untrained(env, 15, jnp.tanh)

    def returns(params, key):
        each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (40, *leaf.shape)), params)
        return collect(env, policy, each, goals, key, episodes=10).mean_return

    over_tasks = jax.jit(lambda params, keys: jax.lax.map(lambda each: returns(*each), (params, keys)))(
        params, jax.random.split(KEY, 15)
    )
    assert abs(over_tasks.mean() + 82.66) < over_tasks.mean(axis=1).std()
    assert abs(over_tasks.std(axis=1).mean() - 6.97) < 2 * over_tasks.std(axis=1).std()


def test_rollouts_are_a_tree():
    rollouts = collect(Countdown(), policy, PARAMS, TASKS, KEY, episodes=30)
    assert isinstance(jax.tree.map(lambda leaf: leaf[:1], rollouts), Rollouts)


class NoPytree(Countdown):
    pass


FINE = {"env": Countdown(), "policy": policy, "params": PARAMS, "tasks": TASKS, "key": KEY, "episodes": 2}
MISTAKES = {
    "neither rule": ({"episodes": None}, "either episodes or steps, not episodes=None, steps=None"),
    "both rules": ({"steps": 5}, "either episodes or steps, not episodes=2, steps=5"),
    "no episodes": ({"episodes": 0}, "positive number of either episodes or steps, not episodes=0"),
    "no steps": ({"episodes": None, "steps": -1}, "not episodes=None, steps=-1"),
    "tasks of another shape": (
        {"tasks": jnp.zeros((3, 2))},
        r"tasks of shape \[\]; give them stacked, \[tasks\], not \[3, 2\]",
    ),
    "no tasks": ({"tasks": jnp.zeros(0)}, r"give them stacked, \[tasks\], not \[0\]"),
    "one task": ({"tasks": jnp.array(1.0)}, r"give them stacked, \[tasks\], not \[\]"),
    "one tree for all": ({"params": jnp.zeros(1)}, r"3 tasks, but parameters of shape \[1\]; stack one tree for each"),
    "no tuple": ({"policy": lambda params, observation, key: params}, r"must return \(action, info\), not a "),
    "integers": (
        {"policy": lambda params, observation, key: (jnp.array([1]), {})},
        r"action is int32\[1\]; Countdown needs 1 floating-point numbers",
    ),
    "too many numbers": (
        {"policy": lambda params, observation, key: (jnp.zeros(4), {})},
        r"action is float32\[4\]; Countdown needs 1 floating-point numbers",
    ),
    "no pytree": ({"env": NoPytree()}, "Countdown is no pytree; decorate its class with jax.tree_util.register_static"),
    "too few copies": (
        {"env": HostCountdown(2)},
        "num_envs=2 copies, too few for 3 tasks; give it at least one for each",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    wrong, said = MISTAKES[mistake]
    arguments = FINE | wrong
    env, policy, params, tasks, key = (arguments.pop(name) for name in ("env", "policy", "params", "tasks", "key"))
    with pytest.raises(InnerloopError, match=said):
        collect(env, policy, params, tasks, key, **arguments)


def test_a_policy_that_diverged_is_told_of():
    pytest.importorskip("mujoco")
    env = envs.make("HalfCheetahVelocity", num_envs=4)
    with pytest.raises(InnerloopError, match="action for simulation 0 of HalfCheetahVelocity is not finite"):
        collect(env, policy, jnp.full((2, 6), jnp.nan), np.ones(2), KEY, episodes=2)


def test_a_host_environment_inside_a_compiled_function_is_told_of():
    collect_jitted = jax.jit(lambda params: collect(HostCountdown(3), policy, params, TASKS, KEY, episodes=2))
    with pytest.raises(InnerloopError, match="HostCountdown is stepped on the host; call collect outside of jit"):
        collect_jitted(PARAMS)
