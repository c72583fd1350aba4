"""How a text file writes a table: its encoding, what divides its columns, where its rows begin, how numbers look."""

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from innerloop.errors import InnerloopError
from innerloop.tabular.identity import number_in

Notation: TypeAlias = Literal["plain", "comma", "grouped"]
"""How a column writes numbers: 1234.5; 1.234,5 or 1234,5; 1,234.5. A percent sign divides by 100 in each."""
NOTATIONS: tuple[Notation, ...] = ("plain", "comma", "grouped")

GAPS = frozenset(
    {"NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "NaT", "."}
    | {"#N/A", "#NA", "#NV", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"}
)
"""What programs write into the cell of a number that is missing."""

UNNAMED = "Unnamed: 0"
"""The name of a first column that has none, as pandas and R write the names of rows."""
HEAD = 2**16
DELIMITERS = ",;\t|"
COMMENT = "#"
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
DIVIDED = re.compile(rf'"?sep=([{DELIMITERS}:])"?', re.I)
SPACE = " \u00a0\u202f'"
COMMA = re.compile(rf"[+-]?(?:[0-9]{{1,3}}(?:[.{SPACE}][0-9]{{3}})+|[0-9]+)(?:,[0-9]+)?(?:[eE][+-]?[0-9]+)?")
GROUPED = re.compile(rf"[+-]?[0-9]{{1,3}}(?:[,{SPACE}][0-9]{{3}})+(?:\.[0-9]+)?")


class Dialect(NamedTuple):
    """How a text file writes a table.

    Attributes:
        encoding: of its characters.
        delimiter: what divides columns.
        lines: before the first row, comments aside: a line that names the delimiter, and the names of the columns.
        names: of the columns, without spaces around them.
        comments: whether there are lines that begin with #.
    """

    encoding: str
    delimiter: str
    lines: int
    names: tuple[str, ...]
    comments: bool


def dialect_of(path: Path) -> Dialect:
    """How a file writes its table, from its beginning.

    Raises:
        InnerloopError: if there is no line with names, or a name appears twice.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    encoding = _encoding(head, whole=len(head) < HEAD)
    lines = codecs.decode(head, encoding, "ignore").lstrip("\ufeff").splitlines(keepends=True)
    comments = any(line.startswith(COMMENT) for line in lines)
    lines = [line for line in lines if not line.startswith(COMMENT)]
    before, delimiter = 0, ""
    for line in lines:
        if named := DIVIDED.fullmatch(line.rstrip("\r\n")):
            delimiter = named[1]
        elif line.strip():
            break
        before += 1
    if before == len(lines):
        raise InnerloopError(f"{path} has no line with the names of its columns; write one before the first row.")
    delimiter = delimiter or _delimiter(lines[before])
    reader = csv.reader(_decoded(lines[before:]), delimiter=delimiter)
    names = [name.strip() for name in next(reader)]
    names = [name or (UNNAMED if i == 0 else f"column {i + 1}") for i, name in enumerate(names)]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InnerloopError(f"{path} has two columns of the name {twice[0]!r}; rename one.")
    return Dialect(encoding, delimiter, before + reader.line_num, tuple(names), comments)


def without_comments(path: Path, encoding: str) -> bytes:
    """The lines of a file that do not begin with #, in UTF-8."""
    text = path.read_bytes().decode(encoding).lstrip("\ufeff")
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(COMMENT)).encode()


def value_in(text: str, notation: Notation = "plain") -> float | None:
    """The number that a cell holds in a notation, or `None`.

    Example:
        >>> value_in("1.234,50", "comma"), value_in("1,234.50", "grouped"), value_in("12 %"), value_in("1,5")
        (1234.5, 1234.5, 0.12, None)
    """
    text = text.strip()
    share = text.endswith("%")
    text = text[:-1].rstrip() if share else text
    if notation == "comma" and COMMA.fullmatch(text):
        text = re.sub(rf"[.{SPACE}]", "", text).replace(",", ".")
    elif notation == "grouped" and GROUPED.fullmatch(text):
        text = re.sub(rf"[,{SPACE}]", "", text)
    elif notation == "comma" and "." in text:
        return None
    number = number_in(text)
    return number / 100 if share and number is not None else number


def _encoding(head: bytes, *, whole: bool) -> str:
    """The encoding of a file by its mark, its zero bytes, or what its bytes cannot be."""
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if head[1:200:2].count(0) > len(head[1:200:2]) // 2:
        return "utf-16-le"
    if head[0:200:2].count(0) > len(head[0:200:2]) // 2:
        return "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, whole)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _delimiter(header: str) -> str:
    """What divides the names, outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)


def _decoded(lines: list[str]) -> Iterator[str]:
    yield from lines
