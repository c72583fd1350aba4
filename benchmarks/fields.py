"""Tomography with neural fields: what the recipe reached, and what the contexts of its CAVIA variant hold.

innerloop train neural-field-ct --run-dir RUN ; python benchmarks/record.py RUN     the scores, for each algorithm
python -m benchmarks.fields measure RUN       a ridge regression from the contexts that a CAVIA run exported
python -m benchmarks.fields                   writes the measured part of docs/fields.md
python -m benchmarks.fields --check           exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pages import write_block
from benchmarks.tables import cores
from innerloop import workloads
from innerloop.runs import rundir
from innerloop.runs.progress import duration
from innerloop.runs.results import measured
from innerloop.workloads.episodes.modulations import FILE
from innerloop.workloads.episodes.scoring import PRETRAINED, SCRATCH

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CONTEXTS = RESULTS / "neural-field-ct-contexts.json"
PAGE = ROOT / "docs" / "fields.md"
TARGETS = {
    "size of the head": (0, 2),
    "its turn": (0, 5),
    "density of the left hollow": (3, 0),
    "density of the right hollow": (2, 0),
    "length of the left hollow": (3, 2),
    "density of the upper tumour": (4, 0),
}
"""What is predicted: an ellipse and one of its numbers."""
FOLDS, RIDGE = 5, 1e-2


def r_squared(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Of a ridge regression on standardised inputs, each fold predicted from the others."""
    x = (inputs - inputs.mean(axis=0)) / np.maximum(inputs.std(axis=0), 1e-12)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    fold = np.arange(len(x)) % FOLDS
    predicted = np.empty(len(x))
    for held_out in range(FOLDS):
        known, asked = x[fold != held_out], x[fold == held_out]
        normal = known.T @ known / len(known) + RIDGE * np.eye(x.shape[1])
        predicted[fold == held_out] = asked @ np.linalg.solve(normal, known.T @ targets[fold != held_out] / len(known))
    return float(1 - np.mean((predicted - targets) ** 2) / targets.var())


def measure(path: Path) -> dict[str, Any]:
    """What the contexts tell of the phantoms."""
    run = rundir.existing(path, workloads.registered())
    data = np.load(run.model / FILE)
    contexts = data["modulations"].astype(np.float64)
    return {
        "seed": run.config.seed,
        "environment": run.environment(),
        "contexts": list(contexts.shape),
        "psnr": float(data["psnr"].mean()),
        "r_squared": {
            name: r_squared(contexts, data["ellipses"][:, ellipse, number].astype(np.float64))
            for name, (ellipse, number) in TARGETS.items()
        },
    }


def results() -> list[dict[str, Any]]:
    kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("neural-field-ct*-seed*.json"))]
    return sorted(kept, key=lambda each: (each["algorithm"] != "reptile", each["algorithm"], each["seed"]))


def table(kept: list[dict[str, Any]]) -> list[str]:
    if not kept:
        return ["*Not yet measured.*"]
    first = kept[0]["evaluation"]["tables"][0]
    last = len(first["gain"]["mean"]) - 1
    steps = [step for step in (0, 1, 2, 5, 10) if step <= last]
    lines = [
        f"PSNR in dB, {first['shots']} views, mean ± 95 % interval over {kept[0]['evaluation']['test_tasks']} held-out "
        "phantoms; the gain over the random start is paired, phantom by phantom. The step sizes of the starts that "
        "were not meta-learned are the best of six on validation phantoms.",
        "",
        f"| start | step size | {' | '.join(f'after {step}' for step in steps)} | gain after {last} | training |",
        "|---|---|" + "---|" * (len(steps) + 2),
    ]
    for result in kept:
        shown = result["evaluation"]["tables"][0]
        machine = result["environment"]["machine"]
        pace = f"{result['meta_steps']:,} meta-steps, {duration(result['training_seconds'])} on {cores(machine)}"
        for row in shown["rows"]:
            own = row["method"] == result["algorithm"]
            if not own and result is not kept[0]:
                continue
            values = row["metrics"]["psnr"]
            cells = [measured(values["mean"][step], values["interval"][step], 2) for step in steps]
            paired = shown.get("gain") if own else None
            gain = measured(paired["mean"][-1], paired["interval"][-1], 2, "+") if paired else ""
            lines.append(
                f"| {row['method']} | {row['learning_rate']:g} | {' | '.join(cells)} | {gain} | {pace if own else ''} |"
            )
    commits = sorted({(result["environment"]["commit"] or "unknown")[:10] for result in kept})
    return [
        *lines,
        "",
        f"Commit {', '.join(commits)}; `{SCRATCH}` and `{PRETRAINED}` are the baselines of every evaluation.",
    ]


def contexts(kept: dict[str, Any]) -> list[str]:
    count, size = kept["contexts"]
    return [
        f"{count} phantoms of neither training nor test, {size} numbers each, PSNR {kept['psnr']:.1f} dB on average. "
        f"$R^2$ of a ridge regression from these numbers, {FOLDS}-fold:",
        "",
        f"| {' | '.join(kept['r_squared'])} |",
        "|" + "---|" * len(kept["r_squared"]),
        f"| {' | '.join(f'{value:.2f}' for value in kept['r_squared'].values())} |",
    ]


def block() -> str:
    """What stands in the page between its marks."""
    body = table(results())
    if CONTEXTS.exists():
        body += ["", *contexts(json.loads(CONTEXTS.read_text()))]
    return "\n".join(body)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["measure"]:
        CONTEXTS.write_text(json.dumps(measure(Path(arguments[1])), indent=1) + "\n")
        return 0
    return write_block(PAGE, "fields", block(), "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
