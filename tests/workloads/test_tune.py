"""How a meta-step is computed: chosen by measurement, remembered, and up to rounding the same whatever is chosen."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from innerloop.cli import parse
from innerloop.runs.fields import Layout
from innerloop.workloads.episodes import memory as plan
from innerloop.workloads.episodes import recipes, training, tune
from innerloop.workloads.episodes.build import assemble, build
from workloads.program import TINY
from workloads.test_plan import characters  # noqa: F401

MLP = [*TINY, "--outer.meta-batch=3"]
IMAGES = ["--network.widths", "4", "--outer.meta-batch=3"]


def configured(recipe, flags, layout):
    return replace(parse.fields(flags, recipes.configure(recipe), ""), layout=layout)


@pytest.mark.usefixtures("characters")
@pytest.mark.parametrize(
    ("recipe", "flags"), [("demo", MLP), pytest.param("omniglot-5way-1shot", IMAGES, marks=pytest.mark.slow)]
)
def test_every_way_gives_the_same_meta_step(recipe, flags, monkeypatch):
    monkeypatch.setattr(tune, "cores", lambda: 2)
    config = configured(recipe, flags, Layout())
    data = build(config, print).data
    ways = tune.candidates(config)
    assert len(ways) >= 3
    results = []
    for layout in ways:
        experiment = assemble(replace(config, layout=layout), data)
        state, tasks = (
            experiment.layout.replicate(each)
            for each in (training.initial_state(experiment), experiment.training_tasks())
        )
        state, _ = plan.compiled_steps(experiment, state, tasks)(state, tasks, np.int32(1))
        results.append(jax.device_get(state.meta))
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), results[0], other)


def test_what_is_asked_for_is_not_measured(monkeypatch):
    monkeypatch.setattr(tune, "cores", lambda: 2)
    asked = Layout(shards=1, adjoint="reverse")
    (only,) = tune.candidates(configured("demo", TINY, asked))
    assert (only.shards, only.adjoint, only.loop) == (1, "reverse", "unrolled")
    monkeypatch.setattr(tune, "seconds_of", lambda experiment: pytest.fail("measured"))
    assert tune.measured(build(configured("demo", TINY, asked), print), print) == [(only, 0.0)]


def test_divided_parameters_are_measured_as_they_are_trained():
    """A compiled program takes only what lies as it was compiled for; and half of it on each of two devices."""
    config = configured("demo", [*MLP, "--network.widths", "64"], Layout(parameters=2, adjoint="mixed"))
    (layout,) = tune.candidates(config)
    assert (layout.shards, layout.parameters) == (2, 2)
    experiment = build(replace(config, layout=layout), print)
    whole = training.initial_state(experiment)
    state, tasks = experiment.layout.divide(whole), experiment.layout.replicate(experiment.training_tasks())
    steps = plan.compiled_steps(experiment, state, tasks)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((whole.meta, whole.optimizer)))
    assert 0.5 * size < plan.memory_of(steps).held < 0.6 * size
    for _ in range(2):
        _, state = tune.clock(steps, state, tasks, 1)


@pytest.mark.parametrize(("cores", "parameters", "shards"), [(1, 2, 2), (2, 2, 2), (5, 2, 4), (8, 3, 6)])
def test_the_devices_are_a_multiple_of_those_that_parameters_are_divided_among(cores, parameters, shards, monkeypatch):
    monkeypatch.setattr(tune, "cores", lambda: cores)
    config = configured("demo", [*TINY, "--outer.meta-batch=8"], Layout(parameters=parameters))
    ways = tune.candidates(config)
    assert {way.parameters for way in ways} == {parameters}
    assert {way.shards for way in ways} == {parameters, shards}


def test_long_loops_are_scanned():
    loops = [
        tune.candidates(configured("demo", [*TINY, f"--inner.steps={steps}"], Layout()))[0].loop for steps in (10, 11)
    ]
    assert loops == ["unrolled", "scanned"]


def test_measured_once_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path))
    monkeypatch.setattr(tune, "cores", lambda: 2)
    times, said = iter([4.0, 3.9, 1.0, 2.0]), []
    monkeypatch.setattr(tune, "seconds_of", lambda experiment: next(times))
    experiment = build(configured("demo", MLP, Layout()), print)
    chosen = tune.best(tune.measured(experiment, said.append))
    assert (chosen.shards, chosen.adjoint) == (1, "reverse")
    assert tune.best(tune.measured(experiment, said.append)) == chosen  # no time is left to take
    assert said == ["measuring 4 ways to compute a meta-step (kept for the next time)"]
    (kept,) = (tmp_path / "layouts").glob("*.json")
    for damaged in ("", "[]", json.dumps([[{"shards": 1}, "soon"]])):
        kept.write_text(damaged)
        monkeypatch.setattr(tune, "seconds_of", lambda experiment: 1.0)
        assert tune.best(tune.measured(experiment, said.append)).adjoint == "mixed"
        kept.write_text(damaged)


def test_noise_does_not_change_the_way():
    first, second = Layout(1), Layout(2)
    assert tune.best([tune.Candidate(first, 1.0), tune.Candidate(second, 0.95)]) == first
    assert tune.best([tune.Candidate(first, 1.0), tune.Candidate(second, 0.8)]) == second
    assert tune.best([tune.Candidate(first, float("inf")), tune.Candidate(second, 3.0)]) == second


def test_the_dry_run_says_what_was_measured(capsys, monkeypatch):
    monkeypatch.setattr(tune, "cores", lambda: 2)
    times = iter([1e-3, 2e-3, 3e-3, float("inf")])
    monkeypatch.setattr(tune, "seconds_of", lambda experiment: next(times))
    experiment = build(configured("demo", MLP, Layout()), print)
    said = tune.describe([tune.Candidate(each, next(times)) for each in tune.candidates(experiment.config)])
    assert "* 1 device, all tasks at once, mixed, unrolled" in said
    assert all(len(line) <= 80 for line in said.splitlines())
