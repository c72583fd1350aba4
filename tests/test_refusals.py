"""Wrong shapes and kinds at the public functions: one sentence that names the argument."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import InnerloopError, Meta, Task
from innerloop.core import rules
from innerloop.tabular.episodes import RaggedEpisodes
from innerloop.types import Examples

KEY = jax.random.key(0)
RULE = rules.sgd(0.1)
PARAMS = {"w": jnp.ones((1, 1))}
META = Meta(PARAMS, ())


def loss(params, batch, key):
    return jnp.mean((batch.x[:, :1] @ params["w"] - batch.y) ** 2), {}


def task(support=4, query=4):
    return Task(*(Examples(jnp.ones((n, 1)), jnp.ones((n, 1))) for n in (support, query)))


def stacked(support=2, query=2):
    def many(number):
        return Examples(jnp.ones((number, 3, 1)), jnp.ones((number, 3, 1)))

    return Task(many(support), many(query))


GRADIENT = il.meta_gradient(il.meta_loss(loss, rule=RULE, steps=1))


CALLS = [
    (lambda: il.Implicit(levels=2), r"Implicit\(levels=2\) has no steps to recompute"),
    (lambda: il.Mixed(levels="log"), r"Mixed\(levels='log'\) needs a whole number"),
    (lambda: il.Mixed(segment=2.5), r"Mixed\(segment=2.5\) needs a whole number"),
    (
        lambda: il.losses.micro_batched(loss, 3)(PARAMS, task().support, KEY),
        r"cut the batch into 3 equal parts: x has shape \[4, 1\]",
    ),
    (lambda: il.losses.micro_batched(loss, 0), r"micro_batched\(number=0\) cannot be"),
    (
        lambda: il.losses.micro_batched(il.StatefulLoss(loss, lambda params: None), 2),
        "micro_batched takes a loss without a state",
    ),
    (lambda: GRADIENT(META, task(4, 4), KEY), "was given a single task"),
    (lambda: GRADIENT(META, task(4, 6), KEY), r"support/x \[4, 1\] and query/x \[6, 1\]"),
    (lambda: GRADIENT(META, stacked(2, 3), KEY), "needs tasks stacked along the leading axis"),
    (lambda: GRADIENT(META, [task()], KEY), r"takes Task\(support, query\)"),
    (lambda: GRADIENT(META, stacked(0, 0), KEY), "got 0 tasks"),
    (lambda: GRADIENT(META, stacked(), 0), r"key must be a random key, such as jax.random.key\(0\), not 0"),
    (lambda: il.init(PARAMS, RULE, optax.sgd(0.1), 0), "key must be a random key"),
    (lambda: il.init(PARAMS, RULE, optax.sgd(0.1), jax.random.split(KEY, 3)), r"key is \[3\] keys"),
    (lambda: il.init(PARAMS, optax.sgd(0.1), optax.sgd(0.1), KEY), "rule must be an InnerRule"),
    (lambda: il.init(PARAMS, RULE, RULE, KEY), "optimizer must be an optax optimiser"),
    (
        lambda: il.adapt(loss, META, task().support, KEY, rule=rules.meta_sgd(0.1), steps=1),
        r"learns 1 arrays of its own, but meta.rule holds none",
    ),
    (lambda: il.adapt(loss, META, task().support, 0, rule=RULE, steps=1), "key must be a random key"),
    (lambda: il.evaluate(loss, META, [1], KEY, rule=RULE, steps=1), "tasks must be a task distribution"),
    (lambda: rules.from_optax(optax.lbfgs()), "needs more than gradients and parameters"),
    (lambda: rules.from_optax(optax.polyak_sgd()), r"\('value'\)"),
    (lambda: rules.from_optax(0.1), "takes an optax optimiser"),
    (
        lambda: RaggedEpisodes.from_rows(np.ones((4, 1)), ["a"] * 4, [0, 0, 1, 1], supports=(1,), queries=1),
        "y holds <U1 values such as",
    ),
    (
        lambda: RaggedEpisodes.from_rows(np.ones((4, 1)), np.ones((4, 1)), [0, 0, 1, 1], supports=(1,), queries=1),
        r"y has the shape \[4, 1\]",
    ),
]


def wrongly_told():
    """The calls that do not end in their sentence, with what they ended in."""
    wrong = []
    for call, said in CALLS:
        try:
            call()
        except InnerloopError as error:
            if re.search(said, str(error)) and "\n" not in str(error):
                continue
            wrong.append(f"{said}: {error}")
        except Exception as error:
            wrong.append(f"{said}: {type(error).__name__}")
        else:
            wrong.append(f"{said}: nothing")
    return wrong


def test_what_is_wrong_is_said_in_a_sentence():
    """In a program of its own, since tests check types where they are called, which a user's program does not."""
    code = "import test_refusals; print(*test_refusals.wrongly_told(), sep=chr(10))"
    paths = os.pathsep.join(path for path in sys.path if path)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
    )
    assert ran.stdout.strip() == ""


@pytest.mark.parametrize("make", [partial(rules.per_layer_per_step, 0.5, 2), partial(rules.meta_curvature, 0.5)])
def test_parameters_may_be_plain_numbers(make):
    rule = make()
    square = lambda params, batch, key: (params["w"] ** 2, {})  # noqa: E731
    params = {"w": 1.0}
    end = il.adapt(square, Meta(params, rule.init(params)), jnp.zeros(1), KEY, rule=rule, steps=1)
    assert float(end.params["w"]) == 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lines:
    x: Any

    def sample(self, key, num_tasks):
        chosen = self.x[jax.random.randint(key, (num_tasks, 3), 0, self.x.shape[0])][..., None]
        return Task(Examples(chosen, 2 * chosen), Examples(chosen, 2 * chosen))


class Hidden:
    """The same, but its array is no leaf."""

    def __init__(self, x):
        self.x = x

    sample = Lines.sample


def test_evaluation_takes_numpy_arrays_outside_of_jit():
    x = np.arange(5, dtype=np.float32)
    meta = Meta({"w": np.ones((1, 1), np.float32)}, ())
    curves = [
        il.evaluate(loss, meta, Lines(values), KEY, rule=RULE, steps=1, num_tasks=3) for values in (x, jnp.asarray(x))
    ]
    np.testing.assert_array_equal(curves[0]["query/loss"], curves[1]["query/loss"])
    with pytest.raises(InnerloopError, match=r"Hidden\.sample takes from a NumPy array"):
        il.evaluate(loss, meta, Hidden(x), KEY, rule=RULE, steps=1, num_tasks=3)


@pytest.mark.parametrize("clip", [optax.clip_by_global_norm(100.0), optax.adaptive_grad_clip(1e6)])
@pytest.mark.parametrize("start", [[0.0, 0.0], [0.0, 0.5]])
def test_clipping_has_its_second_derivatives_at_zero(clip, start):
    """Where nothing is clipped, meta-gradient and Hessian are those of gradient descent."""

    def square(params, batch, key):
        return jnp.sum(params["w"] ** 2 * batch), {}

    drawn = Task(jnp.ones(2), jnp.ones(2))

    def hessian(rule):
        value = il.meta_loss(square, rule=rule, steps=2)
        of = lambda w: value(Meta({"w": w}, ()), drawn, KEY)[0]  # noqa: E731
        return jax.jit(lambda w: (jax.grad(of)(w), jax.hessian(of)(w)))(jnp.array(start))

    found = hessian(rules.from_optax(optax.chain(clip, optax.sgd(0.1))))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-10), found, hessian(rules.sgd(0.1)))


def test_an_optimiser_that_the_guard_would_change_keeps_its_bits():
    params = {"w": jnp.array([0.0, 1.0])}
    for optimizer in (optax.adam(1e-3), optax.adam(0.1, eps_root=1e-8), optax.lion(0.1)):
        rule = rules.from_optax(optimizer).transform((), 0)
        for gradient in (jnp.zeros(2), jnp.array([0.0, 3.0])):
            ours, _ = rule.update({"w": gradient}, rule.init(params), params)
            theirs, _ = optimizer.update({"w": gradient}, optimizer.init(params), params)
            np.testing.assert_array_equal(ours["w"], theirs["w"])
