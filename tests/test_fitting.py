"""Meta-training of a learner: it learns, and its bits do not depend on how it was interrupted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop.tabular.design import Design
from innerloop.tabular.episodes import RaggedEpisodes
from innerloop.tabular.features import Inputs
from innerloop.tabular.fit import Fitting, Schedule

RNG = np.random.default_rng(0)


def tables(tasks, rows=24):
    """Two classes that differ along one hidden direction of forty, the same in all tasks but for its sign."""
    direction = np.random.default_rng(1).normal(size=40)
    direction /= np.linalg.norm(direction)
    x = RNG.normal(size=(tasks, rows, 40))
    y = (x @ direction * RNG.choice([-1, 1], (tasks, 1)) > 0).astype(int)
    inputs = Inputs(np.zeros((tasks * rows, 0), np.uint8), x.reshape(-1, 40).astype(np.float32))
    return RaggedEpisodes.from_rows(inputs, y.ravel(), np.repeat(np.arange(tasks), rows), supports=(6,), queries=12)


def fitting(**changes):
    design = Design(widths=(32, 16), steps=1, dropout=0.0)
    schedule = replace(Schedule(iterations=100, meta_batch=8, learning_rate=3e-3, every=50), **changes)
    return Fitting(design, schedule, (0, 40), 2, tables(60), tables(20))


@pytest.mark.slow
def test_held_out_loss_falls_and_the_course_may_be_cut_and_resumed():
    one = fitting()
    start, first = one.validate(one.start(0))
    *_, (fit, moment) = one.run(start)
    assert moment.step == int(fit.state.step) == 100
    assert float(fit.best_loss) < first - 0.1
    assert one.finished(fit)

    again = one.start(0)
    for count in (1, 7, 92):
        again, _ = one.advance(again, count)
    for mine, theirs in zip(jax.tree.leaves(again.state.meta), jax.tree.leaves(fit.state.meta), strict=True):
        np.testing.assert_array_equal(mine, theirs)

    short = one.limited(one.start(0), 20)
    assert one.total(short) == 20
    ((_, moment),) = one.run(short)
    assert moment.step == 20
    assert one._steps._cache_size() == 1


def test_the_task_whose_gradient_is_not_finite_is_named():
    one = fitting(meta_batch=4)
    tasks = one._training
    spoilt = tasks.x._replace(numbers=tasks.x.numbers.at[tasks.starts[7] : tasks.starts[8]].set(np.inf))
    one._training = replace(tasks, x=spoilt)
    fit = one.start(0)
    for step in range(40):
        fit = fit._replace(state=fit.state._replace(step=jnp.asarray(step, jnp.int32)))
        finite, drawn, numbers = one.examined(fit)
        np.testing.assert_array_equal(finite, numbers != 7)
        np.testing.assert_array_equal(finite, np.isfinite(drawn.support.x.numbers).all(axis=(1, 2)))
        if not finite.all():
            break
    else:
        pytest.fail("the task was never drawn")
    before = jax.tree.map(np.array, fit.state.meta)
    after, metrics = one.advance(fit, 1)
    assert metrics["skipped"] == 1
    jax.tree.map(np.testing.assert_array_equal, after.state.meta, before)
