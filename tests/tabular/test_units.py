"""Predictions follow the targets' units, whatever their size and offset; features that cannot be scaled are named."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.tabular import adaptation, artifact
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.design import Design
from innerloop.tabular.features import Preparation
from innerloop.tabular.learner import initial
from innerloop.tabular.prepare import units_of
from innerloop.tabular.rows import Rows

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
