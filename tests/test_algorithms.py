"""Every row of the table obeys the same protocol."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import ALGORITHMS, Examples, InnerloopError, Meta, Task, losses, models, tasks
from innerloop.core import algorithms
from oracles import finite_difference, maml_gradient, quadratic_loss, quadratic_task, relative_error

KEY = jax.random.key(0)


def built(name, loss, rate=0.05, steps=2):
    row = il.algorithm(name)
    rule = row.rule(rate, steps)
    return rule, algorithms.build(row, loss, rule=rule, steps=steps)


def setting(name):
    """A small network that suits the row, its inner and query loss, tasks, and an inner step size."""
    if il.algorithm(name).network in ("prototypes", "shared-head"):
        x, y = jnp.linspace(-1.0, 1.0, 40)[:, None], jnp.arange(40, dtype=jnp.int32) // 5
        pair = tasks.Episodes.from_labels(np.asarray(x), np.asarray(y), ways=2, shots=2, queries=3)
        if name == "unicorn-maml":
            model = models.shared_head(models.mlp(1, (16,), 2, initializer=models.glorot))
            loss = losses.supervised(model, losses.cross_entropy)
            return model, loss, loss, pair, 0.5
        model = models.prototypical(models.mlp(1, (16,), 8, initializer=models.glorot), 8, ways=2)
        inner, query = (losses.supervised(model, each) for each in (losses.to_prototype, losses.cross_entropy))
        return model, inner, query, pair, 1.0
    if il.algorithm(name).network == "context":
        model = models.with_context(models.mlp(5, (16,), 1, initializer=models.glorot), 4)
    else:
        model = models.mlp(1, (16,), 1, initializer=models.glorot)
    loss = losses.supervised(model, losses.squared_error)
    return model, loss, loss, tasks.Sinusoids(), 0.3 if name == "cavia" else 0.05


def one_task(name):
    """A task for the network of `setting`, in the precision at hand."""
    if name in ("protonet", "unicorn-maml"):
        rng, labels = np.random.default_rng(0), jnp.tile(jnp.arange(2, dtype=jnp.int32), 3)
        return Task(*(Examples(jnp.asarray(rng.normal(size=(6, 1))), labels) for _ in range(2)))
    return jax.tree.map(lambda leaf: leaf[0], tasks.Sinusoids().sample(KEY, 1))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_protocol(name):
    """It learns, it is pure, the second call compiles nothing, and its row names paper and purpose."""
    row = il.algorithm(name)
    model, loss, query_loss, distribution, rate = setting(name)
    rule = row.rule(rate, 2)
    meta_loss = algorithms.build(row, loss, rule=rule, steps=2, query_loss=query_loss)
    optimizer = optax.adam(3e-3)
    step = il.meta_step(meta_loss, optimizer, meta_batch=8, iterations=600, radius=row.outer.radius)
    run = jax.jit(il.repeat(step))
    state = il.init(model.init(KEY), rule, optimizer, KEY)
    first, metrics = run(state, distribution, np.int32(3))
    again, _ = run(state, distribution, np.int32(3))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), first.meta, again.meta)
    assert all(jax.tree.leaves(same))
    _, later = run(first, distribution, np.int32(600))
    assert run._cache_size() == 1
    assert later["loss_after"] < metrics["loss_after"]
    assert ("loss_before" in metrics) == row.adapts
    assert row.summary
    assert row.cost
    assert row.use
    assert "20" in row.reference


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "exact_steps"), [("maml", None), ("fomaml", 0), ("truncated-maml", 1), ("meta-sgd", None)]
)
def test_closed_form(name, exact_steps):
    theta, task = jnp.arange(4.0), quadratic_task(0)
    rule, meta_loss = built(name, quadratic_loss)
    gradient = jax.grad(lambda t: meta_loss(Meta(t, rule.init(theta)), task, KEY)[0])(theta)
    assert relative_error(gradient, maml_gradient(theta, task, 0.05, 2, exact_steps)) < 1e-10


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "progress"),
    [
        *((name, 0.5) for name in ("maml++", "alfa", "meta-curvature", "anil", "boil", "protonet")),
        *((name, 0.5) for name in ("cavia", "unicorn-maml")),
        ("maml+msl+lslr", 0.05),
    ],
)
def test_exact_rows_against_finite_differences(name, progress):
    """In the initialisation and in all that the rule learns, away from its initial values."""
    row = il.algorithm(name)
    model, loss, query_loss, _, rate = setting(name)
    rule = row.rule(rate, 3)
    value = algorithms.build(row, loss, rule=rule, steps=3, query_loss=query_loss)
    task = one_task(name)
    params = model.init(KEY)
    noise = iter(np.random.default_rng(0).normal(size=(100,)))
    meta = jax.tree.map(lambda leaf: leaf + 0.02 * next(noise), Meta(params, rule.init(params)))
    held = {"cavia": "context", "unicorn-maml": "offsets"}.get(name)
    if held:
        meta.params[held] = jax.tree.map(jnp.zeros_like, meta.params[held])
    whole = jax.jit(lambda meta: value(meta, task, KEY, progress)[0])
    gradient = jax.jit(jax.grad(whole))(meta)
    if held:  # every task begins with zeros there, which are not learned
        assert all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(gradient.params.pop(held)))
        zeros = meta.params.pop(held)
        whole = lambda meta, of=whole: of(meta._replace(params={**meta.params, held: zeros}))  # noqa: E731
    slope, direction = finite_difference(whole, meta, step=1e-5)
    along = sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(along, slope, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_annealing_begins_first_order_and_ends_exact():
    theta, task = jnp.arange(4.0), quadratic_task(0)
    _, value = built("maml+da", quadratic_loss)
    gradient = jax.jit(jax.grad(lambda t, progress: value(Meta(t, ()), task, KEY, progress)[0]))
    assert relative_error(gradient(theta, 0.2), maml_gradient(theta, task, 0.05, 2, 0)) < 1e-10
    assert relative_error(gradient(theta, 0.5), maml_gradient(theta, task, 0.05, 2)) < 1e-10


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("progress", "weights"), [(0.0, [1 / 3] * 3), (0.075, [1 / 6, 1 / 6, 2 / 3]), (0.2, [0, 0, 1])]
)
def test_the_multi_step_loss_moves_to_the_last_step(progress, weights):
    theta, task = jnp.arange(4.0), quadratic_task(0)
    value = built("maml+msl", quadratic_loss, steps=3)[1]
    gradient = jax.grad(lambda t: value(Meta(t, ()), task, KEY, progress)[0])(theta)
    expected = sum(w * maml_gradient(theta, task, 0.05, t) for t, w in enumerate(weights, 1))
    assert relative_error(gradient, expected) < 1e-10


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["anil", "boil"])
def test_the_inner_loop_leaves_the_other_part_alone(name):
    model, loss, _, _, rate = setting(name)
    task = one_task(name)
    rule, params = il.algorithm(name).rule(rate, 3), model.init(KEY)
    end = il.adapt(loss, Meta(params, ()), task.support, KEY, rule=rule, steps=3).params
    for part in params:
        same = all(bool((a == b).all()) for a, b in zip(*map(jax.tree.leaves, (params[part], end[part])), strict=True))
        assert same == ((part == "head") == (name == "boil"))


@pytest.mark.usefixtures("x64")
def test_protonet_is_the_nearest_mean():
    """One inner step gives the class means, and the meta-gradient is that of the formula of the paper."""
    model, loss, query_loss, _, _ = setting("protonet")
    embedding = models.mlp(1, (16,), 8, initializer=models.glorot)
    task = one_task("protonet")
    params = model.init(KEY)
    params["prototypes"] += 0.3
    row = il.algorithm("protonet")
    rule = row.rule(0.123, 1)
    value = algorithms.build(row, loss, rule=rule, steps=1, query_loss=query_loss)

    def paper(network):
        support, query = (embedding.apply(network, each.x) for each in (task.support, task.query))
        means = jnp.stack([jnp.mean(support[np.asarray(task.support.y) == k], axis=0) for k in range(2)])
        logits = -jnp.sum((query[:, None] - means) ** 2, axis=-1)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(len(query)), task.query.y])

    ours = lambda network: value(Meta({**params, "network": network}, ()), task, KEY)[0]  # noqa: E731
    np.testing.assert_allclose(ours(params["network"]), paper(params["network"]), rtol=1e-12)
    assert relative_error(jax.grad(ours)(params["network"]), jax.grad(paper)(params["network"])) < 1e-10
    two = il.adapt(loss, Meta(params, ()), task.support, KEY, rule=rule, steps=2, trajectory=True).trajectory
    np.testing.assert_allclose(two["prototypes"][1], two["prototypes"][2], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_unicorn_knows_no_order_of_the_classes():
    """A permutation of the labels permutes the predictions; in MAML it changes them."""
    ways, rng = 4, np.random.default_rng(0)
    labels = jnp.asarray(np.repeat(np.arange(ways), 3), jnp.int32)
    support, query = jnp.asarray(rng.normal(size=(12, 5))), jnp.asarray(rng.normal(size=(9, 5)))
    order = jnp.asarray([2, 0, 3, 1], jnp.int32)

    def logits(name, labels):
        settings = {"inner_rate": 0.5, "steps": 4, "optimizer": optax.adam(1e-3), "meta_batch": 1}
        network = models.mlp(5, (16,), ways, initializer=models.glorot)
        learner = il.algorithm(name)(network, losses.cross_entropy, **settings)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), learner.model.init(KEY))
        adapted = learner.adapt(Meta(params, learner.rule.init(params)), Examples(support, labels), KEY)
        return learner.model.apply(adapted.params, query)

    plain, permuted = (logits("unicorn-maml", each) for each in (labels, order[labels]))
    np.testing.assert_allclose(permuted[:, order], plain, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(jnp.argmax(permuted, axis=1), order[jnp.argmax(plain, axis=1)])
    assert jnp.std(plain, axis=1).min() > 0.01
    plain, permuted = (logits("maml", each) for each in (labels, order[labels]))
    assert jnp.abs(permuted[:, order] - plain).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_unicorn_is_maml_whose_head_begins_with_copies():
    """The same inner loop as plain gradient descent from a head of equal columns."""
    network = models.mlp(1, (16,), 2, initializer=models.glorot)
    model, loss, _, _, rate = setting("unicorn-maml")
    task, params = one_task("unicorn-maml"), model.init(KEY)
    rule = il.algorithm("unicorn-maml").rule(rate, 3)
    end = il.adapt(loss, Meta(params, ()), task.support, KEY, rule=rule, steps=3).params
    copied = {
        **params["network"],
        "head": jax.tree.map(lambda leaf: jnp.repeat(leaf, 2, -1), params["network"]["head"]),
    }
    plain_loss, plain_rule = losses.supervised(network, losses.cross_entropy), il.rules.sgd(rate)
    plain = il.adapt(plain_loss, Meta(copied, ()), task.support, KEY, rule=plain_rule, steps=3).params
    np.testing.assert_allclose(model.apply(end, task.query.x), network.apply(plain, task.query.x), rtol=1e-10)


SETTINGS = {"inner_rate": 0.05, "steps": 2, "optimizer": optax.adam(3e-3), "meta_batch": 4}


def test_a_row_trains_adapts_and_evaluates():
    model = models.mlp(1, (8,), 1, initializer=models.glorot)
    maml = il.algorithm("maml")(model, losses.squared_error, **SETTINGS)
    state, _ = il.repeat(maml.update)(maml.init(KEY), tasks.Sinusoids(), 30)
    assert int(state.step) == 30
    task = one_task("maml")
    adapted = maml.adapt(state.meta, task.support, KEY, steps=3, trajectory=True)
    assert adapted.losses.shape == (3,)
    by_hand = il.adapt(maml.loss, state.meta, task.support, KEY, rule=maml.rule, steps=3)
    np.testing.assert_allclose(adapted.losses, by_hand.losses, rtol=1e-5)
    curves = maml.evaluate(state.meta, tasks.Sinusoids(), KEY, num_tasks=5)
    assert curves["query/loss"].shape == (5, 3)
    assert maml.diagnostics is None


def test_an_implicit_row_tells_whether_it_can_be_trusted():
    model = models.mlp(1, (8,), 1, initializer=models.glorot)
    imaml = il.algorithm("imaml")(model, losses.squared_error, **SETTINGS)
    run = jax.jit(il.repeat(imaml.update, imaml.diagnostics))
    _, metrics = run(imaml.init(KEY), tasks.Sinusoids(), 2)
    assert 0 <= metrics["unsolved"] <= 1
    assert metrics["stationarity"] > 0.1  # after two steps


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("maml++", {}, "changes over training, .* give iterations="),
        ("maml+ca", {}, "changes over training, .* give iterations="),
        ("cavia", {}, "asks for context=, a size of its network"),
        ("protonet", {"features": 8}, "asks for ways=, a size of its network"),
        ("maml", {"context": 3}, "has no use for context=3; leave it out"),
    ],
)
def test_settings_of_a_row_that_are_missing_or_of_no_use_are_refused(name, settings, message):
    with pytest.raises(InnerloopError, match=message):
        il.algorithm(name)(models.mlp(1, (8,), 1), losses.squared_error, **SETTINGS, **settings)


def test_pieces_of_maml_plus_plus_combine():
    row = il.algorithm("maml+lslr+msl+da+bnps+ca")
    assert row.rule is ALGORITHMS["maml++"].rule
    assert row.adjoint == ALGORITHMS["maml++"].adjoint
    assert row.objective.needs_progress
    assert row.network == "per-step"
    assert row.outer == ALGORITHMS["maml++"].outer
    assert il.algorithm("fomaml+lslr").adjoint == ALGORITHMS["fomaml"].adjoint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maml+mls", "no piece 'mls' of MAML\\+\\+ in 'maml\\+mls'; choose of: msl, lslr"),
        ("fomaml+da", "would replace the adjoint of 'fomaml'"),
        ("anil+lslr", "would replace the rule of 'anil'"),
        ("cavia+bnps", "would replace the network of 'cavia'"),
        ("imaml+msl", "'imaml' does not differentiate through inner steps"),
        ("reptile+bnps", "'reptile' does not differentiate through inner steps"),
        ("joint+ca", "'joint' does not differentiate through inner steps"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(name, message):
    with pytest.raises(InnerloopError, match=message):
        il.algorithm(name)


def test_an_unknown_algorithm_lists_the_rows():
    with pytest.raises(InnerloopError, match="no algorithm 'mamal'; choose one of: maml, fomaml"):
        il.algorithm("mamal")
