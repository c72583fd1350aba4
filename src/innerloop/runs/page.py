"""A report: one HTML file that needs nothing else and asks nothing of the network."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from innerloop.extras import require
from innerloop.runs.results import Section, Table

HEADED = ("command", "commit")
"""What of the provenance stands above the rest of it."""


def render(
    *,
    title: str,
    subtitle: str,
    tables: Sequence[Table],
    remarks: Sequence[str],
    sections: Sequence[Section],
    settings: Iterable[tuple[str, str]],
    provenance: Mapping[str, Any],
) -> str:
    """The page of a result.

    Args:
        title: its heading.
        subtitle: a sentence below it.
        tables: the scores.
        remarks: what a reader must know of how they came about, a sentence each.
        sections: the other parts, in order; their HTML is taken as it is, and all other text is escaped.
        settings: the name and value of each setting.
        provenance: where the figures come from: `command` (its words, or a text), `commit`, and what else is known,
            such as versions and machine.

    Returns:
        The page as HTML.

    Raises:
        InnerloopError: if Jinja2 is not installed.
    """
    jinja = require("jinja2", "report", "The report")
    markup = require("markupsafe", "report", "The report").Markup
    environment = jinja.Environment(
        autoescape=True, undefined=jinja.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(files("innerloop.runs").joinpath("templates/report.html").read_text())
    command = provenance.get("command", "")
    return template.render(
        title=title,
        subtitle=subtitle,
        tables=[markup(table.as_html()) for table in tables],
        remarks=[remark if remark.endswith((".", "!", "?")) else f"{remark}." for remark in remarks],
        sections=[(section.title, markup(section.html), section.caption) for section in sections],
        settings=list(settings),
        command=command if isinstance(command, str) else shlex.join(command),
        commit=provenance.get("commit") or "not known",
        facts=list(_facts({name: value for name, value in provenance.items() if name not in HEADED})),
    )


def _facts(provenance: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Name and value of what is known, `versions: {jax: 1}` as `versions jax`."""
    for name, value in provenance.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{prefix}{name} ")
        elif isinstance(value, str):
            yield f"{prefix}{name}", value
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            yield f"{prefix}{name}", ", ".join(value)
        elif value is not None:
            yield f"{prefix}{name}", json.dumps(value)
