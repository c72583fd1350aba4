"""Mistakes of a caller end in one sentence that names the argument, before they fail deep inside."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import Examples, InnerloopError, Meta, Task
from innerloop.core import rules
from innerloop.core.checks import require_key
from innerloop.core.evaluate import evaluate
from innerloop.tabular.episodes import RaggedEpisodes

PARAMS = {"w": jnp.ones((3, 2))}
KEY = jax.random.key(0)


def loss(params, batch, key):
    return jnp.mean((batch.x @ params["w"] - batch.y) ** 2), {}


def examples(*lead):
    return Examples(jnp.ones((*lead, 4, 3)), jnp.ones((*lead, 4, 2)))


@pytest.mark.parametrize("tasks", [Task(examples(), examples()), Task(examples(2), examples(3))])
def test_tasks_that_are_not_stacked_alike_are_named(tasks):
    tasks = tasks._replace(query=jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), tasks.query))
    gradient = il.meta_gradient(il.meta_loss(loss, rule=rules.sgd(0.1), steps=1))
    with pytest.raises(InnerloopError, match="stacked along one leading axis"):
        gradient(Meta(PARAMS, ()), tasks, KEY)


def test_a_rule_that_learns_needs_its_numbers():
    for rule in (rules.meta_sgd(0.1), rules.per_layer_per_step(0.1, 2), rules.meta_curvature(0.1)):
        with pytest.raises(InnerloopError, match=r"use Meta\(params, rule.init\(params\)\)"):
            il.adapt(loss, Meta(PARAMS, ()), examples(), KEY, rule=rule, steps=1)


@pytest.mark.parametrize("key", [0, None, "0", jnp.zeros(3), jax.random.split(KEY)])
def test_what_is_no_key_is_named(key):
    with pytest.raises(InnerloopError, match="key must be a key"):
        require_key(key)


@pytest.mark.parametrize("make", [rules.meta_sgd, rules.meta_curvature, lambda rate: rules.per_layer_per_step(rate, 2)])
def test_parameters_may_be_pythons_own_numbers(make):
    rule, square = make(0.25), lambda params, batch, key: ((params["w"] - batch) ** 2, {})
    params = {"w": 1.0}
    adapted = il.adapt(square, Meta(params, rule.init(params)), 3.0, KEY, rule=rule, steps=1)
    assert adapted.params["w"] == pytest.approx(2.0)


def test_optimisers_that_need_the_loss_are_refused():
    for optimizer in (
        optax.lbfgs(),
        optax.polyak_sgd(),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    ):
        with pytest.raises(InnerloopError, match="needs the loss at every update"):
            rules.from_optax(optimizer)
    masked = optax.multi_transform({"a": optax.sgd(0.1), "b": optax.set_to_zero()}, {"w": "a", "v": "b"})
    rules.from_optax(masked)


def test_texts_as_classes_of_rows_are_named():
    tasks = np.repeat([0, 1, 2], 4)
    with pytest.raises(InnerloopError, match="y is an array of <U1"):
        RaggedEpisodes.from_rows(np.ones((12, 2)), np.array(list("abab" * 3)), tasks, supports=(2,), queries=2)


def test_tasks_that_hold_numpy_arrays_are_evaluated_outside_of_jit():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class Rows:
        x: np.ndarray

        def sample(self, key, num_tasks):
            x = self.x[jax.random.randint(key, (num_tasks,), 0, len(self.x))]
            return Task(Examples(x, x[..., :2]), Examples(x, x[..., :2]))

    rows = Rows(np.ones((4, 2, 3), np.float32))
    scores = evaluate(loss, Meta(PARAMS, ()), rows, KEY, rule=rules.sgd(0.1), steps=1, num_tasks=4)
    assert scores["query/loss"].shape == (4, 2)
