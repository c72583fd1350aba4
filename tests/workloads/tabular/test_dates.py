"""Dates are the same numbers from a file as from a data frame."""

from datetime import date

import numpy as np
import pytest

from innerloop.tabular.columns import as_column, named_columns
from innerloop.workloads.tabular.tables import Table, read

arrow = pytest.importorskip("pyarrow")
DAYS = [date(2020, 2, 29), None, date(1999, 12, 31)]
TEXTS = [None if day is None else day.isoformat() for day in DAYS]
YEARS = [2020.16, float("nan"), 2000.0]


def column_of(path):
    table = Table(path)
    return read(table, list(table.described(["sold"]).values()))["sold"]


@pytest.mark.parametrize("values", [DAYS, TEXTS], ids=["dates", "texts"])
def test_dates_from_parquet_csv_and_memory_are_the_same(values, tmp_path):
    from pyarrow import csv, parquet

    table = arrow.table({"sold": values, "n": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "t.parquet")
    csv.write_csv(table, tmp_path / "t.csv")
    found = [column_of(tmp_path / name) for name in ("t.parquet", "t.csv")]
    found += [named_columns(table)["sold"], as_column(np.array(values, object))]
    for column in found:
        assert column.dtype.kind == "f"
        np.testing.assert_array_equal(column, found[0])
        np.testing.assert_allclose(column, YEARS, atol=0.01)


def test_words_for_gaps_among_dates_are_gaps(tmp_path):
    from pyarrow import parquet

    parquet.write_table(arrow.table({"sold": ["2020-02-29", "NA"]}), tmp_path / "t.parquet")
    assert np.isnan(column_of(tmp_path / "t.parquet")).tolist() == [False, True]


def test_a_column_of_which_one_text_is_no_date_is_of_texts(tmp_path):
    from pyarrow import csv

    values = ["2020-02-29", "2020-02-30", "2021-01-01"]
    csv.write_csv(arrow.table({"sold": values, "n": [1, 2, 3]}), tmp_path / "t.csv")
    assert column_of(tmp_path / "t.csv").tolist() == values == as_column(np.array(values)).tolist()
