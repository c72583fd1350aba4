"""Finished runs beside each other: scores on the same test tasks, paired differences, and what each costs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import codec
from innerloop.runs.results import NORMAL_QUANTILE, Table, counted, estimate, number, shortened
from innerloop.runs.rundir import Run
from innerloop.runs.workload import Comparable

APART = ("recipe", "seed", "layout", "log", "evaluation", "data_dir", "run_dir")
"""The settings in which runs of one group may differ."""
TESTED = "test_steps"
"""The inner steps that a run was evaluated after, which are chosen where the configuration leaves them open."""
UNUSUAL = 5.0
"""A record that took so many times the median says more of the machine than of the algorithm."""
SIZES = "BKMG"
"""Bytes, kibibytes, and so on."""
LARGE_SCORE = 10.0
"""From here on a score is shown with two digits behind the point, below with three."""


class Finished(NamedTuple):
    """A finished run.

    Attributes:
        run: its directory.
        result: its evaluation.
        comparables: its scores, and those of its baselines.
    """

    run: Run
    result: Mapping[str, Any]
    comparables: tuple[Comparable, ...]

    @property
    def steps(self) -> int:
        """Inner steps that it was evaluated after."""
        return max((len(found.curves[0]) - 1 for found in self.comparables if not found.baseline), default=0)


class Group(NamedTuple):
    """What is compared: the runs of one configuration, over seeds.

    Attributes:
        label: what it is called.
        runs: finished runs by seed.
        diverged: the seeds at which training diverged.
    """

    label: str
    runs: dict[int, Finished]
    diverged: tuple[int, ...] = ()


def finished(run: Run) -> Finished:
    """A run with its scores.

    Raises:
        InnerloopError: if it is not evaluated, or its scores are not there.
    """
    result = run.result()
    if result is None:
        raise InnerloopError(f"{run.path} is not finished; give: innerloop resume {run.path}")
    try:
        found = run.workload.comparables(run.config, result, run.scores())
    except KeyError as error:
        raise InnerloopError(
            f"{run.path} holds no scores {error} of single tasks; give: innerloop evaluate {run.path}"
        ) from error
    return Finished(run, result, tuple(found))


def grouped(runs: Sequence[Finished]) -> list[Group]:
    """Runs that differ in their seed alone together, in the order in which they come.

    Raises:
        InnerloopError: if a run is there twice.
    """
    groups: dict[tuple[Any, ...], dict[int, Finished]] = {}
    settings: list[dict[str, Any]] = []
    for found in runs:
        own = _settings(found)
        group = groups.setdefault(tuple(own.items()), {})
        settings += [own] if not group else []
        seed = found.run.config.seed
        if seed in group:
            raise InnerloopError(
                f"{group[seed].run.path} and {found.run.path} are the same experiment with the same seed; leave one of "
                "them out."
            )
        group[seed] = found
    return [Group(_label(own, settings), group) for own, group in zip(settings, groups.values(), strict=True)]


def _settings(found: Finished) -> dict[str, Any]:
    """What runs of one group have in common."""
    own = {name: value for name, value in codec.leaves(found.run.config) if name.split(".")[0] not in APART}
    return {**own, TESTED: found.steps}


def _label(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """The algorithm, and what tells it from others of the same one."""
    rivals = [other for other in others if other["algorithm"] == own["algorithm"]]
    differing = [name for name in own if any(rival[name] != own[name] for rival in rivals if name in rival)]
    if len(differing) > 1 and TESTED in differing:
        differing.remove(TESTED)
    return " ".join([own["algorithm"], *(f"{codec.flag(name).split('.')[-1]}={own[name]}" for name in differing)])


def compared(groups: Sequence[Group], reference: str | None = None) -> dict[str, Any]:
    """Tables of all groups, one for each score that they have.

    The interval of a score is over tasks, each task's score being the mean over seeds; the spread is the standard
    deviation over seeds of the mean over tasks. A difference to the reference is paired: taken task by task (and seed
    by seed), so that what makes a task hard cancels. It is `decided` if it exceeds twice its standard error, in which
    tasks and seeds both count.

    Args:
        groups: what is compared.
        reference: the label of the group that the others are compared with; the first one unless given.

    Raises:
        InnerloopError: if runs were not evaluated on the same test tasks.
    """
    runs = [found for group in groups for found in group.runs.values()]
    if not runs:
        raise InnerloopError("No run was finished, so there is nothing to compare.")
    identity = _require_same_tasks(runs)
    first, against = runs[0], reference or groups[0].label
    titles = {found.title: found for found in first.comparables if not found.baseline}
    tables = []
    for title, score in titles.items():
        curves = {group.label: _curves(group, title) for group in groups}
        for baseline in dict.fromkeys(found.baseline for run in runs for found in run.comparables if found.baseline):
            with_it = [found for group in groups if (found := _curves(group, title, baseline))]
            if with_it:
                curves[baseline] = max(with_it, key=len)
        rows = [_row(label, values, curves.get(against, {})) for label, values in curves.items()]
        tables.append(
            {"title": title, "lower_is_better": score.lower_is_better, "tasks": len(score.curves), "rows": rows}
        )
    return {
        "workload": first.run.workload.name,
        "recipe": first.run.config.recipe,
        "reference": against,
        "test": {name: value for name, value in identity.items() if isinstance(value, str | int | float | list)},
        "groups": {group.label: _costs(group) for group in groups},
        "remarks": list(
            dict.fromkeys(
                f"{group.label}: {remark}"
                for group in groups
                for found in group.runs.values()
                for remark in found.result.get("remarks", ())
            )
        ),
        "tables": tables,
    }


def _curves(group: Group, title: str, baseline: str = "") -> dict[int, np.ndarray]:
    """The scores of a title by seed, `[tasks, steps + 1]`."""
    return {
        seed: score.curves.astype(np.float64)
        for seed, found in group.runs.items()
        for score in found.comparables
        if (score.title, score.baseline) == (title, baseline)
    }


def _row(label: str, curves: dict[int, np.ndarray], reference: dict[int, np.ndarray]) -> dict[str, Any]:
    """The figures of one group."""
    row: dict[str, Any] = {"label": label, "seeds": list(curves)}
    if not curves:
        return row
    stacked = np.stack(list(curves.values()))  # [seeds, tasks, steps + 1]
    mean, interval = estimate(stacked.mean(axis=0))
    last = stacked[..., -1]
    row |= {
        "steps": stacked.shape[-1] - 1,
        "curve": {"mean": mean.tolist(), "interval": interval.tolist()},
        "mean": float(mean[-1]),
        "interval": float(interval[-1]),
        "by_seed": last.mean(axis=1).tolist(),
        "spread": _deviation(last.mean(axis=1)),
    }
    common = [seed for seed in curves if seed in reference]
    if common and curves is not reference:
        pairs = np.stack([curves[seed][:, -1] - reference[seed][:, -1] for seed in common])
        difference, half = (float(value) for value in estimate(pairs.mean(axis=0)))
        over_seeds = (_deviation(pairs.mean(axis=1)) or 0.0) / np.sqrt(len(common))
        error = float(np.hypot(half / NORMAL_QUANTILE, over_seeds))
        decided = bool(abs(difference) > 2 * error)
        row["difference"] = {"mean": difference, "interval": half, "error": error, "decided": decided}
    return row


def _deviation(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _costs(group: Group) -> dict[str, Any]:
    """What training took: means over the runs, the memory that of the largest."""
    costs: dict[str, Any] = {"seeds": list(group.runs), "diverged": list(group.diverged)}
    known = [_costs_of(found.run) for found in group.runs.values()]
    for name in ("seconds_per_meta_step", "compile_seconds", "memory"):
        values = [run_costs[name] for run_costs in known if run_costs.get(name) is not None]
        costs[name] = None if not values else max(values) if name == "memory" else float(np.mean(values))
    if group.runs:
        first = next(iter(group.runs.values()))
        settings = dict(codec.leaves(first.run.config))
        costs |= {
            "algorithm": settings["algorithm"],
            "meta_steps": first.result["meta_steps"],  # fewer than configured if training was interrupted
            "inner_steps": settings.get("inner.steps"),
            "inner_rate": settings.get("inner.learning_rate"),
        }
    return costs


def _costs_of(run: Run) -> dict[str, Any]:
    paces = [record["tasks_per_second"] for record in run.records() if record.get("tasks_per_second")]
    batches = [value for name, value in codec.leaves(run.config) if name.split(".")[-1] == "meta_batch"]
    costs: dict[str, Any] = dict(run.costs())
    if paces and batches:
        once = batches[0] / np.array(paces)
        costs["seconds_per_meta_step"] = float(once[once < UNUSUAL * np.median(once)].mean())  # without pauses
    if "held" in costs and "temporary" in costs:
        costs["memory"] = costs["held"] + costs["temporary"]
    return costs


def _require_same_tasks(runs: Sequence[Finished]) -> Mapping[str, Any]:
    """What the test tasks of all runs depend on.

    Raises:
        InnerloopError: if that is not the same of all, naming what differs, and the command that mends it.
    """
    first = runs[0]
    ours = first.run.workload.test_identity(first.run.config, first.result)
    for other in runs[1:]:
        pair = f"{first.run.path} and {other.run.path}"
        if first.run.workload.name != other.run.workload.name:
            raise InnerloopError(
                f"{pair} are runs of two kinds ({first.run.workload.name} and {other.run.workload.name}), so they "
                "cannot be compared."
            )
        theirs = other.run.workload.test_identity(other.run.config, other.result)
        for name in dict.fromkeys([*ours, *theirs]):
            left, right = ours.get(name), theirs.get(name)
            if left == right:
                continue
            if name.startswith("--evaluation."):
                text = " ".join(map(str, left)) if isinstance(left, list | tuple) else left
                raise InnerloopError(
                    f"{pair} were not evaluated on the same test tasks ({name} {left} and {right}); give: innerloop "
                    f"evaluate {other.run.path} {name} {text}"
                )
            raise InnerloopError(
                f"{pair} have different test tasks ({name} {left} and {right}), so they cannot be compared."
            )
    return ours


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The tables of a comparison."""
    shown = [_table(result, table) for table in result["tables"]]
    against = shortened(result["reference"], 30)
    note = (
        f"score: mean and 95 % interval over the test tasks; sd: over seeds; difference: to {against}, paired task by "
        "task, * where it exceeds two standard errors over tasks and seeds"
    )
    last = shown[-1]
    return [*shown[:-1], Table(last.title, last.columns, last.rows, (*last.notes, note))]


def title_of(table: Mapping[str, Any]) -> str:
    """What a table is about."""
    return f"{table['title']} ({'lower' if table['lower_is_better'] else 'higher'} is better)"


def _table(result: Mapping[str, Any], table: Mapping[str, Any]) -> Table:
    steps = {row["steps"] for row in table["rows"] if row.get("steps")}
    after = f", after {counted(max(steps), 'inner step')}" if len(steps) == 1 else ""
    title = f"{title_of(table)}{after}; {table['tasks']:,} test tasks"
    rows = []
    for row in table["rows"]:
        name = row["label"] if len(steps) < 2 or not row.get("steps") else f"{row['label']} ({row['steps']})"
        rows.append((name, *cells_of(result, table, row)))
    heads = ("", "score", "sd", f"vs {shortened(result['reference'], 12)}", "ms/step", "memory", "compile")
    filled = [i for i in range(len(heads)) if i < 2 or any(row[i] for row in rows)]
    return Table(title, tuple(heads[i] for i in filled), tuple(tuple(row[i] for i in filled) for row in rows))


def cells_of(result: Mapping[str, Any], table: Mapping[str, Any], row: Mapping[str, Any]) -> list[str]:
    """The row as text: score, spread over seeds, difference, milliseconds, memory, seconds to compile."""
    if "mean" not in row:
        return ["diverged", "", "", "", "", ""]
    largest = max(abs(other["mean"]) for other in table["rows"] if "mean" in other)
    digits = 2 if largest >= LARGE_SCORE else 3
    costs = result["groups"].get(row["label"], {})
    difference = row.get("difference")
    mark = "*" if difference and difference["decided"] else " "
    per_step, memory, compiling = (costs.get(name) for name in ("seconds_per_meta_step", "memory", "compile_seconds"))
    return [
        f"{number(row['mean'], digits)} ±{number(row['interval'], digits)}",
        "" if row["spread"] is None else number(row["spread"], digits),
        f"{number(difference['mean'], digits, '+')} ±{number(difference['interval'], digits)}{mark}"
        if difference
        else "",
        "" if per_step is None else f"{1e3 * per_step:.2f}",
        "" if memory is None else short_size(memory),
        "" if compiling is None else f"{compiling:.0f} s",
    ]


def remarks(result: Mapping[str, Any]) -> list[str]:
    """Which runs diverged, and what was remarked on the others."""
    failed = [
        f"{label}: training diverged at {len(costs['diverged'])} of {len(costs['diverged']) + len(costs['seeds'])} "
        f"seeds ({', '.join(map(str, costs['diverged']))})"
        for label, costs in result["groups"].items()
        if costs["diverged"]
    ]
    return [*failed, *result["remarks"]]


def short_size(size: int | float) -> str:
    """Bytes in at most six characters.

    Example:
        >>> short_size(1536), short_size(12_345_678), short_size(3e12)
        ('1.5K', '11.8M', '2.79e+03G')
    """
    power = min(int(np.log2(max(size, 1)) // 10), len(SIZES) - 1)
    return f"{round(size / 1024**power, 1):.3g}{SIZES[power]}"
