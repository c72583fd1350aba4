"""Random streams of modules: seeded anew for every step and task, whatever they are called."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import models
from innerloop.errors import InnerloopError

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


def test_a_module_with_a_state_of_its_own_is_refused():
    eqx = pytest.importorskip("equinox")
    with pytest.raises(InnerloopError, match="takes modules without a state of their own"):
        models.from_equinox(lambda key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(4, "batch", mode="ema"))
