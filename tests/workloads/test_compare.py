"""The family in the program: every row trains, and finished runs are compared on the same test tasks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from innerloop import ALGORITHMS, InnerloopError
from innerloop import workloads as kinds
from innerloop.cli import main as cli
from innerloop.cli import parse
from innerloop.runs import compare, comparison, loop, rundir
from innerloop.workloads.episodes import recipes, scoring, training
from innerloop.workloads.episodes.build import build, require_fitting
from innerloop.workloads.episodes.family import SINUSOID
from workloads.program import TINY
from workloads.test_plan import OMNIGLOT, characters  # noqa: F401

QUICK = [each for each in TINY if each != "--layout.adjoint=mixed"]


def configured(recipe, *flags):
    return parse.fields(list(flags), recipes.configure(recipe, parse.value_of(list(flags), "--algorithm")), "")


def existing(path):
    return rundir.existing(path, kinds.registered())


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """Two algorithms at two seeds, compared."""
    directory = tmp_path_factory.mktemp("contest")
    arguments = ["compare", "demo", "--algorithms", "maml,reptile", "--seeds=0..1", "--output", str(directory / "all")]
    assert cli.run([*arguments, *QUICK, "--evaluation.tasks=6"]) == 0
    return directory / "all"


def test_the_table_is_what_the_scores_of_the_tasks_say(contest):
    result = json.loads((contest / "comparison.json").read_text())
    assert list(result["groups"]) == ["maml", "reptile"]
    (table,) = result["tables"]
    rows = {row["label"]: row for row in table["rows"]}
    last = {}
    for name in ("maml", "reptile"):
        runs = [existing(contest / f"{name}-seed{seed}") for seed in (0, 1)]
        scores = [run.scores()[f"{name}/query/5"] for run in runs]
        last[name] = np.stack(scores)[:, :, -1].astype(float)
        assert last[name].shape == (2, 6)
        tables = [run.result()["tables"] for run in runs]
        means = [each[0]["rows"][0]["metrics"]["loss"]["mean"][-1] for each in tables]
        np.testing.assert_allclose(rows[name]["by_seed"], means, rtol=1e-6)
        np.testing.assert_allclose(rows[name]["mean"], np.mean(means), rtol=1e-6)
        np.testing.assert_allclose(rows[name]["spread"], np.std(means, ddof=1), rtol=1e-6)
        over_tasks = last[name].mean(axis=0)
        np.testing.assert_allclose(rows[name]["interval"], 1.96 * over_tasks.std() / np.sqrt(6), rtol=1e-6)
    pairs = (last["reptile"] - last["maml"]).mean(axis=0)
    difference = rows["reptile"]["difference"]
    np.testing.assert_allclose(difference["mean"], pairs.mean(), rtol=1e-6)
    np.testing.assert_allclose(difference["interval"], 1.96 * pairs.std() / np.sqrt(6), rtol=1e-6)
    assert "difference" not in rows["maml"]
    for costs in result["groups"].values():
        assert all(costs[name] > 0 for name in ("seconds_per_meta_step", "memory", "compile_seconds"))
    assert {"command", "commit", "versions", "machine"} <= result.keys()


def test_the_table_fits_a_terminal_and_the_page_needs_nothing_else(contest, capsys):
    result = json.loads((contest / "comparison.json").read_text())
    result["groups"]["maml"]["diverged"] = [7]
    said = "\n".join(table.as_text() for table in comparison.tables(result))
    assert all(len(line) <= 80 for line in said.splitlines())
    for wanted in ("5-shot, mean squared error (lower is better), after 2 inner", "pre-trained…tasks", "vs maml"):
        assert wanted in said
    assert comparison.remarks(result)[0] == "maml: training diverged at 1 of 3 seeds (7)"
    page = (contest / "comparison.html").read_text()
    assert page.count("<svg") == 1
    assert not re.search(r"<(script|link|img)|(src|href)=\"http", page)


def test_finished_runs_are_compared_and_nothing_is_trained_again(contest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "train", None)
    runs = [str(contest / f"{name}-seed{seed}") for name in ("reptile", "maml") for seed in (0, 1)]
    assert cli.run(["compare", *runs]) == 0
    assert "vs reptile" in capsys.readouterr().out
    again = json.loads(Path("comparison/comparison.json").read_text())
    before = json.loads((contest / "comparison.json").read_text())
    sign = [each["tables"][0]["rows"][1]["difference"]["mean"] for each in (before, again)]
    np.testing.assert_allclose(sign[0], -sign[1])


def test_a_run_counts_the_meta_steps_that_it_was_evaluated_after(contest, tmp_path):
    shutil.copytree(contest / "maml-seed0", tmp_path / "run")
    run = existing(tmp_path / "run")
    run.write_result(run.result() | {"meta_steps": 3}, run.scores())
    compared = comparison.compared(comparison.grouped([comparison.finished(run)]))
    assert compared["groups"]["maml"]["meta_steps"] == 3


def test_an_equal_time_is_a_number_of_meta_steps(tmp_path, capsys):
    arguments = ["compare", "demo", "--algorithms=fomaml", "--time-limit=0.2s", f"--output={tmp_path / 'timed'}"]
    assert cli.run([*arguments, *QUICK, "--log.every=100000", "--evaluation.no-baselines"]) == 0
    count = existing(tmp_path / "timed" / "fomaml-seed0").config.outer.iterations
    assert count != 40
    capsys.readouterr()
    assert cli.run([*arguments, *QUICK, "--log.every=100000", "--evaluation.no-baselines"]) == 0  # those it had before
    assert "timing" not in capsys.readouterr().out


def test_a_run_that_diverges_is_counted(tmp_path, capsys):
    arguments = ["compare", "demo", "--algorithms=maml,fomaml", f"--output={tmp_path / 'all'}", *QUICK]
    steep = ["--inner.learning-rate=1e30", "--evaluation.no-baselines"]
    assert cli.run([*arguments, *steep]) == 2
    said = capsys.readouterr()
    assert said.out.count("Training diverged") == 2
    assert "No run was finished" in said.err


REFUSED = {
    "nothing": ([], "needs a RECIPE with --algorithms, or finished runs"),
    "no algorithms": (["demo"], "innerloop compare demo needs --algorithms"),
    "no run": (["one", "other"], "one is no run directory"),
    "unknown algorithm": (["demo", "--algorithms=maml,mamal"], "no algorithm 'mamal'"),
    "twice": (["demo", "--algorithms=maml,maml"], "give different names"),
    "seeds": (["demo", "--algorithms=maml", "--seeds=a"], "--seeds is 'a'; give numbers such as 0..2"),
    "no seeds": (["demo", "--algorithms=maml", "--seeds=2..0"], "--seeds is '2..0'"),
    "time": (["demo", "--algorithms=maml", "--time-limit=soon"], "--time-limit is 'soon'; give a time such as 90s"),
    "what it varies": (["demo", "--algorithms=maml", "--seed=3"], "--seed is what compare varies; use --algorithms"),
    "no value": (["demo", "--algorithms"], "--algorithms needs a value"),
    "what cannot work": (["demo", "--algorithms=maml,protonet"], "protonet classifies, and these tasks are regression"),
    "a row of supervised learning": (["rl-navigation-2d", "--algorithms=maml,anil"], "'anil'"),
    "no time limit": (["rl-navigation-2d", "--algorithms=maml", "--time-limit=1s"], "--time-limit is not for runs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence_before_anything_is_trained(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = REFUSED[case]
    assert cli.run(["compare", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("runs").exists()


def test_runs_that_cannot_be_compared(contest, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    one, second = (contest / f"maml-seed{seed}" for seed in (0, 1))
    other = Path(shutil.copytree(one, tmp_path / "other"))

    def said(*paths):
        assert cli.run(["compare", *map(str, paths)]) == 2
        return capsys.readouterr().err

    assert "are the same experiment with the same seed" in said(one, other)
    refusal = (
        f"not evaluated on the same test tasks (--evaluation.tasks 6 and 4); give: innerloop evaluate {run} --eval"
    )
    assert refusal in said(second, run)
    (other / "scores.safetensors").write_bytes(b"damaged")
    assert f"holds no scores of single tasks, or damaged ones; give: innerloop evaluate {other}" in said(other, second)
    (other / "evaluation.json").unlink()
    assert f"is not finished; give: innerloop resume {other}" in said(other, second)
    assert "needs a second run" in said(one)


SETTINGS = {
    "what has no effect": (["--algorithm=maml", "--variant.radius=0.1"], "--variant.radius has no effect with --algor"),
    "per step without": (["--algorithm=maml+bnps"], "--network.normalisation is none; choose support"),
    "labels": (["--algorithm=protonet"], "protonet classifies, and these tasks are regression"),
    "loop": (["--algorithm=imaml", "--layout.loop=scanned"], "--layout.loop has no effect with --algorithm imaml"),
    "levels": (["--algorithm=imaml", "--layout.levels=2"], "--algorithm imaml has no steps to recompute in segments"),
    "levels, all stored": (["--layout.adjoint=reverse", "--layout.levels=2"], "but --layout.adjoint reverse has no"),
    "levels, unrolled": (["--layout.loop=unrolled", "--layout.levels=2"], "leave out --layout.loop unrolled"),
    "solver": (["--algorithm=imaml", "--variant.tolerance=2"], "--variant.tolerance is 2.0; it must be a number"),
    "piece": (["--algorithm=maml+mls"], "no piece 'mls' of MAML++ in 'maml+mls'; choose of: msl, lslr"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_do_not_fit_the_algorithm(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, message = SETTINGS[case]
    assert cli.run(["train", "demo", *arguments, *QUICK]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algorithm=cavia"], "cavia takes --network.kind mlp"),
        (["--algorithm=joint"], "joint is for regression: the labels of an episode"),
        (["--algorithm=maml++", "--network.normalisation=running"], "does not take --network.normalisation running"),
    ],
)
def test_algorithms_that_do_not_fit_images(flags, message):
    with pytest.raises(InnerloopError, match=message):
        require_fitting(configured("omniglot-5way-1shot", *flags))


def test_every_setting_of_a_row_arrives():
    config = configured("demo", "--algorithm=imaml", "--variant.regularisation=0.5", "--variant.solver-steps=7", *QUICK)
    adjoint = build(config, print).algorithm.adjoint
    assert (adjoint.regularisation, adjoint.solver.steps) == (0.5, 7)
    assert (
        build(
            configured("demo", "--algorithm=truncated-maml", "--variant.exact-steps=3", *QUICK), print
        ).algorithm.adjoint.last
        == 3
    )
    sharp = build(configured("demo", "--algorithm=sharp-maml", "--variant.radius=0.3", *QUICK), print)
    assert sharp.algorithm.outer.radius == 0.3
    context = build(configured("demo", "--algorithm=cavia", "--variant.context=7", *QUICK), print)
    assert training.initial_state(context).meta.params["context"].shape == (7,)
    pieces = build(configured("demo", "--algorithm=maml+msl+da", "--variant.first-order-until=0.5", *QUICK), print)
    assert pieces.algorithm.adjoint.anneal_fraction == 0.5


@pytest.mark.usefixtures("characters")
@pytest.mark.parametrize("algorithm", ["maml++", "protonet"])
def test_rows_for_images(algorithm):
    """MAML++ has scale and shift of each step, and prototypes stand where the classes' means are."""
    flags = [*OMNIGLOT[2:], f"--algorithm={algorithm}"]
    if algorithm == "maml++":
        flags.append("--network.normalisation=support")
    experiment = build(configured("omniglot-5way-1shot", *flags), print)
    params = training.initial_state(experiment).meta.params
    if algorithm == "maml++":
        assert params["network"]["norm1"]["shift"].shape[0] == experiment.config.inner.steps + 1
        assert params["network"]["norm1"]["scale"].shape[0] == experiment.config.inner.steps + 1
        assert experiment.rule.adapts(params)["step"]
    else:
        assert params["prototypes"].shape == (5, 64)
    assert experiment.remarks() == []


@pytest.mark.usefixtures("characters")
def test_prototypes_are_scored_after_their_one_step():
    """The steps after it would change nothing: they cost nothing, and the table has them."""
    flags = [*OMNIGLOT[2:], "--algorithm=protonet", "--evaluation.steps=3"]
    experiment = build(configured("omniglot-5way-1shot", *flags), print)
    assert experiment.test_steps == 1
    assert build(configured("omniglot-5way-1shot", *OMNIGLOT[2:], "--evaluation.steps=3"), print).test_steps == 3
    learned = training.initial_state(experiment).meta
    curves = scoring.Curves(experiment)
    for row in curves.rows("protonet", learned, 1, choose_rate=False):
        _, *after = row["metrics"]["loss"]["mean"]
        assert after == [after[0]] * 3
        assert curves.kept[f"protonet/{row['judge']}/1"].shape[1] == 4
    learner = experiment.learner
    every = learner.evaluate(
        learned, experiment.distribution("test", 1, 1), scoring.test_key(experiment.config), steps=3, num_tasks=5
    )
    np.testing.assert_allclose(every["query/loss"][:, 2:], every["query/loss"][:, 1:3], rtol=1e-4)


@pytest.mark.usefixtures("characters")
def test_fewer_classes_at_test_than_in_training(tmp_path, capsys):
    """Validation, test tasks, the report's episode and comparisons have the classes of a test task."""
    folder = tmp_path / "run"
    flags = [*OMNIGLOT[2:], "--algorithm=protonet", "--evaluation.ways=3", "--log.validate-every=1"]
    assert cli.run(["train", "omniglot-5way-1shot", *flags, f"--run-dir={folder}"]) == 0
    assert "note: trained on tasks of 5 classes, evaluated on tasks of 3" in capsys.readouterr().out
    run = existing(folder)
    experiment = build(run.config, print)
    learned = training.initial_state(experiment).meta
    (fewer,) = scoring.Curves(experiment.at_test()).rows("protonet", learned, 1, choose_rate=False)[:1]
    before, _ = fewer["metrics"]["accuracy"]["mean"][:2]
    np.testing.assert_allclose(before, 1 / 3, atol=1e-6)  # all at one place: the first of three
    assert experiment.at_test().distribution("test", 1, 2).tasks.ways == 3
    assert experiment.training_tasks().tasks.ways == 5
    result = run.result()
    assert result["settings"]["ways"] == 3
    assert scoring.identity_of_test_tasks(run.config, result)["--tasks.ways"] == 3
    assert cli.run(["evaluate", str(folder), "--evaluation.ways=4"]) == 0
    assert existing(folder).result()["settings"]["ways"] == 4
    assert cli.run(["evaluate", str(folder), "--evaluation.ways=6"]) == 2
    assert "--evaluation.ways is 6; give a number of classes from 2" in capsys.readouterr().err


def test_what_was_learned_for_fewer_steps_is_said():
    config = configured("demo", *QUICK, "--algorithm=maml+lslr", "--inner.steps=3", "--evaluation.steps=5")
    (remark,) = build(config, print).remarks()
    assert remark.startswith("what was learned for 3 inner steps is evaluated at")


def test_solver_failures_are_reported():
    config = configured("demo", "--algorithm=imaml")
    records = [{"step": 1, "unsolved": 0.5, "stationarity": 0.4}, {"step": 2, "unsolved": 0.0, "stationarity": 0.2}]
    unsolved, unfinished = training.remarks(records, config)
    assert unsolved.startswith("for 25.0% of the training tasks the linear system was not solved to 0.0001; raise --va")
    assert "ended away from its minimum (relative gradient 0.30" in unfinished
    assert training.remarks([{"step": 1, "unsolved": 0.0, "stationarity": 0.01}], config) == []


def test_the_family_is_listed(capsys):
    assert cli.run(["algorithms"]) == 0
    said = capsys.readouterr().out
    for name, row in ALGORITHMS.items():
        assert f"\n{name}\n" in f"\n{said}"
        assert row.reference in said
    assert "maml+msl+lslr" in said


def test_a_recipe_has_settings_for_its_rows():
    for algorithm, settings in SINUSOID.items():
        inner = configured("sinusoid", f"--algorithm={algorithm}").inner
        assert (inner.learning_rate, inner.steps) == (settings["inner.learning_rate"], settings["inner.steps"])
    assert configured("sinusoid", "--algorithm", "cavia", "--inner.learning-rate=0.5").inner.learning_rate == 0.5
    assert configured("sinusoid").inner.learning_rate == 0.001
    for name, recipe in recipes.RECIPES.items():
        for algorithm in recipe.rows:
            require_fitting(recipes.configure(name, algorithm))


def test_times_and_seeds():
    assert compare.seconds_in("1.5h") == 5400
    assert compare.seeds_in("3,1,3") == [3, 1]
