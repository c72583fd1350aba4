"""Experiments in reinforcement learning through the program: trained, interrupted, resumed, evaluated, reported."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from innerloop import workloads
from innerloop.cli import main as cli
from innerloop.runs import codec, loop, rundir
from innerloop.runs.aside import Aside
from innerloop.runs.loop import InterruptedTraining
from innerloop.runs.progress import Progress
from innerloop.workloads.reinforcement import pictures, published, recipes, scoring
from innerloop.workloads.reinforcement.build import build

TINY = [
    *(
        "--outer.iterations=3",
        "--outer.meta-batch=2",
        "--outer.curvature-tasks=0",
        "--sampling.episodes=2",
        "--policy.widths",
        "4",
    ),
    *("--evaluation.steps=100", "--evaluation.baseline-iterations=1", "--evaluation.updates=2"),
    "--log.checkpoint-seconds=0",
]
RECIPES = list(recipes.RECIPES)


def state_of(directory):
    (path,) = directory.glob("checkpoints/step-000000003/state.safetensors")
    return path.read_bytes()


def film_of(directory):
    return (directory / "report.html").read_text().split("data:image/gif;base64,")[1].split('"')[0]


def records(directory):
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("seconds", "tasks_per_second", "crc32")}
        for line in lines
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("navigation") / "run"
    assert cli.run(["train", "rl-navigation-2d", f"--run-dir={directory}", *TINY]) == 0
    return directory


def test_a_finished_run_holds_what_it_should(finished):
    result = json.loads((finished / "evaluation.json").read_text())
    (table,) = result["tables"]
    assert [row["method"] for row in table["rows"]] == ["maml", "random", "pre-trained", "oracle"]
    assert [len(row["metrics"]["return"]["mean"]) for row in table["rows"]] == [3, 3, 3, 1]
    assert np.shape(table["rows"][0]["per_task"]) == (40, 3)
    assert [each["step"] for each in records(finished)] == [1, 2, 3]
    assert {"return_0", "return_1", "kl", "accepted", "broken", "episodes"} <= records(finished)[0].keys()
    assert '"shards": 1,' in (finished / "config.json").read_text()  # chosen, and recorded: bits depend on it
    report = (finished / "report.html").read_text()
    assert report.count("<svg") == 5
    assert "Trajectories" in report
    assert "Each test task" in report
    assert "3 iterations with at least 2,400 steps of Navigation2D" in report
    assert "-11.68 ± 2.19" not in report  # published with 40 episodes, not with one


def test_the_report_says_where_a_simpler_policy_does_as_well(finished):
    run = rundir.existing(finished, workloads.registered())
    result, scores = run.result(), run.scores()
    assert result["simpler"] == scoring.as_well(run.config, result, scores)
    assert set(result["simpler"]) <= set(result["remarks"])
    ours = scores["maml/return"]
    told = {"random/return": ours - 1, "pre-trained/return": ours + 1, "oracle/return": ours[:, :1] + 100}
    (said,) = scoring.as_well(run.config, result, scores | told)  # and nothing of the oracle, which observes the task
    assert said.startswith("a simpler model does better: pre-trained (mean return")
    assert said.endswith("difference 1.0 ± 0.0)")


def test_interrupted_and_resumed_it_ends_with_the_same_bits(finished, tmp_path, monkeypatch, capsys):
    class Raised(loop.Flag):
        raised = True

    class AtOnce:
        def __enter__(self):
            return Raised()

        def __exit__(self, *_):
            pass

    arguments = ["train", "rl-navigation-2d", f"--run-dir={tmp_path}/run", *TINY]
    with monkeypatch.context() as patched:
        patched.setattr(loop, "interruptions", lambda after: AtOnce())
        assert cli.run(arguments) == 130
    assert "stopped and saved; continue with: innerloop resume" in capsys.readouterr().out
    assert cli.run(["resume", f"{tmp_path}/run", "--evaluation.no-baselines"]) == 2
    assert "was started with --evaluation.baselines True" in capsys.readouterr().err
    assert cli.run(arguments) == 0
    assert "continuing after iteration 1" in capsys.readouterr().out
    assert state_of(tmp_path / "run") == state_of(finished)
    assert records(tmp_path / "run") == records(finished)


@pytest.mark.slow
def test_a_robot_is_trained_and_shown(tmp_path, capsys):
    pytest.importorskip("mujoco")
    small = [*TINY, "--outer.iterations=1", "--sampling.episodes=1", "--evaluation.updates=1", "--evaluation.steps=200"]
    run = tmp_path / "run"
    assert cli.run(["train", "rl-ant-direction", f"--run-dir={run}", *small, "--evaluation.no-baselines"]) == 0
    assert 0 < records(run)[0]["simulator_share"] < 1
    film = film_of(run)
    assert len(film) > 1000
    assert cli.run(["report", str(run)]) == 0
    assert film_of(run) == film


def beside(folder, config):
    return Aside(folder, replace(config.log, checkpoint_seconds=0.0), Progress())


def test_an_evaluation_that_is_stopped_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise InterruptedTraining

    run = str(tmp_path / "run")
    with monkeypatch.context() as once:
        once.setattr(scoring, "baseline", stopped)
        assert cli.run(["train", "rl-navigation-2d", *TINY, "--run-dir", run]) == 130
        assert f"innerloop resume {run}" in capsys.readouterr().out
        assert cli.run(["evaluate", run]) == 130
        assert "the same command goes on" in capsys.readouterr().out
    assert cli.run(["resume", run]) == 0
    assert sorted(path.name for path in (tmp_path / "run" / "baselines").iterdir()) == ["oracle", "pre-trained"]


def test_the_value_network_of_the_oracle_sees_the_task(tmp_path):
    config = recipes.configure("rl-navigation-2d")
    config = replace(
        config,
        policy=replace(config.policy, widths=(4,)),
        advantages=replace(config.advantages, baseline="network"),
        evaluation=replace(config.evaluation, baseline_iterations=1),
    )
    experiment = build(config)
    seeing, params = scoring.baseline(experiment, beside(tmp_path, config), oracle=True)
    assert seeing.env.observation_size == experiment.env.observation_size + 2
    assert params["mean"]["dense1"]["kernel"].shape == (4, 4)


def test_the_oracle_may_be_trained_for_longer():
    settings = recipes.configure("rl-navigation-2d").evaluation
    assert scoring.iterations(settings, oracle=True) == scoring.iterations(settings, oracle=False) == 100
    longer = replace(settings, oracle_iterations=2000)
    assert (scoring.iterations(longer, oracle=True), scoring.iterations(longer, oracle=False)) == (2000, 100)


def test_pre_training_on_the_plane_is_by_adam_as_published(tmp_path):
    config = recipes.configure("rl-navigation-2d")
    config = replace(config, evaluation=replace(config.evaluation, baseline_iterations=1))
    before, after = (
        scoring.baseline(
            build(replace(config, evaluation=replace(config.evaluation, **settings))),
            beside(tmp_path, config),
            oracle=False,
        )[1]
        for settings in ({"baseline_iterations": 0}, {})
    )
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before, after)
    assert np.max(jax.tree.leaves(moved)) == pytest.approx(scoring.PRETRAINING_RATE, rel=0.01)
    config = replace(config, evaluation=replace(config.evaluation, pretraining="trust-region"))
    natural = scoring.baseline(build(config), beside(tmp_path, config), oracle=False)[1]
    assert np.max(jax.tree.leaves(jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before, natural))) > 0.01


@pytest.mark.parametrize("name", RECIPES)
def test_the_published_returns_of_single_tasks_have_the_published_means(name):
    figures = [figure for figure in recipes.RECIPES[name].published if figure.method == "MAML"]
    found = published.returns(recipes.configure(name).environment)
    if not figures:
        assert found is None
        return
    assert found.shape == (40, 4)
    np.testing.assert_allclose(found.mean(axis=0), [figure.value for figure in figures], atol=0.03)
    assert "1703.03400" in published.source()


def test_returns_are_shown_against_goals():
    one = np.linspace(-1.0, 0.0, 6).reshape(3, 2)
    picture = pictures.goals(np.array([0.5, 1.0, 2.0]), {"ours": one}, np.hstack([one, one]))
    assert "after 1 update" in picture
    assert "after 3 updates" not in picture  # as far as both go
    assert "published" in picture
    assert "distance of the goal" in pictures.goals(np.eye(3)[:, :2], {"ours": one}, None)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name, capsys):
    config = recipes.configure(name)
    codec.require_bounds(config)
    assert codec.decoded(type(config), json.loads(json.dumps(codec.encoded(config)))) == config
    assert cli.run(["config", name]) == 0
    assert json.loads(capsys.readouterr().out)["environment"] == config.environment


def outer_of(arguments, capsys):
    assert cli.run(["config", *arguments]) == 0
    made = json.loads(capsys.readouterr().out)
    return made["inner"]["estimator"], made["outer"]["divergence"], made["outer"]["cg_iterations"]


def test_the_published_settings_are_a_flag_away(capsys):
    assert outer_of(["rl-cheetah-direction"], capsys) == ("lvc", "initial", 40)
    assert outer_of(["rl-cheetah-direction", "--published"], capsys) == ("log-likelihood", "adapted", 10)
    one = ["rl-cheetah-direction", "--published", "--outer.cg-iterations=3"]
    assert outer_of(one, capsys) == ("log-likelihood", "adapted", 3)
    assert cli.run(["train", "demo", "--published"]) == 2
    assert "demo has no other settings of maml than the published ones" in capsys.readouterr().err


MISTAKES = {
    "--outer.curvature-tasks=21": "--outer.curvature-tasks is 21, but an iteration has only --outer.meta-batch 20",
    "--outer.curvature-every=0": "--outer.curvature-every is 0; it must be at least 1",
    "--outer.divergence=final": "final",
    "--outer.cap=-1": "--outer.cap is -1.0",
    "--inner.steps=0": "--inner.steps is 0; it must be at least 1",
    "--advantages.discount=1.5": "--advantages.discount is 1.5; it must be between 0 and 1",
    "--outer.bound=0": "--outer.bound is 0.0; it must be a positive number",
    "--outer.epochs=3": "--outer.epochs has no effect with --outer.update trust-region; leave it out, or choose ppo",
    "--layout.loop=scanned": "--layout.loop has no effect in reinforcement learning",
    "--layout.chunk=21": "chunk",
    "--algorithm=reptile": "reptile",
    "--sampling.episodes=0": "--sampling.episodes is 0; it must be at least 1",
    "--inner.estimater=lvc": "There is no field --inner.estimater; did you mean '--inner.estimator'?",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_mistakes(argument, tmp_path, capsys):
    assert cli.run(["train", "rl-navigation-2d", f"--run-dir={tmp_path}/run", argument]) == 2
    said = capsys.readouterr().err
    assert said.startswith("innerloop: ")
    assert MISTAKES[argument] in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_settings_of_the_recipe_that_another_update_has_no_use_for_are_no_mistake(capsys):
    assert cli.run(["config", "rl-cheetah-direction", "--outer.update", "ppo"]) == 0
    assert json.loads(capsys.readouterr().out)["outer"]["update"] == "ppo"
    assert cli.run(["config", "rl-cheetah-direction", "--outer.update", "ppo", "--outer.cap=0.123"]) == 2


@pytest.mark.parametrize("name", RECIPES)
def test_no_row_is_refused_for_a_setting_that_is_the_recipes_own(name, capsys):
    for algorithm in ("maml", "fomaml", "truncated-maml", "meta-sgd", "joint"):
        assert cli.run(["config", name, f"--algorithm={algorithm}"]) == 0
        assert json.loads(capsys.readouterr().out)["algorithm"] == algorithm
    if name == "rl-cheetah-direction":  # asked for, it stays a mistake
        assert cli.run(["config", name, "--algorithm=meta-sgd", "--outer.divergence=initial"]) == 2
        assert "has no curvature for the step sizes that meta-sgd learns" in capsys.readouterr().err
