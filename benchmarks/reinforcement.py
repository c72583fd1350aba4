"""Write docs/rl-measured.md from benchmarks/results/: no figure in it is typed by hand.

python benchmarks/reinforcement.py          write
python benchmarks/reinforcement.py --check  exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "rl-measured.md"
PLAIN = "log-likelihood"
NOT_YET = ["## Inner estimators", "", "Not yet measured; `python benchmarks/estimators.py` does.", ""]


def page() -> str:
    """The page."""
    simulators, iteration = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("simulators", "iteration"))
    estimators = RESULTS / "estimators.json"
    return "\n".join(
        [
            "# Meta-reinforcement learning, measured",
            "",
            "Written by `make results` from `benchmarks/results/`. The returns of whole runs beside the published ones "
            "are among the [measured results](results.md).",
            "",
            *(estimator_section(json.loads(estimators.read_text())) if estimators.exists() else NOT_YET),
            *simulator_section(simulators),
            *iteration_section(iteration),
        ]
    )


def source(result: dict[str, Any]) -> str:
    """How a result came about."""
    command = result["command"] if isinstance(result["command"], str) else " ".join(result["command"])
    machine = result["environment"]["machine"]
    commit = (result["commit"] or "unknown")[:10]
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return f"`{command}`, commit {commit}, {machine['processor']} with {cores}"


def estimator_section(result: dict[str, Any]) -> list[str]:
    """Which inner estimator helps where."""
    lines = [
        "## Inner estimators",
        "",
        f"{source(result)}. Mean return on the 40 test goals; mean over {result['seeds']} seeds and, in brackets, "
        f"their standard deviation. {result['settings']}.",
        "",
    ]
    for name, rows in result["returns"].items():
        updates = len(rows[PLAIN]["returns"][0])
        lines += [
            f"### {name}",
            "",
            f"| inner estimator | {' | '.join(f'after {update}' for update in range(updates))} |",
            "|---|" + "---|" * updates,
        ]
        for estimator, row in rows.items():
            values = np.array(row["returns"])
            cells = [f"{m:.2f} ({s:.2f})" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
            lines.append(f"| {estimator} | {' | '.join(cells)} |")
        lines += ["", where_it_helps(rows), ""]
    return lines


def where_it_helps(rows: dict[str, Any]) -> str:
    """What the last column of returns says, seed by seed, against the log-likelihood."""
    plain = np.array(rows[PLAIN]["returns"])
    said = []
    for name, row in rows.items():
        if name != PLAIN:
            gain = (np.array(row["returns"]) - plain)[:, -1]
            error = 2 * gain.std(ddof=1) / np.sqrt(len(gain))
            verdict = "better" if gain.mean() > error else "worse" if gain.mean() < -error else "no different"
            said.append(f"{name} {gain.mean():+.2f} ± {error:.2f} ({verdict})")
    return (
        f"Difference to {PLAIN} after {plain.shape[1] - 1} updates, seed by seed, with two standard errors: "
        f"{'; '.join(said)}."
    )


def simulator_section(result: dict[str, Any]) -> list[str]:
    """How fast robots step."""
    lines = [
        "## Simulated robots",
        "",
        f"{source(result)}, MuJoCo {result['versions']['mujoco']}, gymnasium {result['versions']['gymnasium']}. The "
        "same compiled model, frame skip, observation and reward in every row.",
        "",
        "| environment | stepped by | steps/s | of AsyncVectorEnv | of SyncVectorEnv |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ratio = result["ratios"][f"{row['environment']}, {row['stepper']}"]
        lines.append(
            f"| {row['environment']} | {row['stepper']} | {row['steps_per_second']:,.0f} | {ratio['of_async']:.1f}x | "
            f"{ratio['of_sync']:.1f}x |"
        )
    return [*lines, ""]


def iteration_section(result: dict[str, Any]) -> list[str]:
    """Where the time of an iteration goes."""
    lines = [
        "## Where the time of a meta-iteration goes",
        "",
        f"{source(result)}.",
        "",
        "| | seconds | share |",
        "|---|---|---|",
    ]
    for name, pieces in result["seconds"].items():
        whole = sum(pieces.values())
        lines.append(f"| **`{name}`** | **{whole:.2f}** | |")
        lines += [f"| {piece} | {value:.2f} | {value / whole:.0%} |" for piece, value in pieces.items()]
    return [*lines, ""]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(int(PAGE.read_text() != page()))
    PAGE.write_text(page())
