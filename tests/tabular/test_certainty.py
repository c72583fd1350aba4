"""Intervals that cover and probabilities that hold, weights, and many tasks at once."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.tabular import adaptation
from innerloop.tabular.adaptation import Support
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.calibration import seen_of, settled
from innerloop.tabular.certainty import Certainty, Seen, measured
from innerloop.tabular.design import Design
from innerloop.tabular.features import Preparation
from innerloop.tabular.learner import initial
from innerloop.tabular.rows import Rows
from innerloop.workloads.tabular.trust import trust

RANDOM = np.random.default_rng(0)


def test_intervals_cover_nine_in_ten_whatever_the_shape_of_the_noise():
    def seen(tasks):
        """Tasks whose noise differs by orders of magnitude, which their support rows tell; heavy tails."""
        for size in np.exp(2 * RANDOM.normal(size=tasks)):
            for rows in (4, 32):
                error = size**2 * RANDOM.chisquare(rows) / rows
                yield Seen(rows, error, size * RANDOM.standard_t(4, size=60) * np.sqrt(1 + 8 / rows))

    found = measured(list(seen(200)))
    assert Certainty.from_json(found.to_json()) == found
    for rows in (4, 32):
        new = [item for item in seen(200) if item.size == rows]
        covered = np.mean([np.mean(np.abs(item.residual) < found.half_width(rows, item.error)) for item in new])
        assert 0.87 < covered < 0.93
    assert found.half_width(32, 1.0) < found.half_width(4, 1.0)
    assert found.half_width(4, 100.0) > 5 * found.half_width(4, 1.0)


def test_probabilities_become_frequencies():
    scores = RANDOM.normal(size=(40, 100, 3))
    chances = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    labels = (RANDOM.random((40, 100, 1)) > chances.cumsum(axis=-1)).sum(axis=-1)
    found = measured([Seen(8, scores=5 * given, label=label) for given, label in zip(scores, labels, strict=True)])
    assert found.temperature(8) == pytest.approx(5, rel=0.15)
    assert found.temperature(1) == found.temperature(64) == found.temperature(8)


def learned(kind):
    columns = {"a": RANDOM.normal(size=60), "b": RANDOM.normal(size=60)}
    design = Design(kind, widths=(4,), start="shrunk", steps=0, targets="global" if kind == "regression" else "support")
    preparation, regression = Preparation.fit(columns), kind == "regression"
    outputs, labels = (1, ()) if regression else (2, ("no", "yes"))
    meta = initial(design, preparation.sizes, outputs, jax.random.key(0))
    target = columns["a"] + 0.1 * RANDOM.normal(size=60)
    if not regression:
        target = np.array(labels, object)[(target > 0).astype(int)]
    rows = Rows(columns, target, np.repeat(np.arange(3), 20).astype(np.int32), ("x", "y", "z"))
    return TrainedLearner(design, preparation, meta, labels), rows


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_learner_is_calibrated_on_tasks_and_judged_on_others(kind):
    model, rows = learned(kind)
    found, trained = settled(model, model, rows, (4, 8))
    assert not trained  # nothing was gained
    assert found.certainty.sizes == ((1, 2, 4, 8) if kind == "regression" else (4, 8))
    assert len(seen_of(model, rows, (4,))) == 3
    judged = trust(found, rows, (4, 8))
    if kind == "regression":
        assert all(0.85 < share < 0.95 for share, _, _ in judged["coverage"].values())  # of the same rows
        task = adaptation.adapt(found, rows.columns, rows.target)
        predicted, low, high = task.interval(rows.columns)
        assert np.all(low < predicted)
        assert np.all(predicted < high)
    else:
        assert set(judged["reliability"]) == {"4", "8"}
        assert 0 <= judged["reliability"]["8"]["error"] < 0.3


def test_tasks_adapted_together_are_those_adapted_one_by_one_and_weights_count_rows():
    model, rows = learned("regression")
    size = {
        number: Support({n: v[:number] for n, v in rows.columns.items()}, rows.target[:number]) for number in (1, 5, 7)
    }
    together = adaptation.adapt_many(model, [size[number] for number in (5, 7, 1)])
    for task, number in zip(together, (5, 7, 1), strict=True):
        alone = adaptation.adapt(model, *size[number][:2])
        np.testing.assert_allclose(task.targets(rows.columns), alone.targets(rows.columns), rtol=1e-5)
        assert task.half_width == pytest.approx(alone.half_width, rel=1e-4)
    assert together[2].error is None
    columns, target, _ = size[5]
    weighted = adaptation.adapt(model, columns, target, np.array([1, 1, 1, 1, 0]))
    fewer = adaptation.adapt(model, {n: v[:4] for n, v in columns.items()}, target[:4])
    np.testing.assert_allclose(weighted.targets(rows.columns), fewer.targets(rows.columns), rtol=1e-5)
    twice = adaptation.adapt(model, columns, target, np.array([2, 1, 1, 1, 1]))
    repeated = {name: np.append(values, values[:1]) for name, values in columns.items()}
    again = adaptation.adapt(model, repeated, np.append(target, target[0]))
    np.testing.assert_allclose(twice.targets(rows.columns), again.targets(rows.columns), rtol=1e-4)
    with pytest.raises(InnerloopError, match="sample_weight must hold a number from 0 on"):
        adaptation.adapt(model, columns, target, np.array([1, 1, -1, 1, 1]))
    np.testing.assert_allclose(
        replace(model, certainty=Certainty((5,), (4.0,), (2.0,))).certainty.half_width(5, None), 4
    )


def test_what_was_trained_is_taken_where_validation_tasks_tell_it_from_the_untrained_learner():
    model, rows = learned("regression")
    head = model.meta.params["head"]
    common = np.zeros(head["common"].shape, np.float32)
    common[-2] = np.sqrt(2) * np.std(rows.columns["a"])  # the column of which the targets are made
    better = replace(model, meta=model.meta._replace(params={**model.meta.params, "head": {**head, "common": common}}))
    assert settled(model, better, rows, (4, 8)).trained
    assert not settled(better, model, rows, (4, 8)).trained
    assert settled(model, better, None, (4,)).learned is better
