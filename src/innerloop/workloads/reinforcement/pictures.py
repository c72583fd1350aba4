"""What adapted policies do, in pictures: returns against goals, paths in the plane, robots in motion."""

import base64
import io
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from innerloop import rl
from innerloop.extras import require
from innerloop.runs import plots
from innerloop.runs.results import counted
from innerloop.types import Params
from innerloop.workloads.reinforcement import scoring
from innerloop.workloads.reinforcement.build import Experiment

SHOWN_TASKS, SHOWN_EPISODES = 3, 4
FRAME_STEPS, SPEED = 4, 0.5
"""Simulation steps between two frames of a video, and how fast it runs beside the robot."""
WIDTH, HEIGHT, METRE = 400, 150, 60
"""Of each robot's part of a video in pixels, and how many of them a metre takes."""
INK, GROUND, PAPER = (27, 31, 36), (170, 178, 186), (255, 255, 255)


def goals(tasks: np.ndarray, methods: Mapping[str, np.ndarray], published: np.ndarray | None) -> str:
    """The return of each test task against its goal: before adaptation, after the first update, after the last.

    Args:
        tasks: `[tasks]`, or points of the plane `[tasks, 2]`, which are told by their distance from the start.
        methods: returns by the legend's name, `[tasks, updates + 1]`.
        published: returns to show behind them, `[tasks, updates + 1]`; `None`: none.

    Returns:
        The picture, an `<svg>` element.
    """
    updates = min(len(returns[0]) for returns in [*methods.values(), *([] if published is None else [published])])
    shown = sorted({0, min(1, updates - 1), updates - 1})
    figure, axes = plots.pyplot().subplots(1, len(shown), figsize=(3.1 * len(shown), 3), sharey=True, squeeze=False)
    axis_name = "goal" if tasks.ndim == 1 else "distance of the goal"
    place = tasks if tasks.ndim == 1 else np.linalg.norm(tasks, axis=1)
    if len(set(place)) < len(place) / 2:  # directions: beside each other, in their order
        place = place + np.linspace(-0.3, 0.3, len(place))
    for axis, update in zip(axes[0], shown, strict=True):
        if published is not None:
            axis.plot(place, published[:, update], "x", color="#9a9a9a", markersize=4, label="published")
        for (name, returns), colour in zip(methods.items(), plots.COLOURS, strict=False):
            axis.plot(place, returns[:, update], "o", color=colour, markersize=3, alpha=0.8, label=name)
        axis.set(xlabel=axis_name, title="before" if update == 0 else f"after {counted(update, 'update')}")
    axes[0][0].set_ylabel("mean return")
    axes[0][-1].legend(fontsize=8)
    return plots.as_svg(figure)


def trajectories(experiment: Experiment, found: rl.Adaptation) -> str:
    """Paths in the plane, a row of pictures for each of the tasks that differ most in direction."""
    tasks = scoring.tasks(experiment.config)
    chosen = _spread(tasks)
    updates = found.returns.shape[1]
    figure, axes = plots.pyplot().subplots(
        SHOWN_TASKS, updates, figsize=(2.3 * updates, 2.3 * SHOWN_TASKS), sharex=True, sharey=True, squeeze=False
    )
    for update in range(updates):
        params = jax.tree.map(lambda leaf, update=update: jnp.asarray(leaf)[chosen, update], found.params)
        rollouts = rl.collect(
            experiment.env,
            experiment.policy,
            params,
            jnp.asarray(tasks[chosen], float),
            jax.random.key(update),
            episodes=SHOWN_EPISODES,
        )
        observed, mask = np.asarray(rollouts.observation)[..., :2], np.asarray(rollouts.mask)
        for row in range(SHOWN_TASKS):
            axis = axes[row][update]
            for episode in range(SHOWN_EPISODES):
                axis.plot(*observed[row, episode][mask[row, episode]].T, linewidth=0.9, alpha=0.8)
            axis.plot(*tasks[chosen[row]], "*", markersize=13, color="black")
            axis.set_aspect("equal")
            axis.set_title(f"{found.returns[chosen[row], update]:.1f}", fontsize=9)
            if row == SHOWN_TASKS - 1:
                axis.set_xlabel("before" if update == 0 else f"after {counted(update, 'update')}")
    return plots.as_svg(figure)


def video(experiment: Experiment, found: rl.Adaptation) -> str:
    """A moving picture of the robot before and after adaptation to two tasks, as an `<img>` element.

    It is drawn from the capsules that the robot is made of, from the side, so it needs no graphics library of MuJoCo.
    """
    image = require("PIL.Image", "report", "The report")
    tasks = scoring.tasks(experiment.config)
    along = tasks.reshape(len(tasks), -1)[:, 0]
    rows: list[list[list[np.ndarray]]] = []
    for update in (0, found.returns.shape[1] - 1):
        rows.append([])
        for task in (int(np.argmin(along)), int(np.argmax(along))):
            params = jax.tree.map(lambda leaf, at=(task, update): jnp.asarray(leaf)[at], found.params)
            goal = ", ".join(f"{value:.2g}" for value in np.atleast_1d(tasks[task]))
            said = f"goal {goal}, {'before' if update == 0 else f'after {update}'}"
            rows[-1].append(list(frames(experiment, params, np.asarray(tasks[task]), said)))
    length = max(len(part) for row in rows for part in row)
    rows = [[[*part, *[part[-1]] * (length - len(part))] for part in row] for row in rows]
    images = [
        image.fromarray(np.concatenate([np.concatenate([part[at] for part in row], axis=1) for row in rows])).quantize(
            32
        )
        for at in range(length)
    ]
    robot = cast(rl.envs.Locomotion, rl.envs.make(experiment.config.environment)).robot
    shown = round(1000 * FRAME_STEPS * robot.model.opt.timestep / SPEED)
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=shown, loop=0)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="the robot before and after adaptation" src="data:image/gif;base64,{data}">'


def frames(experiment: Experiment, params: Params, task: np.ndarray, said: str) -> Any:
    """An episode as pictures, `[height, width, 3]` each, with what is said of it and how far the robot is."""
    from PIL import Image, ImageDraw

    env = cast(rl.envs.Locomotion, rl.envs.make(experiment.config.environment, num_envs=1))
    act = jax.jit(experiment.policy.__call__)
    observation = env.reset(task[None], np.array([0]))
    base = HEIGHT - 20
    for t in range(env.horizon):
        if t % FRAME_STEPS == 0:
            ends, radius = env.capsules()
            centre = float(ends[..., 0].mean())
            image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
            draw = ImageDraw.Draw(image)
            draw.text((8, 6), f"{said}: {centre:+.1f} m", fill=INK)
            draw.line((0, base, WIDTH, base), fill=GROUND, width=2)
            for metre in range(round(centre) - 4, round(centre) + 5):
                at = WIDTH / 2 + (metre - centre) * METRE
                draw.line((at, base, at, base + 8), fill=GROUND, width=2)
            for (start, end), thick in zip(ends[..., (0, 2)], radius, strict=True):
                (x1, y1), (x2, y2) = ((WIDTH / 2 + METRE * (x - centre), base - METRE * z) for x, z in (start, end))
                r = METRE * thick
                draw.line((x1, y1, x2, y2), fill=INK, width=max(round(2 * r), 1))
                for x, y in ((x1, y1), (x2, y2)):
                    draw.ellipse((x - r, y - r, x + r, y + r), fill=INK)
            yield np.asarray(image)
        action, _ = act(params, jnp.asarray(observation[0], float), jax.random.key(t))
        step = env.step(task[None], np.asarray(action)[None])
        observation = step.observation
        if step.terminated[0]:
            break


def _spread(tasks: np.ndarray) -> np.ndarray:
    """Tasks whose goals lie far from each other: the farthest from the start, then the farthest from those chosen."""
    chosen = [int(np.argmax(np.linalg.norm(tasks, axis=1)))]
    while len(chosen) < SHOWN_TASKS:
        distances = np.linalg.norm(tasks[:, None] - tasks[chosen], axis=-1).min(axis=1)
        chosen.append(int(np.argmax(distances)))
    return np.array(chosen)
