"""Write docs/rl-measured.md from benchmarks/results/: no figure in it is typed by hand.

python -m benchmarks.reinforcement          write, with its pictures
python -m benchmarks.reinforcement --check  exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rl_pictures
from benchmarks.seeds import over_seeds
from innerloop.cli.configuration import PUBLISHED
from innerloop.core.evaluate import summarise
from innerloop.runs.progress import duration
from innerloop.workloads.reinforcement import recipes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "rl-measured.md"
PLAIN = "log-likelihood"
NOT_YET = ["## Inner estimators", "", "Not yet measured; `python benchmarks/estimators.py` does.", ""]


def page() -> str:
    """The page."""
    simulators, iteration = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("simulators", "iteration"))
    estimators, variance, ratios = (kept(name) for name in ("estimators", "estimator-variance", "iteration-ratio"))
    inner_steps = kept("inner-steps")
    return "\n".join(
        [
            "# Meta-reinforcement learning, measured",
            "",
            "Written by `make results` from `benchmarks/results/`. Each run has a section of its own among the "
            "[measured results](results.md).",
            "",
            *returns_section(),
            *(steps_section(inner_steps) if inner_steps else []),
            *rl_pictures.section(),
            *(estimator_section(estimators) if estimators else NOT_YET),
            *(variance_section(variance, estimators) if variance else []),
            *simulator_section(simulators),
            *(ratio_section(ratios) if ratios else []),
            *iteration_section(iteration),
        ]
    )


def kept(name: str) -> dict[str, Any] | None:
    """A result, if it was measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def returns_section() -> list[str]:
    """Ours beside what was published, for all environments."""
    lines = [
        "## Returns beside the published ones",
        "",
        "Mean undiscounted return on the 40 test goals of the paper before adaptation and after 1, 2 and 3 updates, "
        "with its 95 % interval: over goals for one seed, as published; over seeds (Student's t) for several. *Short "
        "by* is how far our mean is below the published mean after 1 / 2 / 3 updates. `innerloop "
        "recipes` says where a recipe departs from the published settings.",
        "",
        "| | before | after 1 | after 2 | after 3 | short by | iterations | training, each |",
        "|---|---|---|---|---|---|---|---|",
    ]
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("rl-*-seed*.json"))]
    for name, recipe in recipes.RECIPES.items():
        if not recipe.published:
            continue
        lines.append(f"| **`{name}`** | | | | | | | |")
        own = [run for run in runs if run["recipe"] == name]
        published = {
            method: [figure for figure in recipe.published if figure.method == method]
            for method in dict.fromkeys(figure.method for figure in recipe.published)
        }
        for method, figures in published.items():
            ours = rows_of(own, "maml" if method == "MAML" else method)
            cells = [f"{figure.value:.1f} ± {figure.interval:.1f}" for figure in figures]
            lines.append(f"| {method}, published | {' | '.join([*cells, *[''] * (4 - len(cells))])} | | | |")
            if not ours:
                lines.append(f"| {method}, ours | not yet measured | | | | | | |")
            lines += [ours_beside(method, settings, found, figures) for settings, found in ours.items()]
    return [*lines, ""]


def steps_section(result: dict[str, Any]) -> list[str]:
    """What bounds the later returns of navigation."""
    lines = [
        "### What bounds navigation after the second update",
        "",
        f"{source(result)}. On {result['goals']} goals drawn as in training, not those of the test. The first row of a "
        "run is the published protocol: steps of 0.5, then half. Training optimises the return after one update alone. "
        "Standardised advantages make a gradient as long near the goal as far from it, and longer with a smaller "
        "deviation; where a smaller later step does better after 3 updates, that of the protocol overshoots.",
        "",
        "| run | first step | later ones, of it | before | after 1 | after 2 | after 3 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [f"{mean:.2f} ± {half:.2f}" for mean, half in zip(row["mean"], row["interval"], strict=True)]
        lines.append(f"| {row['run']} | {row['rate']} | {row['later']} | {' | '.join(cells)} |")
    return [*lines, ""]


ALONE = "baselines alone"
"""What is said of a run that was made for its baselines."""


def rows_of(runs: list[dict[str, Any]], method: str) -> dict[str, list[tuple[dict[str, Any], np.ndarray]]]:
    """A method's returns on each goal `[goals, updates + 1]`, by what its runs change of the recipe.

    Baselines are the same whatever was trained beside them: of several, those that trained longest, and of these those
    that were measured alone.
    """
    found: dict[str, list[tuple[dict[str, Any], np.ndarray]]] = {}
    for run in runs:
        for row in run["evaluation"]["tables"][0]["rows"]:
            baseline_of_none = method == "maml" and settings_of(run) == ALONE
            if row["method"] == method and not baseline_of_none:
                found.setdefault(settings_of(run), []).append((run, np.array(row["per_task"])))
    if method == "maml" or not found:
        return found
    every = [each for several in found.values() for each in several]
    every.sort(key=lambda each: settings_of(each[0]) != ALONE)
    longest = max(trained_for(each[0], method) for each in every)
    return {"": [each for each in every if trained_for(each[0], method) == longest][:1]}


def trained_for(run: dict[str, Any], method: str) -> int:
    """The iterations of a baseline."""
    settings = run["evaluation"]["settings"]
    return (method == "oracle" and settings.get("oracle_iterations")) or settings["baseline_iterations"]


def settings_of(run: dict[str, Any]) -> str:
    """What a run changes of the recipe, in words."""
    if run["meta_steps"] == 1:
        return ALONE
    if run["changes"] == PUBLISHED:
        return "as published"
    return f"`{run['changes']}`" if run["changes"] else ""  # else two hyphens are typeset as a dash


def ours_beside(method: str, settings: str, found: list[tuple[dict[str, Any], np.ndarray]], figures: list[Any]) -> str:
    """A row of the table."""
    means, half = interval_of([values for _, values in found])
    short = [figure.value - mean for figure, mean in zip(figures, means, strict=False)]
    after = short[1:] or short  # the oracle is not adapted
    cells = [f"{mean:.1f} ± {width:.1f}" for mean, width in zip(means, half, strict=True)][:4]
    run = found[0][0]
    baseline = method != "MAML"
    iterations = trained_for(run, method) if baseline else run["meta_steps"]
    training = "" if baseline else duration(float(np.median([each["training_seconds"] for each, _ in found])))
    number = f", {len(found)} seeds" if len(found) > 1 else ""
    said = f"{method}, ours{f' ({settings})' if settings else ''}{number}"
    count = "" if method == "random" else f"{iterations:,}"
    lack = " / ".join(f"{max(each, 0.0):.1f}" for each in after) if any(each > 0 for each in after) else "nothing"
    lack = "" if method in ("random", "pre-trained") else lack  # to beat, not to reach
    filled = [*cells, *[""] * (4 - len(cells))]
    return f"| {said} | {' | '.join(filled)} | {lack} | {count} | {training} |"


def interval_of(seeds: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean return and the half-width of its 95 % interval: over goals for one seed, over seeds for several."""
    if len(seeds) == 1:
        mean, half = summarise(seeds[0])
        return np.asarray(mean), np.asarray(half)
    return over_seeds(np.stack([each.mean(axis=0) for each in seeds]))


def variance_section(result: dict[str, Any], returns: dict[str, Any] | None) -> list[str]:
    """How noisy the estimators' meta-gradients are, and how far off."""
    width = f", with one hidden layer of {result['width']} units" if "width" in result else ""
    lines = [
        "## Variance and bias of the inner estimators",
        "",
        f"{source(result)}. At one checkpoint (`{result['checkpoint_of']}` after {result['iterations']} iterations"
        f"{width}), {result['repeats']} draws of {result['tasks']} tasks x {result['episodes']} episodes, against the "
        f"mean over {result.get('references', result['repeats'])} draws of {result['larger']} times the episodes with "
        "Loaded DiCE. All in units of its norm; "
        "a bias that is smaller than its noise cannot be told from none. *Through the inner update* is what the "
        "meta-gradient has beyond the first-order one. *Return* is that of the table above, after the last update.",
        "",
        "| inner estimator | deviation | bias | noise | through the inner update: deviation | bias | noise | return |",
        "|---|---|---|---|---|---|---|---|",
    ]
    trained = returns["returns"].get("Navigation2D", {}) if returns else {}
    for name, row in result["rows"].items():
        cells = [f"{row[part][what]:.2f}" for part in ("whole", "part") for what in ("deviation", "bias", "error")]
        last = f"{np.array(trained[name]['returns'])[:, -1].mean():.2f}" if name in trained else ""
        lines.append(f"| {name} | {' | '.join([*cells, last])} |")
    share = result["rows"]["lvc"]["part"]["deviation"] / result["rows"]["dice"]["part"]["deviation"]
    return [
        *lines,
        "",
        f"Through the inner update, LVC has {share:.2g} of DiCE's standard deviation here; its paper found about half, "
        f"in another setting. {resolved(result)}",
        "",
    ]


def resolved(result: dict[str, Any]) -> str:
    """Whether the reference is good enough to tell a bias from none."""
    own = result["rows"]["first order"]["part"]["error"]  # to first order there is no such part, and no noise in it
    said = f"The reference's own noise through the inner update is {own:.2f} of its norm"
    if own < 0.3:
        return f"{said}: biases beyond that are resolved."
    return f"{said}: the deviations can be compared, but the biases are not resolved with so few draws."


def ratio_section(result: dict[str, Any]) -> list[str]:
    """What the changes of code and recipes saved."""
    lines = [
        "## An iteration, before against after",
        "",
        "Both built in one run on the same machine and measured by turns, so that other work on it shifts both; the "
        "median of the rounds' ratios, and in brackets the least and the most.",
        "",
        "| | before | after | of the time | outside of the simulator, before | after | command and commits |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        before, after = row["seconds"]
        outside = [f"{share:.0%}" if share < 1 else "(none)" for share in row["outside_of_simulator"]]
        commits = " against ".join((commit or "unknown")[:10] for commit in row["commits"])
        lines.append(
            f"| `{name}` | {before:.2f} s | {after:.2f} s | {row['ratio']:.2f} ({min(row['ratios']):.2f} to "
            f"{max(row['ratios']):.2f}) | {outside[0]} | {outside[1]} | `{row['command']}`, {commits} |"
        )
    return [*lines, ""]


def source(result: dict[str, Any]) -> str:
    """How a result came about."""
    command = result["command"] if isinstance(result["command"], str) else " ".join(result["command"])
    machine = result["environment"]["machine"]
    commit = (result["commit"] or "unknown")[:10]
    cores = f"{machine['cores']} core{'s' if machine['cores'] > 1 else ''}"
    return f"`{command}`, commit {commit}, {machine['processor']} with {cores}"


def estimator_section(result: dict[str, Any]) -> list[str]:
    """Which inner estimator helps where."""
    lines = [
        "## Inner estimators",
        "",
        f"{source(result)}. Mean return on the 40 test goals; mean over {result['seeds']} seeds and, in brackets, "
        f"their standard deviation. {result['settings']}.",
        "",
    ]
    for name, rows in result["returns"].items():
        updates = len(rows[PLAIN]["returns"][0])
        lines += [
            f"### {name}",
            "",
            f"| inner estimator | {' | '.join(f'after {update}' for update in range(updates))} |",
            "|---|" + "---|" * updates,
        ]
        for estimator, row in rows.items():
            values = np.array(row["returns"])
            cells = [f"{m:.2f} ({s:.2f})" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
            lines.append(f"| {estimator} | {' | '.join(cells)} |")
        lines += ["", where_it_helps(rows), ""]
    return lines


def where_it_helps(rows: dict[str, Any]) -> str:
    """What the last column of returns says, seed by seed, against the log-likelihood."""
    plain = np.array(rows[PLAIN]["returns"])
    said = []
    for name, row in rows.items():
        if name != PLAIN:
            gain = (np.array(row["returns"]) - plain)[:, -1]
            error = 2 * gain.std(ddof=1) / np.sqrt(len(gain))
            verdict = "better" if gain.mean() > error else "worse" if gain.mean() < -error else "no different"
            said.append(f"{name} {gain.mean():+.2f} ± {error:.2f} ({verdict})")
    return (
        f"Difference to {PLAIN} after {plain.shape[1] - 1} updates, seed by seed, with two standard errors: "
        f"{'; '.join(said)}."
    )


def simulator_section(result: dict[str, Any]) -> list[str]:
    """How fast robots step."""
    lines = [
        "## Simulated robots",
        "",
        f"{source(result)}, MuJoCo {result['versions']['mujoco']}, gymnasium {result['versions']['gymnasium']}. The "
        "same compiled model, frame skip, observation and reward in every row.",
        "",
        "| environment | stepped by | steps/s | of AsyncVectorEnv | of SyncVectorEnv |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        ratio = result["ratios"][f"{row['environment']}, {row['stepper']}"]
        lines.append(
            f"| {row['environment']} | {row['stepper']} | {row['steps_per_second']:,.0f} | {ratio['of_async']:.1f}x | "
            f"{ratio['of_sync']:.1f}x |"
        )
    return [*lines, ""]


def iteration_section(result: dict[str, Any]) -> list[str]:
    """Where the time of an iteration goes."""
    lines = [
        "## Where the time of a meta-iteration goes",
        "",
        f"{source(result)}.",
        "",
        "| | seconds | share |",
        "|---|---|---|",
    ]
    for name, pieces in result["seconds"].items():
        whole = sum(pieces.values())
        lines.append(f"| **`{name}`** | **{whole:.2f}** | |")
        lines += [f"| {piece} | {value:.2f} | {value / whole:.0%} |" for piece, value in pieces.items()]
    return [*lines, ""]


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(int(PAGE.read_text() != page()))
    rl_pictures.main()
    PAGE.write_text(page())
