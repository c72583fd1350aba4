"""docs/benchmarks.md and its plots, from benchmarks/results/peers.json: no figure in them is typed by hand.

python -m benchmarks.peers.page          write
python -m benchmarks.peers.page --check  exit with 1 if the page is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.measure import ENOUGH, POOLED_TOLERANCE, SLOW, TOLERANCE
from benchmarks.peers.problems import GROWTH, MAIN, Case
from benchmarks.peers.tables import as_markdown, promises, table_of
from benchmarks.peers.with_innerloop import AT_ONCE
from innerloop.runs.plots import COLOURS, as_svg, pyplot

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "benchmarks.md"
OTHERS = {"machine": "Arithmetic and temporary memory", "presets": "Compiling the presets"}

HEAD = """\
# Beside its peers

Written by `make bench`, which sets up an environment of its own, takes the same meta-steps in every implementation, and
keeps what it saw in `benchmarks/results/peers.json`.
"""
METHOD = """\
## How it is measured

- **The same work.** One whole meta-step in single precision: the exact gradient of the tasks' mean query loss, SGD
  inside, one step of Adam outside, from the same parameters and data, which a seed fixes.
- **The same gradient.** The meta-gradient of the program that is timed is read from Adam's first moment after the first
  step, and compared with that of `Reverse` in double precision. *error* is the largest relative deviation, in norm, of
  any parameter's gradient. A row whose error is above {tolerance:g} gets no figures ({pooled:g} with max-pooling, where
  rounding decides near-ties). First-order rows are not compared.
- **As their users write it.** higher, TorchOpt and the task loop take one task after the other, and so hold the graph
  of one task at a time; `torch.func` and JAX by hand take all tasks at once. JAX sees a CPU device for each core, and
  only innerloop uses more than one; threads are what each framework takes by itself. PyTorch's layer normalisation is
  written out, since under `vmap` its own has an inexact second derivative.
- **Side by side.** Each implementation of a case has a process of its own. All are built, then they take turns in
  {rounds} rounds, each of at least {seconds:g} s and two meta-steps (one, if it takes over {slow:g} s; no further round
  after {enough:g} s). *ms* is the median of the rounds' medians, *rounds* the lowest and the highest of them.
- **Memory.** *MB* is how far the process's resident memory rose, at its peak, above what it held with the framework
  imported, the start of the framework's runtime included. *first s* and *first MB* are those of the first meta-step,
  which compiles; *MB* leaves that one out.
- **innerloop** chooses among its layouts and adjoints for the small network by a short measurement, as its program
  does; *first s* includes that. It takes {at_once} of these meta-steps in one dispatch, as the program takes hundreds;
  the others are called once for each.
- **Limits.** {limit:g} s for the first meta-step, as much for a round, and {gibibytes:g} GiB; beyond them a row has no
  figures.
- **Arithmetic** is the operations of the matrix products that a meta-step cannot do without, as counted in
  `benchmarks/peers/arithmetic.py`; the matrix-product rate is that of a large product in JAX, on all cores.
"""


def page(result: dict[str, Any] | None) -> str:
    """The whole of docs/benchmarks.md."""
    if result is None:
        return f"{HEAD}\nNot yet measured.\n"
    blocks = [HEAD, circumstances(result), "## What is promised", as_markdown(promises(result)), "## One meta-step"]
    for case in result["cases"]:
        blocks += [f"### {case}", f"{describe(MAIN[case])}.", as_markdown(table_of(case, result))]
    blocks += ["## How time and memory grow", "Milliseconds, with megabytes in brackets."]
    missing = [f"`{curve}`" for curve in GROWTH if curve not in result["curves"]]
    blocks += [f"Not yet measured: {', '.join(missing)}."] if missing else []
    for curve in result["curves"]:
        varied, start = varied_in(curve), describe(GROWTH[curve][1])
        blocks += [
            f"### {curve}",
            f"{start}, and more {varied}.",
            f"![Time and memory against {varied}]({image_of(curve)})",
        ]
        blocks.append(as_markdown(table_of(curve, result)))
    for part in (part for part in OTHERS if part in result):
        blocks += [f"## {OTHERS[part]}", as_markdown(table_of(part, result))]
    settings = result["settings"] | {"tolerance": TOLERANCE, "pooled": POOLED_TOLERANCE, "slow": SLOW, "enough": ENOUGH}
    settings["at_once"] = AT_ONCE
    blocks.append(METHOD.format(**settings))
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n"


def circumstances(result: dict[str, Any]) -> str:
    """Where, when and with what: a sentence for each processor and set of versions."""
    groups: dict[str, dict[str, Any]] = {}
    for name, part in result["measured"].items():
        environment = part.get("environment", result["environment"])
        machine, versions = environment["machine"], environment["versions"]
        known = ", ".join(f"{library} {number}" for library, number in versions.items() if number)
        groups.setdefault(f"{machine['processor']} with {machine['cores']} cores; {known}", {})[name] = part
    said = []
    for where, parts in groups.items():
        commits = ", ".join(dict.fromkeys((each["commit"] or "unknown")[:10] for each in parts.values()))
        only = f"{', '.join(parts)}: " if len(groups) > 1 else ""
        said.append(
            f"{only}{where}; commit {commits}; until {max(each['ended'] for each in parts.values())[:10]}, "
            f"{sum(each['minutes'] for each in parts.values()):.0f} minutes."
        )
    return "\n\n".join(said)


def describe(case: Case) -> str:
    """The sizes of a case."""
    tasks, steps = (f"{n} {what}{'s' * (n > 1)}" for n, what in ((case.tasks, "task"), (case.steps, "inner step")))
    return f"{tasks} of {case.support} + {case.query} examples, {steps} of {case.rate:g}"


def varied_in(curve: str) -> str:
    """What grows along a curve."""
    return {"steps": "inner steps", "tasks": "tasks"}[curve.split("-")[1]]


def image_of(curve: str) -> str:
    """The file of a curve's plot, from the page's folder."""
    return f"images/growth-{curve}.svg"


def plot(curve: str, result: dict[str, Any]) -> str:
    """Time and memory of each implementation along a curve, as SVG."""
    figure, axes = pyplot().subplots(1, 2, figsize=(9.6, 3.6))
    for (name, sizes), colour in zip(result["curves"][curve].items(), COLOURS, strict=False):
        seen = {int(size): row for size, row in sizes.items() if "failed" not in row}
        for axis, what, unit in ((axes[0], "seconds", 1e-3), (axes[1], "peak_bytes", 1e6)):
            axis.plot(
                list(seen), [row[what] / unit for row in seen.values()], "o-", markersize=3, color=colour, label=name
            )
    for axis, label in zip(axes, ("ms per meta-step", "MB"), strict=True):
        axis.set(xlabel=varied_in(curve), ylabel=label, xscale="log", yscale="log")
        axis.set_xticks(list(GROWTH[curve]), [str(size) for size in GROWTH[curve]], minor=False)
        axis.minorticks_off()
        axis.yaxis.get_major_locator().set_params(subs=(1, 2, 5))  # an axis may hold no power of ten
        axis.yaxis.set_major_formatter("{x:,g}")
    axes[1].legend(fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.subplots_adjust(wspace=0.3)
    return as_svg(figure)


def main(check: bool) -> int:
    result = json.loads(RESULT.read_text()) if RESULT.exists() else None
    text = page(result)
    stale = not PAGE.exists() or PAGE.read_text() != text
    if stale:
        print(f"{PAGE.relative_to(ROOT)} {'is not up to date; run: make results' if check else 'written'}")
    if not check:
        PAGE.write_text(text)
        for curve in result["curves"] if result else ():
            (PAGE.parent / image_of(curve)).write_text(plot(curve, result) + "\n")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
