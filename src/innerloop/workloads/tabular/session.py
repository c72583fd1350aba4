"""One sitting of the program with a user's own tasks: train, evaluate, report, adapt."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import rundir as runs
from innerloop.runs.progress import Progress
from innerloop.tabular.rows import Rows
from innerloop.text import listed, nearest
from innerloop.workloads.episodes.config import differences
from innerloop.workloads.episodes.session import reported, set_up
from innerloop.workloads.tabular.config import Evaluation, OwnConfig

MODEL = "model"
"""The folder of a run that holds the model, and all that another machine needs."""


def run_to_the_end(config: OwnConfig) -> int:
    """Train, evaluate and report, from wherever the run stands.

    Returns:
        0, or 130 if it was interrupted.
    """
    progress = Progress()
    if not Path(config.data).exists():
        near = [each.name for each in Path(config.data).parent.glob("*")]
        raise InnerloopError(f"There is no file or folder {config.data}; {nearest(Path(config.data).name, near)}")
    path = runs.directory_of(config)
    with runs.locked(path):
        stored = runs.stored(path)
        if stored:
            require_same(stored, config)
        set_up(1)
        from innerloop.workloads.tabular import training

        data = prepared(config, progress)
        run = runs.Run(path, config) if stored else runs.create(path, config)
        try:
            fit = training.train(run, data, progress)
        except training.InterruptedTraining:
            progress.say(f"stopped and saved; continue with: innerloop resume {path}")
            return 130
        finish(run, data, fit, progress, again=False)
    return 0


def dry_run(config: OwnConfig) -> None:
    """Say what would be trained, and write nothing."""
    set_up(1)
    prepared(config, Progress())


def score_and_report(path: Path, config: OwnConfig, *, again: bool) -> None:
    """Evaluate a trained run (again, or if it was not yet) and write its report."""
    progress = Progress()
    with runs.locked(path):
        run = replace(runs.existing(path), config=config)
        set_up(1)
        from innerloop.workloads.tabular import training

        data = prepared(config, progress)
        fit = training.newest(run, data, progress)
        finish(run, data, fit, progress, again=again)


def prepared(config: OwnConfig, progress: Progress) -> Any:
    """The data, read and planned for, with every choice told."""
    from innerloop.tabular.prepare import prepare
    from innerloop.workloads.tabular import loading
    from innerloop.workloads.tabular.defaults import choices_of

    with progress.timed(f"reading {config.data}"):
        loaded = loading.load(config)
    data = prepare(loaded.rows, choices_of(config))
    for each in (*loaded.reasons, *loaded.rows.notes):
        progress.say(f"  {each}")
    for each in described_tasks(config, data):
        progress.say(f"  {each}")
    for each in data.plan.reasons:
        progress.say(f"  {each}")
    return data


def described_tasks(config: OwnConfig, data: Any) -> list[str]:
    """What is said of the split and of tasks that are left out."""
    if data.plan.design.image and len(data.parts["train"].names) == 1:
        counts = {part: len(set(each.target.tolist())) for part, each in data.parts.items()}
        told = f"classes: {', '.join(f'{number} for {part}' for part, number in counts.items())}"
    else:
        counts = {part: len(each.names) for part, each in data.parts.items()}
        told = f"tasks: {', '.join(f'{number:,} for {part}' for part, number in counts.items())}"
    by = f"--split-column {config.split_column}" if config.split_column else f"seed {config.seed}"
    lines = [f"{told} (by {by})"]
    if data.left_out:
        shown = listed([f"{name}: {why}" for name, why in data.left_out])
        lines.append(f"{len(data.left_out):,} tasks are left out ({shown})")
    return lines


def finish(run: runs.Run, data: Any, fit: Any, progress: Progress, *, again: bool) -> None:
    """Evaluate (again, or if it was not yet), write the model, print the table, and write the report."""
    from innerloop.tabular.artifact import TrainedLearner, save
    from innerloop.workloads.tabular import evaluation, report

    config: OwnConfig = run.config
    step = int(fit.state.step)
    learned = TrainedLearner(data.plan.design, data.preparation, fit.best, data.plan.labels)
    result = None if again else run.result()
    if result is None or result["meta_steps"] != step:
        result = {
            "recipe": config.recipe,
            "algorithm": config.algorithm,
            "seed": config.seed,
            "meta_steps": step,
            "best_step": int(fit.best_step),
            "settings": asdict(config.evaluation),
            "commit": runs.commit(),
            "tables": evaluated(config, data, learned, progress),
        }
        runs.write_text(run.evaluation, json.dumps(result, indent=1))
    learned = replace(learned, facts=facts(config, data, result))
    save(learned, run.path / MODEL)
    progress.say(report.as_text(result["tables"]))
    progress.say(f"model: {(run.path / MODEL).resolve()}")
    reported(run, progress, lambda: report.write(run, data, result))
    if evaluation.available_baselines() == () and config.evaluation.baselines:
        progress.say("no baselines: they need scikit-learn; install it with: pip install 'innerloop[tabular]'")


def evaluated(config: OwnConfig, data: Any, learned: Any, progress: Progress) -> dict[str, Any] | None:
    """The scores on test tasks, or `None` if there are none."""
    from innerloop.tabular.rows import rows_of
    from innerloop.workloads.tabular import evaluation

    rows: Rows | None = data.parts.get("test")
    if rows is None:
        return None
    settings: Evaluation = config.evaluation
    if rows.image:
        return evaluation.evaluate_images(learned, rows, config.ways, data.plan.sizes, data.plan.queries)
    if len(rows.names) > evaluation.MOST_TASKS:
        chosen = np.random.default_rng(config.seed).permutation(len(rows.names))[: evaluation.MOST_TASKS]
        rows = rows_of(rows, chosen.tolist())
    baselines = evaluation.available_baselines() if settings.baselines else ()
    return evaluation.evaluate(learned, rows, data.plan.sizes, settings.draws, baselines=baselines, progress=progress)


def facts(config: OwnConfig, data: Any, result: dict[str, Any]) -> dict[str, Any]:
    """What the model card says."""
    machine = runs.environment_of_machine()
    counts = {part: f"{len(each.names):,} tasks, {len(each.target):,} rows" for part, each in data.parts.items()}
    return {
        "name": config.recipe,
        "target": config.target,
        "task_column": config.task_column,
        "data": {"file": Path(config.data).name, **counts},
        "scores": (result["tables"] or {}).get("rows", []),
        "meta_steps": result["meta_steps"],
        "seed": config.seed,
        "versions": machine["versions"],
        "commit": result["commit"],
    }


def require_same(run: runs.Run, config: OwnConfig) -> None:
    """Refuse to continue a run under another configuration.

    Raises:
        InnerloopError: naming the settings that differ.
    """
    changed = differences(config, run.config) if isinstance(run.config, OwnConfig) else ["a recipe"]
    if changed:
        raise InnerloopError(
            f"{run.path} was started with {', '.join(changed)}; give the same settings to continue it, or another "
            "--run-dir."
        )


def learned_of(path: Path) -> Any:
    """The model of a run directory, or in a folder that was copied from one."""
    from innerloop.artifacts import WEIGHTS, of_run
    from innerloop.tabular.artifact import load

    if of_run(path) == path and not any((path / name).exists() for name in (WEIGHTS, "model.json")):
        stored = runs.stored(path)
        if stored is not None and not isinstance(stored.config, OwnConfig):
            raise InnerloopError(f"{path} is a run of a recipe; adapt and serve take runs on your own tasks.")
        if stored is not None:
            raise InnerloopError(f"{path} is not trained to the end; continue with: innerloop resume {path}")
        raise InnerloopError(f"{path} holds no model; train one with: innerloop train FILE --task-column T --target Y")
    return load(path)


def adapt(path: Path, support: Path, query: Path, out: Path, target: str, members: int) -> None:
    """Adapt a trained learner to a table of labelled rows, predict another, and write a CSV file.

    Raises:
        InnerloopError: for files that do not fit the learner.
    """
    set_up(1)
    learned_of(path)
    from innerloop.workloads.tabular import predict

    predict.adapt(path, support, query, out, Progress().say, target=target, members=members)
