"""The compiled models are rllab's on MuJoCo 1.31, field by field where it is known."""

import numpy as np
import pytest

from innerloop import InnerloopError

mujoco = pytest.importorskip("mujoco")
gymnasium = pytest.importorskip("gymnasium")

from innerloop.rl.envs import robots  # noqa: E402

CHEETAH_MASSES = [6.36031332, 1.53524804, 1.58093995, 1.0691906, 1.42558747, 1.17885117, 0.84986945]
ANT_MASSES = [0.32724923, *[0.03647693, 0.03647693, 0.06491138] * 4]
CHEETAH_JOINTS = {  # range, stiffness, damping, gear
    "bthigh": (-0.52, 1.05, 240, 6, 120),
    "bshin": (-0.785, 0.785, 180, 4.5, 90),
    "bfoot": (-0.4, 0.785, 120, 3, 60),
    "fthigh": (-1, 0.7, 180, 4.5, 120),
    "fshin": (-1.2, 0.87, 120, 3, 60),
    "ffoot": (-0.5, 0.5, 60, 1.5, 30),
}


@pytest.fixture(scope="module")
def cheetah():
    return robots.half_cheetah().model


@pytest.fixture(scope="module")
def ant():
    return robots.ant().model


def tensors(model):
    """Inertia of each body in its own frame: principal moments alone leave the axes open."""
    result = []
    for moments, quat in zip(model.body_inertia, model.body_iquat, strict=True):
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, quat)
        rotation = rotation.reshape(3, 3)
        result.append(rotation @ np.diag(moments) @ rotation.T)
    return np.stack(result)


def test_the_masses_are_those_of_old_mujoco(cheetah, ant):
    np.testing.assert_allclose(cheetah.body_mass[1:], CHEETAH_MASSES, atol=1e-7)
    np.testing.assert_allclose(cheetah.body_mass.sum(), 14, atol=1e-9)
    np.testing.assert_allclose(ant.body_mass[1:], ANT_MASSES, atol=1e-7)


def test_the_inertia_of_a_leg_is_that_of_a_cylinder(ant):
    """The ant's outer leg is one capsule of radius 0.08 from the body's origin to (0.4, 0.4, 0)."""
    radius, middle = 0.08, np.hypot(0.4, 0.4)
    length = middle + radius
    mass = np.pi * radius**2 * length * 5
    along, across = mass * radius**2 / 2, mass * (3 * radius**2 + length**2) / 12
    axis = np.array([1, 1, 0]) / np.sqrt(2)
    wanted = across * np.eye(3) + (along - across) * np.outer(axis, axis)
    leg = 4
    np.testing.assert_allclose(ant.body_mass[leg], mass, rtol=1e-12)
    np.testing.assert_allclose(ant.body_ipos[leg], [0.2, 0.2, 0], atol=1e-12)
    np.testing.assert_allclose(tensors(ant)[leg], wanted, atol=1e-12)


def test_the_inertia_of_two_geoms_is_that_of_their_parts(cheetah):
    """Torso and head of the cheetah, cut into many small pieces."""
    scale = 14 / sum(volume(size) * 1000 for size in cheetah.geom_size[1:])
    pieces = []
    for geom in np.flatnonzero(cheetah.geom_bodyid == 1):
        radius, half = cheetah.geom_size[geom][:2]
        z = (np.arange(400) + 0.5) / 400 * (2 * half + radius) - (half + radius / 2)
        angle = np.arange(60) * 2 * np.pi / 60
        r = radius * np.sqrt((np.arange(200) + 0.5) / 200)
        x, y = np.outer(r, np.cos(angle)).ravel(), np.outer(r, np.sin(angle)).ravel()
        second = np.diag([np.mean(x**2), np.mean(y**2), np.mean(z**2)])
        rotation = np.empty(9)
        mujoco.mju_quat2Mat(rotation, cheetah.geom_quat[geom])
        rotation = rotation.reshape(3, 3)
        mass = volume(cheetah.geom_size[geom]) * 1000 * scale
        pieces.append((mass, cheetah.geom_pos[geom], rotation @ second @ rotation.T))
    total = sum(mass for mass, _, _ in pieces)
    centre = sum(mass * place for mass, place, _ in pieces) / total
    second = sum(mass * (spread + np.outer(p - centre, p - centre)) for mass, p, spread in pieces)
    wanted = np.trace(second) * np.eye(3) - second
    np.testing.assert_allclose(cheetah.body_mass[1], total, rtol=1e-9)
    np.testing.assert_allclose(cheetah.body_ipos[1], centre, atol=1e-9)
    np.testing.assert_allclose(tensors(cheetah)[1], wanted, rtol=1e-4, atol=1e-5)


def volume(size):
    return np.pi * size[0] ** 2 * (2 * size[1] + size[0])


def test_the_cheetah_is_the_tables(cheetah):
    assert (cheetah.nq, cheetah.nv, cheetah.nu, cheetah.nbody) == (9, 9, 6, 8)
    assert cheetah.opt.timestep == 0.01
    assert cheetah.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    np.testing.assert_array_equal(cheetah.opt.gravity, [0, 0, -9.81])
    assert cheetah.opt.disableflags == 0
    for index, (name, (low, high, stiffness, damping, gear)) in enumerate(CHEETAH_JOINTS.items()):
        joint = cheetah.joint(name)
        np.testing.assert_allclose(joint.range, [low, high])
        assert joint.stiffness[0] == stiffness
        assert cheetah.dof_damping[joint.dofadr[0]] == damping
        assert cheetah.dof_armature[joint.dofadr[0]] == 0.1
        np.testing.assert_allclose(joint.solimp[:3], [0, 0.8, 0.03])
        np.testing.assert_allclose(joint.solref, [0.02, 1])
        assert cheetah.actuator_trnid[index, 0] == joint.id
        assert cheetah.actuator_gear[index, 0] == gear
    assert (cheetah.jnt_limited[:3] == 0).all()
    for field in (cheetah.dof_damping, cheetah.dof_armature, cheetah.jnt_stiffness):
        assert (field[:3] == 0).all()
    np.testing.assert_array_equal(cheetah.actuator_ctrlrange, [[-1, 1]] * 6)
    np.testing.assert_allclose(cheetah.geom_friction, [[0.4, 0.1, 0.1]] * cheetah.ngeom)
    np.testing.assert_allclose(cheetah.geom_solimp[:, :3], [[0, 0.8, 0.01]] * cheetah.ngeom)
    np.testing.assert_allclose(cheetah.geom_solref, [[0.02, 1]] * cheetah.ngeom)
    np.testing.assert_array_equal(cheetah.geom_conaffinity, [1] + [0] * (cheetah.ngeom - 1))
    assert (cheetah.geom_condim == 3).all()
    assert (cheetah.geom_margin == 0).all()


def test_the_ant_is_the_tables(ant):
    assert (ant.nq, ant.nv, ant.nu, ant.nbody) == (15, 14, 8, 14)
    assert ant.opt.timestep == 0.02
    assert ant.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    assert ant.opt.disableflags == 0
    np.testing.assert_allclose(ant.geom_solimp, [[0.8, 0.8, 0.01, 0.5, 2]] * 14)
    np.testing.assert_allclose(ant.geom_solref, [[0.02, 1]] * 14)
    np.testing.assert_allclose(ant.geom_friction, [[1, 0.5, 0.5]] * 14)
    np.testing.assert_array_equal(ant.geom_conaffinity, [1] + [0] * 13)
    np.testing.assert_allclose(ant.dof_armature, [0] * 6 + [1] * 8)
    np.testing.assert_allclose(ant.dof_damping, [0] * 6 + [1] * 8)
    degrees = [[-30, 30], [30, 70], [-30, 30], [-70, -30], [-30, 30], [-70, -30], [-30, 30], [30, 70]]
    np.testing.assert_allclose(np.rad2deg(ant.jnt_range[1:]), degrees)
    np.testing.assert_allclose(ant.jnt_solimp[1:, :3], [[0.9, 0.95, 0.001]] * 8)
    order = [ant.joint(joint).name for joint in ant.actuator_trnid[:, 0]]
    assert order == ["hip_4", "ankle_4", "hip_1", "ankle_1", "hip_2", "ankle_2", "hip_3", "ankle_3"]
    initial = robots.ant().initial
    np.testing.assert_array_equal(initial, [0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1])


def test_the_ants_contact_margin_is_that_of_old_mujoco(ant):
    """A geom 0.009 above the floor touches, one 0.011 above it does not."""
    data = mujoco.MjData(ant)
    for gap, contacts in ((0.009, True), (0.011, False)):
        mujoco.mj_resetData(ant, data)
        data.qpos[2] = 0.25 + gap  # the torso is a sphere of 0.25; its legs are held up
        data.qpos[8::2] = [-1.2, 1.2, 1.2, -1.2]
        mujoco.mj_kinematics(ant, data)
        mujoco.mj_collision(ant, data)
        assert any(ant.geom("torso_geom").id in contact.geom for contact in data.contact[: data.ncon]) == contacts


def test_a_unit_control_is_the_torque_of_rllabs_150(ant):
    """rllab: gear 1 and controls to 150. Here: gear 150 and controls to 1. The trajectories have the same bits."""
    spec = mujoco.MjSpec.from_file(str(robots.Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml"))
    for actuator in spec.actuators:
        actuator.gear = np.array([1, 0, 0, 0, 0, 0])
        actuator.ctrlrange = np.array([-150, 150])
    theirs = spec.compile()
    np.testing.assert_array_equal(ant.actuator_gear[:, 0] * ant.actuator_ctrlrange[:, 1], [150] * 8)
    ours = mujoco.MjModel.from_xml_path(str(robots.Path(gymnasium.__file__).parent / "envs/mujoco/assets/ant.xml"))
    one, other = mujoco.MjData(ours), mujoco.MjData(theirs)
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = rng.uniform(-1, 1, 8)
        one.ctrl[:], other.ctrl[:] = action, 150 * action
        mujoco.mj_step(ours, one)
        mujoco.mj_step(theirs, other)
    np.testing.assert_allclose(one.qpos, other.qpos, atol=1e-9)


def test_a_gymnasium_without_the_models_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(gymnasium, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InnerloopError, match=r"does not have the model ant.xml at .*; install the version"):
        robots.ant()
