"""Write docs/algorithms/ from the table of algorithms and benchmarks/results/family-*.json: no figure is typed by hand.

python -m benchmarks.algorithm_pages          write
python -m benchmarks.algorithm_pages --check  exit with 1 if what is written is not up to date
"""

import ast
import inspect
import sys
from pathlib import Path

from benchmarks.family_tables import (
    COMPARISONS,
    LOOPS,
    file_name,
    long_loops,
    measured,
    memory,
    pictures,
    searched,
    which_one,
    whole_table,
)
from innerloop.core.adjoints import Annealed, FirstOrder, Implicit, Mixed, Truncated
from innerloop.core.algorithms import ALGORITHMS, PIECES, Algorithm
from innerloop.core.algorithms import table as algorithms_table
from innerloop.core.objectives import last_step, reptile
from innerloop.workloads.episodes.recipes import METHODS, RECIPES

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "algorithms"
ADJOINTS = {
    Mixed: "exact, forward over reverse mode (`Mixed`)",
    FirstOrder: "none through the inner gradients (`FirstOrder`)",
    Truncated: "exact through the last steps, first-order before (`Truncated`)",
    Annealed: "first-order at the beginning of training, then exact (`Annealed`)",
    Implicit: "by the implicit function theorem at the minimum (`Implicit`)",
}
NETWORKS = {
    "any": "any",
    "per-step": "scale and shift of normalisation once for each inner step (`models.per_step`)",
    "context": "takes a context beside its input (`models.with_context`)",
    "prototypes": "an embedding with prototypes (`models.prototypical`)",
    "shared-head": "its classes begin with one head vector (`models.shared_head`)",
}


def objective(row: Algorithm) -> str:
    if row.objective is reptile:
        return "move towards the adapted parameters (`reptile`)"
    if row.objective is last_step:
        return "the query loss after the last inner step (`last_step`)"
    return "the query loss after every inner step, then after the last alone (`multi_step`)"


def outer_update(row: Algorithm) -> str:
    parts = ["any optax optimiser"]
    if row.outer.cosine:
        parts.append("its step size on a cosine")
    if row.outer.radius:
        parts.append(f"the meta-gradient taken uphill, at a distance of {row.outer.radius:g}")
    return ", ".join(parts)


def sources() -> dict[str, str]:
    """Each row as it stands in the table: its rule, adjoint and objective, by name."""
    tree = ast.parse(inspect.getsource(algorithms_table))
    table = next(
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "ALGORITHMS"
    )
    assert isinstance(table, ast.Dict)
    rows = {}
    for key, value in zip(table.keys, table.values, strict=True):
        assert isinstance(key, ast.Constant)
        assert isinstance(value, ast.Call)
        wanted = [ast.unparse(each) for each in value.args[:3]]
        wanted += [
            f"{each.arg}={ast.unparse(each.value)}" for each in value.keywords if each.arg in ("outer", "network")
        ]
        rows[str(key.value)] = f"Algorithm({', '.join(wanted)}, ...)"
    return rows


def call(name: str, row: Algorithm) -> list[str]:
    """How the row is called."""
    sizes = {"context": ", context=5", "prototypes": ", features=64, ways=5"}.get(row.network, "")
    iterations = ", iterations=10_000" if row.needs_iterations else ""
    settings = "inner_rate=0.01, steps=5, optimizer=optax.adam(1e-3), meta_batch=25"
    arguments = f"model, criterion, {settings}{iterations}{sizes}"
    one_line = f'learner = il.algorithm("{name}")({arguments})'
    return [
        *([one_line] if len(one_line) <= 120 else [f'learner = il.algorithm("{name}")(', f"    {arguments}", ")"]),
        "state, metrics = il.repeat(learner.update)(learner.init(key), tasks, 1_000)",
    ]


def page(name: str, row: Algorithm, source: str) -> str:
    """The page of one row."""
    lines = [
        f"# {METHODS.get(name, name)} (`{name}`)" if name in METHODS else f"# `{name}`",
        "",
        f"{row.summary[0].upper()}{row.summary[1:]}. {row.use}",
        "",
        f"$$ {row.maths} $$",
        "",
        "| | |",
        "|---|---|",
        f"| adjoint | {ADJOINTS[type(row.adjoint)]} |",
        f"| objective | {objective(row)} |",
        f"| outer update | {outer_update(row)} |",
        f"| network | {NETWORKS[row.network]} |",
        f"| cost | {row.cost} |",
        f"| reference | {row.reference} |",
        "",
        "In the table of `innerloop.core.algorithms`:",
        "",
        "```python",
        f'"{name}": {source}',
        "```",
        "",
        "From the library:",
        "",
        "```python",
        *call(name, row),
        "```",
        "",
        f"`innerloop train RECIPE --algorithm {name}` trains it. $\\theta_t$ is $\\theta$ adapted by $t$ inner steps "
        f"of the "
        "loss $L$ on the support set $S$ of a task, $Q$ is its query set, $\\alpha$ and $\\eta$ are the inner and the "
        "outer "
        "step size.",
        "",
    ]
    settings = {recipe: made.rows[name] for recipe, made in RECIPES.items() if name in made.rows}
    if settings:
        lines += ["What the recipes set for it:", ""]
        lines += [
            f"- `{recipe}`: " + ", ".join(f"`--{field.replace('_', '-')} {value}`" for field, value in fields.items())
            for recipe, fields in settings.items()
        ]
        lines.append("")
    return "\n".join([*lines, "## Measured", "", *measured(name), ""])


def index() -> str:
    """The page of the whole family."""
    lines = [
        "# The family",
        "",
        "MAML's descendants differ in what one inner update is, how the meta-gradient flows back through it, what is "
        "done with the adapted parameters, and what the outer update is. All are rows of one table, "
        "`innerloop.core.algorithms`, and run through the same `adapt` and `meta_loss`. `innerloop algorithms` lists "
        "them, "
        "`innerloop train RECIPE --algorithm NAME` trains one, and `innerloop compare RECIPE --algorithms a,b,c "
        "--seeds "
        "0..2` compares several.",
        "",
        "| row | what distinguishes it | reference |",
        "|---|---|---|",
    ]
    lines += [
        f"| [`{name}`]({file_name(name)}.md) | {row.summary} | {row.reference.split(':')[0]}, "
        f"{row.reference.rsplit('arXiv ', 1)[-1]} |"
        for name, row in ALGORITHMS.items()
    ]
    lines += [
        "",
        "The pieces of MAML++ can be had one by one, by names joined with a plus, as in `maml+msl+lslr` or "
        "`fomaml+lslr`:",
        "",
        "| piece | what it is |",
        "|---|---|",
        *(f"| `{name}` | {title} |" for name, (title, _) in PIECES.items()),
        "",
        *which_one(),
        *(line for title, key in COMPARISONS.items() for line in whole_table(title, key)),
        *searched(),
        "## When the inner loop grows longer",
        "",
        *(line for title, key in LOOPS.items() for line in long_loops(title, key)),
        "## Memory",
        "",
        *memory(),
        "```{toctree}",
        ":hidden:",
        ":maxdepth: 1",
        "",
        *(file_name(name) for name in ALGORITHMS),
        "```",
        "",
    ]
    return "\n".join(lines)


def everything() -> dict[Path, str]:
    """All files with their text."""
    code = sources()
    files = {PAGES / f"{file_name(name)}.md": page(name, row, code[name]) for name, row in ALGORITHMS.items()}
    files[PAGES / "index.md"] = index()
    images = ROOT / "docs" / "images"
    files |= {images / name: picture for name, picture in pictures().items()}
    return files


def main(arguments: list[str]) -> int:
    files = everything()
    if arguments == ["--check"]:  # pictures depend on the version of matplotlib, so that they are there has to do
        stale = [
            path
            for path, text in files.items()
            if not path.exists() or (path.suffix == ".md" and path.read_text() != text)
        ]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date; run: make results")
        return int(bool(stale))
    PAGES.mkdir(exist_ok=True)
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
