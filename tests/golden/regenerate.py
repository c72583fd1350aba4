"""Golden loss curves of two tiny recipes. `make golden` records them anew after an intended change."""

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax

import innerloop as il
from innerloop import losses, models, rules, tasks

HERE = Path(__file__).parent
RECORDS, STEPS = 8, 10


def sinusoid() -> tuple[il.Loss, models.Model, tasks.Sinusoids, int]:
    model = models.mlp(1, (16, 16), 1, initializer=models.glorot)
    return losses.supervised(model, losses.squared_error), model, tasks.Sinusoids(5, 5), 2


def shapes() -> tuple[il.Loss, models.Model, tasks.Episodes, int]:
    """Episodes of noisy patterns, one pattern for each class, for the normalised four-convolution network."""
    rng = np.random.default_rng(0)
    patterns = rng.uniform(0, 150, (12, 1, 16, 16, 1))
    images = np.clip(patterns + rng.uniform(0, 100, (12, 6, 16, 16, 1)), 0, 255).astype(np.uint8)
    episodes = tasks.Episodes.from_labels(
        images.reshape(-1, 16, 16, 1), np.repeat(np.arange(12), 6), ways=3, shots=1, queries=2
    )
    model = models.convnet((16, 16, 1), 3, filters=8)
    return losses.supervised(model, losses.cross_entropy), model, episodes, 1


RECIPES: dict[str, Callable[[], tuple[il.Loss, models.Model, il.TaskDistribution, int]]] = {
    "sinusoid": sinusoid,
    "shapes": shapes,
}


def curve(name: str) -> list[float]:
    """The loss after adaptation, averaged over every ten meta-steps.

    In double precision: in single precision the rounding of another processor grows to some per cent on the way.
    """
    with jax.enable_x64(True):
        return _curve(name)


def _curve(name: str) -> list[float]:
    loss, model, distribution, steps = RECIPES[name]()
    rule, optimizer = rules.sgd(0.05), optax.adam(3e-3)
    step = il.meta_step(il.meta_loss(loss, rule=rule, steps=steps), optimizer, meta_batch=8)
    key = jax.random.key(0, impl="threefry2x32")
    state = il.init(model.init(key), rule, optimizer, key)
    run = jax.jit(il.repeat(step))
    history = []
    for _ in range(RECORDS):
        state, metrics = run(state, distribution, np.int32(STEPS))
        history.append(float(metrics["loss_after"]))
    return history


if __name__ == "__main__":
    for recipe in RECIPES:
        (HERE / f"{recipe}.json").write_text(json.dumps(curve(recipe)) + "\n")
