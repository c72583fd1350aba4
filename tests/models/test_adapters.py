"""Random streams of modules, seeded anew for every step and task, and what modules keep from step to step."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import Examples, Meta, PerStep, Task, adapt, losses, meta_loss, models, rules
from innerloop.errors import InnerloopError
from oracles import finite_difference

X = jnp.ones((2, 64))


def nnx_network(streams):
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, *, rngs):
            given = nnx.Rngs(**{name: i for i, name in enumerate(streams)}) if streams else rngs
            self.dense = nnx.Linear(64, 64, rngs=rngs)
            self.first = nnx.Dropout(0.5, rngs=given)
            self.second = nnx.Dropout(0.5, rngs=given)

        def __call__(self, x):
            return jnp.concatenate([self.first(jnp.ones_like(x)), self.second(jnp.ones_like(self.dense(x)))], -1)

    return models.from_nnx(Network)


def linen_network(stream):
    linen = pytest.importorskip("flax.linen")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            scale = self.param("scale", linen.initializers.ones, ())
            return scale * jax.random.bernoulli(self.make_rng(stream), 0.5, x.shape)

    return models.from_linen(Network(), X)


def equinox_network():
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        dropout: eqx.nn.Dropout
        scale: jax.Array

        def __init__(self, key):
            self.dropout, self.scale = eqx.nn.Dropout(0.5), jnp.ones(())

        def __call__(self, x, key=None):
            return self.scale * self.dropout(x, key=key)

    return models.from_equinox(Network)


NETWORKS = {
    "nnx, the default stream": lambda: nnx_network(()),
    "nnx, streams of its own": lambda: nnx_network(("params", "dropout")),
    "nnx, default and dropout": lambda: nnx_network(("default", "dropout")),
    "linen, dropout": lambda: linen_network("dropout"),
    "linen, another name": lambda: linen_network("noise"),
    "equinox": equinox_network,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_follow_the_key(name):
    model = NETWORKS[name]()
    params = model.init(jax.random.key(0))
    apply = jax.jit(lambda key: model.apply(params, X, key=key))
    one, same, other = (np.asarray(apply(jax.random.key(seed))) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).mean() > 0.25
    if name.startswith("nnx"):
        assert (one[:, :64] != one[:, 64:]).any(), "two layers share a mask"


def test_a_module_without_its_state_is_refused():
    eqx = pytest.importorskip("equinox")
    with pytest.raises(InnerloopError, match=r"a module with a state .* and not the state"):
        models.from_equinox(lambda key: eqx.nn.BatchNorm(4, "batch", mode="ema"))
    with pytest.raises(InnerloopError, match="makes a module, or a pair"):
        models.from_equinox(lambda key: (eqx.nn.MLP(1, 1, 4, 1, key=key), 3))
    with pytest.raises(InnerloopError, match="needs a model that keeps a state"):
        losses.stateful(models.mlp(1, (2,), 1), losses.squared_error)


WIDTH = 3
DECAY = 0.9


def nnx_norm(training):
    nnx = pytest.importorskip("flax.nnx")

    class Network(nnx.Module):
        def __init__(self, *, rngs):
            self.norm = nnx.BatchNorm(WIDTH, momentum=DECAY, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(WIDTH, 1, rngs=rngs)

        def __call__(self, x, training):
            x = self.norm(x, use_running_average=not training)
            return self.head(self.dropout(x, deterministic=not training))

    return models.from_nnx(Network, training=training), lambda state: state["norm"]


def linen_norm(training):
    linen = pytest.importorskip("flax.linen")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, training):
            x = linen.BatchNorm(momentum=DECAY, use_running_average=not training, name="norm")(x)
            x = linen.Dropout(0.5, deterministic=not training)(x)
            return linen.Dense(1)(x)

    inputs = jax.ShapeDtypeStruct((4, WIDTH), float)
    return models.from_linen(Network(), inputs, training=training), lambda state: state["batch_stats"]["norm"]


@cache  # parameters of one class do not fit another
def equinox_class():
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        norm: eqx.nn.BatchNorm
        dropout: eqx.nn.Dropout
        head: eqx.nn.Linear

        def __init__(self, key):
            self.norm = eqx.nn.BatchNorm(WIDTH, "batch", momentum=DECAY, mode="ema")
            self.dropout, self.head = eqx.nn.Dropout(0.5), eqx.nn.Linear(WIDTH, 1, key=key)

        def __call__(self, x, state, key=None):
            x, state = self.norm(x, state)
            return self.head(self.dropout(x, key=key)), state

    return Network


def equinox_norm(training):
    eqx = pytest.importorskip("equinox")

    def make(key):
        module, state = eqx.nn.make_with_state(equinox_class())(key)
        return (module if training else eqx.nn.inference_mode(module)), state

    def averages(state):
        mean, var = (leaf for leaf in state if leaf.shape[-1:] == (WIDTH,))
        return {"mean": mean, "var": var}

    return models.from_equinox(make), averages


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("network", [nnx_norm, linen_norm, equinox_norm])
def test_stateful_layers_go_through_the_inner_loop(network):
    """Running averages follow the steps of one task and start anew in the next; the gradient through them is right."""
    (model, averages), (judge, _) = network(True), network(False)
    as_double = lambda tree: jax.tree.map(  # noqa: E731
        lambda leaf: leaf.astype(float) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )
    doubled = lambda loss: loss._replace(init=lambda params: as_double(loss.init(params)))  # noqa: E731
    loss, query_loss = (doubled(losses.stateful(each, losses.squared_error)) for each in (model, judge))
    params = as_double(model.init(jax.random.key(0)))
    steps, rule = 3, rules.sgd(0.1)
    x = jax.random.normal(jax.random.key(1), (2, steps, 4, WIDTH)) + 5
    support = Examples(x, jnp.sum(x, -1, keepdims=True))
    query = Examples(x[:, 0], jnp.zeros((2, 4, 1)))

    def run(support, key):
        return adapt(loss, Meta(params, ()), PerStep(support), key, rule=rule, steps=steps).end.state

    states = jax.jit(jax.vmap(run))(support, jax.random.split(jax.random.key(2), 2))
    for task in range(2):
        mean = averages(loss.init(params))["mean"]
        for t in range(steps):
            first = network is equinox_norm and t == 0  # Equinox's averages start at the first batch
            mean = jnp.mean(x[task, t], 0) if first else DECAY * mean + (1 - DECAY) * jnp.mean(x[task, t], 0)
        np.testing.assert_allclose(averages(states)["mean"][task], mean, rtol=1e-6)

    one = jax.tree.map(lambda leaf: leaf[0], Task(PerStep(support), query))
    meta_loss_of = meta_loss(loss, rule=rule, steps=steps, query_loss=query_loss)
    maml = jax.jit(lambda params: meta_loss_of(Meta(params, ()), one, jax.random.key(3))[0])
    slope, direction = finite_difference(maml, params)
    gradient = jax.jit(jax.grad(maml))(params)
    along = jax.tree.reduce(jnp.add, jax.tree.map(jnp.vdot, gradient, direction))
    assert abs(along - slope) < 1e-7 * abs(slope)


@pytest.mark.parametrize("name", ["nnx, streams of its own", "linen, another name", "equinox"])
def test_masks_differ_between_steps_and_tasks(name):
    model = NETWORKS[name]()
    params = model.init(jax.random.key(0))

    def loss(params, batch, key):
        mask = model.apply(params, batch, key=key)
        return jnp.sum(mask), {"mask": mask}

    def masks(key):
        return adapt(loss, Meta(params, ()), X, key, rule=rules.sgd(0.0), steps=2).metrics["mask"]

    found = jax.jit(jax.vmap(masks))(jax.random.split(jax.random.key(1), 2)).reshape(4, -1)
    for i in range(4):
        for j in range(i):
            assert (found[i] != found[j]).mean() > 0.25
