"""Tables as programs write them are read to the same values; damaged ones to values or one sentence."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop.errors import InnerloopError
from innerloop.tabular.features import Preparation
from innerloop.workloads.tabular.dialects import value_in
from innerloop.workloads.tabular.tables import Table, label_texts, read

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

NUMBERS = [1234.5, 2000.25, np.nan, 12.0]
PLAIN = "site,price,kind\n007,1234.5,a\n7,2000.25,b\n10,,a\n1E1,12,b\n"


def german(text):
    return text.replace(".", "#").replace(",", ";").replace("#", ",")


WRITTEN = {
    "pandas": PLAIN.encode(),
    "windows": PLAIN.replace("\n", "\r\n").encode("utf-8-sig"),
    "german Excel": german(PLAIN).replace("1234,5", "1.234,50").encode("cp1252"),
    "Excel's Unicode text": german(PLAIN).replace(";", "\t").encode("utf-16"),
    "Excel with a separator": ("sep=;\n" + german(PLAIN)).encode(),
    "English thousands": PLAIN.replace("1234.5", '"1,234.50"').replace("2000.25", '"2,000.25"').encode(),
    "R": (b'"site","price","kind"\n"007",1234.5,"a"\n"7",2000.25,"b"\n"10",NA,"a"\n"1E1",12,"b"\n'),
    "comments": ("# made by hand\n# today\n" + PLAIN + "# the end\n").encode(),
    "bars": PLAIN.replace(",", "|").encode(),
    "spaces in names": PLAIN.replace("site,price", " site, price ").encode(),
    "an index": "".join(f"{'' if i == 0 else i - 1},{line}\n" for i, line in enumerate(PLAIN.splitlines())).encode(),
}


@pytest.mark.parametrize("writer", WRITTEN)
def test_the_same_table_is_read_whoever_wrote_it(writer, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(WRITTEN[writer])
    table = Table(path)
    assert label_texts(table, "site").tolist() == ["007", "7", "10", "1E1"]
    np.testing.assert_array_equal(read(table, [table.columns["price"]])["price"], NUMBERS)
    assert read(table, [table.columns["kind"]])["kind"].tolist() == ["a", "b", "a", "b"]
    assert [name for name, column in table.columns.items() if not column.problem] == ["site", "price", "kind"]


def test_a_class_of_the_name_na_is_one_unless_the_table_writes_gaps_so(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("region,size\nNA,1\nEU,2\n")
    assert label_texts(Table(path), "region").tolist() == ["NA", "EU"]
    path.write_text("region,size\nNA,NA\nEU,2\n")
    assert label_texts(Table(path), "region").tolist() == [None, "EU"]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e12, 1e12).map(lambda value: round(value, 2)))
def test_numbers_in_every_notation(value):
    grouped = f"{value:,.2f}"
    assert value_in(repr(value)) == value
    assert value_in(grouped, "grouped") == value
    assert value_in(grouped.translate(str.maketrans(",.", ".,")), "comma") == value
    assert value_in(grouped.replace(",", "\u202f").replace(".", ","), "comma") == value


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00#"), min_size=1, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_any_text_is_a_label_from_a_file_as_in_memory(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("labels") / "table.csv"
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("label", "x"), *((label, i) for i, label in enumerate(labels))])
    path.write_text(text.getvalue(), encoding="utf-8")
    read_back = label_texts(Table(path), "label").tolist()
    assert len(set(read_back)) == len(set(labels))


def test_lists_with_gaps_or_too_large_numbers_are_named(tmp_path):
    for values, said in (([[1.0, None], [2.0, 3.0]], "gaps"), ([[1.0, 1e300], [2.0, 3.0]], "1e[+]300")):
        parquet.write_table(pa.table({"v": pa.array(values, pa.list_(pa.float64(), 2))}), tmp_path / "l.parquet")
        table = Table(tmp_path / "l.parquet")
        with pytest.raises(InnerloopError, match=f"'v'.*{said}"):
            read(table, [table.columns["v"]])


def test_infinite_numbers_in_lists_are_gaps_as_in_columns(tmp_path):
    rows = [[1.0, float("inf")], [2.0, float("nan")], [3.0, 4.0], [5.0, 6.0]]
    parquet.write_table(pa.table({"v": pa.array(rows, pa.list_(pa.float32(), 2))}), tmp_path / "l.parquet")
    (tmp_path / "l.csv").write_text('v\n"[1, Infinity]"\n"[2, NaN]"\n"[3, 4]"\n"[5, 6]"\n')
    for name in ("l.parquet", "l.csv"):
        table = Table(tmp_path / name)
        columns = read(table, [table.columns["v"]])
        numbers = Preparation.fit(columns).encode(columns).numbers
        assert np.isfinite(numbers).all(), name
        assert numbers[0, 1] == numbers[1, 1] == 0, name


def test_two_columns_of_one_name_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("x,x\n1,2\n")
    parquet.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(InnerloopError, match="two columns of the name 'x'"):
            Table(tmp_path / name)


def test_a_few_levels_of_numbers_and_texts_are_levels_and_a_slip_of_the_pen_is_told(tmp_path):
    levels = [("0", "1", "2", "3+")[i % 4] for i in range(400)]
    slip = [str(i % 4) for i in range(399)] + ["3+"]
    many = [str(i % 40) if i % 9 else "none" for i in range(400)]
    (tmp_path / "l.csv").write_text("\n".join(["a,b,c", *map(",".join, zip(levels, slip, many, strict=True))]))
    columns = Table(tmp_path / "l.csv").columns
    assert (columns["a"].kind, columns["a"].distinct, columns["a"].problem) == ("text", 4, "")
    assert "row 400 holds the text '3+' where the others are numbers" in columns["b"].problem
    assert "row 1 holds the text 'none'" in columns["c"].problem
    read_back = read(Table(tmp_path / "l.csv"), [columns["a"]])
    assert read_back["a"].tolist() == levels
    encoded = [Preparation.fit(values).encode(values) for values in (read_back, {"a": np.array(levels, object)})]
    np.testing.assert_array_equal(encoded[0].numbers, encoded[1].numbers)
