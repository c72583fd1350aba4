"""Predictions follow the targets' units, whatever their size and offset; features that cannot be scaled are named."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.tabular import adaptation, artifact, rivals
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.design import Design
from innerloop.tabular.features import Preparation
from innerloop.tabular.learner import initial
from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare, units_of
from innerloop.tabular.rows import Rows
from innerloop.workloads.tabular.comparison import rival_scores

RANDOM = np.random.default_rng(0)
COLUMNS = {"a": RANDOM.normal(size=40), "b": RANDOM.normal(size=40)}
TARGET = RANDOM.normal(size=40)
CHANGES = [(1e-12, 0.0), (1e12, 0.0), (1.0, 1e9), (1e-3, 1e3)]


def learned(targets, target):
    design = Design("regression", widths=(8,), start="shrunk", steps=0, targets=targets)
    preparation = Preparation.fit(COLUMNS)
    meta = initial(design, preparation.sizes, 1, jax.random.key(0))
    units = units_of(Rows({}, target, np.zeros(40, np.int32), ("t",)))
    return TrainedLearner(design, preparation, meta, units=units)


def predicted(model, target, number):
    chosen = {name: values[:number] for name, values in COLUMNS.items()}
    return adaptation.adapt(model, chosen, target[:number]).targets(COLUMNS)


@pytest.mark.parametrize("targets", ["support", "global"])
@pytest.mark.parametrize(("factor", "offset"), CHANGES)
@pytest.mark.parametrize("number", [1, 12])
def test_relative_predictions_do_not_depend_on_units(targets, factor, offset, number):
    other = factor * TARGET + offset
    plain = predicted(learned(targets, TARGET), TARGET, number)
    found = (predicted(learned(targets, other), other, number) - offset) / factor
    np.testing.assert_allclose(found, plain, atol=1e-5 if offset < 1e6 else 1e-4)


def test_units_survive_saving(tmp_path):
    model = replace(learned("global", 1e9 + TARGET), facts={"name": "x"})
    artifact.save(model, tmp_path / "model")
    again = artifact.load(tmp_path / "model")
    assert again.units == model.units
    np.testing.assert_array_equal(predicted(again, 1e9 + TARGET, 9), predicted(model, 1e9 + TARGET, 9))


def test_a_feature_that_no_number_can_scale_is_named():
    with pytest.raises(InnerloopError, match=r"'size' holds -1e\+308"):
        Preparation.fit({"size": np.array([1.0, -1e308, 1e308, 2.0])})


@pytest.mark.parametrize(("factor", "offset"), CHANGES)
def test_what_is_trained_on_and_what_rivals_see_do_not_depend_on_units(factor, offset):
    x, random = RANDOM.normal(size=(60, 2)), np.random.default_rng(1)
    target = x @ [1.0, -1.0] + np.repeat(random.normal(size=6), 10)
    tasks, names = np.repeat(np.arange(6), 10).astype(np.int32), tuple("abcdef")

    def prepared(y):
        columns = {"a": x[:, 0], "b": x[:, 1]}
        return prepare(Rows(columns, y, tasks, names), Choices(pooled="none", supports=(4,)))

    plain, other = (prepared(y) for y in (target, factor * target + offset))
    tolerance = 1e-5 if offset < 1e6 else 1e-4
    for part in ("train", "valid", "test"):
        np.testing.assert_allclose(other.distribution(part).y, plain.distribution(part).y, atol=tolerance)
    drawn = [(np.arange(4), np.arange(4, 10))]
    rows = [data.parts["test"] for data in (plain, other)]
    inputs = plain.preparation.encode({name: values[:10] for name, values in rows[0].columns.items()})
    linear = rivals.alone(True)["linear"]
    errors = [
        rival_scores(linear, 0, data.units, inputs, part.target[:10], drawn)["relative error"]
        for data, part in zip((plain, other), rows, strict=True)
    ]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-3)
