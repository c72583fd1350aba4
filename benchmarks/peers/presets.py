"""How long the compilation of each preset takes. Images of noise stand in for the data sets, so nothing is fetched."""

import os
import time
from dataclasses import replace
from typing import Any

import numpy as np

CLASSES, EACH = 20, 20
"""Enough for every preset's episodes."""


def names() -> list[str]:
    """The presets of the program."""
    from innerloop.workloads.episodes.recipes import RECIPES

    return list(RECIPES)


def compile_seconds(name: str, cache: str) -> float:
    """Seconds to trace, lower and compile a preset's training program, in a process that has done nothing before.

    Args:
        name: of the preset.
        cache: the program's cache folder; empty for a cold start.
    """
    os.environ["INNERLOOP_CACHE"] = cache
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)  # the program chooses
    from innerloop.runs import machine
    from innerloop.workloads.episodes import memory, recipes, training, tune
    from innerloop.workloads.episodes.build import assemble, build
    from innerloop.workloads.episodes.data import miniimagenet, omniglot
    from innerloop.workloads.episodes.network import IMAGE_SHAPES

    config = recipes.configure(name)
    machine.set_up(config.layout.shards, config.network.precision)

    def noise(*_: Any) -> dict[omniglot.Part, omniglot.Labelled]:
        images = np.random.default_rng(0).integers(
            0, 256, (CLASSES * EACH, *IMAGE_SHAPES[type(config.tasks)]), np.uint8
        )
        return dict.fromkeys(omniglot.PARTS, omniglot.Labelled(images, np.repeat(np.arange(CLASSES), EACH)))

    omniglot.load = miniimagenet.load = noise
    data = build(config, print).data
    experiment = assemble(replace(config, layout=tune.candidates(config)[0]), data)
    state = experiment.layout.replicate(training.initial_state(experiment))
    tasks = experiment.layout.replicate(experiment.training_tasks())
    start = time.perf_counter()
    memory.compiled_steps(experiment, state, tasks)
    return time.perf_counter() - start
