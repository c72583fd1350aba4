"""Write docs/safety.md from benchmarks/results/{faults,pauses,serving-rough}.json: no figure in it is typed by hand.

python -m benchmarks.safety_page          write
python -m benchmarks.safety_page --check  exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import write_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "safety.md"


def page() -> str:
    """The whole page."""
    lines = [
        "# Nothing lost, measured",
        "",
        "What was done to runs, and what came of it; what the guards cost; how a server does in rough weather. "
        "Written by `make results` from the files of results that the named commands make.",
        "",
    ]
    for name, section in (
        ("faults", faults),
        ("faults-runs", runs_again),
        ("pauses", costs),
        ("serving-rough", serving),
    ):
        file = RESULTS / f"{name}.json"
        lines += section(json.loads(file.read_text())) if file.exists() else []
    return "\n".join(lines)


def made_by(command: str, known: dict[str, Any]) -> str:
    """What made a result, and on what."""
    machine = known["machine"]
    return f"`{command}`, commit {known['commit'][:10]}, {machine['processor']} with {machine['cores']} cores"


def faults(result: dict[str, Any]) -> list[str]:
    """The table of `make test-faults`."""
    return [
        "## Faults",
        "",
        f"{made_by('make test-faults', result)}; {result['seconds'] / 60:.0f} minutes. "
        "Runs of three kinds are killed at random moments and at operations on their files, whose operations "
        "fail (no space, an input or output error, no permission) or are cut off, and must end in the bits of an "
        "undisturbed run. Bits are flipped and ends cut off in every file of a run, of an exported model, of the "
        "caches and of an archive, and what reads them must say so or give the same values. *Lost*: a run that did "
        "not go on; *silent*: other values, and no word; *left*: files that nobody removes.",
        "",
        *counted(result),
    ]


def runs_again(result: dict[str, Any]) -> list[str]:
    """The table of runs alone, after what the whole had found was mended."""
    return [
        "What that left behind, folders of checkpoints that were being removed, is mended since: "
        f"{result['seconds']:.0f} seconds of runs alone, {made_by(result['command'], result)}.",
        "",
        *counted(result),
    ]


def counted(result: dict[str, Any]) -> list[str]:
    """What was tried, and what came of it."""
    columns = ("tried", "told", "lost", "silent", "left", "tracebacks")
    rows = [
        f"| {name} | {' | '.join(f'{count[each]:,}' for each in columns)} |" for name, count in result["counts"].items()
    ]
    return [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns), *rows, ""]


def costs(result: dict[str, Any]) -> list[str]:
    """The guard's ratio and the checkpoint's pause."""
    pause = result["checkpoint"]
    rows = [
        f"| {name} | {_milliseconds(found['without_seconds'])} | "
        f"{found['ratio']:.3f} ± {found['ci95_half_width']:.3f} |"
        for name, found in result["guard"].items()
    ]
    return [
        "## What the guards cost",
        "",
        f"{made_by('python benchmarks/pauses.py', result)}. Processor time of a meta-step with the guard against "
        "gradients that are not finite, over that without.",
        "",
        "| network | a meta-step without, ms | with the guard |",
        "|---|---|---|",
        *rows,
        "",
        f"A checkpoint of {pause['parameters'] / 1e6:.0f} million parameters with Adam's two moments pauses training "
        f"for {pause['seconds']:.2f} s, {100 * pause['share_of_time']:.1f} % of the time between two. Where it took "
        "longer, checkpoints would come less often.",
        "",
    ]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if seconds < 0.01 else f"{1000 * seconds:,.0f}"


def serving(result: dict[str, Any]) -> list[str]:
    """Latency and answers of a server that is treated badly."""
    times = result["milliseconds"]
    shapes = ", ".join(f"{each:.1f}" for each in result["seconds_of_new_shapes"])
    memory = [result["memory"]["before"]["VmRSS"], result["memory"]["after"]["VmHWM"]]
    return [
        "## A server in rough weather",
        "",
        f"{made_by('python -m benchmarks.serving RUN --rough', result['environment'])}, which the clients use too. "
        f"{result['concurrency']} clients send requests of {result['support']} support and {result['query']} query "
        f"rows, one in ten is cut off in mid-body ({result['cut_off']:,} were), {result['idle']} connections lie "
        f"idle, and every few seconds a request of a new shape must be compiled (answered after {shapes} s). Each "
        "answer is compared with that of a calm server.",
        "",
        f"| right | other | refused | failed | reset | {' | '.join(f'{p}, ms' for p in times)} |",
        "|---|---|---|---|---|" + "---|" * len(times),
        f"| {result['right']:,} | {result['other']} | {result['refused']} | {result['failed']} | {result['reset']} | "
        f"{' | '.join(f'{each:.0f}' for each in times.values())} |",
        "",
        f"The server's memory was {memory[0] / 2**20:.0f} MiB before and at most {memory[1] / 2**20:.0f} MiB.",
        "",
    ]


if __name__ == "__main__":
    sys.exit(write_page(PAGE, page(), "--check" in sys.argv))
