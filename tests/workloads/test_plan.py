"""The memory plan: what is said of a run before it starts, and what is done when it would not fit."""

import jax
import numpy as np
import pytest

from innerloop.cli import main as cli
from innerloop.cli import parse
from innerloop.runs.machine import device_memory
from innerloop.workloads.episodes import memory as plan
from innerloop.workloads.episodes import recipes, training
from innerloop.workloads.episodes.build import build
from innerloop.workloads.episodes.data import omniglot
from workloads.program import TINY

OMNIGLOT = [
    *(
        "train",
        "omniglot-5way-1shot",
        "--network.widths",
        "4",
        "4",
        "--layout.shards=1",
        "--layout.convolution=patches",
    ),
    *("--outer.meta-batch=8", "--outer.iterations=2", "--evaluation.no-baselines", "--evaluation.tasks=2"),
]


@pytest.fixture
def characters(monkeypatch):
    """Ten characters of noise instead of the real data."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (40, 28, 28, 1)).astype(np.uint8)
    few = omniglot.Labelled(images, np.repeat(np.arange(10), 4).astype(np.int32))
    monkeypatch.setattr(omniglot, "load", lambda *_: dict.fromkeys(omniglot.PARTS, few))


def test_dry_run_says_what_is_needed_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", "demo", *TINY, "--dry-run", "--layout.chunk=1"]) == 0
    said = capsys.readouterr().out
    for wanted in ("exact second-order", "unrolled", "learned: 13 numbers", "held", "further task", "it fits, in"):
        assert wanted in said
    assert all(len(line) <= 80 for line in said.splitlines())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("characters")
@pytest.mark.slow
def test_a_run_that_does_not_fit_names_the_flag_that_makes_it_fit(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*OMNIGLOT, "--layout.chunk=8", "--run-dir=run"]
    sizes = {}
    for chunk in (1, 8):
        config = parse.fields([*OMNIGLOT[2:], f"--layout.chunk={chunk}"], recipes.configure(OMNIGLOT[1]), "")
        experiment = build(config, print)
        state, tasks = training.initial_state(experiment), experiment.training_tasks()
        sizes[chunk] = plan.memory_of(plan.compiled_steps(experiment, state, tasks)).total
    assert sizes[1] < sizes[8]
    monkeypatch.setattr(plan, "device_memory", lambda: int(0.6 * sizes[8] / plan.USABLE))
    assert cli.run(arguments) == 2
    said = capsys.readouterr().err
    assert "A meta-step needs" in said
    assert "give --layout.chunk 4" in said or "give --layout.chunk 2" in said
    assert cli.run([*arguments, "--dry-run"]) == 0
    assert "it does not fit. A meta-step needs" in capsys.readouterr().out


@pytest.mark.usefixtures("characters")
def test_where_no_chunk_is_asked_for_one_that_fits_is_chosen(capsys, monkeypatch):
    config = parse.fields(OMNIGLOT[2:], recipes.configure(OMNIGLOT[1]), "")
    experiment = build(config, print)
    assert experiment.layout.chunk is None
    state = training.initial_state(experiment)
    needed = plan.memory_of(plan.compiled_steps(experiment, state, experiment.training_tasks()))
    assert plan.fitted(experiment, state, print) is experiment
    monkeypatch.setattr(plan, "device_memory", lambda: int((needed.held + 0.3 * needed.temporary) / plan.USABLE))
    chosen = plan.fitted(experiment, state, print)
    assert (chosen.layout.chunk, chosen.config.layout.chunk) == (2, 2)
    assert "computing 2 at a time" in capsys.readouterr().out


def test_the_device_has_memory():
    assert 2**28 < device_memory() * jax.device_count() < 2**50
