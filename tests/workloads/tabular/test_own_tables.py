"""Tables from disk: what their columns are taken for, and that any part of them reads the same."""

import numpy as np
import pytest

from innerloop.workloads.tabular.tables import Table, read

pa = pytest.importorskip("pyarrow")
ROWS = 50


@pytest.fixture
def both(tmp_path):
    """The same table as Parquet, in small row groups, and as CSV."""
    import csv

    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    size = random.normal(size=ROWS).astype(np.float32)
    bits = random.integers(0, 5, (ROWS, 3)).astype(np.uint8)
    kind = [None if i % 10 == 3 else "ab"[i % 2] for i in range(ROWS)]
    truth = (size > 0).tolist()
    table = pa.table(
        {
            "size": size,
            "bits": pa.FixedSizeListArray.from_arrays(pa.array(bits.ravel()), 3),
            "longer": pa.array(bits.tolist(), pa.list_(pa.int64())),
            "ragged": pa.array([[1] * (i % 3) for i in range(ROWS)]),
            "kind": kind,
            "truth": truth,
            "when": pa.array([0] * ROWS, pa.timestamp("s")),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=7)
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["size", "bits", "kind", "truth"])
        cells = zip(size.tolist(), bits.tolist(), kind, truth, strict=True)
        writer.writerows([[s, str(b), k or "", t] for s, b, k, t in cells])
    return Table(tmp_path / "t.parquet"), Table(tmp_path / "t.csv")


def test_columns_are_told_apart(both):
    parquet, csv = both
    kinds = {name: (each.kind, each.width) for name, each in parquet.columns.items()}
    assert kinds == {
        "size": ("number", 1),
        "bits": ("list", 3),
        "longer": ("list", 3),
        "ragged": ("other", 1),
        "kind": ("text", 1),
        "truth": ("truth", 1),
        "when": ("date", 1),
    }
    assert parquet.columns["bits"].small
    assert parquet.described(["kind"])["kind"].distinct == 2
    assert {name: (each.kind, each.width) for name, each in csv.columns.items()} == {
        name: kinds[name] for name in ("size", "bits", "kind", "truth")
    }


def test_parquet_and_csv_read_the_same_and_so_does_a_part(both):
    parquet, _ = both
    names = ("size", "bits", "kind", "truth")
    one, other = (read(table, [table.columns[name] for name in names]) for table in both)
    for name in names:
        np.testing.assert_array_equal(one[name], other[name])
    kept = np.random.default_rng(1).random(ROWS) < 0.4
    part = read(parquet, [parquet.columns[name] for name in names], kept)
    for name in names:
        np.testing.assert_array_equal(part[name], one[name][kept])
    assert one["bits"].dtype == np.uint8
