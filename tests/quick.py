"""Lint and the quick tests of what was changed: `make quick`.

A test file is chosen if it was changed itself, or if it, a helper that it imports or its `conftest.py` names a module
that was changed. What reaches a change by a longer way is left to `make test`.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOTS = (ROOT / "src", ROOT / "tests", ROOT)
"""Where imports are looked for, the first that has it."""


def changed(since: str) -> list[Path]:
    """Files that differ from the commit where this branch left `since`, and those that git does not know yet."""

    def git(*arguments: str) -> list[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()

    (base,) = git("merge-base", since, "HEAD")
    names = {*git("diff", "--name-only", "--relative", base), *git("ls-files", "--others", "--exclude-standard")}
    return sorted(path for name in names if (path := ROOT / name).is_file())


def public_names() -> dict[str, str]:
    """The module of each public name, from what `innerloop/__init__.py` says for type checkers."""
    tree = ast.parse((ROOT / "src/innerloop/__init__.py").read_text())
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name: f"{node.module}.{alias.name}" for node in found for alias in node.names}


def imports(path: Path, public: dict[str, str]) -> Iterator[str]:
    """What a file imports, in all its functions too, as dotted names; public names as the modules that have them."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield (
                    public.get(alias.name, "innerloop") if node.module == "innerloop" else f"{node.module}.{alias.name}"
                )
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "il":
            yield public.get(node.attr, "innerloop")


def source(name: str) -> Path | None:
    """The file of a dotted name: of the module, or of the one that has it as an attribute."""
    for parts in (name.split("."), name.split(".")[:-1]):
        for root in ROOTS if parts else ():
            place = root.joinpath(*parts)
            for path in (place.with_suffix(".py"), place / "__init__.py"):
                if path.is_file():
                    return path
    return None


def concerned(changes: Sequence[Path]) -> list[Path]:
    """The test files to run, and the changed modules for the examples in their docstrings."""
    public, wanted = public_names(), set(changes)

    def reads(path: Path, seen: set[Path]) -> Iterator[Path]:
        """The file, those it names, and for helpers among the tests those that they name."""
        if path in seen:
            return
        seen.add(path)
        yield path
        for found in map(source, imports(path, public)):
            if found is not None and found.is_relative_to(ROOT / "tests"):
                yield from reads(found, seen)
            elif found is not None:
                yield found
                if found.name == "__init__.py" and found.parent.name != "innerloop":  # a package and what it hands on
                    yield from filter(None, map(source, imports(found, public)))

    chosen = [path for path in changes if path.is_relative_to(ROOT / "src") and path.suffix == ".py"]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        fixtures = [place / "conftest.py" for place in path.parents if place.is_relative_to(ROOT / "tests")]
        seen: set[Path] = set()
        if any(file in wanted for start in (path, *filter(Path.is_file, fixtures)) for file in reads(start, seen)):
            chosen.append(path)
    return chosen


def main(since: str = "main") -> int:
    """Run what concerns the changes since a commit, each part also where one before it failed."""
    changes = changed(since)
    python = [str(path) for path in changes if path.suffix == ".py"]
    tests = [str(path.relative_to(ROOT)) for path in concerned(changes)]
    commands = []
    if python:
        commands += [["ruff", "check", *python], ["ruff", "format", "--check", *python], ["lint-imports"]]
    if tests:
        workers = ["--numprocesses", "2", "--dist", "worksteal"] if len(tests) > 3 else []
        commands.append(["pytest", "-q", "-m", "not slow", *workers, *tests])
    programs = Path(sys.executable).parent
    codes = [subprocess.run([programs / name, *rest], cwd=ROOT, check=False).returncode for name, *rest in commands]
    return int(any(code not in (0, 5) for code in codes))  # pytest ends with 5 where all that was chosen is slow


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
