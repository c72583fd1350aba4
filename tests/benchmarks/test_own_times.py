"""The figures of how long one's own tables take stand in the page as they were measured."""

import csv
import json

from benchmarks.own_times import PAGE, RESULT, block, shops


def test_the_page_has_what_was_measured():
    assert block(json.loads(RESULT.read_text())) in PAGE.read_text(), "run: make results"


def test_the_table_of_shops_is_the_same_each_time(tmp_path):
    for name in ("a.csv", "b.csv"):
        shops(tmp_path / name, tasks=3, rows=4)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    assert {row["shop"] for row in rows} == {"s0", "s1", "s2"}
