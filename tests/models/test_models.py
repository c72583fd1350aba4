"""The built-in networks and the adapters: shapes, initialisation, normalisation, and training end to end."""

import sys

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import innerloop as il
from innerloop import InnerloopError, losses, models, ops, rules
from innerloop.models import Normalisation
from networks import NETWORKS, some_slow

KEY = jax.random.key(0)


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("model", "image", "outputs", "parameters"),
    [
        (models.mlp(1, (40, 40), 1), (1,), 1, 1 * 40 + 40 + 40 * 40 + 40 + 40 + 1),
        # four 3x3 convolutions without bias, a shift of each channel, a head from the mean over space
        (models.convnet((28, 28, 1), 5), (28, 28, 1), 5, 9 * 64 + 3 * 9 * 64 * 64 + 4 * 64 + 64 * 5 + 5),
        # 84 → 42 → 21 → 10 → 5: a head from 5 * 5 * 32 = 800 features, as in the released code
        (
            models.convnet((84, 84, 3), 5, downsample="max-pool", filters=32),
            (84, 84, 3),
            5,
            27 * 32 + 3 * 9 * 32 * 32 + 4 * 32 + 800 * 5 + 5,
        ),
        (
            models.resnet12((84, 84, 3), 5, filters=(4, 8, 16, 32)),
            (84, 84, 3),
            5,
            sum((9 * i * o + 2 * 9 * o * o + i * o) + 4 * 2 * o for i, o in [(3, 4), (4, 8), (8, 16), (16, 32)])
            + 33 * 5,
        ),
    ],
    ids=["mlp", "omniglot", "miniimagenet", "resnet12"],
)
def test_shapes_and_sizes(model, image, outputs, parameters):
    params = jax.eval_shape(model.init, KEY)
    assert size(params) == parameters
    assert jax.eval_shape(model.apply, params, jnp.zeros((7, *image))).shape == (7, outputs)


def test_initialisation_is_that_of_the_papers_code():
    sinusoid = models.mlp(1, (40, 40), 1).init(KEY)
    kernel = np.asarray(sinusoid["dense2"]["kernel"])
    assert np.abs(kernel).max() <= 0.02
    assert 0.007 < kernel.std() < 0.01
    assert not sinusoid["dense2"]["bias"].any()
    head = models.convnet((28, 28, 1), 20).init(KEY)["head"]["kernel"]
    assert 0.9 < np.asarray(head).std() < 1.1


def test_normalisation_parts_are_a_choice():
    for scale in (False, True):
        for shift in (False, True):
            model = models.convnet((8, 8, 1), 3, filters=4, blocks=2, normalisation=Normalisation(scale, shift))
            assert set(model.init(KEY)["norm1"]) == {name for name, on in (("scale", scale), ("shift", shift)) if on}
    plain = models.convnet((8, 8, 1), 3, filters=4, blocks=2, normalisation=None)
    assert plain.moments is None
    assert "bias" in plain.init(KEY)["conv1"]


def test_normalised_activations_have_mean_zero_and_variance_one():
    normalisation = Normalisation(scale=False, shift=False, epsilon=0.0)
    y, moments = normalisation.apply("norm1", {}, 5 + 3 * jax.random.normal(KEY, (9, 4, 4, 2)), None)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)
    assert set(moments) == {"norm1"}


@pytest.mark.parametrize("name", ["convnet-stride", "convnet-max-pool", "resnet12", "mlp-normalised"])
def test_given_moments_reproduce_the_batch_at_hand(name):
    """The statistics of the batch at hand, handed over, change nothing and are used in every layer."""
    model, task, *_ = NETWORKS[name]()
    apply = jax.jit(model.apply)
    params = jax.jit(model.init)(KEY)
    x = jnp.asarray(task.support.x, jnp.float32)
    moments = jax.jit(model.moments)(params, x, None)
    np.testing.assert_allclose(apply(params, x, moments=moments), apply(params, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(apply(params, x[:1], moments=moments), apply(params, x)[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    some_slow(
        ["nnx-transformer", "nnx-recurrent", "linen-conv", "equinox-mlp", "equinox-gru", "function"], "nnx-transformer"
    ),
)
def test_adapters_train_end_to_end(name):
    """Exact second-order meta-training, vmapped over tasks and compiled, makes the loss after adaptation fall."""
    model, task, criterion, _ = NETWORKS[name]()
    task = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype.kind == "f" else leaf, task)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(KEY))
    flip = jax.tree.map(lambda a, b: jnp.stack([a, b]), task, il.Task(task.query, task.support))
    loss = il.meta_loss(losses.supervised(model, criterion), rule=rules.sgd(0.1), steps=1)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(params, state, key):
        gradient, metrics = il.meta_gradient(loss)(il.Meta(params, ()), flip, key)
        updates, state = optimizer.update(gradient.params, state)
        return optax.apply_updates(params, updates), state, metrics

    state, history = optimizer.init(params), []
    for i in range(25):
        params, state, metrics = step(params, state, jax.random.key(i))
        history.append(float(metrics["loss_after"]))
    assert np.mean(history[-3:]) < 0.9 * np.mean(history[:3])


@pytest.mark.parametrize("name", some_slow(["mlp", "convnet-stride", "convnet-max-pool"], "convnet-stride"))
def test_bfloat16_gives_the_meta_gradient_of_float32(name):
    """The parameters stay float32, and the meta-gradient is that of single precision to within the short rounding."""
    model, task, criterion, _ = NETWORKS[name]()
    # From here no two values of a window are so close that rounding exchanges them, which no bound could allow for.
    params = model.init(jax.random.key(1) if name == "convnet-max-pool" else KEY)

    def meta_gradient(model):
        value = il.meta_loss(losses.supervised(model, criterion), rule=rules.sgd(0.1), steps=2)
        return jax.jit(jax.grad(lambda params: value(il.Meta(params, ()), task, KEY)[0]))(params)

    short = models.in_precision(model, jnp.bfloat16)
    assert jax.eval_shape(short.init, KEY) == jax.eval_shape(model.init, KEY)
    exact, rounded = meta_gradient(model), meta_gradient(short)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    difference = optax.tree.norm(optax.tree.sub(exact, rounded)) / optax.tree.norm(exact)
    assert 1e-5 < difference < 0.1


@pytest.mark.usefixtures("x64")
def test_float64_computes_in_double_precision():
    model = models.in_precision(models.convnet((8, 8, 1), 3, filters=4, blocks=2), jnp.float64)
    params = model.init(KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float64")}
    x = jax.random.normal(KEY, (2, 8, 8, 1), jnp.float32)
    assert model.apply(params, x).dtype == jnp.float64
    assert model.moments(params, x, None)["norm1"]["mean"].dtype == jnp.float64


class Dropout(nnx.Module):
    def __init__(self, *, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.scale = nnx.Param(jnp.ones(4))

    def __call__(self, x):
        return self.drop(self.norm(x)) * self.scale


class EquinoxDropout(eqx.Module):
    drop: eqx.nn.Dropout
    scale: jax.Array
    table: jax.Array

    def __init__(self, key):
        self.drop, self.scale, self.table = eqx.nn.Dropout(0.5), jnp.ones(4), jnp.arange(4)

    def __call__(self, x, *, key=None):
        return self.drop(x * self.scale + self.table * 0, key=key, inference=key is None)


class LinenDropout(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=False)(x) * self.param("scale", linen.initializers.ones, (4,))


@pytest.mark.parametrize(
    "model",
    [
        models.from_nnx(lambda rngs: Dropout(rngs=rngs)),
        models.from_equinox(EquinoxDropout),
        models.from_linen(LinenDropout(), jax.ShapeDtypeStruct((1, 4), jnp.float32)),
    ],
    ids=["nnx", "equinox", "linen"],
)
def test_dropout_draws_from_the_losses_key(model):
    params, x = model.init(KEY), jax.random.normal(KEY, (16, 4))
    one, other = model.apply(params, x, key=jax.random.key(1)), model.apply(params, x, key=jax.random.key(2))
    assert (np.asarray(one) != np.asarray(other)).any()
    assert (np.asarray(one) == np.asarray(model.apply(params, x, key=jax.random.key(1)))).all()


def test_nothing_leaks_from_call_to_call_in_nnx():
    """Batch normalisation writes running averages; the adapter drops them, so a call cannot change the next."""
    model = models.from_nnx(lambda rngs: Dropout(rngs=rngs))
    params, x = model.init(KEY), jax.random.normal(KEY, (16, 4))
    before = model.apply(params, x, key=KEY)
    model.apply(params, 100 * x, key=KEY)
    assert (np.asarray(before) == np.asarray(model.apply(params, x, key=KEY))).all()


def test_different_keys_initialise_differently():
    for name in ("nnx-transformer", "linen-conv", "equinox-mlp"):
        model = NETWORKS[name]().model
        one, other = jax.tree.leaves(model.init(jax.random.key(1))), jax.tree.leaves(model.init(jax.random.key(2)))
        assert any((a != b).any() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.convnet((8, 8, 1), 5, downsample="max-pool"), "8x8 image is too small for 4 blocks"),
        (lambda: models.resnet12((8, 8, 1), 5), "8x8 image is too small for 4 blocks"),
    ],
)
def test_images_too_small_are_refused(make, message):
    with pytest.raises(InnerloopError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (lambda: models.from_nnx(lambda rngs: None), "flax.nnx", "flax"),
        (lambda: models.from_linen(None, None), "flax.linen", "flax"),
        (lambda: models.from_equinox(lambda key: None), "equinox", "equinox"),
    ],
)
def test_a_missing_library_names_its_extra(make, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InnerloopError, match=rf"needs {module}; install it with: pip install 'innerloop\[{extra}\]'"):
        make()


def test_pooling_before_normalisation_gives_the_same_bits():
    model = models.convnet((8, 8, 3), 5, downsample="max-pool", filters=4, blocks=1)
    params = model.init(KEY)
    params["norm1"] = {"shift": jnp.linspace(-1, 1, 4)}
    x = jax.random.normal(KEY, (6, 8, 8, 3))
    y = ops.conv2d(x, params["conv1"]["kernel"])
    y, _ = Normalisation(scale=False).apply("norm1", params["norm1"], y, None)
    y = ops.max_pool(jax.nn.relu(y), 2).reshape(6, -1)
    np.testing.assert_array_equal(model.apply(params, x), y @ params["head"]["kernel"] + params["head"]["bias"])
