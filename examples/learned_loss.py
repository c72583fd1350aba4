"""Your own loss, itself meta-learned: a regression loss that learns to shrug off outliers.

A task is a sinusoid whose support targets are spoilt in one case of five. The inner loss is a robust one with two
parameters, its scale and its exponent; the query set is clean and judged by the squared error. What the outer loop
learns is a pytree with the network *and* the loss in it, of which the inner loop adapts the network alone. The
meta-gradient is exact in both.

    python examples/learned_loss.py [META_STEPS]
"""

import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import innerloop as il
from innerloop import models, rules, tasks, types


@jax.tree_util.register_static
@dataclass(frozen=True)
class Spoilt:
    """Sinusoids with a fifth of the support targets replaced by noise."""

    def sample(self, key: Array, num_tasks: int) -> il.Task:
        task_key, where_key, noise_key = jax.random.split(key, 3)
        support, query = tasks.Sinusoids(shots=20, queries=20).sample(task_key, num_tasks)
        spoilt = jax.random.bernoulli(where_key, 0.2, support.y.shape)
        noise = jax.random.uniform(noise_key, support.y.shape, minval=-10.0, maxval=10.0)
        return il.Task(support._replace(y=jnp.where(spoilt, noise, support.y)), query)


def train(robust: bool, meta_steps: int) -> tuple[dict[str, Array], il.Meta]:
    """Meta-train with the squared error inside, or with a learned robust loss."""
    model = models.mlp(1, (40, 40), 1, initializer=models.glorot)
    rule = rules.masked(rules.sgd(0.01), lambda path, leaf: path.startswith("network/"))

    def inner(params: types.Params, batch: il.Examples, key: Array) -> tuple[Array, dict[str, Array]]:
        error = (model.apply(params["network"], batch.x) - batch.y) ** 2
        if not robust:
            return jnp.mean(error), {}
        scale, shape = jnp.exp(params["loss"]["log_scale"]), jax.nn.softplus(params["loss"]["shape"])
        return jnp.mean(scale * ((1 + error / scale) ** shape - 1)), {}

    def query(params: types.Params, batch: il.Examples, key: Array) -> tuple[Array, dict[str, Array]]:
        return jnp.mean((model.apply(params["network"], batch.x) - batch.y) ** 2), {}

    params = {
        "network": model.init(jax.random.key(0)),
        "loss": {"log_scale": jnp.zeros(()), "shape": jnp.asarray(0.54)},  # softplus(0.54) = 1: the squared error
    }
    optimizer = optax.adam(1e-3)
    step = il.meta_step(il.meta_loss(inner, rule=rule, steps=3, query_loss=query), optimizer, meta_batch=16)
    run = jax.jit(il.repeat(step), donate_argnums=0)
    state = il.init(params, rule, optimizer, jax.random.key(1))
    state, _ = run(state, Spoilt(), np.int32(meta_steps))
    state, metrics = run(state, Spoilt(), np.int32(max(meta_steps // 10, 1)))
    return metrics, state.meta


def main(meta_steps: int = 10_000) -> tuple[float, float]:
    """Return the query error after adaptation with the squared error and with the learned loss inside."""
    plain, _ = train(robust=False, meta_steps=meta_steps)
    learned, meta = train(robust=True, meta_steps=meta_steps)
    shape = float(jax.nn.softplus(meta.params["loss"]["shape"]))
    print(f"squared error inside: {plain['loss_after']:.3f}")
    print(f"learned loss inside:  {learned['loss_after']:.3f}  (exponent 1 → {shape:.2f}: large errors count less)")
    return float(plain["loss_after"]), float(learned["loss_after"])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
