"""Names of tasks and labels: whatever tells rows apart in a column still does afterwards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop.tabular.columns import as_column, columns_of, named_columns
from innerloop.tabular.features import Preparation
from innerloop.tabular.identity import identities, in_order, number_in

TEXTS = st.text(min_size=1, max_size=8)
NUMERALS = st.sampled_from(["7", "007", "1E1", "10", "1_1", "11", "1.0", "1", "+1", "-0", "0", " 1", "NA", "nan"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(TEXTS, NUMERALS), min_size=1, max_size=12))
def test_texts_that_differ_have_names_that_differ(texts):
    names = identities(texts).tolist()
    assert len(set(names)) == len(set(texts))
    assert names == texts or {text.lower() for text in texts} <= {"true", "false"}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(), min_size=1, max_size=12))
def test_integers_of_any_size_are_written_as_they_are(values):
    assert identities(values).tolist() == [str(value) for value in values]
    assert identities([str(value) for value in values], written=True).tolist() == [str(value) for value in values]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=12))
def test_floats_that_differ_have_names_that_differ(values):
    known = {value for value in values if value == value}
    assert len({name for name in identities(values).tolist() if name is not None}) == len(known)


def test_a_whole_column_says_how_it_was_written():
    class NAType:  # as pandas has it: comparing it gives no truth value
        def __ne__(self, other):
            raise TypeError("boolean value of NA is ambiguous")

    assert identities([1.0, None, 3.0]).tolist() == ["1", None, "3"]
    assert identities([1.0, 2.5]).tolist() == ["1.0", "2.5"]
    assert identities(["1.0", "2.0"]).tolist() == ["1.0", "2.0"]
    assert identities(["1.0", "", "2.0"], written=True).tolist() == ["1", None, "2"]
    assert identities(["1.0", "2"], written=True).tolist() == ["1.0", "2"]
    assert identities(["TRUE", "False"]).tolist() == ["true", "false"]
    assert identities(["TRUE", "True"]).tolist() == ["TRUE", "True"]
    assert identities([np.int64(3), np.float32(4)]).tolist() == ["3", "4"]
    assert identities([True, False, NAType()]).tolist() == ["true", "false", None]
    assert identities(np.array(["2020-01-01", "NaT"], "M8[ns]")).tolist()[1] is None
    assert as_column(np.array(["a", NAType()], object)).tolist() == ["a", None]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(NUMERALS, st.integers().map(str), TEXTS), max_size=12))
def test_the_order_of_labels_does_not_hang_on_how_they_come(labels):
    assert in_order(labels) == in_order(labels[::-1])
    assert sorted(in_order(labels)) == sorted(labels)


@pytest.mark.parametrize("text", ["1_1", "٣", "0x10", "1e", "", "one", "1 2", "--1"])
def test_what_is_no_number_is_none(text):
    assert number_in(text) is None


def test_a_matrix_is_read_by_order_and_a_frame_by_name():
    class Frame(dict):
        columns = property(lambda self: list(self))

    x = np.random.default_rng(0).normal(size=(6, 2))
    trained = Preparation.fit(named_columns(Frame({"2019": x[:, 0], "2020": x[:, 1]}))).features
    for matrix in (x, x.astype(object)):
        read = columns_of(matrix, trained)
        np.testing.assert_allclose(np.ravel(read["2019"]), x[:, 0])
        np.testing.assert_allclose(np.ravel(read["2020"]), x[:, 1])
    swapped = columns_of(Frame({"2020": x[:, 1], "2019": x[:, 0]}), trained)
    np.testing.assert_allclose(np.ravel(swapped["2019"]), x[:, 0])
    plain = Preparation.fit(named_columns(x)).features
    with pytest.raises(ValueError, match="this learner reads 2 features"):
        columns_of(np.concatenate([x, x], axis=1), plain)
