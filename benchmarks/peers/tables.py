"""What was measured, as tables for the terminal and for the page."""

from typing import Any, TypeAlias

from benchmarks.peers.arithmetic import operations
from benchmarks.peers.claims import CENTRAL, FASTER, claims, number, over_ours
from benchmarks.peers.problems import GROWTH, MAIN

Table: TypeAlias = list[tuple[str, ...]]
"""A head and rows of cells; a row may end early."""


def promises(result: dict[str, Any]) -> Table:
    """Every claim."""
    verdicts = ((each.what, each.seen, each.wanted, "yes" if each.holds else "no") for each in claims(result))
    return [("", "measured", "target", "holds"), *verdicts]


def table_of(part: str, result: dict[str, Any]) -> Table:
    """The table of one part of a run."""
    if part in MAIN:
        return _comparison(part, result)
    if part in GROWTH:
        return _growth(part, result)
    return {"machine": _machine, "presets": _presets}[part](result)


def as_text(table: Table) -> str:
    """Columns aligned; what follows the name in a row that ends early may run on."""
    whole = [row for row in table if len(row) == len(table[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    widths[0] = max(len(row[0]) for row in table)
    lines = []
    for name, *cells in table:
        if len(cells) + 1 == len(widths):
            cells = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def as_markdown(table: Table) -> str:
    """The same in Markdown."""
    columns = len(table[0])
    rows = [(*row, *[""] * (columns - len(row))) for row in table]
    rows.insert(1, ("---", *["---:"] * (columns - 1)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _comparison(case: str, result: dict[str, Any]) -> Table:
    table: Table = [("", "ms", "rounds", "over ours", "target", "MB", "first s", "first MB", "error")]
    for name, row in result["cases"][case].items():
        if "failed" in row:
            table.append((name, row["failed"]))
            continue
        ratio, target = over_ours(result, case, name, "seconds"), FASTER.get(case, {}).get(name)
        cells = (
            _milliseconds(row["seconds"]),
            f"{_milliseconds(min(row['round_seconds']))}-{_milliseconds(max(row['round_seconds']))}",
            number(ratio) if ratio else "",
            f"≥ {target:g}" if target else "",
            _megabytes(row["peak_bytes"]),
            number(row["first_seconds"]),
            _megabytes(row["first_peak_bytes"]),
            "" if row["error"] is None else f"{row['error']:.0e}",
        )
        table.append((name, *cells))
    return table


def _growth(curve: str, result: dict[str, Any]) -> Table:
    rows = result["curves"][curve]

    def cell(name: str, size: int) -> str:
        row = rows[name].get(str(size), {"failed": ""})
        return (
            row["failed"] if "failed" in row else f"{_milliseconds(row['seconds'])} ({_megabytes(row['peak_bytes'])})"
        )

    return [
        (curve.split("-")[1], *rows),
        *((str(size), *(cell(name, size) for name in rows)) for size in GROWTH[curve]),
    ]


def _machine(result: dict[str, Any]) -> Table:
    rates, held = result["machine"]["product_rate"], result["machine"]["temporary_bytes"]
    return [
        ("", "measured"),
        *((f"matrix product in {name}, GFLOP/s", number(rate / 1e9)) for name, rate in rates.items()),
        (f"GFLOP of {CENTRAL}", number(operations(MAIN[CENTRAL]) / 1e9)),
        (f"GFLOP of {CENTRAL}, first order", number(operations(MAIN[CENTRAL], exact=False) / 1e9)),
        *((f"temporary MB, {name}", _megabytes(size)) for name, size in held.items()),
    ]


def _presets(result: dict[str, Any]) -> Table:
    seconds = result["presets"]
    return [
        ("seconds of compiling", "cold", "warm"),
        *((name, number(each["cold"]), number(each["warm"])) for name, each in seconds.items()),
    ]


def _milliseconds(seconds: float) -> str:
    return number(1e3 * seconds)


def _megabytes(size: int) -> str:
    return number(size / 1e6)
