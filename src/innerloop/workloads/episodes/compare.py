"""Algorithms on the same recipe: each trained over seeds, all compared on the same test tasks, drawn and kept."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import jax
import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import rundir as runs
from innerloop.runs.progress import Progress, duration
from innerloop.workloads.episodes import build, comparison, figures, session, training, tune
from innerloop.workloads.episodes import memory as plan
from innerloop.workloads.episodes.comparison import Group
from innerloop.workloads.episodes.config import Config

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
PARTS = 10
"""Moments of training at which a meta-step is timed, since some algorithms change over it."""


def train_and_compare(configs: Sequence[Config], seeds: Sequence[int], limit: float | None, output: Path) -> int:
    """Train every configuration at every seed, and compare them.

    What was trained before in `output` is not trained again; what was interrupted goes on.

    Args:
        configs: one for each algorithm, the first of which the others are compared with.
        seeds: of the runs.
        limit: seconds of training for each run, for which as many meta-steps are taken as fit, or `None` for the
            configured number.
        output: the directory of the runs and of the comparison.

    Returns:
        0, or 130 if it was interrupted.

    Raises:
        InnerloopError: before anything is trained, if an algorithm cannot work in its configuration.
    """
    progress = Progress()
    for config in configs:
        build.require_fitting(config)
    groups = []
    for config in configs:
        finished, diverged = {}, []
        if limit is not None:
            config = _within(config, seeds, limit, output, progress)
        for seed in seeds:
            path = _directory(output, config, seed)
            one = replace(config, seed=seed, run_dir=str(path))
            try:
                if session.run_to_the_end(one, report=False):
                    progress.say(f"the same command goes on with the comparison in {output}")
                    return 130
                finished[seed] = runs.existing(path)
            except training.DivergedError as error:
                progress.say(f"innerloop: {error}")
                diverged.append(seed)
        groups.append(Group(config.algorithm, finished, tuple(diverged)))
        jax.clear_caches()
    write(comparison.compared(groups), output, progress)
    return 0


def compare_runs(paths: Sequence[Path], output: Path) -> None:
    """Compare finished runs.

    Raises:
        InnerloopError: if they are not finished, or cannot be compared.
    """
    found = [runs.existing(path) for path in paths]
    for run in found:
        if not isinstance(run.config, Config):
            raise InnerloopError(
                f"{run.path} is a run of meta-reinforcement learning; compare takes runs of supervised recipes."
            )
    write(comparison.compared(comparison.grouped(found)), output, Progress())


def seconds_in(text: str) -> float:
    """A time such as `90`, `90s`, `20m` or `1.5h` in seconds.

    Raises:
        InnerloopError: if it is none.

    Example:
        >>> seconds_in("20m")
        1200.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smh]?)", text)
    if not match or float(match[1]) <= 0:
        raise InnerloopError(f"--time-limit is {text!r}; give a time such as 90s, 20m or 1h.")
    return float(match[1]) * UNITS[match[2]]


def seeds_in(text: str) -> list[int]:
    """Seeds such as `0..2`, `0,3,5` or `7`.

    Raises:
        InnerloopError: if it is none.

    Example:
        >>> seeds_in("0..2"), seeds_in("4,7")
        ([0, 1, 2], [4, 7])
    """
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        seeds = list(range(int(match[1]), int(match[2]) + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        seeds = list(dict.fromkeys(int(each) for each in text.split(",")))
    else:
        seeds = []
    if not seeds:
        raise InnerloopError(f"--seeds is {text!r}; give numbers such as 0..2 or 0,1,5.")
    return seeds


def _directory(output: Path, config: Config, seed: int) -> Path:
    return output / f"{config.algorithm}-seed{seed}"


def _within(config: Config, seeds: Sequence[int], limit: float, output: Path, progress: Progress) -> Config:
    """The configuration with as many meta-steps as fit into the time, or with those of the runs already begun."""
    for seed in seeds:
        begun = runs.stored(_directory(output, config, seed))
        if begun:
            return replace(config, outer=replace(config.outer, iterations=begun.config.outer.iterations))
    session.set_up(config.layout.shards, config.network.precision)
    experiment = build.build(config, progress.say)
    experiment = tune.tuned(experiment, progress.say)
    with progress.timed(f"timing a meta-step of {config.algorithm}"):
        seconds = _mean_seconds(experiment)
    count = max(int(limit / seconds), 1)
    progress.say(f"{config.algorithm}: {1e3 * seconds:.2f} ms a meta-step, so {count:,} in {duration(limit)}")
    return replace(experiment.config, outer=replace(config.outer, iterations=count))


def _mean_seconds(experiment: build.Experiment) -> float:
    """The time of a meta-step, averaged over training."""
    layout, total = experiment.layout, experiment.config.outer.iterations
    tasks = layout.replicate(experiment.training_tasks())
    state = layout.replicate(training.initial_state(experiment))
    steps = plan.compiled_steps(experiment, state, tasks)
    seconds = []
    for part in range(PARTS):
        moment = np.int32(total * (part + 0.5) / PARTS)
        state = layout.replicate(jax.device_get(training.initial_state(experiment))._replace(step=moment))
        once, state = tune.clock(steps, state, tasks, 1)
        count = max(int(tune.SECONDS / PARTS / once), 1)
        seconds.append(tune.clock(steps, state, tasks, count)[0])
    return float(np.mean(seconds))


def write(result: dict[str, Any], output: Path, progress: Progress) -> None:
    """Print the comparison, and keep it as `comparison.json` and `comparison.html`.

    Without matplotlib all but the page is done.
    """
    output.mkdir(parents=True, exist_ok=True)
    result |= {
        "command": ["innerloop", *sys.argv[1:]],
        "commit": runs.commit(),
        **runs.environment_of_machine(),
    }
    progress.say(comparison.as_text(result))
    runs.write_text(output / "comparison.json", json.dumps(result, indent=1))
    try:
        text = page(result)
    except InnerloopError as error:
        progress.say(f"no page: {error}")
        return
    runs.write_text(output / "comparison.html", text)
    progress.say(f"written: {(output / 'comparison.html').resolve()}, and comparison.json beside it")


def page(result: dict[str, Any]) -> str:
    """The comparison as one HTML file that needs nothing else."""
    sections = [
        f"<h2>{escape(comparison.title_of(result, table))}</h2>"
        f"<figure>{figures.comparison(result, table)}</figure>{_table(result, table)}"
        for table in result["tables"]
    ]
    text = {
        "title": f"{result['recipe']}: {len(result['groups'])} algorithms",
        "tasks": str(result["test"]["tasks"]),
        "reference": result["reference"],
        "command": " ".join(result["command"]),
        "environment": json.dumps({name: result[name] for name in ("commit", "versions", "machine")}, indent=2),
    }
    notes = "".join(f'<p class="note">{escape(each)}.</p>' for each in comparison.notes(result))
    markup = {"sections": "".join(sections), "notes": notes, "style": _style()}
    template = Template(files("innerloop.workloads").joinpath("comparison.html").read_text())
    return template.substitute({name: escape(value) for name, value in text.items()} | markup)


def _style() -> str:
    """That of the report."""
    whole = files("innerloop.workloads").joinpath("report.html").read_text()
    return whole[whole.index("<style>") : whole.index("</style>") + len("</style>")]


def _table(result: dict[str, Any], table: dict[str, Any]) -> str:
    columns = ("inner steps", "score", "sd over seeds", "difference", "ms a meta-step", "memory", "compiling")
    head = "".join(f'<th class="number">{each}</th>' for each in columns)
    cell: Callable[[Any], str] = lambda text: f'<td class="number">{escape(str(text))}</td>'  # noqa: E731
    rows = [
        f"<tr><td>{escape(row['label'])}</td>{cell(row.get('steps', ''))}"
        + "".join(cell(each) for each in comparison.cells_of(result, row))
        + "</tr>"
        for row in table["rows"]
    ]
    return f"<table><tr><th></th>{head}</tr>{''.join(rows)}</table>"
