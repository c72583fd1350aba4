"""Losses: criteria against NumPy and optax, weights, and whose statistics normalise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import Examples, InnerloopError, Task, losses, models, rules
from innerloop.models import Normalisation

KEY = jax.random.key(0)


def test_cross_entropy_and_accuracy():
    logits = jax.random.normal(KEY, (6, 4))
    labels = jnp.array([0, 1, 2, 3, 0, 1])
    each, metrics = losses.cross_entropy(logits, labels)
    np.testing.assert_allclose(each, optax.softmax_cross_entropy_with_integer_labels(logits, labels), rtol=1e-5)
    np.testing.assert_array_equal(metrics["accuracy"], np.asarray(logits).argmax(1) == np.asarray(labels))


def test_squared_error_averages_over_outputs():
    each, metrics = losses.squared_error(jnp.zeros((2, 4)), jnp.array([[1.0, 1, 1, 1], [2, 0, 0, 0]]))
    np.testing.assert_allclose(each, [1.0, 1.0])
    assert metrics == {}


def test_weights_drop_padding():
    model = models.from_functions(lambda key: jnp.ones(()), lambda params, x: params * x)
    loss = losses.supervised(model, losses.squared_error)
    x, y = jnp.array([[1.0], [2.0], [99.0]]), jnp.zeros((3, 1))
    value, _ = loss(jnp.ones(()), Examples(x, y, weight=jnp.array([1.0, 1.0, 0.0])), KEY)
    np.testing.assert_allclose(value, 2.5)
    nothing, _ = loss(jnp.ones(()), Examples(x, y, weight=jnp.zeros(3)), KEY)
    assert float(nothing) == 0


@pytest.mark.parametrize(
    ("criterion", "outputs", "targets", "message"),
    [
        (losses.cross_entropy, jnp.zeros((3, 2)), jnp.zeros(3), "integer class labels, not float32"),
        (losses.cross_entropy, jnp.zeros((3, 2)), jnp.zeros(4, int), r"outputs for \[3\] and targets of shape \[4\]"),
        (losses.squared_error, jnp.zeros((3, 2)), jnp.zeros(3), r"outputs for \[3, 2\] and targets of shape \[3\]"),
    ],
)
def test_targets_that_do_not_fit_are_refused(criterion, outputs, targets, message):
    with pytest.raises(InnerloopError, match=message):
        criterion(outputs, targets)


class TestStatistics:
    """A network with one normalisation layer, whose statistics can be computed by hand."""

    model = models.mlp(2, (2,), 1, activation=lambda x: x, initializer=models.glorot, normalisation=Normalisation())
    params = model.init(KEY)
    support = jax.random.normal(jax.random.key(1), (8, 2))
    query = 3 + 2 * jax.random.normal(jax.random.key(2), (6, 2))

    def by_hand(self, x, reference_mean, reference_variance):
        hidden = x @ self.params["dense1"]["kernel"]
        hidden = (hidden - reference_mean) / np.sqrt(reference_variance + 1e-3)
        return hidden @ self.params["head"]["kernel"]

    def statistics_of(self, x):
        hidden = np.asarray(x @ self.params["dense1"]["kernel"])
        return hidden.mean(0), hidden.var(0)

    def loss_of(self, statistics, batch, model=None, params=None):
        loss = losses.supervised(model or self.model, losses.squared_error, statistics)
        return float(loss(self.params if params is None else params, batch, KEY)[0])

    def test_transductive_uses_the_batch_at_hand(self):
        expected = np.mean(self.by_hand(self.query, *self.statistics_of(self.query)) ** 2)
        batch = Examples(self.query, jnp.zeros((6, 1)), reference=self.support)
        np.testing.assert_allclose(self.loss_of("batch", batch), expected, rtol=1e-4)

    def test_support_statistics_are_reused_for_queries(self):
        expected = np.mean(self.by_hand(self.query, *self.statistics_of(self.support)) ** 2)
        batch = Examples(self.query, jnp.zeros((6, 1)), reference=self.support)
        np.testing.assert_allclose(self.loss_of("support", batch), expected, rtol=1e-4)

    def test_inductive_judges_each_query_alone(self):
        """With support statistics, a query's output does not depend on the other queries."""
        loss = losses.supervised(self.model, lambda outputs, y: (outputs[:, 0], {}), "support")
        alone = [loss(self.params, Examples(q[None], jnp.zeros(1), reference=self.support), KEY)[0] for q in self.query]
        together = loss(self.params, Examples(self.query, jnp.zeros(6), reference=self.support), KEY)[0]
        np.testing.assert_allclose(np.mean(alone), together, rtol=1e-4)

    def test_running_statistics_are_a_moving_average_over_tasks(self):
        """One outer step with rate 1 - d moves them to d * old + (1 - d) * mean over tasks of the query moments."""
        model = models.with_running_statistics(self.model, jax.ShapeDtypeStruct((2, 2), jnp.float32))
        loss = losses.supervised(model, losses.squared_error)
        params = model.init(KEY)
        rule = rules.masked(rules.sgd(0.1), lambda path, leaf: not path.startswith("running"))
        tasks = Task(
            Examples(jnp.stack([self.support] * 2), jnp.ones((2, 8, 1))),
            Examples(jnp.stack([self.query, 2 * self.query]), jnp.ones((2, 6, 1))),
        )
        gradient, _ = il.meta_gradient(il.meta_loss(loss, rule=rule, steps=1))(il.Meta(params, ()), tasks, KEY)
        moved = jax.tree.map(lambda old, slope: old - 0.1 * slope, params["running"], gradient.params["running"])

        means = []
        for task in range(2):
            one = jax.tree.map(lambda leaf, task=task: leaf[task], tasks)
            end = il.adapt(loss, il.Meta(params, ()), one.support, KEY, rule=rule, steps=1).params
            means.append(model.moments(end, one.query.x, KEY)["norm1"]["mean"])
        np.testing.assert_allclose(moved["norm1"]["mean"], 0.1 * np.mean(means, axis=0), rtol=1e-4)
        np.testing.assert_allclose(params["running"]["norm1"]["variance"], 1.0)

    def test_running_statistics_are_used_at_test_and_change_no_loss_in_training(self):
        model = models.with_running_statistics(self.model, jax.ShapeDtypeStruct((2, 2), jnp.float32))
        running = {"norm1": {"mean": jnp.array([0.5, -0.5]), "variance": jnp.array([2.0, 3.0])}}
        params = {"network": self.params, "running": running}
        batch = Examples(self.query, jnp.zeros((6, 1)))
        expected = np.mean(self.by_hand(self.query, *(np.asarray(each) for each in running["norm1"].values())) ** 2)
        np.testing.assert_allclose(self.loss_of("running", batch, model, params), expected, rtol=1e-4)
        plain = self.loss_of("batch", batch)
        np.testing.assert_allclose(self.loss_of("batch", batch, model, params), plain, rtol=1e-6)

    def test_a_model_without_statistics_is_refused(self):
        plain = models.mlp(2, (2,), 1)
        for statistics in ("support", "running"):
            with pytest.raises(InnerloopError, match=f"statistics='{statistics}' needs"):
                losses.supervised(plain, losses.squared_error, statistics)
        with pytest.raises(InnerloopError, match="no normalisation"):
            models.with_running_statistics(plain, jax.ShapeDtypeStruct((2, 2), jnp.float32))


@pytest.mark.parametrize("label", [-1, 5, -100])
def test_a_label_that_is_no_class_is_refused_or_nan(label):
    outputs, labels = jnp.zeros((2, 5)), jnp.array([0, label])
    with pytest.raises(InnerloopError, match=f"label {label} for 5 outputs; labels are whole numbers from 0 to 4"):
        losses.cross_entropy(outputs, labels)
    compiled = jax.jit(losses.cross_entropy)(outputs, labels)[0]
    assert np.isnan(compiled[1])
    assert np.isfinite(compiled[0])


def test_nothing_of_a_padded_row_is_left():
    model = models.mlp(2, (3,), 4, initializer=models.glorot)
    params = model.init(jax.random.key(0))
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    whole = Examples(x, jnp.array([1, 2]))
    padded = Examples(
        jnp.concatenate([x, jnp.full((1, 2), jnp.nan)]), jnp.array([1, 2, -100]), weight=jnp.array([1.0, 1.0, 0.0])
    )
    loss = losses.supervised(model, losses.cross_entropy)
    value = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, KEY)[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), value(params, whole), value(params, padded))


def test_losses_with_further_axes_are_weighed_by_example():
    loss = losses.supervised(models.Model(lambda key: {}, lambda params, x, **_: x), lambda out, y: (out - y, {}))
    x = jnp.arange(9.0).reshape(3, 3)
    weight = jnp.array([1.0, 0.0, 0.0])
    value, _ = loss({}, Examples(x, jnp.zeros((3, 3)), weight=weight), jax.random.key(0))
    assert value == pytest.approx(1.0)
    with pytest.raises(InnerloopError, match="one loss for each example"):
        losses.supervised(models.Model(lambda key: {}, lambda params, x, **_: x), lambda out, y: (jnp.sum(out), {}))(
            {}, Examples(x, jnp.zeros((3, 3)), weight=weight), jax.random.key(0)
        )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight", [None, jnp.array([1.0, 0, 2, 3, 0, 0])])
def test_micro_batches_are_one_batch(weight):
    """Value, metrics, gradient and Hessian-vector product; a part whose examples do not count adds nothing."""
    model = models.mlp(2, (4,), 3, activation=jnp.tanh, initializer=models.glorot)
    loss = losses.supervised(model, losses.cross_entropy)
    params = model.init(KEY)
    batch = Examples(jax.random.normal(KEY, (6, 2)), jnp.arange(6) % 3, weight)

    def derivatives(loss):
        gradient = jax.grad(lambda params: loss(params, batch, KEY)[0])
        return loss(params, batch, KEY), gradient(params), jax.jvp(gradient, (params,), (params,))[1]

    whole, parts = derivatives(loss), derivatives(losses.micro_batched(loss, 3))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), parts, whole)
