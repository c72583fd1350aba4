"""The documentation does what it says: its Python runs, page by page, and its command lines are understood.

Every ```python block of a page runs in order in one namespace and an empty directory. A ```text block right after one
is what it prints. Hidden comments, a line each, say what a test does otherwise:

    <!-- test: skip REASON -->                       the next block is not run
    <!-- test: replace 10_000 with 20 -->            in the next block; above the title, in all
    <!-- test: first innerloop train demo ... -->    this command runs before the next block
    <!-- test: output varies -->                     what the next block prints is not compared
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import optax
import pytest

import innerloop as il
from innerloop import losses, models, workloads
from innerloop.cli import main as cli
from innerloop.cli import predict, together
from innerloop.runs import compare, engine, rundir
from innerloop.workloads.tabular import audit

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"README.md", "own-tasks.md", "pytorch.md"}
"""Pages whose Python tests/test_examples.py and tests/test_own_tasks_pages.py run, who ask more of it."""
MEASURED = {"results.md", "benchmarks.md", "rl-measured.md", "fsmol.md", "algorithms"}
"""Pages that tell with which command something was measured, at the commit that they name."""
PLACEHOLDERS = {"RECIPE": "demo", "RECIPE|RUN": "demo", "RUN": "runs/demo-seed0", "FILE": "assays.csv"}
FENCE = re.compile(r"(?:<!-- test: (?P<note>.*?) -->|^```(?P<kind>\w+)\n(?P<body>.*?)^```$)", re.M | re.S)


class Block(NamedTuple):
    """A block of Python: the line that it begins in, the commands before it, and what it prints, if compared."""

    code: str
    line: int
    first: tuple[str, ...]
    prints: str | None


def pages() -> dict[str, Path]:
    """All pages that are written by hand, by name."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = {page.relative_to(ROOT / "docs").as_posix() if page.parent != ROOT else page.name: page for page in found}
    return {name: page for name, page in names.items() if not name.startswith("_build/")}


def blocks(text: str) -> Iterator[Block]:
    """The Python of a page, as its comments want it."""
    notes: list[str] = []
    everywhere: list[str] = []
    found = list(FENCE.finditer(text))
    for i, match in enumerate(found):
        if match["note"] is not None:
            above = not text[: match.start()].lstrip().startswith("#") and "\n# " not in text[: match.start()]
            (everywhere if above else notes).append(match["note"])
            continue
        if match["kind"] != "python":
            continue
        following = found[i + 1] if i + 1 < len(found) else None
        output = following["body"] if following is not None and following["kind"] == "text" else None
        code, compared = match["body"], output is not None and "output varies" not in notes
        for note in everywhere + notes:
            if note.startswith("replace "):
                old, new = note.removeprefix("replace ").split(" with ")
                assert old in code or note in everywhere, f"{old!r} is not in the block that it is to be replaced in"
                code = code.replace(old, new)
        if not any(note.startswith("skip") for note in notes):
            first = tuple(note.removeprefix("first innerloop ") for note in notes if note.startswith("first "))
            yield Block(code, text.count("\n", 0, match.start()) + 1, first, output if compared else None)
        notes = []


def commands(text: str) -> Iterator[str]:
    """The command lines of a page, those in a console and those in a sentence."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.M | re.S):
        for line in re.findall(r"^\$ (?:\S*/)?innerloop (.*(?:\\\n.*)*)$", block, flags=re.M):
            yield line.replace("\\\n", " ")
    for line in re.findall(r"`innerloop ([^`]+)`", text):
        if " " in line and "VERB" not in line and "..." not in line:
            yield line.replace("\n", " ")


PYTHON = {
    name: page
    for name, page in pages().items()
    if name not in ELSEWHERE and not name.startswith("algorithms/") and "```python" in page.read_text()
}
ROWS = sorted(page for page in (ROOT / "docs" / "algorithms").glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("name", PYTHON)
def test_its_python_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    page, names = PYTHON[name], {"__name__": "__main__"}
    for block in blocks(page.read_text()):
        for command in block.first:
            assert cli.run(shlex.split(command)) == 0
        capsys.readouterr()
        exec(compile("\n" * block.line + block.code, str(page), "exec"), names)
        printed = capsys.readouterr().out
        if block.prints is not None:
            assert printed == block.prints, f"{page}, line {block.line}"


@pytest.mark.parametrize("page", ROWS, ids=lambda page: page.stem)
def test_the_call_on_the_page_of_a_row_makes_a_learner(page: Path) -> None:
    """What it trains, tests/test_algorithms.py says of every row."""
    (call,) = re.findall(r"```python\n(learner = .*?)^state, ", page.read_text(), flags=re.M | re.S)
    names: dict[str, Any] = {
        "il": il,
        "optax": optax,
        "model": models.mlp(1, (8,), 4),
        "criterion": losses.cross_entropy,
    }
    exec(compile(call, str(page), "exec"), names)
    assert isinstance(names["learner"], il.MetaLearner)


def test_what_prints_shows_what_comes_out() -> None:
    silent = [
        f"{name}, line {page.read_text().count(chr(10), 0, match.start()) + 1}"
        for name, page in PYTHON.items()
        for match in re.finditer(r"^```python\n(.*?)^```\n(\n```text)?", page.read_text(), flags=re.M | re.S)
        if re.search(r"^ *print\(", match[1], flags=re.M) and match[2] is None
    ]
    assert not silent


@contextmanager
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands are read as always, but what they would then do is left out; a run is that of the recipe in its name."""

    def existing(path: Path, kinds: Mapping[str, Any]) -> rundir.Run:
        recipe = re.sub(r"-seed\d+$", "", path.name)
        known = [name for name in workloads.recipes() if recipe.startswith(name)]
        kind = workloads.with_recipe(known[0]) if known else kinds["tabular"]
        return rundir.Run(path, kind, kind.configure(known[0] if known else "tasks.csv", None))

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "existing", existing)
        for module, names in {
            engine: ("train", "dry_run", "evaluate", "export"),
            compare: ("compare_runs", "train_and_compare", "launch_and_compare"),
            predict: ("adapt", "serve"),
            audit: ("examine",),
        }.items():
            for name in names:
                patch.setattr(module, name, lambda *arguments, **options: 0)
        patch.setattr(together, "watch", lambda arguments, asked: (0, True))
        yield


COMMANDS = [
    pytest.param(command, id=f"{name}: {command}")
    for name, page in pages().items()
    if name.split("/")[0] not in MEASURED
    for command in dict.fromkeys(commands(page.read_text()))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_command_lines_are_understood(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_options = re.sub(r"\[.*?\]", "", command)
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(without_options, comments=True)]
    if words[0] == "doctor":
        return  # it takes nothing, and what it does cannot be left out
    with nothing_runs(monkeypatch):
        try:
            status = cli.run(words)
        except SystemExit as stop:  # --help
            status = stop.code or 0
    assert status == 0, capsys.readouterr().err


def test_no_comment_of_a_test_is_misspelt() -> None:
    for name, page in pages().items():
        for note in re.findall(r"<!-- test:? ?(.*?) -->", page.read_text()):
            assert re.match(r"skip \w|replace .+ with .+|first innerloop \w|output varies$", note), f"{name}: {note}"
