"""MAML on sinusoids with the library: about twenty lines with the evaluation, half a minute.

python examples/sinusoid.py [META_STEPS]
"""

import sys
from functools import partial

import jax
import numpy as np
import optax

import innerloop as il
from innerloop import losses, models, tasks


def main(meta_steps: int = 20_000) -> list[float]:
    """Train, and return the mean squared error on unseen 5-shot tasks after 0, 1, ..., 10 inner steps."""
    model = models.mlp(1, (40, 40), 1, initializer=models.glorot)
    maml = il.algorithm("maml")(
        model, losses.squared_error, inner_rate=0.001, steps=1, optimizer=optax.adam(1e-3), meta_batch=25
    )
    train = jax.jit(il.repeat(maml.update), donate_argnums=0)
    state = maml.init(jax.random.key(0))
    for _ in range(5):
        state, metrics = train(state, tasks.Sinusoids(shots=10, queries=10), np.int32(meta_steps // 5))
        print(f"step {int(state.step):6}: loss {metrics['loss_before']:.2f} → {metrics['loss_after']:.2f}")

    evaluate = jax.jit(partial(maml.evaluate, steps=10))
    curves = evaluate(state.meta, tasks.Sinusoids(shots=5, queries=100), jax.random.key(2))
    mean, half_width = il.summarise(curves["query/loss"])
    for steps in (0, 1, 5, 10):
        print(f"after {steps:2} inner steps: {mean[steps]:.2f} ± {half_width[steps]:.2f}")
    return mean.tolist()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
