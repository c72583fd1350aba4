"""The robots' environments once more: one `MjData` in a plain loop, with MuJoCo's own functions, as the reference."""

import mujoco
import numpy as np

GOALS = {
    "HalfCheetahVelocity": lambda v, c, g: -abs(v[0] - g),
    "HalfCheetahDirection": lambda v, c, g: g * v[0],
    "AntVelocity": lambda v, c, g: 1 - abs(v[0] - g),
    "AntDirection": lambda v, c, g: g * v[0],
    "AntPosition": lambda v, c, g: 4 - abs(c[0] - g[0]) - abs(c[1] - g[1]),
}


class Plain:
    """One simulation: rllab's order of things, which computes everything anew after each step."""

    def __init__(self, name, model):
        self.name, self.model, self.data = name, model, mujoco.MjData(model)

    def complete(self):
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_rnePostConstraint(self.model, self.data)
        mujoco.mj_subtreeVel(self.model, self.data)

    def observation(self):
        d = self.data
        if "Cheetah" in self.name:
            return np.concatenate([d.qpos[1:], d.qvel, d.subtree_com[1]])
        contact = np.clip(d.cfrc_ext, -1, 1).ravel()
        return np.concatenate([d.qpos, d.qvel, contact, d.xmat[1], d.subtree_com[1]])

    def reset(self, seed):
        m, d = self.model, self.data
        mujoco.mj_resetData(m, d)
        noise = np.random.default_rng(seed).standard_normal(m.nq + m.nv)
        d.qpos[:] = 0.01 * noise[: m.nq]
        if "Ant" in self.name:
            d.qpos[:] += m.numeric("init_qpos").data
        d.qvel[:] = 0.1 * noise[m.nq :]
        mujoco.mj_normalizeQuat(m, d.qpos)
        self.complete()
        return self.observation()

    def step(self, action, goal):
        m, d = self.model, self.data
        d.ctrl[:] = np.clip(action, -1, 1)
        mujoco.mj_step(m, d)
        self.complete()
        reward = GOALS[self.name](d.subtree_linvel[1], d.subtree_com[1], goal)
        if "Cheetah" in self.name:
            return self.observation(), reward - 0.05 * np.sum(d.ctrl**2), False
        costs = 0.005 * np.sum(d.ctrl**2) + 0.0005 * np.sum(np.clip(d.cfrc_ext, -1, 1) ** 2)
        return self.observation(), reward + 0.05 - costs, not 0.2 <= d.qpos[2] <= 1.0
