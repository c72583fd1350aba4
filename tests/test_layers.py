"""The order of imports, on the level of modules and with the imports inside of functions counted."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src"
PROGRAM = "innerloop.cli.main"
JAX = ("jax", "jaxlib", "jaxtyping", "optax")
FIRST = {
    "innerloop.runs.engine": "the loop, after Workload.open, which has loaded JAX",
    "innerloop.runs.machine": "sets JAX up: devices, precision, the clock of compilation",
    "innerloop.programs": "sets JAX up: where it keeps compiled programs",
    "innerloop.runs.distributed": "meets the other processes, before there are devices",
    "innerloop.cli.main:_algorithms": "a verb without a run",
    "innerloop.cli.main:_doctor": "a verb without a run",
    "innerloop.cli.main:_data": "a verb without a run, which asks training itself",
}
"""Where the program may load JAX, beside the `workload` module of each kind of run, with the reason."""


class Import(NamedTuple):
    """One imported module, the function in which it is imported (empty on the level of the module), and the line."""

    module: str
    function: str
    line: int


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for path in SOURCE.glob("innerloop/**/*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> tuple[Import, ...]:
    """What a module imports, of the package itself and of others, but not for type checkers alone."""

    def walk(nodes: list[ast.stmt] | list[ast.AST], function: str) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk(node.orelse, function)
                continue
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, function, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module, f"{module}:{node.lineno} is a relative import"
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield Import(inner if inner in modules() else node.module, function, node.lineno)
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            name = getattr(node, "name", "") if inside else ""
            yield from walk(list(ast.iter_child_nodes(node)), f"{function}.{name}".strip(".") if name else function)

    return tuple(walk(ast.parse(modules()[module].read_text()).body, ""))


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules that lead back to themselves, in groups (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1 or node in graph[node]:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_nothing_imports_in_a_circle():
    graph = {name: {each.module for each in imports(name) if each.module in modules()} for name in modules()}
    assert not circles(graph), "\n".join(" <-> ".join(group) for group in circles(graph))


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"e"}}
    assert circles(graph) == [["a", "b", "c"], ["e"]]


def with_packages(module: str) -> Iterator[str]:
    """A module and the packages that importing it runs."""
    parts = module.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def loaded_at_once(module: str) -> set[str]:
    """The modules of the package that are loaded when this one is."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        now = waiting.pop()
        if now in seen or now not in modules():
            continue
        seen.add(now)
        waiting += [name for each in imports(now) if not each.function for name in with_packages(each.module)]
        waiting += with_packages(now)
    return seen


@cache
def loads_jax(module: str) -> bool:
    """Whether importing a module loads JAX."""
    return any(
        each.module.split(".")[0] in JAX
        for name in loaded_at_once(module)
        for each in imports(name)
        if not each.function
    )


def test_jax_is_first_imported_in_one_place():
    """The program's modules do without JAX, but for one module of each kind of run and the exceptions above."""
    assert not loads_jax(PROGRAM)
    places = {
        f"{name}:{each.line} {each.function} imports {each.module}"
        for start in (PROGRAM, *(name for name in modules() if name.endswith(".workload")))
        for name in loaded_at_once(start)
        for each in imports(name)
        if each.function and (each.module.split(".")[0] in JAX or (each.module in modules() and loads_jax(each.module)))
        if not (name.endswith(".workload") or name in FIRST or f"{name}:{each.function}" in FIRST)
    }
    assert not places, "\n".join(sorted(places))


def test_help_does_not_load_jax():
    code = f"""
import sys
from {PROGRAM} import main
sys.argv = ["innerloop", "--help"]
try:
    main()
except SystemExit:
    pass
print("jax" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == "False"


def test_no_file_is_long():
    long = {
        str(path.relative_to(SOURCE)): count
        for path in modules().values()
        if (count := len(path.read_text().splitlines())) > 350
    }
    assert not long
