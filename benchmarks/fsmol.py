"""FS-Mol: train on its training tasks, adapt to its validation tasks, beside models fitted on the support sets alone.

    python -m benchmarks.fsmol --data FOLDER [--parts main,baselines,...] [--runs FOLDER]

FOLDER holds train.parquet and valid.parquet. Each part is written to benchmarks/results/fsmol.json as it ends; parts
that are there are left alone. `make results` writes docs/fsmol.md from it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

from innerloop.runs import codec, machine
from innerloop.runs.progress import Progress
from innerloop.tabular.features import Preparation
from innerloop.tabular.prepare import SAMPLE, prepare
from innerloop.tabular.rows import Rows
from innerloop.tabular.selection import selected
from innerloop.workloads.tabular import evaluation, loading, training
from innerloop.workloads.tabular.config import Config, Learner, Training
from innerloop.workloads.tabular.defaults import choices_of

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fsmol.json"
SIZES = (16, 32, 64, 128)
DRAWS = 10
HELD_OUT = 100
"""Training tasks on which training is judged and stopped."""
BASE = Config(task_column="task", target="active", features="fingerprint,descriptors")
SHORT = Training(iterations=600)
"""Of the parts that are compared with each other."""
PARTS: dict[str, tuple[str, Config]] = {
    "main": ("as `innerloop train` chooses", BASE),
    "short": ("half the meta-steps", replace(BASE, training=SHORT)),
    "descriptors": ("descriptors alone", replace(BASE, features="descriptors", training=SHORT)),
    "fingerprint": ("fingerprint alone", replace(BASE, features="fingerprint", training=SHORT)),
    "ridge": ("head from ridge regression", replace(BASE, learner=Learner(start="ridge"), training=SHORT)),
    "zero": ("head from a learned start, no prototypes", replace(BASE, learner=Learner(start="zero"), training=SHORT)),
    "joint": ("no inner steps (prototypes alone)", replace(BASE, algorithm="joint", training=SHORT)),
    "fomaml": ("first-order meta-gradient", replace(BASE, algorithm="fomaml", training=SHORT)),
}
BASELINES = {"baselines": SIZES[:2], "baselines-large": SIZES[2:]}
"""scikit-learn's models, by sizes of support sets."""


def draw(target: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A support set stratified by label, and all other rows, as the benchmark draws them."""
    splitter = StratifiedShuffleSplit(1, train_size=size, test_size=len(target) - size, random_state=seed)
    return next(splitter.split(np.arange(len(target)), target))


def measured(name: str, folder: Path, where: Path, progress: Progress) -> dict[str, Any]:
    """Train one part, and score it on the validation tasks."""
    _, config = PARTS[name]
    config = replace(config, data=str(folder / "train.parquet"), run_dir=str(where / name))
    loaded = loading.load(config)
    held = set(np.random.default_rng(config.seed).permutation(len(loaded.rows.names))[:HELD_OUT].tolist())
    parts = tuple("valid" if task in held else "train" for task in range(len(loaded.rows.names)))
    data = prepare(loaded.rows._replace(parts=parts), choices_of(config))
    for reason in data.plan.reasons:
        progress.say(f"  {reason}")
    data = selected(data, progress.say)
    start, fitting = time.monotonic(), data.fitting()
    fit = fitting.start(config.seed)
    for step in training.train(config, data, fitting, fit, progress):
        fit = step.state
    seconds = time.monotonic() - start
    learned = data.learned(fit.best)
    scores = evaluation.evaluate(learned, validation(folder, config), SIZES, DRAWS, draw=draw, progress=progress)
    return {
        "training_seconds": round(seconds),
        "meta_steps": int(fit.state.step),
        "best_step": int(fit.best_step),
        "choices": list(data.plan.reasons),
        "config": codec.encoded(config) | {"data": "train.parquet", "run_dir": None},
        "scores": scores.values,
    }


def validation(folder: Path, config: Config) -> Rows:
    """The validation tasks."""
    return loading.load(replace(config, data=str(folder / "valid.parquet"))).rows


def baselines(sizes: Sequence[int], folder: Path, progress: Progress) -> dict[str, Any]:
    """scikit-learn's models, fitted on the same support sets with the same features."""
    config = replace(BASE, data=str(folder / "train.parquet"))
    training_rows = loading.load(config).rows
    chosen = np.random.default_rng(config.seed).permutation(len(training_rows.target))[:SAMPLE]
    preparation = Preparation.fit({name: each[chosen] for name, each in training_rows.columns.items()})
    rows = validation(folder, config)
    scores = evaluation.evaluate_rivals(preparation, rows, sizes, DRAWS, draw=draw, progress=progress)
    return {"scores": scores.values}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/fsmol"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--parts", default=",".join([*PARTS, *BASELINES]))
    asked = parser.parse_args()
    machine.set_up(1)
    progress = Progress()
    result = json.loads(asked.result.read_text()) if asked.result.exists() else {"parts": {}}
    for name in asked.parts.split(","):
        if name in result["parts"]:
            continue
        progress.say(f"{name}: {PARTS[name][0] if name in PARTS else 'scikit-learn'}")
        if name in BASELINES:
            part = baselines(BASELINES[name], asked.data, progress)
        else:
            part = measured(name, asked.data, asked.runs, progress)
        part["environment"] = {
            "command": ["python", "-m", "benchmarks.fsmol", "--data", asked.data.name, "--parts", name],
            "commit": machine.commit(),
            "seed": 0,
            **machine.description(),
        }
        result["parts"][name] = part
        asked.result.parent.mkdir(parents=True, exist_ok=True)
        asked.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
