"""Keep the result of a finished run under benchmarks/results/, with all that its figures depend on.

    python benchmarks/record.py RUN [RUN ...]

Then `make results` writes the tables of README.md and docs/results.md from what is kept. The run `sinusoid-seed0` also
gives README.md its picture; the first seed of a robot's recipe gives docs/rl-measured.md its film.
"""

import base64
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from innerloop import workloads
from innerloop.cli.configuration import PUBLISHED
from innerloop.runs import rundir
from innerloop.runs.codec import changed, flag, leaves

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
PICTURES = {
    "sinusoid-seed0": ("Fits on unseen tasks", "sinusoid.svg"),
    "neural-field-ct-seed0": ("Images from few projections", "neural-field-ct.svg"),
}
"""The run that gives a page its picture, the heading above that in its report, and its file."""
FILM = "data:image/gif;base64,"


def record(path: Path) -> Path:
    """Write one result, and return its file."""
    run = rundir.existing(path, workloads.registered())
    evaluation = run.result()
    if evaluation is None:
        sys.exit(f"{path} is not evaluated; give: innerloop evaluate {path}")
    config = run.config
    rates = [record["tasks_per_second"] for record in run.records()]
    result: dict[str, Any] = {
        "recipe": config.recipe,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "changes": changes(run),
        "meta_steps": evaluation["meta_steps"],
        "training_seconds": round(sum(seconds_of(run)), 1),
        "tasks_per_second": round(statistics.median(rates), 1),
        "environment": run.environment(),
        "evaluation": evaluation,
        "course": course(run),
    }
    name = path.resolve().name
    target = RESULTS / f"{name}.json"
    RESULTS.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    if name in PICTURES:
        section, picture = PICTURES[name]
        shown = run.report.read_text().split(section, 1)[1]
        (IMAGES / picture).write_text(shown[shown.index("<svg") : shown.index("</svg>")] + "</svg>\n")
    if name == f"{config.recipe}-seed0" and FILM in (page := run.report.read_text()):
        film = IMAGES / f"{config.recipe}-gaits.gif"
        film.write_bytes(base64.b64decode(page.split(FILM, 1)[1].split('"', 1)[0]))
    return target


def changes(run: rundir.Run) -> str:
    """The flags that make the recipe train as this run did, but for its seed and places."""
    config = run.config
    recipe = run.workload.configure(config.recipe, None)
    published = run.workload.recipes[config.recipe].published_settings(config.algorithm)
    if published and not differences(config, changed(recipe, published)):
        return PUBLISHED
    return " ".join(f"--{flag(name)} {value}" for name, value in differences(config, recipe).items())


def differences(config: Any, other: Any) -> dict[str, Any]:
    """The settings of a configuration that another one trains without."""
    known = dict(leaves(other))
    apart = {"seed", "algorithm", "run_dir", "data_dir", "outer.iterations"}
    return {
        name: value
        for name, value in leaves(config)
        if value != known[name] and name not in apart and name.split(".")[0] not in ("evaluation", "layout", "log")
    }


def seconds_of(run: rundir.Run) -> list[float]:
    """Seconds of each record's meta-steps, with what lies between them; compiling and evaluation are not in it."""
    records = run.records()
    starts = [0, *(each["step"] for each in records)]
    return [
        (each["step"] - start) * run.config.outer.meta_batch / each["tasks_per_second"]
        for start, each in zip(starts, records, strict=False)
    ]


def course(run: rundir.Run) -> list[dict[str, Any]]:
    """The validation scores, or returns, with the minutes of training until each."""
    minutes = itertools.accumulate(second / 60 for second in seconds_of(run))
    return [
        {"minutes": round(minute, 1), "meta_steps": each["step"], **scores}
        for minute, each in zip(minutes, run.records(), strict=True)
        if (scores := {name: value for name, value in each.items() if name.startswith(("validation/", "return_"))})
    ]


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(record(Path(argument)))
