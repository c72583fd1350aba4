"""Comparison of whatever kind of run: paired by test task, refused where the test tasks differ."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from innerloop import InnerloopError, workloads
from innerloop.cli import main as cli
from innerloop.runs import compare, comparison, rundir
from innerloop.runs.workload import Comparable
from runs import toy
from workloads.tabular import sheets


def finished_toys(directory: Path, **changes):
    """Finished toys of two rates at two seeds."""
    runs = []
    for rate in (0.1, 0.3):
        for seed in (0, 1):
            config = toy.Config(rate=rate, seed=seed, run_dir=str(directory / f"{rate}-{seed}"), **changes)
            assert toy.engine.train(toy.WORKLOAD, config, report=False) == 0
            runs.append(rundir.existing(Path(config.run_dir), {"toy": toy.WORKLOAD}))
    return runs


def test_a_kind_that_is_one_file_is_compared(tmp_path, capsys):
    runs = finished_toys(tmp_path)
    compare.compare_runs(runs, tmp_path / "out")
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    (table,) = result["tables"]
    assert [row["label"] for row in table["rows"]] == ["maml rate=0.1", "maml rate=0.3"]
    errors = [run.scores()["error"][:, -1] for run in runs]
    pairs = (errors[2] - errors[0] + errors[3] - errors[1]) / 2
    difference = table["rows"][1]["difference"]
    np.testing.assert_allclose(difference["mean"], pairs.mean())
    np.testing.assert_allclose(difference["interval"], 1.96 * pairs.std() / 2)
    said = capsys.readouterr().out
    assert "squared error (lower is better)" in said
    text = "\n".join(shown.as_text() for shown in comparison.tables(result))
    assert text in said
    assert all(len(line) <= 80 for line in text.splitlines())
    assert (tmp_path / "out" / "comparison.html").read_text().count("<svg") == 1


@dataclass(frozen=True)
class Config:
    recipe: str = "a recipe"
    algorithm: str = "maml"
    seed: int = 0


class FakeWorkload(toy.Toy):
    def __init__(self, name, scores, identity):
        self.name, self.found, self.identity = name, scores, identity

    def comparables(self, config, result, scores):
        return self.found

    def identity_of_test_tasks(self, config, result):
        return self.identity


class FakeRun(rundir.Run):
    """A finished run without a directory."""

    remarks = ()

    def result(self):
        return {"meta_steps": 10, "remarks": self.remarks}

    def scores(self):
        return {}

    def costs(self):
        return {}


def fake(curves, config=Config(), *, baselines=MappingProxyType({}), identity=MappingProxyType({}), kind="fake"):
    scores = [Comparable("accuracy (%)", curves, False)]
    scores += [Comparable("accuracy (%)", values, False, name) for name, values in baselines.items()]
    return FakeRun(Path(f"{config.algorithm}-{config.seed}"), FakeWorkload(kind, scores, identity), config)


def compared(*runs):
    return comparison.compared(comparison.grouped([comparison.finished(run) for run in runs]))


def test_what_is_decided_counts_tasks_and_seeds():
    tasks = np.random.default_rng(0).normal(50, 20, (40, 1))
    first = [fake(tasks + seed, Config(seed=seed)) for seed in (0, 1)]
    other = Config(algorithm="anil")
    steady = [fake(tasks + 2 + seed, replace(other, seed=seed)) for seed in (0, 1)]
    shaky = [fake(tasks + (9 if seed else -5) + seed, replace(other, seed=seed)) for seed in (0, 1)]
    for runs, decided in ((steady, True), (shaky, False)):
        row = compared(*first, *runs)["tables"][0]["rows"][1]
        np.testing.assert_allclose(row["difference"]["mean"], 2)
        assert row["difference"]["decided"] is decided


def test_a_baseline_stands_once_below():
    curves, baseline = np.ones((5, 3)), {"random": np.zeros((5, 1))}
    table = compared(fake(curves, baselines=baseline), fake(curves, Config(algorithm="anil")))["tables"][0]
    assert [row["label"] for row in table["rows"]] == ["maml", "anil", "random"]
    assert table["rows"][2]["difference"]["mean"] == -1


def test_runs_that_differ_only_in_the_steps_of_their_evaluation_are_two_groups():
    result = compared(fake(np.ones((5, 3))), fake(np.ones((5, 6))))
    assert list(result["groups"]) == ["maml test-steps=2", "maml test-steps=5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"identity": {"--evaluation.shots": [5], "--ways": 5}},
            r"\(--evaluation.shots \[1, 5\] and \[5\]\); give: inn"
            r"erloop evaluate maml-1 --evaluation.shots 1 5",
        ),
        ({"identity": {"--evaluation.shots": [1, 5], "--ways": 20}}, r"different test tasks \(--ways 5 and 20\)"),
        ({"identity": {"--evaluation.shots": [1, 5]}}, r"different test tasks \(--ways 5 and None\)"),
        ({"kind": "other"}, r"two kinds \(fake and other\)"),
    ],
)
def test_other_test_tasks_are_refused(changes, message):
    same = {"--evaluation.shots": [1, 5], "--ways": 5}
    first = fake(np.ones((5, 3)), identity=same)
    with pytest.raises(InnerloopError, match=message):
        compared(first, fake(np.ones((5, 3)), Config(seed=1), **{"identity": same} | changes))


def test_remarks_are_told_by_group():
    run = fake(np.ones((5, 3)))
    object.__setattr__(run, "remarks", ("it was so",))
    result = compared(run)
    assert comparison.remarks(result) == ["maml: it was so"]


RL_TINY = [
    *(
        "--outer.iterations=1",
        "--outer.meta-batch=2",
        "--outer.curvature-tasks=0",
        "--sampling.episodes=2",
        "--policy.widths",
        "4",
    ),
    *("--evaluation.steps=100", "--evaluation.updates=1", "--evaluation.no-baselines"),
]


def test_reinforcement_and_own_tables_and_never_one_with_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "rl-navigation-2d", "--algorithms=maml,fomaml", "--output=rl", *RL_TINY]
    assert cli.run(arguments) == 0
    result = json.loads(Path("rl/comparison.json").read_text())
    returns = [
        rundir.existing(Path(f"rl/{name}-seed0"), workloads.registered()).scores()[f"{name}/return"]
        for name in ("maml", "fomaml")
    ]
    difference = result["tables"][0]["rows"][1]["difference"]["mean"]
    np.testing.assert_allclose(difference, (returns[1] - returns[0])[:, -1].mean(), rtol=1e-5)

    sheets.write(tmp_path / "shops.csv", sheets.rows())
    for name, more in (("one", ()), ("two", ("--learner.steps=1",)), ("three", ("--seed=1",))):
        assert cli.run(["train", "shops.csv", f"--run-dir={name}", *sheets.TRAIN, *more]) == 0
    assert cli.run(["compare", "one", "two"]) == 0
    tables = json.loads(Path("comparison/comparison.json").read_text())["tables"]
    assert [table["title"] for table in tables] == ["delta-AUPRC, 6 support rows", "accuracy, 6 support rows"]
    assert [row["label"] for row in tables[0]["rows"]][:2] == [
        "maml steps=0",
        "maml steps=1",
    ]  # what was left open is in the configuration once it is chosen
    capsys.readouterr()
    for names, message in (
        (("one", "three"), "one and three have different test tasks (--seed 0 and 1)"),
        (("one", "rl/maml-seed0"), "are runs of two kinds (tabular and reinforcement)"),
    ):
        assert cli.run(["compare", *names]) == 2
        assert message in capsys.readouterr().err
