"""What was measured on tables with groups: the verdict of each, made up ones whose verdict is known among them."""

import json

import numpy as np
import pytest

from benchmarks.grouped_page import page
from benchmarks.grouped_tables import RESULT, TABLES, made_up, split_of
from innerloop.runs.results import NORMAL_QUANTILE
from innerloop.workloads.tabular.verdict import standings_of, verdict

FOUND = json.loads(RESULT.read_text())
VERDICTS = {
    "no-differences": "A pooled model does as well",
    "unrelated": "The tasks share nothing that helps",
    "intercepts": "A pooled model does as well",
    "math-achieve": "A pooled model does as well",
    "gapminder": "Meta-learning helps: it beats every other model from 5 rows on",
    "digit-pairs": "A model of each task alone does as well",
}
BEHIND = {("unrelated", 20)}
"""Where a rival is better beyond doubt: the made-up table whose tasks share nothing."""


@pytest.mark.parametrize("name", [name for name in VERDICTS if name in FOUND])
def test_the_verdict_on_what_was_measured_is_right(name):
    assert verdict(FOUND[name]).startswith(VERDICTS[name])


@pytest.mark.parametrize("name", list(FOUND))
def test_the_learner_is_within_a_standard_error_of_the_best_rival(name):
    rows = {(row["method"], row["size"]): row["metrics"] for row in FOUND[name]["rows"]}
    for rival in standings_of(FOUND[name]):
        _, half_width = next(iter(rows["innerloop", rival.size].values()))
        assert -rival.gain < half_width / NORMAL_QUANTILE, rival


def test_the_learner_is_no_worse_than_any_rival_beyond_doubt_but_where_it_is_known():
    worse = {(name, rival.size) for name in FOUND for rival in standings_of(FOUND[name]) if rival.worse}
    assert worse == BEHIND


def test_every_table_is_on_the_page_and_made_up_ones_are_what_they_are_called():
    written = page(FOUND)
    assert all(f"## {name}" in written for name in FOUND)
    assert set(FOUND) <= {*TABLES, "fs-mol"}
    columns = made_up(0.0, 1.5, 1.0)
    tasks = np.unique(columns["task"])
    assert len(set(zip(columns["task"].tolist(), columns["split"].tolist(), strict=True))) == len(tasks)
    assert (split_of(columns["task"]) == columns["split"]).all()
