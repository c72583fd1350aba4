"""Runs compared by the program: algorithms on the same recipe, each trained over seeds, or runs that are finished."""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from innerloop.errors import InnerloopError
from innerloop.files import write_text
from innerloop.runs import codec, comparison, engine, launch, machine, page, plots, rundir, sealed
from innerloop.runs.comparison import Group
from innerloop.runs.progress import Progress, duration
from innerloop.runs.results import Section
from innerloop.runs.workload import Fitting, Workload

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
ITERATIONS = "outer.iterations"
DIVERGED = "Training diverged"
Train = Callable[[Workload[Any], Any], int]
"""Trains and evaluates a run of a configuration; 130 if it was interrupted."""


@runtime_checkable
class Timed(Protocol):
    """A session that can tell what a meta-step takes."""

    def seconds_per_step(self) -> float:
        """The seconds of a meta-step, averaged over training."""
        ...


def _train(workload: Workload[Any], config: Any) -> int:
    return engine.train(workload, config, report=False)


def train_and_compare(
    workload: Workload[Any],
    configs: Sequence[Any],
    seeds: Sequence[int],
    limit: float | None,
    output: Path,
    train: Train = _train,
) -> int:
    """Train every configuration at every seed, and compare them.

    What was trained before in `output` is not trained again; what was interrupted goes on.

    Args:
        workload: the kind of run.
        configs: one for each algorithm, the first of which the others are compared with.
        seeds: of the runs.
        limit: seconds of training for each run, for which as many meta-steps are taken as fit, or `None` for the
            configured number.
        output: the directory of the runs and of the comparison.
        train: trains one of them.

    Returns:
        0, or 130 if it was interrupted.

    Raises:
        InnerloopError: before anything is trained, if an algorithm cannot work in its configuration.
    """
    progress = Progress()
    _require_fitting(workload, configs)
    import jax

    from innerloop.runs.loop import DivergedError

    groups = []
    for config in configs:
        finished, diverged = {}, []
        if limit is not None:
            config = _within(workload, config, seeds, limit, output, progress)
        for seed in seeds:
            path = _directory(output, config, seed)
            one = codec.changed(config, {"seed": seed, "run_dir": str(path)})
            try:
                if train(workload, one):
                    progress.say(f"the same command goes on with the comparison in {output}")
                    return engine.INTERRUPTED
                finished[seed] = comparison.finished(rundir.existing(path, {workload.name: workload}))
            except DivergedError as error:
                progress.say(f"innerloop: {error}")
                diverged.append(seed)
        groups.append(Group(config.algorithm, finished, tuple(diverged)))
        jax.clear_caches()
    write(comparison.compared(groups), output, progress)
    return 0


def launch_and_compare(
    workload: Workload[Any], configs: Sequence[Any], seeds: Sequence[int], output: Path, by: launch.Launcher
) -> int:
    """Train every configuration at every seed, each in a process of its own, and show the table whenever one is done.

    Args:
        workload: the kind of run.
        configs: one for each algorithm, the first of which the others are compared with.
        seeds: of the runs.
        output: the directory of the runs and of the comparison.
        by: starts the processes.

    Returns:
        0, or 130 if it was interrupted; then what ran on this machine is saved.

    Raises:
        InnerloopError: before anything is trained, if an algorithm cannot work in its configuration; or at the end, if
            runs failed.
    """
    progress = Progress()
    _require_fitting(workload, configs)
    cells = {_directory(output, config, seed): (config.algorithm, seed) for config in configs for seed in seeds}
    groups = {config.algorithm: Group(config.algorithm, {}) for config in configs}
    failed: dict[Path, str] = {}

    def done(path: Path) -> None:
        algorithm, seed = cells[path]
        group, run = groups[algorithm], rundir.existing(path, {workload.name: workload})
        said = launch.log_of(path).read_text(errors="replace").splitlines() if launch.log_of(path).exists() else []
        if run.result() is not None:
            group.runs[seed] = comparison.finished(run)
        elif said and DIVERGED in said[-1]:
            groups[algorithm] = group._replace(diverged=(*group.diverged, seed))
        else:
            failed[path] = said[-1] if said else "it said nothing"
        some = [group for group in groups.values() if group.runs]
        progress.say(f"{sum(len(group.runs) for group in some)} of {len(cells)} runs are finished")
        if some:
            for table in comparison.tables(comparison.compared(some, configs[0].algorithm)):
                progress.say("\n" + table.as_text())

    waiting = []
    for config in configs:
        for seed in seeds:
            path = _directory(output, config, seed)
            run = rundir.stored(path, {workload.name: workload})
            if run is not None and run.result() is not None:
                done(path)
                continue
            if run is None:
                rundir.prepare(path, workload, codec.changed(config, {"seed": seed, "run_dir": str(path)}))
            waiting.append(path)
    from innerloop.runs import loop

    with loop.interruptions("what runs on this machine") as asked:

        def wait(seconds: float) -> None:
            time.sleep(seconds)
            if asked:
                raise KeyboardInterrupt

        try:
            launch.work_off(waiting, by, done, wait)
        except KeyboardInterrupt:
            progress.say(f"the same command goes on with the comparison in {output}")
            return engine.INTERRUPTED
    over = [group for group in groups.values() if group.runs or group.diverged]  # a run that failed has no row
    if not failed or any(group.runs for group in over):
        write(comparison.compared(over, configs[0].algorithm), output, progress)
    if failed:
        path, why = next(iter(failed.items()))
        raise InnerloopError(
            f"{len(failed)} of {len(cells)} runs failed, among them {path} ({why}); the same command tries them again, "
            f"and what they said is in {launch.log_of(path)}."
        )
    return 0


def _require_fitting(workload: Workload[Any], configs: Sequence[Any]) -> None:
    for config in configs:
        workload.check(config)
        if isinstance(workload, Fitting):
            workload.require_fitting(config)


def compare_runs(runs: Sequence[rundir.Run], output: Path) -> None:
    """Compare finished runs.

    Raises:
        InnerloopError: if they are not finished, or cannot be compared.
    """
    found = [comparison.finished(run) for run in runs]
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
        seeds = list(dict.fromkeys(int(seed) for seed in text.split(",")))
    else:
        seeds = []
    if not seeds:
        raise InnerloopError(f"--seeds is {text!r}; give numbers such as 0..2 or 0,1,5.")
    return seeds


def _directory(output: Path, config: Any, seed: int) -> Path:
    return output / f"{config.algorithm}-seed{seed}"


def _within(
    workload: Workload[Any], config: Any, seeds: Sequence[int], limit: float, output: Path, progress: Progress
) -> Any:
    """The configuration with as many meta-steps as fit into the time, or with those of the runs already begun.

    Raises:
        InnerloopError: if this kind of run cannot tell what a meta-step takes.
    """
    for seed in seeds:
        begun = rundir.stored(_directory(output, config, seed), {workload.name: workload})
        if begun:
            return codec.changed(config, {ITERATIONS: dict(codec.leaves(begun.config))[ITERATIONS]})
    session = workload.open(config, progress, resolve=True)
    if not isinstance(session, Timed):
        raise InnerloopError(
            f"--time-limit is not for runs of the kind {workload.name}; give the same number of iterations to all."
        )
    with progress.timed(f"timing a meta-step of {config.algorithm}"):
        seconds = session.seconds_per_step()
    count = max(int(limit / seconds), 1)
    progress.say(f"{config.algorithm}: {1e3 * seconds:.2f} ms a meta-step, so {count:,} in {duration(limit)}")
    return codec.changed(session.config, {ITERATIONS: count})


def write(result: Mapping[str, Any], output: Path, progress: Progress) -> None:
    """Print the comparison, and keep it as `comparison.json` and `comparison.html`.

    Without the libraries of the report all but the page is done.
    """
    output.mkdir(parents=True, exist_ok=True)
    result = {
        **result,
        "command": ["innerloop", *sys.argv[1:]],
        "commit": machine.commit(),
        **machine.description(),
    }
    for table in comparison.tables(result):
        progress.say("\n" + table.as_text())
    for remark in comparison.remarks(result):
        progress.note(remark)
    write_text(output / "comparison.json", json.dumps(sealed.plain(result), indent=1, allow_nan=False))
    try:
        text = render(result)
    except InnerloopError as error:
        if "innerloop[report]" not in str(error):
            raise
        progress.say(f"no page: {error}")
        return
    write_text(output / "comparison.html", text)
    progress.say(f"written: {(output / 'comparison.html').resolve()}, and comparison.json beside it")


def render(result: Mapping[str, Any]) -> str:
    """The comparison as one HTML file that needs nothing else.

    Raises:
        InnerloopError: if matplotlib or Jinja2 is not installed.
    """
    pictures = [
        f"<h3>{escape(table['title'])}</h3><figure>"
        + plots.comparison(
            table["rows"], table["title"], logarithmic=table["lower_is_better"] and _all_positive(table["rows"])
        )
        + "</figure>"
        for table in result["tables"]
    ]
    caption = (
        "Left: the score after 0, 1, ... inner steps. Right: the score after the last one, a tick for each seed. "
        "Memory is that of one meta-step with the state and the data, by XLA's own account; compiling is counted as if "
        "nothing had been compiled before."
    )
    return page.render(
        title=f"{result['recipe']}: {len(result['groups'])} algorithms",
        subtitle="The same test tasks for all; scores are means over tasks and seeds after the last inner step.",
        tables=comparison.tables(result),
        remarks=comparison.remarks(result),
        sections=[Section("Adaptation", "".join(pictures), caption)],
        settings=[(name, str(value)) for name, value in result["test"].items()],
        provenance={name: result[name] for name in ("command", "commit", "versions", "machine")},
    )


def _all_positive(rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(value > 0 for row in rows if "curve" in row for value in row["curve"]["mean"])
