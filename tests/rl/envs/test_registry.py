"""Names, test tasks, and what gymnasium says of the environments."""

import subprocess
import sys
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError, extras
from innerloop.rl import envs

FIRST_GOALS = {  # the first of the 40 goals behind the published results
    "Navigation2D": [[-0.082978, 0.22032449], [-0.49988563, -0.19766743], [-0.35324411, -0.40766141]],
    "HalfCheetahVelocity": [0.83404401, 1.44064899, 0.00022875, 0.60466515, 0.29351178],
    "AntVelocity": [1.25106601, 2.16097348, 0.00034312, 0.90699772, 0.44026767],
}
DIRECTIONS = {
    "HalfCheetahDirection": "-+-------+-+-+-+-+--++-+++---+--+++-++-+",
    "AntDirection": "+-++---+--++-+-++++-+----+----+-+++-++-+",
}


@pytest.mark.parametrize("name", FIRST_GOALS)
def test_the_test_goals_are_those_of_the_published_results(name):
    goals = envs.reference_tasks(name)
    assert len(goals) == 40
    np.testing.assert_allclose(goals[: len(FIRST_GOALS[name])], FIRST_GOALS[name], atol=5e-9)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_test_directions_are_those_of_the_published_results(name):
    assert "".join("-+"[int(each > 0)] for each in envs.reference_tasks(name)) == DIRECTIONS[name]


def test_the_test_goals_do_not_depend_on_the_version_of_this_library():
    assert envs.reference_tasks("AntPosition").shape == (40, 2)
    np.testing.assert_array_equal(envs.reference_tasks("Navigation2DSparse"), envs.reference_tasks("Navigation2D"))


@pytest.mark.parametrize("rng", [np.random.default_rng(0), jax.random.key(0)], ids=["numpy", "jax"])
def test_distributions_of_tasks(rng):
    goals = np.asarray(envs.ENVIRONMENTS["AntPosition"].tasks.sample(rng, 4000))
    assert goals.shape == (4000, 2)
    assert -3 <= goals.min() < -2.99
    assert 2.99 < goals.max() <= 3
    for directions, backward in ((envs.Directions(), 3 / 7), (envs.Directions.released(), 1 / 2)):
        drawn = np.asarray(directions.sample(rng, 4000))
        assert set(np.unique(drawn)) == {-1.0, 1.0}
        assert abs((drawn < 0).mean() - backward) < 0.03


def test_tasks_are_drawn_inside_compiled_functions():
    env = envs.make("Navigation2D")
    goals = jax.jit(lambda env, key: env.tasks.sample(key, 5))(env, jax.random.key(0))
    assert isinstance(goals, jax.Array)
    assert goals.dtype == jnp.float32


def test_mistakes_in_distributions():
    with pytest.raises(InnerloopError, match=r"uniform between 2.0 and 1.0; give two finite numbers, low first"):
        envs.Uniform(2.0, 1.0)
    with pytest.raises(InnerloopError, match=r"threshold of directions, 3.0, is not between"):
        envs.Directions(0.0, 2.0, 3.0)
    with pytest.raises(InnerloopError, match="no environment 'Ant'"):
        envs.reference_tasks("Ant")


class TestGymnasium:
    """The environments one at a time."""

    gymnasium = pytest.importorskip("gymnasium")

    @pytest.mark.parametrize("options", [{}, {"oracle": True}], ids=["plain", "oracle"])
    @pytest.mark.parametrize("name", envs.ENVIRONMENTS)
    def test_gymnasium_has_nothing_to_complain_of(self, name, options):
        from gymnasium.utils.env_checker import check_env

        env = self.gymnasium.make(f"innerloop/{name}-v0", **options)
        assert env.spec.max_episode_steps == envs.ENVIRONMENTS[name].horizon
        check_env(env.unwrapped, skip_render_check=True)
        env.close()

    @pytest.mark.parametrize("name", ["Navigation2D", "HalfCheetahVelocity", "AntPosition"])
    def test_a_single_one_is_one_of_many(self, name):
        """Its task and the seed of its episode come from gymnasium's generator, in this order."""
        env = self.gymnasium.make(f"innerloop/{name}-v0")
        observation, info = env.reset(seed=5)
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5)))
        seed = int(rng.integers(2**31))
        task = envs.ENVIRONMENTS[name].tasks.sample(rng, 1)
        np.testing.assert_array_equal(info["task"], task[0])
        if name == "Navigation2D":
            return
        many = envs.make(name, num_envs=3)
        together = many.reset(np.repeat(task, 3, axis=0), np.array([1, seed, 2]))
        np.testing.assert_array_equal(observation, together[1])
        action = np.full(many.action_size, 0.3, np.float32)
        observation, reward, *_ = env.step(action)
        step = many.step(np.repeat(task, 3, axis=0), np.tile(action, (3, 1)))
        np.testing.assert_array_equal(observation, step.observation[1])
        assert reward == step.reward[1]

    def test_the_task_is_an_option_of_reset(self):
        env = self.gymnasium.make("innerloop/AntVelocity-v0")
        _, info = env.reset(seed=0, options={"task": 2.5})
        assert info["task"] == 2.5
        _, drawn = env.reset()
        assert drawn["task"] != 2.5
        with pytest.raises(InnerloopError, match="no reset option 'taks'; the only one is task"):
            env.reset(options={"taks": 1.0})
        with pytest.raises(InnerloopError, match=r"A task of AntVelocity has shape \[\], not \[2\]"):
            env.reset(options={"task": [1.0, 2.0]})

    def test_the_horizon_truncates(self):
        env = self.gymnasium.make("innerloop/Navigation2D-v0")
        env.reset(seed=0, options={"task": [0.5, 0.5]})
        ends = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
        assert ends[:-1] == [(False, False)] * 99
        assert ends[-1] == (False, True)

    def test_mistakes_in_making_one(self):
        with pytest.raises(InnerloopError, match="no option 'num_envs'; there are oracle and tasks"):
            self.gymnasium.make("innerloop/AntVelocity-v0", num_envs=3)
        with pytest.raises(InnerloopError, match="cannot render as 'human'"):
            import_module("innerloop.rl.envs.single").SingleJaxEnv("Navigation2D", render_mode="human")

    def test_navigation_is_drawn(self):
        env = self.gymnasium.make("innerloop/Navigation2D-v0", render_mode="rgb_array")
        env.reset(seed=0, options={"task": [0.5, 0.5]})
        for _ in range(3):
            env.step(np.array([1, -1], np.float32))
        picture = env.render()
        assert picture.shape == (240, 240, 3)
        assert picture.dtype == np.uint8
        at = lambda x, y: picture[round((0.75 - y) / 1.5 * 239), round((x + 0.75) / 1.5 * 239)].tolist()  # noqa: E731
        assert at(0.5, 0.5) == [60, 170, 90]
        assert at(0.3, -0.3) == [40, 90, 200]
        assert at(0.15, -0.15) == [170, 170, 170]
        assert at(-0.5, 0.5) == [255, 255, 255]

    def test_a_robot_is_drawn_where_there_is_opengl(self):
        """In a process of its own, which chooses a library for OpenGL when it loads MuJoCo."""
        program = """
import os, sys
os.environ["MUJOCO_GL"] = sys.argv[1]
try:
    import mujoco
    mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 8, 8).close()
except Exception:
    sys.exit(77)
import gymnasium, innerloop.rl.envs
from gymnasium.utils.passive_env_checker import env_render_passive_checker
for name in ("HalfCheetahVelocity", "AntPosition"):
    env = gymnasium.make(f"innerloop/{name}-v0", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env_render_passive_checker(env.unwrapped)
    for _ in range(10):
        env.step(env.action_space.sample())
    assert first.shape == (480, 480, 3) and first.std() > 10 and (env.render() != first).any()
    env.close()
"""
        for library in ("egl", "osmesa"):
            done = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=False)
            if done.returncode != 77:
                assert done.returncode == 0, done.stderr
                return
        pytest.skip("no OpenGL here")


@pytest.mark.parametrize(("name", "missing"), [("AntVelocity", "mujoco"), ("HalfCheetahVelocity", "gymnasium")])
def test_what_is_not_installed_is_named_with_its_extra(name, missing, monkeypatch):
    find = extras.import_module

    def without(module):
        if module == missing:
            raise ImportError(module)
        return find(module)

    monkeypatch.setattr(extras, "import_module", without)
    with pytest.raises(InnerloopError, match=rf"needs {missing}; install it with: pip install 'innerloop\[rl\]'"):
        envs.make(name)


def test_navigation_needs_neither_mujoco_nor_gymnasium():
    program = """
import sys
sys.modules |= {"mujoco": None, "gymnasium": None}
import importlib.util as util
find = util.find_spec
util.find_spec = lambda name, *rest: None if name in ("mujoco", "gymnasium") else find(name, *rest)
from innerloop.rl import envs
print(envs.make("Navigation2D").horizon)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("100\n", "")
