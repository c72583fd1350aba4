"""What is handed to an estimator: right, or one sentence that names the argument."""

import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.tabular.columns import named_columns
from innerloop.tabular.given import features_given, rows_given, tasks_given

X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (X, [1.0, np.nan, 2.0, np.nan], r"y is missing in 2 of 4 rows, the first of them row 1 \(from 0\)"),
        (X, ["a", None, "b", "a"], "y is missing in 1 of 4 rows"),
        (X, [1, 2, 3], "X has 4 rows and y has 3 targets"),
        (X, np.ones((4, 2)), r"y has the shape \[4, 2\]; it must be \[rows\]"),
        (X, 3.0, r"y has the shape \[\]"),
        (np.ones(4), np.ones(4), r"X has the shape \[4\]; it must be \[rows, features\]"),
        ([[1, 2], [3]], [1, 2], "X has rows of different lengths"),
        ({"a": [1, 2, 3, 4], "b": [1, 2]}, np.ones(4), "X has columns of different lengths"),
        ({}, np.ones(4), "X has no columns"),
    ],
)
def test_wrong_rows_are_refused(x, y, said):
    with pytest.raises(InnerloopError, match=said):
        rows_given(x, y)


def test_a_column_of_targets_is_targets():
    assert rows_given(X, [[1], [2], [3], [4]]).y.tolist() == [1, 2, 3, 4]


def test_a_dict_of_columns_and_an_arrow_table_are_data_frames():
    arrow = pytest.importorskip("pyarrow")
    columns = {"size": [1.0, None, 3.0], "colour": ["red", "blue", None]}
    for given in (columns, arrow.table(columns)):
        read = named_columns(features_given(given))
        np.testing.assert_array_equal(read["size"], [1.0, np.nan, 3.0])
        assert read["colour"].tolist() == ["red", "blue", None]
    assert rows_given(arrow.table(columns), arrow.array([1, 2, 3])).y.tolist() == [1, 2, 3]
    with pytest.raises(InnerloopError, match="two columns of the name 'a'"):
        features_given(arrow.Table.from_arrays([arrow.array([1]), arrow.array([2])], names=["a", "a"]))


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (3, "tasks must be a list"),
        ("data.csv", "tasks must be a list"),
        ([X], r"Task '0' must be \(X, y\)"),
        ({"shop": (X, [1, 2])}, "y of task .shop. has 2 targets"),
        ({"shop": (X, [1, 2, np.nan, 4])}, "y of task 'shop' is missing in 1 of 4 rows"),
    ],
)
def test_wrong_tasks_are_refused(tasks, said):
    with pytest.raises(InnerloopError, match=said):
        tasks_given(tasks)
