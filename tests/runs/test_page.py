"""The page of a result: one file, offline, with nothing in it that a name could inject."""

import re
import sys
from html.parser import HTMLParser

import pytest

from innerloop import InnerloopError
from innerloop.runs import page, plots
from innerloop.runs.results import Section, Table

HOSTILE = "\"><script>alert('x')</script>{{ 7 * 7 }}{% raw %}"
KNOWN = {
    "command": ["innerloop", "train", "a file"],
    "commit": "0123abc",
    "versions": {"jax": "0.10", "optax": None},
    "machine": {"cores": 2, "devices": ["cpu"]},
}


def rendered(text: str = "a name", **changes):
    given = {
        "title": text,
        "subtitle": text,
        "tables": [Table(text, (text, "b"), ((text, "1"),), (text,))],
        "remarks": [text],
        "sections": [Section(text, "<figure><svg></svg></figure>", text)],
        "settings": [(text, text)],
        "provenance": KNOWN,
    }
    return page.render(**given | changes)


class Parser(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.references = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_hostile_name_stays_text():
    parser = Parser()
    parser.feed(rendered(HOSTILE))
    assert not parser.open
    assert "script" not in parser.tags
    assert "{{ 7 * 7 }}" in rendered(HOSTILE)
    assert (
        rendered(HOSTILE, provenance=KNOWN | {"command": HOSTILE, "machine": {HOSTILE: [HOSTILE]}}).count("<script")
        == 0
    )


def test_it_needs_nothing_else():
    text = rendered()
    parser = Parser()
    parser.feed(text)
    assert not parser.references
    assert not re.search(r"https?:|@import|url\(|<link", text)
    assert '<meta name="viewport"' in text


def test_it_says_where_the_figures_come_from():
    text = rendered()
    for wanted in ("innerloop train &#39;a file&#39;", "0123abc", "versions jax", "0.10", "machine cores", "a name."):
        assert wanted in text
    assert "optax" not in text


@pytest.mark.parametrize("library", ["jinja2", "matplotlib"])
def test_what_is_missing_is_named_with_its_extra(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InnerloopError, match=rf"The report needs {library}; .*innerloop\[report\]"):
        rendered() if library == "jinja2" else plots.pyplot()


def test_records_without_a_line_of_a_panel_leave_it_empty():
    lines = [plots.Line("loss", "a loss", plots.GREY), plots.Line("other", "none", plots.GREY)]
    text = plots.learning_curves([{"step": 1, "loss": 2.0}, {"step": 2}], {"loss": lines}, unit="step")
    assert "a loss" in text
    assert "none<" not in text
    assert plots.learning_curves([], {"loss": lines}, unit="step").startswith("<svg")
