"""The robots' environments equal a plain loop over MuJoCo's own functions, bit by bit, on any number of threads."""

import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.rl import HostEnv, envs

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("gymnasium")

from rl.plain import Plain  # noqa: E402

NAMES = [name for name in envs.ENVIRONMENTS if not name.startswith("Navigation")]
N = 6
SEEDS = np.arange(N) + 7


def start(name, num_envs=N, seed=0, **options):
    env = envs.make(name, num_envs=num_envs, **options)
    return env, env.tasks.sample(np.random.default_rng(seed), num_envs)


def actions(env, steps, rng=1):
    return np.random.default_rng(rng).normal(size=(steps, N, env.action_size))


@pytest.mark.parametrize("name", NAMES)
def test_stepping_together_is_stepping_alone_in_a_plain_loop(name):
    env, tasks = start(name)
    assert isinstance(env, HostEnv)
    plain = [Plain(name, env.robot.model) for _ in range(N)]
    observation = env.reset(tasks, SEEDS)
    np.testing.assert_allclose(observation, [each.reset(seed) for each, seed in zip(plain, SEEDS, strict=True)], 0)
    touched = False
    for action in actions(env, 60):
        step = env.step(tasks, action)
        alone = [each.step(a, task) for each, a, task in zip(plain, action, tasks, strict=True)]
        np.testing.assert_array_equal(step.observation, [each[0] for each in alone])
        np.testing.assert_allclose(step.reward, [each[1] for each in alone], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(step.terminated, [each[2] for each in alone])
        assert not step.truncated.any()
        touched |= bool(np.abs(step.observation[:, 29:113]).max() > 0) if "Ant" in name else True
    assert touched  # contact forces are there


@pytest.mark.parametrize("name", ["HalfCheetahVelocity", "AntVelocity"])
def test_the_number_of_threads_does_not_change_a_bit(name):
    results = []
    for threads in (1, 2, 5):
        env, tasks = start(name, threads=threads)
        env.reset(tasks, SEEDS)
        results.append([env.step(tasks, action) for action in actions(env, 30)])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            for field, same in zip(one, two, strict=True):
                np.testing.assert_array_equal(field, same)


@pytest.mark.parametrize("name", ["HalfCheetahDirection", "AntPosition"])
def test_some_may_be_reset_and_stepped_while_the_others_stand_still(name):
    env, tasks = start(name)
    alone, _ = start(name)
    some = np.array([1, 4])
    env.reset(tasks, SEEDS)
    alone.reset(tasks, SEEDS)
    for action in actions(env, 5):
        env.step(tasks, action)
    again = env.reset(tasks[some], SEEDS[some], some)
    np.testing.assert_array_equal(again, alone.reset(tasks, SEEDS)[some])
    for action in actions(env, 5, rng=2):
        step = env.step(tasks[some], action[some], some)
        whole = alone.step(tasks, action)
        for field, other in zip(step, whole, strict=True):
            np.testing.assert_array_equal(field, other[some])


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_also_sees_the_task(name):
    env, tasks = start(name)
    seeing, _ = start(name, oracle=True)
    plain = {"HalfCheetah": 20, "Ant": 125}[
        name.removesuffix("Velocity").removesuffix("Direction").removesuffix("Position")
    ]
    size = tasks.reshape(N, -1).shape[1]
    assert (env.observation_size, seeing.observation_size) == (plain, plain + size)
    observation = seeing.reset(tasks, SEEDS)
    assert observation.shape == (N, plain + size)
    np.testing.assert_array_equal(observation[:, :plain], env.reset(tasks, SEEDS))
    np.testing.assert_array_equal(observation[:, plain:], tasks.reshape(N, -1))


def test_the_cheetah_observes_no_x_but_its_centre_of_mass():
    env, tasks = start("HalfCheetahVelocity")
    observation = env.reset(tasks, SEEDS)
    data = env._batch.get_data(2)
    mujoco.mj_forward(env.robot.model, data)
    np.testing.assert_array_equal(observation[2], np.concatenate([data.qpos[1:], data.qvel, data.subtree_com[1]]))


def test_the_velocity_is_that_of_the_centre_of_mass_not_of_the_first_joint():
    env, tasks = start("HalfCheetahVelocity")
    env.reset(tasks, SEEDS)
    for action in actions(env, 20):
        step = env.step(tasks, action)
    model, data = env.robot.model, env._batch.get_data(0)
    mujoco.mj_forward(model, data)
    velocities = []
    for body in range(1, model.nbody):
        velocity = np.zeros(6)
        mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
        velocities.append(velocity[3:])
    masses = model.body_mass[1:]
    x = (masses @ np.array(velocities) / masses.sum())[0]
    cost = 0.05 * np.sum(np.clip(action[0], -1, 1) ** 2)
    np.testing.assert_allclose(step.reward[0], -abs(x - tasks[0]) - cost, atol=1e-12)
    assert abs(x - data.qvel[0]) > 1e-3


@pytest.mark.parametrize("name", ["HalfCheetahVelocity", "AntVelocity"])
def test_reset_adds_normal_noise_to_every_coordinate(name):
    env, tasks = start(name, num_envs=2000)
    env.reset(tasks, np.arange(2000))
    qpos, qvel = (env._batch.bind(field) for field in ("qpos", "qvel"))
    noise = qpos - env.robot.initial
    free = np.ones(qpos.shape[1], bool)
    if "Ant" in name:
        np.testing.assert_allclose(np.linalg.norm(qpos[:, 3:7], axis=1), 1, atol=1e-15)
        free[3] = False  # normalising takes the noise along the unit quaternion away
    np.testing.assert_allclose(noise[:, free].std(axis=0), 0.01, rtol=0.06)
    np.testing.assert_allclose(noise[:, free].mean(axis=0), 0, atol=0.001)
    np.testing.assert_allclose(qvel.std(axis=0), 0.1, rtol=0.06)
    np.testing.assert_allclose(qvel.mean(axis=0), 0, atol=0.01)


def test_an_ant_falls_out_of_heights_from_0_2_to_1():
    env, tasks = start("AntDirection")
    env.reset(tasks, SEEDS)
    heights = np.array([0.1, 0.25, 0.6, 0.95, 1.1, np.nan])
    motion = env._motion._replace(qpos=np.where(np.arange(15) == 2, heights[:, None], env._motion.qpos))
    np.testing.assert_array_equal(env.robot.fallen(motion), [True, False, False, False, True, True])
    env._batch.bind("qpos")[:, 2] = np.where(np.isnan(heights), 0.55, heights)
    step = env.step(tasks, np.zeros((N, 8)))
    np.testing.assert_array_equal(step.terminated, [True, False, False, False, True, False])
    assert np.isfinite(step.reward).all()


@pytest.mark.parametrize("name", ["HalfCheetahVelocity", "AntVelocity"])
def test_a_simulation_that_blows_up_is_terminated(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo logs its warning in the working directory
    env, tasks = start(name)
    env.reset(tasks, SEEDS)
    env._batch.bind("qvel")[3] = 1e12
    step = env.step(tasks, np.zeros((N, env.action_size)))
    np.testing.assert_array_equal(np.isnan(step.observation).any(axis=1), np.arange(N) == 3)  # `collect` counts it
    np.testing.assert_array_equal(step.terminated, np.arange(N) == 3)
    env.reset(tasks[3:4], SEEDS[3:4], np.array([3]))
    assert not env.step(tasks, np.zeros((N, env.action_size))).terminated.any()


def test_actions_are_clipped():
    env, tasks = start("HalfCheetahVelocity")
    env.reset(tasks, SEEDS)
    wide = env.step(tasks, np.full((N, 6), 3.0))
    env.reset(tasks, SEEDS)
    clipped = env.step(tasks, np.ones((N, 6)))
    for one, other in zip(wide, clipped, strict=True):
        np.testing.assert_array_equal(one, other)


MISTAKES = {
    "no simulations": (lambda: envs.make("AntVelocity", num_envs=0), "AntVelocity cannot have num_envs=0"),
    "no threads": (lambda: envs.make("AntVelocity", threads=0), "AntVelocity cannot have threads=0"),
    "tasks of another shape": (
        lambda: envs.make("AntPosition", tasks=envs.Uniform(0.0, 1.0)),
        r"AntPosition has tasks of shape \[2\], but the distribution draws \[\]",
    ),
    "unknown name": (lambda: envs.make("AntVelocities"), "no environment 'AntVelocities'; choose one of: Navigation2D"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_making_one(mistake):
    attempt, said = MISTAKES[mistake]
    with pytest.raises(InnerloopError, match=said):
        attempt()


def test_mistakes_in_using_one():
    env, tasks = start("HalfCheetahDirection")
    with pytest.raises(InnerloopError, match=r"a task for each of 6 simulations, an array \[6\], not \[3\]"):
        env.reset(tasks[:3], SEEDS)
    with pytest.raises(InnerloopError, match="resets 6 simulations with 2 seeds"):
        env.reset(tasks, SEEDS[:2])
    with pytest.raises(InnerloopError, match=r"A task of HalfCheetahDirection is 0.3; it must be one of -1, 1"):
        env.reset(np.full(N, 0.3), SEEDS)
    env.reset(tasks, SEEDS)
    with pytest.raises(InnerloopError, match=r"actions of shape \[6, 8\]; give \[6, 6\]"):
        env.step(tasks, np.zeros((N, 8)))
    action = np.zeros((N, 6))
    action[4, 2] = np.nan
    with pytest.raises(InnerloopError, match="action for simulation 4 of HalfCheetahDirection is not finite"):
        env.step(tasks, action)
    env, tasks = start("AntVelocity")
    with pytest.raises(InnerloopError, match="A task of AntVelocity is inf; it must be finite"):
        env.reset(np.full(N, np.inf), SEEDS)
