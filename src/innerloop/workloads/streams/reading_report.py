"""The table and the pictures of streams."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from innerloop.runs import plots
from innerloop.runs.results import Section, Table, measured
from innerloop.types import Meta
from innerloop.workloads.streams.reading import Reading


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The score of every way to read the streams."""
    digits = 1 if result["chance"] is not None else 3
    rows = [(row["name"], _score(row, digits)) for row in result["rows"]]
    notes = [
        f"streams of {result['length']:,} tokens; a window of {result['window']:,} tokens sees {result['reach']:,} "
        "back through all layers"
    ]
    if result["chance"] is not None:
        rows.append(("chance", f"{result['chance']:.1f}"))
        notes.append(f"questions come {result['distance']:,} or more tokens after their answers")
    notes.append(
        f"every network has {result['parameters']:,} parameters; test-time training changes {result['fast']:,} of them "
        f"after every {result['chunk']:,} tokens"
    )
    if len(result["rows"]) > 1:
        notes.append(
            "all were trained for the same number of meta-steps, after which one may still be learning; "
            "--outer.iterations gives more"
        )
    title = f"{_capital(result['title'])}: mean ± 95 % interval, {result['settings']['tasks']:,} test streams"
    return [Table(title, ("network", result["title"]), tuple(rows), tuple(notes), frozenset({0}))]


def sections(
    problem: Reading, meta: Meta, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """The score along the stream, and the learning curves."""
    recall = result["chance"] is not None
    key, name = ("accuracy_after", "share of right answers") if recall else ("nats_after", "nats per byte")
    curves = plots.learning_curves(
        records, {name: [plots.Line(key, "training streams", plots.COLOURS[0])]}, unit="meta-step"
    )
    told = (
        "Recall of each question, from the first one of a stream to the last. Dotted: chance."
        if recall
        else "Bits per byte in each chunk of the test streams, each before the update on it."
    )
    return [
        Section("Along the stream", f"<figure>{along(result)}</figure>", told),
        Section("Learning", f"<figure>{curves}</figure>", "Training streams, each seen once."),
    ]


def along(result: Mapping[str, Any]) -> str:
    """The score of every network over the places in a stream, an `<svg>` element."""
    figure, axis = plots.pyplot().subplots(figsize=(6.4, 3.4))
    recall = result["chance"] is not None
    for row, colour in zip(result["rows"], plots.COLOURS, strict=False):
        places = np.arange(1, len(row["course"]) + 1)
        axis.plot(places, row["course"], marker=".", color=colour, label=row["name"])
    if recall:
        axis.axhline(result["chance"], linestyle=":", color=plots.GREY)
    axis.set(xlabel="question" if recall else f"chunk of {result['chunk']} bytes", ylabel=result["title"])
    axis.legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    return plots.as_svg(figure)


def _score(row: Mapping[str, Any], digits: int) -> str:
    mean, half_width = row["score"]["mean"], row["score"]["ci95_half_width"]
    return measured(mean, float("nan") if half_width is None else half_width, digits)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
