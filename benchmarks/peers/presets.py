"""How long the compilation of each preset takes. Images of noise stand in for the data sets, so nothing is fetched."""

import os
import time
from typing import Any

import numpy as np

CLASSES, EACH = 20, 20
"""Enough for every preset's episodes."""


def names() -> list[str]:
    """The presets of the program."""
    from innerloop.experiment.recipes import RECIPES

    return list(RECIPES)


def compile_seconds(name: str, cache: str) -> float:
    """Seconds to trace, lower and compile a preset's training program, in a process that has done nothing before.

    Args:
        name: of the preset.
        cache: the program's cache folder; empty for a cold start.
    """
    os.environ["INNERLOOP_CACHE"] = cache
    from innerloop.experiment import plan, recipes, session, training
    from innerloop.experiment.build import IMAGE_SHAPES, build
    from innerloop.experiment.data import miniimagenet, omniglot

    config = session.set_up(recipes.config(name))

    def noise(*_: Any) -> dict[omniglot.Part, omniglot.Labelled]:
        images = np.random.default_rng(0).integers(
            0, 256, (CLASSES * EACH, *IMAGE_SHAPES[type(config.tasks)]), np.uint8
        )
        return dict.fromkeys(omniglot.PARTS, omniglot.Labelled(images, np.repeat(np.arange(CLASSES), EACH)))

    omniglot.load = miniimagenet.load = noise
    experiment = build(config, print)
    state = experiment.layout.replicate(training.initial_state(experiment))
    tasks = experiment.layout.replicate(experiment.training_tasks())
    start = time.perf_counter()
    plan.compiled_steps(experiment, state, tasks)
    return time.perf_counter() - start
