"""Low-rank additions: they are what W + s A B says, are adapted alone, and the rest stays."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import Examples, InnerloopError, Meta, Mixed, Reverse, Task, adapt, losses, meta_loss, models, rules
from oracles import relative_error

KEY = jax.random.key(0)
TINY = models.TransformerDescription(vocabulary=11, width=8, layers=2, heads=2, length=9)
TOKENS = jax.random.randint(KEY, (4, 7), 0, 11)
BATCH = Examples(TOKENS[:, :-1], TOKENS[:, 1:])
FACTORS = rules.masked(rules.from_optax(optax.adamw(0.01, eps_root=1e-8)), lambda path, leaf: path.startswith("lora/"))


def kernels(path, leaf):
    return path.endswith(("query/kernel", "value/kernel"))


def moved(params):
    """With factors that are not zero."""
    return params | {"lora": jax.tree.map(lambda leaf: leaf + 0.3, params["lora"])}


def test_at_first_the_network_is_what_it_was_and_then_a_sum():
    plain = models.transformer(TINY)
    model = models.lora(plain, kernels, rank=2, scale=0.5)
    params = model.init(KEY)
    assert jax.tree.map(jnp.shape, params["lora"]["blocks"]["query"]["kernel"]) == {"down": (2, 8, 2), "up": (2, 2, 8)}
    np.testing.assert_array_equal(model.apply(params, TOKENS), plain.apply(params["network"], TOKENS))
    params = moved(params)
    added = jax.tree.map(lambda leaf: leaf, params["network"])
    for name in ("query", "value"):
        factors = params["lora"]["blocks"][name]["kernel"]
        added["blocks"][name]["kernel"] += 0.5 * factors["down"] @ factors["up"]
    assert relative_error(model.apply(params, TOKENS), plain.apply(added, TOKENS)) < 1e-5


IMAGES, ROWS = jnp.ones((2, 4, 4, 3)), jnp.ones((4, 3))


@pytest.mark.parametrize(
    ("make", "where", "x"),
    [
        (lambda: models.mlp(3, (5,), 2), lambda path, leaf: path == "dense1/kernel", ROWS),
        (lambda: models.convnet((4, 4, 3), 2, filters=4, blocks=1), lambda path, leaf: "conv1/" in path, IMAGES),
        (
            lambda: models.from_equinox(lambda key: eqx.nn.MLP(3, 2, 5, 1, key=key)),
            lambda path, leaf: leaf.ndim == 2,
            ROWS,
        ),
    ],
    ids=["mlp", "convolution", "equinox"],
)
def test_any_network_has_them(make, where, x):
    model = make()
    added = models.lora(model, where, rank=2)
    params = added.init(KEY)
    np.testing.assert_allclose(added.apply(params, x), model.apply(params["network"], x), rtol=1e-6)
    assert relative_error(added.apply(moved(params), x), model.apply(params["network"], x)) > 1e-3


@pytest.mark.usefixtures("x64")
def test_the_meta_gradient_is_exact_and_reaches_what_is_not_frozen():
    def gradient(adjoint, frozen, parts=1):
        plain = models.transformer(TINY)
        weights = jax.tree.map(lambda leaf: leaf.astype(float), plain.init(KEY))
        model = models.lora(plain, kernels, rank=2, frozen=weights if frozen else None)
        params = jax.tree.map(lambda leaf: leaf.astype(float), moved(model.init(KEY)))
        if not frozen:
            params["network"] = weights
        loss = losses.micro_batched(losses.supervised(model, losses.cross_entropy), parts)
        value = meta_loss(loss, rule=FACTORS, steps=2, adjoint=adjoint)
        task = Task(BATCH, BATCH._replace(x=BATCH.y))
        return jax.jit(jax.grad(lambda params: value(Meta(params, ()), task, KEY)[0]))(params)

    exact = gradient(Mixed(unroll=0), frozen=False)
    assert relative_error(exact, gradient(Reverse(unroll=0), frozen=False)) < 1e-10
    assert jnp.abs(exact["network"]["tokens"]["embedding"]).max() > 1e-5
    frozen = gradient(Mixed(unroll=0), frozen=True)
    assert list(frozen) == ["lora"]
    np.testing.assert_allclose(*(jax.tree.leaves(tree["lora"])[0] for tree in (frozen, exact)), rtol=1e-8)
    assert relative_error(gradient(Mixed(unroll=0), frozen=True, parts=2), frozen) < 1e-10


def test_the_inner_loop_adapts_them_alone():
    model = models.lora(models.transformer(TINY), kernels, rank=2)
    params = model.init(KEY)
    loss = losses.supervised(model, losses.cross_entropy)
    end = adapt(loss, Meta(params, ()), BATCH, KEY, rule=FACTORS, steps=2).params
    jax.tree.map(np.testing.assert_array_equal, end["network"], params["network"])
    assert jnp.abs(end["lora"]["blocks"]["query"]["kernel"]["up"]).max() > 0


@pytest.mark.parametrize(
    ("where", "rank", "message"),
    [
        (kernels, 0, r"lora\(rank=0\) adds nothing"),
        (kernels, 9, r"lora\(rank=9\) is larger than the matrix blocks/query/kernel of 8 by 8 allows; .* at most 8"),
        (lambda path, leaf: False, 2, "chooses no parameter; they are: blocks/down/bias"),
        (
            lambda path, leaf: path.endswith("bias"),
            2,
            r"chooses blocks/down/bias of shape \[2, 8\], which is no matrix",
        ),
    ],
)
def test_what_cannot_be_is_refused(where, rank, message):
    with pytest.raises(InnerloopError, match=message):
        models.lora(models.transformer(TINY), where, rank)


def test_frozen_parameters_of_another_network_are_refused():
    plain = models.mlp(3, (5,), 2)
    frozen = plain.init(KEY)
    frozen["dense1"]["kernel"] = frozen["dense1"]["kernel"][:2]
    del frozen["head"]["bias"]
    with pytest.raises(InnerloopError, match=r"these differ: \['dense1/kernel', 'head/bias'\]"):
        models.lora(plain, lambda path, leaf: path == "head/kernel", 1, frozen=frozen)
