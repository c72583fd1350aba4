"""What the program does with a run, whatever its kind: train, say what it would be, evaluate, report, export."""

import io
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from innerloop.errors import InnerloopError
from innerloop.runs import codec, distributed, machine, rundir
from innerloop.runs.progress import Progress
from innerloop.runs.results import Table
from innerloop.runs.workload import Session, Workload

SHARDS = "layout.shards"
INTERRUPTED = 130
"""The exit status of a process that SIGINT stopped."""
BASELINES = "baselines"
"""In a run directory: what its evaluation trains beside it."""


def train(workload: Workload[Any], config: Any, *, origin: rundir.Run | None = None, report: bool = True) -> int:
    """Train, evaluate and report, from wherever the run stands.

    Args:
        workload: the kind of run.
        config: a checked configuration.
        origin: a run from whose newest whole checkpoint this one begins.
        report: whether to print its tables and write its report.

    Returns:
        0, or 130 if it was interrupted; then everything is saved. Of several processes none evaluates: that is for one
        without the others.

    Raises:
        InnerloopError: for what cannot work, naming the mend.
    """
    progress = Progress(None if distributed.is_first() else io.StringIO())
    path = rundir.directory_of(workload, config)
    with ExitStack() as stack:
        config, begun = _stand(workload, config, path, origin, progress, stack)
        session = workload.open(config, progress, resolve=not begun)
        _require_same(session)
        run = rundir.Run(path, workload, session.config)
        if distributed.is_first():
            run = rundir.stored(path, {workload.name: workload})
            if run is not None and begun:
                run = rundir.keep_devices(run, session.config)
            else:
                run = rundir.create(path, workload, session.config, _beginning(run, origin))
        for line in session.describe():
            progress.say(line)
        from innerloop.runs import loop

        own = path if distributed.is_first() else Path(stack.enter_context(TemporaryDirectory()))
        run = replace(run, path=own)
        try:
            state = loop.train(run, session, progress)
            if distributed.count() == 1:
                _finish(run, session, state, progress, again=False, report=report)
        except loop.InterruptedTraining:
            progress.say(f"stopped and saved; continue with: innerloop resume {path}")
            return INTERRUPTED
    return 0


def _stand(
    workload: Workload[Any], config: Any, path: Path, origin: rundir.Run | None, progress: Progress, stack: ExitStack
) -> tuple[Any, bool]:
    """The configuration to go on with, and whether training has begun before; the directory is locked until the end."""
    if distributed.count() > 1:
        shards = dict(codec.leaves(config)).get(SHARDS)
        if shards is None:
            raise InnerloopError(
                f"--distributed is not for runs of the kind {workload.name}, which one machine trains in minutes; "
                "leave it out."
            )
        machine.set_up(shards)
        distributed.connect()
        distributed.require_same(
            {f"the version of {name}": number for name, number in machine.versions().items()}
            | codec.shared_settings(config)
        )

    def stand() -> list[Any]:
        stack.enter_context(rundir.locked(path))
        run = rundir.stored(path, {workload.name: workload})
        if run is not None and origin is not None:
            rundir.require_origin(run, origin)
        if run is None or not run.begun:
            return [codec.encoded(config), False]
        going_on = rundir.continued(run, config, progress.note)
        workload.check(going_on)
        return [codec.encoded(going_on), True]

    values, begun = distributed.from_first(stand)
    data_dir = config.data_dir if "data_dir" in vars(config) else None
    config = codec.decoded(workload.Config, values)
    if distributed.count() > 1 and "data_dir" in vars(config):  # every host may keep its data elsewhere
        config = replace(config, data_dir=data_dir)
    progress.say(f"{config.recipe} · {config.algorithm} · seed {config.seed} · {path}")
    return config, begun


def _require_same(session: Session[Any]) -> None:
    """Refuse processes that read other data, or chose otherwise."""
    distributed.require_same(dict(session.settings) | codec.shared_settings(session.config))


def _beginning(run: rundir.Run | None, origin: rundir.Run | None) -> rundir.Beginning | None:
    """The checkpoint with which a run begins that has none of its own yet."""
    from innerloop.runs import checkpoint

    if origin is None:
        return None if run is None else run.beginning
    return rundir.Beginning(*checkpoint.newest_whole(origin.checkpoints))


def dry_run(workload: Workload[Any], config: Any) -> None:
    """Say what a run would be and need, and write nothing."""
    progress = Progress()
    progress.say(f"{config.recipe} · {config.algorithm} · seed {config.seed} · no run is made")
    session = workload.open(config, progress, resolve=True)
    for line in (*session.describe(), *session.plan()):
        progress.say(line)


def evaluate(run: rundir.Run, config: Any, *, again: bool) -> int:
    """Evaluate a trained run (again, or if it was not yet) and write its report.

    Args:
        run: which.
        config: its configuration, perhaps with other settings of the evaluation.
        again: whether to measure what was measured before.

    Returns:
        0, or 130 if it was interrupted while it trained a baseline; then that is saved.
    """
    from innerloop.runs import loop

    progress = Progress()
    with rundir.locked(run.path):
        session, state = _trained(replace(run, config=config), progress)
        try:
            _finish(replace(run, config=config), session, state, progress, again=again)
        except loop.InterruptedTraining:
            progress.say("stopped and saved; the same command goes on")
            return INTERRUPTED
    return 0


def export(run: rundir.Run, folder: Path) -> None:
    """Write what a trained run learned into a folder that `innerloop.load` reads.

    Raises:
        InnerloopError: if it is not trained, or the folder holds something else.
    """
    progress = Progress()
    with rundir.locked(run.path):
        session, state = _trained(run, progress)
        session.export(state, folder, run.result())
    progress.say(f"exported: {folder.resolve()}")


def _trained(run: rundir.Run, progress: Progress) -> tuple[Session[Any], Any]:
    from innerloop.runs import loop

    session = run.workload.open(run.config, progress, resolve=False)
    return session, loop.newest(run, session, progress)


def _finish(
    run: rundir.Run, session: Session[Any], state: Any, progress: Progress, *, again: bool, report: bool = True
) -> None:
    """Evaluate if needed, keep the model, and, if wanted, print the tables and write the report."""
    result = None if again else run.result()
    if result is None or result["meta_steps"] != session.step_of(state):
        result = _measured(run, session, state, progress)
    session.export(state, run.model, result)
    if not report:
        return
    tables, remarks = session.tables(result), result["remarks"]
    for table in tables:
        progress.say("\n" + table.as_text())
    for remark in remarks:
        progress.note(remark)
    progress.say(f"model: {run.model.resolve()}")
    try:
        with progress.timed("writing the report"):
            _write_report(run, session, state, result, tables, remarks)
    except InnerloopError as error:
        if "innerloop[report]" not in str(error):
            raise
        progress.say(f"no report: {error}")
        return
    progress.say(f"report: {run.report.resolve()}")


def _measured(run: rundir.Run, session: Session[Any], state: Any, progress: Progress) -> dict[str, Any]:
    """A new evaluation, which is kept."""
    from innerloop.runs import skips
    from innerloop.runs.best import Best

    found = session.evaluate(state, run.path / BASELINES, Best(run.best).read(session.learned(state), progress.say))
    config = session.config
    result = {
        "workload": run.workload.name,
        "recipe": config.recipe,
        "algorithm": config.algorithm,
        "seed": config.seed,
        "meta_steps": session.step_of(state),
        "commit": machine.commit(),
        **found.values,
    }
    records = run.records()
    result["remarks"] = [*session.remarks(result, records), *skips.remarks(records, run, session.unit)]
    run.write_result(result, found.scores)
    return run.result() or _lost(run)


def _lost(run: rundir.Run) -> NoReturn:
    raise InnerloopError(f"The evaluation of {run.path} cannot be read back; give: innerloop evaluate {run.path}")


def _write_report(
    run: rundir.Run, session: Session[Any], state: Any, result: dict[str, Any], tables: list[Table], remarks: list[str]
) -> None:
    from innerloop.files import write_text
    from innerloop.runs import page

    config = session.config
    settings = [(f"--{codec.flag(name)}", str(value)) for name, value in codec.leaves(config) if name != "recipe"]
    text = page.render(
        title=config.recipe,
        subtitle=f"{config.algorithm}, seed {config.seed}, {result['meta_steps']:,} {session.unit}s",
        tables=tables,
        remarks=remarks,
        sections=session.sections(state, result, run.records()),
        settings=settings,
        provenance=run.environment(),
    )
    write_text(run.report, text)
