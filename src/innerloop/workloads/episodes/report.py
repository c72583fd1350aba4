"""What the report of a run on episodes shows."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from innerloop.runs import plots
from innerloop.runs.results import Section, Table, adaptation_table, counted, measured, row_name
from innerloop.types import Meta
from innerloop.workloads.episodes import figures, scoring
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import Config, PhantomTasks
from innerloop.workloads.episodes.recipes import RECIPES, published_beside


def tables(result: Mapping[str, Any], config: Config) -> list[Table]:
    """For each number of shots the scores of each method after 0, 1, ... inner steps, beside the published ones."""
    return [
        adaptation_table(
            f"{table['shots']}-{config.shot}, {result['unit']}: mean ± 95 % interval, "
            f"{result['test_tasks']} test tasks",
            result,
            table,
            published=published_beside(config.recipe, config.algorithm),
            notes=_notes(result, table),
        )
        for table in result["tables"]
    ]


def _notes(result: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """The step sizes of the baselines, which are chosen."""
    baselines = {row["method"]: row for row in table["rows"] if row["method"] in (scoring.SCRATCH, scoring.PRETRAINED)}
    chosen = [f"{row['learning_rate']:g} ({method})" for method, row in baselines.items()]
    notes = [f"step sizes chosen on validation tasks: {', '.join(chosen)}"] if chosen else []
    if gain := table.get("gain"):
        steps, factor = len(gain["mean"]) - 1, result["factor"]
        more = measured(gain["mean"][-1] * factor, gain["interval"][-1] * factor, 2, "+")
        notes.append(f"difference to the {scoring.SCRATCH} after {steps} steps, paired over tasks: {more}")
    return notes


def sections(
    experiment: Experiment, meta: Meta, result: Mapping[str, Any], records: Sequence[Mapping[str, Any]]
) -> list[Section]:
    """The pictures of a run.

    Args:
        experiment: what was trained, with the settings of the evaluation.
        meta: what was learned.
        result: its evaluation.
        records: what training recorded.

    Raises:
        InnerloopError: if matplotlib is not installed.
    """
    config = experiment.config
    shown = [
        _adaptation(result, config),
        _picture(experiment, meta, result),
        _fast_weights(experiment, meta),
        _learning(config, records),
    ]
    recipe = RECIPES.get(config.recipe)
    if recipe and recipe.deviations:
        heading = "Where this departs from the published experiment"
        shown.append(Section(heading, f"<p>{escape(recipe.deviations)}</p>"))
    return shown


def scratch_rate(result: Mapping[str, Any]) -> float:
    """The step size that the random start chose; the first of those tried if there was no such baseline."""
    rows = [row for row in result["tables"][0]["rows"] if row["method"] == scoring.SCRATCH]
    return float(rows[0]["learning_rate"]) if rows else scoring.FIELD_RATES[0]


def _adaptation(result: Mapping[str, Any], config: Config) -> Section:
    published = published_beside(config.recipe, config.algorithm)
    parts = [
        f"<h3>{counted(table['shots'], config.shot)}</h3>"
        f"<figure>{plots.adaptation_curve(result, table, published)}</figure>"
        for table in result["tables"]
    ]
    caption = (
        f"{result['test_tasks']} test tasks that training never saw, fixed by seed {result['test_seed']}: "
        f"{result['unit']}, the mean over tasks with its 95 % interval."
    )
    if any(row_name(row) != row["method"] for table in result["tables"] for row in table["rows"]):
        caption += (
            f" Transductive: the query images of a task ({result['queries']} of each class) are normalised together, "
            "by their own statistics, as in the published figures. Inductive: each query image is classified alone, "
            "with statistics that do not depend on the others."
        )
    return Section("What adaptation achieves", "".join(parts), caption)


def _picture(experiment: Experiment, meta: Meta, result: Mapping[str, Any]) -> Section:
    if isinstance(experiment.config.tasks, PhantomTasks):
        return Section(
            "Images from few projections",
            f"<figure>{figures.reconstructions(experiment, meta, scratch_rate(result))}</figure>",
            f"Unseen phantoms, and what {counted(experiment.config.evaluation.steps, 'inner step')} make of "
            f"{counted(experiment.config.evaluation.shots[0], 'view')} from a random start and from the learned one; "
            "PSNR in dB.",
        )
    if experiment.config.kind == "regression":
        return Section(
            "Fits on unseen tasks",
            f"<figure>{figures.sinusoid_fits(experiment, meta)}</figure>",
            "Three unseen sinusoids, and the network's prediction after 0, 1 and 10 inner steps on the marked points "
            "(the experiment of the paper's Figure 2).",
        )
    after = counted(experiment.config.evaluation.steps, "inner step")
    return Section(
        "One episode",
        f"<figure>{figures.episode(experiment, meta)}</figure>",
        "A test episode: support images above, query images below. Under each query image stands the predicted class "
        f"before → after {after}; green is right after adaptation.",
    )


def _fast_weights(experiment: Experiment, meta: Meta) -> Section:
    paths, share = figures.parameter_paths(experiment, meta)
    after = counted(experiment.config.evaluation.steps, "inner step")
    return Section(
        "Fast weights",
        f"<figure>{paths}</figure>",
        f"Each line is one test task: its parameters on their way from the initialisation θ to θ' after {after}, in "
        f"the plane of the two principal directions of all paths, which holds {100 * share:.0f} % of their variance.",
    )


def _learning(config: Config, records: Sequence[Mapping[str, Any]]) -> Section:
    regression = config.kind == "regression"
    names = ("loss",) if regression else ("loss", "accuracy")
    panels = {"mean squared error" if regression and name == "loss" else name: _lines(name) for name in names}
    if isinstance(config.tasks, PhantomTasks):
        panels["PSNR in dB"] = _lines("psnr")
    picture = plots.learning_curves(records, panels, unit="meta-step", logarithmic=[next(iter(panels))])
    rates = sorted(record["tasks_per_second"] for record in records if "tasks_per_second" in record)
    pace = f" Median pace: {rates[len(rates) // 2]:,.0f} training tasks a second." if rates else ""
    caption = f"Training tasks; each point is the mean over the meta-steps since the one before.{pace}"
    return Section("Learning", f"<figure>{picture}</figure>", caption)


def _lines(name: str) -> list[plots.Line]:
    """What is drawn of a loss or metric: training, and validation by whatever statistics it was judged."""
    return [
        plots.Line(f"{name}_before", "before adaptation (support set)", plots.GREY),
        plots.Line(f"{name}_after", "after adaptation (query set)", plots.COLOURS[0]),
        *(
            plots.Line(f"validation/{judge}/{name}", "validation tasks", plots.COLOURS[1], "o")
            for judge in ("query", "transductive")
        ),
    ]
