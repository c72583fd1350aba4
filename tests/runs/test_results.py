"""Tables: the same cells as text, as Markdown and as HTML, and the one statistic."""

from html.parser import HTMLParser

import numpy as np
import pytest

from innerloop import summarise
from innerloop.runs.recipe import Published
from innerloop.runs.results import Table, adaptation_table, estimate, measured, shortened

NAMES = ("maml", "pre-trained on all tasks, transductive", "pre-trained on all tasks, inductive")
WIDE = Table(
    "a title that is longer than the eighty columns of a terminal, which happens where units and test tasks are named",
    ("method", *(f"after {step}" for step in range(12))),
    tuple((name, *(f"{99 - step}.12 ± 0.3" for step in range(12))) for name in NAMES),
    ("a note that is longer than eighty columns, as the one on how step sizes of the baselines were chosen may be",),
    own=frozenset({0}),
    published=frozenset({2}),
)


def test_the_text_stays_within_80_columns_and_loses_no_cell():
    lines = WIDE.as_text().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for row in (WIDE.columns, *WIDE.rows):
        for cell in row[1:]:
            assert text.count(cell) >= 1
    assert text.count("99.12 ± 0.3") == len(NAMES)


def test_names_that_are_cut_still_differ():
    text = WIDE.as_text()
    assert "…" in text
    starts = [line.split("  ")[0] for line in text.splitlines() if line.startswith("pre-trained")]
    assert len(set(starts)) == 2
    assert shortened("abcdefghij", 7) == "abcd…ij"
    assert all(len(shortened("a" * 50, width)) == width for width in range(4, 50))


def test_a_cell_cannot_move_the_cursor_or_add_a_line():
    table = Table("t\x1b[2J", ("a", "b"), (("x\ny", "1\r"),))
    assert table.as_text().count("\n") == 2
    assert "\x1b" not in table.as_text() + table.as_markdown()


def test_markdown_escapes_what_would_end_a_cell():
    text = Table("t", ("a", "b"), (("x|y", "<b>1</b>"),), own=frozenset({0})).as_markdown()
    assert "| **x\\|y** | **&lt;b>1&lt;/b>** |" in text
    assert "| --- | ---: |" in text


def test_html_escapes_everything():
    hostile = "<script>alert('x')</script>"
    text = Table(hostile, (hostile, hostile), ((hostile, hostile),), (hostile,)).as_html()
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 6


def test_html_is_balanced_and_marks_rows():
    class Parser(HTMLParser):
        open: tuple[str, ...] = ()

        def handle_starttag(self, tag, attributes):
            self.open += (tag,)

        def handle_endtag(self, tag):
            assert self.open[-1] == tag
            self.open = self.open[:-1]

    parser = Parser()
    parser.feed(WIDE.as_html())
    assert not parser.open
    assert WIDE.as_html().count('<tr class="own">') == WIDE.as_html().count('<tr class="published">') == 1


def test_the_statistic_is_that_of_the_library():
    values = np.random.default_rng(0).normal(size=(7, 3))
    for ours, theirs in zip(estimate(values), summarise(values), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert np.isnan(estimate([1.0]).ci95_half_width)
    assert np.isnan(estimate([]).mean)


@pytest.mark.parametrize(
    ("mean", "half_width", "text"),
    [(1.234, 0.5, "1.23 ± 0.50"), (1.0, float("nan"), "1.00"), (1.2e22, 3.4e21, "1.2e+22 ± 3.4e+21")],
)
def test_measured(mean, half_width, text):
    assert measured(mean, half_width, 2) == text


def test_published_figures_stand_below_with_their_source():
    values = {"mean": [0.2, 0.4], "interval": [0.01, 0.02]}
    rows = [{"method": "maml", "judge": "query", "metrics": {"accuracy": values}}]
    result = {"algorithm": "maml", "metric": "accuracy", "factor": 100.0}
    figures = (Published("MAML", 1, 1, 48.7, 1.84, "Table 1"), Published("MAML", 5, 1, 63.1, 0.92, "Table 1"))
    table = adaptation_table("title", result, {"shots": 1, "rows": rows}, published=figures)
    assert table.rows == (("maml", "20.0 ± 1.0", "40.0 ± 2.0"), ("published: MAML [1]", "", "48.7 ± 1.84"))
    assert table.notes == ("[1] Table 1",)
    assert (table.own, table.published) == ({0}, {1})
