"""Finished runs beside each other: scores on the same test tasks, paired differences, and what each costs."""

import json
from collections.abc import Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from innerloop.core.evaluate import summarise
from innerloop.errors import InnerloopError
from innerloop.runs.rundir import Run
from innerloop.workloads.episodes.config import Config, Evaluation, Layout, Log, flag, leaves
from innerloop.workloads.episodes.memory import readable
from innerloop.workloads.episodes.scoring import PRETRAINED, SCRATCH, in_digits, score_name, shortened

TEST = ("tasks", "shots", "queries", "seed")
"""The settings of an evaluation that its test tasks depend on."""


UNUSUAL = 5.0
"""A record that took so many times the median says more of the machine than of the algorithm."""


class Group(NamedTuple):
    """What is compared: the runs of one configuration, over seeds.

    Attributes:
        label: what it is called.
        runs: finished runs by seed.
        diverged: the seeds at which training diverged.
    """

    label: str
    runs: dict[int, Run]
    diverged: tuple[int, ...] = ()


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in their seed alone together, in the order in which they come.

    Raises:
        InnerloopError: if a run is there twice.
    """
    configs: dict[Config, dict[int, Run]] = {}
    for run in runs:
        group = configs.setdefault(_without_seed(run.config), {})
        if run.config.seed in group:
            raise InnerloopError(
                f"{group[run.config.seed].path} and {run.path} are the same experiment with the same seed; leave one "
                "of them out."
            )
        group[run.config.seed] = run
    return [Group(_label(config, list(configs)), group) for config, group in configs.items()]


def _without_seed(config: Config) -> Config:
    """What runs of one group have in common."""
    return replace(
        config,
        recipe="",
        seed=0,
        layout=Layout(),
        log=Log(),
        data_dir=None,
        run_dir=None,
        evaluation=Evaluation(steps=config.evaluation.steps),
    )


def _label(config: Config, others: Sequence[Config]) -> str:
    """The algorithm, and what tells it from others of the same one."""
    rivals = [dict(leaves(each)) for each in others if each.algorithm == config.algorithm]
    own = dict(leaves(config))
    differing = [name for name in own if any(each[name] != own[name] for each in rivals if name in each)]
    return " ".join([config.algorithm, *(f"{flag(name).split('.')[-1]}={own[name]}" for name in differing)])


def compared(groups: Sequence[Group], reference: str | None = None) -> dict[str, Any]:
    """Tables of all groups, one for each number of shots and each judge.

    The interval of a score is over tasks, each task's score being the mean over seeds; the spread is the standard
    deviation over seeds of the mean over tasks. A difference to the reference is paired: taken task by task (and seed
    by seed), so that what makes a task hard cancels. It is `decided` if it exceeds twice its standard error, in which
    tasks and seeds both count.

    Args:
        groups: what is compared.
        reference: the label of the group that the others are compared with; the first one unless given.

    Raises:
        InnerloopError: if runs were not evaluated on the same test tasks, or their scores are not there.
    """
    runs = [run for group in groups for run in group.runs.values()]
    if not runs:
        raise InnerloopError("No run was finished, so there is nothing to compare.")
    results = {run.path: _result(run) for run in runs}
    _require_same_tasks(runs, results)
    first = results[runs[0].path]
    scores = {run.path: _scores(run) for run in runs}
    against = reference or groups[0].label
    tables = []
    for shots in first["settings"]["shots"]:
        for judge in dict.fromkeys(row["judge"] for row in first["tables"][0]["rows"]):
            curves = {
                group.label: {
                    seed: scores[run.path][score_name(run.config.algorithm, judge, shots)]
                    for seed, run in group.runs.items()
                }
                for group in groups
            }
            for baseline in (PRETRAINED, SCRATCH):
                name = score_name(baseline, judge, shots)
                with_it = [
                    found
                    for group in groups
                    if (found := {s: scores[r.path][name] for s, r in group.runs.items() if name in scores[r.path]})
                ]
                if with_it:
                    curves[baseline] = max(with_it, key=len)
            rows = [_row(label, values, curves.get(against, {})) for label, values in curves.items()]
            tables.append({"shots": shots, "judge": judge, "rows": rows})
    return {
        "recipe": first["recipe"],
        "metric": first["metric"],
        "factor": first["factor"],
        "unit": first["unit"],
        "reference": against,
        "test": {name: first["settings"][name] for name in TEST},
        "groups": {group.label: _costs(group, results) for group in groups},
        "remarks": list(
            dict.fromkeys(
                f"{group.label}: {remark}"
                for group in groups
                for run in group.runs.values()
                for remark in results[run.path].get("remarks", ())
            )
        ),
        "tables": tables,
    }


def _row(label: str, curves: dict[int, np.ndarray], reference: dict[int, np.ndarray]) -> dict[str, Any]:
    """The figures of one group; `curves` are `[tasks, steps + 1]` by seed."""
    row: dict[str, Any] = {"label": label, "seeds": list(curves)}
    if not curves:
        return row
    stacked = np.stack(list(curves.values())).astype(np.float64)  # [seeds, tasks, steps + 1]
    mean, interval = summarise(stacked.mean(axis=0))
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
        pairs = np.stack([curves[seed][:, -1].astype(np.float64) - reference[seed][:, -1] for seed in common])
        difference, half = (float(each) for each in summarise(pairs.mean(axis=0)))
        over_seeds = (_deviation(pairs.mean(axis=1)) or 0.0) / np.sqrt(len(common))
        error = float(np.hypot(half / 1.96, over_seeds))
        decided = bool(abs(difference) > 2 * error)
        row["difference"] = {"mean": difference, "interval": half, "error": error, "decided": decided}
    return row


def _deviation(values: np.ndarray) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _costs(group: Group, results: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """What training took: means over the runs, the memory that of the largest."""
    costs: dict[str, Any] = {"seeds": list(group.runs), "diverged": list(group.diverged)}
    known = []
    for run in group.runs.values():
        records, batch = run.records(), run.config.outer.meta_batch
        paces = [each["tasks_per_second"] for each in records if each.get("tasks_per_second")]
        once = batch / np.array(paces) if paces else np.array([np.nan])
        usual = once[once < UNUSUAL * np.nanmedian(once)]  # without what another process or a pause took
        each: dict[str, Any] = {"seconds_per_meta_step": float(usual.mean()) if paces else None}
        try:
            stored = json.loads(run.costs.read_bytes())
            each |= {"compile_seconds": stored["compile_seconds"], "memory": stored["held"] + stored["temporary"]}
        except (OSError, ValueError, KeyError, TypeError):  # the costs of a run of an earlier version are not known
            pass
        known.append(each)
    for name in ("seconds_per_meta_step", "compile_seconds", "memory"):
        values = [each[name] for each in known if each.get(name) is not None]
        costs[name] = None if not values else max(values) if name == "memory" else float(np.mean(values))
    if group.runs:
        first = next(iter(group.runs.values()))
        config = first.config
        costs |= {
            "algorithm": config.algorithm,
            "meta_steps": results[first.path]["meta_steps"],  # fewer than configured if training was interrupted
            "inner_steps": config.inner.steps,
            "inner_rate": config.inner.learning_rate,
        }
    return costs


def _result(run: Run) -> dict[str, Any]:
    result = run.result()
    if result is None:
        raise InnerloopError(f"{run.path} is not finished; give: innerloop resume {run.path}")
    return result


def _scores(run: Run) -> dict[str, np.ndarray]:
    try:
        scores = safetensors.numpy.load(run.scores.read_bytes())
    except (OSError, safetensors.SafetensorError) as error:
        raise InnerloopError(
            f"{run.path} holds no scores of single tasks; give: innerloop evaluate {run.path}"
        ) from error
    return scores


def _require_same_tasks(runs: Sequence[Run], results: dict[Any, dict[str, Any]]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for name in TEST:
            ours, theirs = (results[each.path]["settings"][name] for each in (first, run))
            if ours != theirs:
                text = " ".join(str(each) for each in ours) if isinstance(ours, list) else ours
                raise InnerloopError(
                    f"{first.path} and {run.path} were not evaluated on the same test tasks (--evaluation.{name} "
                    f"{ours} and {theirs}); give: innerloop evaluate {run.path} --evaluation.{name} {text}"
                )
        left, right = (dict(leaves(each.config.tasks)) for each in (first, run))
        for name in sorted(left | right):
            if name not in ("shots", "queries") and left.get(name) != right.get(name):
                raise InnerloopError(
                    f"{first.path} and {run.path} have different tasks (--tasks.{flag(name)} {left.get(name)} and "
                    f"{right.get(name)}), so they cannot be compared."
                )


def as_text(result: dict[str, Any]) -> str:
    """The comparison as tables of 80 columns."""
    lines = []
    for table in result["tables"]:
        lines += ["", *_table(result, table)]
    lines += [
        "",
        f"score: mean and 95 % interval over the same {result['test']['tasks']} test tasks; sd: over seeds;",
        f"vs {shortened(result['reference'], 20)}: paired difference with its 95 % interval over tasks,",
        "* where it exceeds two standard errors over tasks and seeds",
    ]
    return "\n".join([*lines, *(line for each in notes(result) for line in wrap(f"note: {each}", 80))])


def notes(result: dict[str, Any]) -> list[str]:
    """Which runs diverged, and what was remarked on the others."""
    failed = [
        f"{label}: training diverged at {len(costs['diverged'])} of {len(costs['diverged']) + len(costs['seeds'])} "
        f"seeds ({', '.join(map(str, costs['diverged']))})"
        for label, costs in result["groups"].items()
        if costs["diverged"]
    ]
    return [*failed, *result["remarks"]]


def title_of(result: dict[str, Any], table: dict[str, Any]) -> str:
    """What a table is about."""
    better = "lower" if result["metric"] == "loss" else "higher"
    judge = "" if table["judge"] == "query" else f", {table['judge']}"
    return f"{table['shots']}-shot, {result['unit']} ({better} is better){judge}"


def _table(result: dict[str, Any], table: dict[str, Any]) -> list[str]:
    steps = {row["steps"] for row in table["rows"] if "steps" in row}
    after = f", after {max(steps)} inner steps" if len(steps) == 1 else ""
    against = f"vs {shortened(result['reference'], 12)}"
    lines = [
        title_of(result, table) + after,
        f"{'':<19}{'score':>14}{'sd':>7}{against:>16}{'ms/step':>8}{'memory':>8}{'compile':>8}",
    ]
    for row in table["rows"]:
        name = row["label"] if len(steps) == 1 or "steps" not in row else f"{row['label']} ({row['steps']})"
        lines.append(f"{shortened(name, 18):<19}" + "".join(_cells(result, row)))
    return lines


def _cells(result: dict[str, Any], row: dict[str, Any]) -> list[str]:
    cells = cells_of(result, row)
    return [f"{cell:>{width}}" for cell, width in zip(cells, (14, 7, 16, 8, 8, 8), strict=True)]


def cells_of(result: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """The row as text: score, spread over seeds, difference, milliseconds, memory, seconds to compile."""
    factor = result["factor"]
    digits = 2 if factor == 100.0 else 3
    show = lambda value, sign="": in_digits(value * factor, digits, sign)  # noqa: E731
    costs = result["groups"].get(row["label"], {})
    if "mean" not in row:
        return ["diverged", "", "", "", "", ""]
    difference = row.get("difference")
    mark = "*" if difference and difference["decided"] else " "
    per_step, memory, compiling = (costs.get(name) for name in ("seconds_per_meta_step", "memory", "compile_seconds"))
    return [
        f"{show(row['mean'])} ±{show(row['interval'])}",
        "" if row["spread"] is None else show(row["spread"]),
        f"{show(difference['mean'], '+')} ±{show(difference['interval'])}{mark}" if difference else "",
        "" if per_step is None else f"{1e3 * per_step:.2f}",
        "" if memory is None else _short(memory),
        "" if compiling is None else f"{compiling:.0f} s",
    ]


def _short(size: int) -> str:
    """Bytes in at most six characters."""
    number, unit = readable(size).split()
    return f"{float(number.replace(',', '')):.3g}{unit[0]}"
