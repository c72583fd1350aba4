"""Features made into what a network reads: scales, gaps, categories, and what is refused."""

import json

import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.tabular.features import Preparation

RNG = np.random.default_rng(0)


def columns(rows=200):
    number = RNG.normal(50.0, 4.0, rows)
    wild = np.exp(RNG.normal(0, 10, rows))
    wild[3] = 2.7e16
    gaps = np.where(RNG.random(rows) < 0.2, np.nan, RNG.random(rows))
    counts = RNG.poisson(0.3, (rows, 7)).astype(np.uint8)
    counts[:, 2] = 4
    kinds = np.array([None if i % 9 == 0 else "abc"[i % 3] for i in range(rows)], object)
    return {"number": number, "wild": wild, "gaps": gaps, "constant": np.ones(rows), "counts": counts, "kind": kinds}


def test_scaled_numbers_are_bounded_centred_and_finite_and_gaps_are_told():
    given = columns()
    preparation = Preparation.fit(given)
    inputs = preparation.encode(given)
    assert preparation.sizes == (6, 1 + 1 + 2 + 3)  # the count that never varies and the constant column are left out
    assert inputs.counts.dtype == np.uint8
    assert inputs.numbers.dtype == np.float32
    assert np.isfinite(inputs.numbers).all()
    assert np.abs(inputs.numbers).max() <= 5
    np.testing.assert_allclose(np.median(inputs.numbers[:, 0]), 0, atol=1e-2)
    np.testing.assert_allclose(np.std(inputs.numbers[:, 0]), 1, atol=0.2)
    missing = np.isnan(given["gaps"])
    np.testing.assert_array_equal(inputs.numbers[:, 3], missing)
    assert (inputs.numbers[missing, 2] == 0).all()


def test_a_category_or_a_gap_that_training_never_saw_reads_as_nothing():
    given = columns()
    preparation = Preparation.fit(given)
    other = {name: values[:2] for name, values in given.items()}
    other["kind"] = np.array(["new", None], object)
    other["number"] = np.array([np.nan, np.inf])
    inputs = preparation.encode(other)
    assert (inputs.numbers[:, -3:] == 0).all()
    assert (inputs.numbers[:, 0] == 0).all()


def test_what_was_fitted_survives_json_bit_by_bit():
    given = columns()
    preparation = Preparation.fit(given)
    again = Preparation.from_json(json.loads(json.dumps(preparation.to_json())))
    assert again == preparation
    np.testing.assert_array_equal(again.encode(given).numbers, preparation.encode(given).numbers)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"number": None}, "'number' is missing"),
        ({"number": np.array(["x"] * 200, object)}, "'number' holds text"),
        ({"counts": np.zeros((200, 5), np.uint8)}, "'counts' has 5 entries for each row; training had 7"),
    ],
)
def test_other_features_than_in_training_are_refused(changed, said):
    given = columns()
    preparation = Preparation.fit(given)
    given = {name: values for name, values in (given | changed).items() if values is not None}
    with pytest.raises(InnerloopError, match=said):
        preparation.encode(given)


def test_features_that_never_vary_and_other_descriptions_are_refused():
    with pytest.raises(InnerloopError, match="No feature varies"):
        Preparation.fit({"a": np.ones(4)})
    with pytest.raises(InnerloopError, match="no features"):
        Preparation.fit({})
    with pytest.raises(InnerloopError, match="no description of features"):
        Preparation.from_json([{"nonsense": 1}])
