"""Recipes with long inner loops: the data, the network, and runs through the program."""

import json
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import exported
from innerloop.cli import main as cli
from innerloop.core.adapt import adapt
from innerloop.runs import loop
from innerloop.types import Meta
from innerloop.workloads.streams import recipes, transformer
from innerloop.workloads.streams.digits import Digits
from innerloop.workloads.streams.digits_scoring import area
from innerloop.workloads.streams.reading import Reading, resting_rule
from innerloop.workloads.streams.recall import Recall, asked
from innerloop.workloads.streams.text import topics

QUICK = ["--outer.iterations=2", "--log.every=1", "--log.checkpoint-seconds=0", "--evaluation.tasks=2"]
DIGITS = ["--tasks.training=40", "--tasks.validation=20", "--tasks.batch=10", "--tasks.hidden=4", "--inner.steps=4"]
STREAM = ["--outer.meta-batch=2", "--network.width=8", "--network.window=2", "--network.layers=1"]
RECALL = [*STREAM, "--tasks.pairs=4", "--tasks.values=3", "--network.chunk=4"]
TEXT = [*STREAM, "--tasks.length=8", "--network.chunk=4", "--algorithm=window"]
SMALL = {"data-weights": DIGITS, "ttt-recall": RECALL, "ttt-text": TEXT}
MISTAKES = {
    "ttt-recall --network.window=200": "longer than the stream of 128 tokens",
    "ttt-recall --network.window=32": "sees 62 tokens back, and questions come 34",
    "ttt-recall --network.chunk=7": "does not divide the stream",
    "ttt-recall --network.width=6": "must be a multiple of twice --network.heads",
    "ttt-recall --tasks.pairs=5 --network.chunk=4": "it must be even",
    "ttt-recall --inner.steps=3": "--inner.steps has no effect on streams",
    "ttt-recall --algorithm=data-weights": "does not fit these tasks; use ttt, window, full",
    "ttt-recall --algorithm=maml": "for streams choose of",
    "data-weights --inner.steps=0": "give at least 1",
    "data-weights --tasks.training=1700": "leave none of the 1797",
    "data-weights --tasks.batch=2000": "more than --tasks.training 1000",
    "data-weights --network.width=8": "the classifier of digits has --tasks.hidden",
}


def state_of(directory):
    (path,) = directory.glob("checkpoints/step-000000002/state.safetensors")
    return path.read_bytes()


@pytest.mark.parametrize("command", MISTAKES)
def test_mistakes_end_in_one_sentence(command, capsys):
    assert cli.run(["config", *command.split()]) == 2
    assert MISTAKES[command] in capsys.readouterr().err


def test_every_key_is_asked_for_once_beyond_the_window():
    tasks = Recall(pairs=8, values=5, chunk=4)
    chunks = tasks.sample(jax.random.key(0), 3).support.batches
    tokens, scored = (np.asarray(leaf).reshape(3, 32) for leaf in (chunks.tokens, chunks.scored))
    for stream, counted in zip(tokens, scored, strict=True):
        places = np.flatnonzero(asked(32))
        assert set(np.flatnonzero(counted)) == set(places)
        assert counted.sum() == pytest.approx(8)  # as many as chunks
        for place in places:
            first = np.flatnonzero(stream == stream[place])[0]
            assert place - first >= 10
            assert stream[first + 1] == stream[place + 1]


def test_a_window_that_covers_the_stream_sees_as_much_in_chunks_as_at_once():
    shape = transformer.Shape(vocabulary=7, width=8, layers=1, heads=2, window=12)
    params = transformer.init(shape, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (12,), 0, 7)
    apply = jax.jit(transformer.apply, static_argnums=0)
    whole, _ = apply(shape, params, tokens, transformer.empty(shape))
    window, parts = transformer.empty(shape), []
    for part in jnp.split(tokens, 3):
        logits, window = apply(shape, params, part, window)
        parts.append(logits)
    np.testing.assert_allclose(jnp.concatenate(parts), whole, atol=1e-5)


def test_nothing_from_beyond_the_window_is_seen_without_training_at_test_time():
    problem = Reading.open(recipes.configure("ttt-recall"))
    params = problem.init(jax.random.key(0))
    stream = jax.tree.map(lambda leaf: leaf[0], problem.tasks.sample(jax.random.key(1), 1).support)
    changed = stream._replace(batches=stream.batches._replace(tokens=stream.batches.tokens.at[0].set(0)))
    loss = transformer.loss(problem.shape, by_token=True)

    @partial(jax.jit, static_argnums=2)
    def last(stream, meta, rule):
        return adapt(loss, meta, stream, jax.random.key(2), rule=rule, steps=8).losses[-1]

    still = Meta(params, ())
    assert last(stream, still, resting_rule()) == last(changed, still, resting_rule())
    learning = Meta(params, problem.rule.init(params))
    assert last(stream, learning, problem.rule) != last(changed, learning, problem.rule)


def test_the_derivative_in_the_weights_of_examples_is_that_of_whole_trainings():
    config = recipes.configure("data-weights")
    tasks = replace(config.tasks, training=30, validation=20, batch=10, hidden=4)
    with jax.enable_x64(True):
        problem = Digits.open(replace(config, tasks=tasks, inner=replace(config.inner, steps=6, levels=1)))
        task = jax.tree.map(lambda leaf: leaf[0], problem.tasks.sample(jax.random.key(0), 1))
        value = jax.jit(lambda logits: problem.meta_loss(Meta(logits, ()), task, jax.random.key(1))[0])
        logits, direction = jax.random.normal(jax.random.key(2), (2, 30))
        along = jax.grad(value)(logits) @ direction
        numeric = (value(logits + 1e-3 * direction) - value(logits - 1e-3 * direction)) / 2e-3
        np.testing.assert_allclose(along, numeric, rtol=2e-3)


def test_wrong_labels_are_as_many_as_asked_for_and_other_parts_are_right():
    problem = Digits.open(recipes.configure("data-weights"))
    assert problem.data.wrong.sum() == 400
    assert [len(part.y) for part in (problem.data.training, problem.data.validation, problem.data.test)] == [
        1000,
        200,
        597,
    ]
    assert area(problem.data.wrong, problem.data.wrong.astype(float)) == 1


def test_topics_are_parted():
    training, held, fingerprint = topics()
    assert len(training) > 2 * len(held) > 1000
    assert len(fingerprint) == 16


@pytest.mark.parametrize("recipe", SMALL)
def test_a_run_is_trained_interrupted_and_resumed_to_the_same_bits(recipe, tmp_path, monkeypatch, capsys):
    class Raised(loop.Flag):
        raised = True

    class AtOnce:
        def __enter__(self):
            return Raised()

        def __exit__(self, *_):
            pass

    settings = [*QUICK, *SMALL[recipe]]
    assert cli.run(["train", recipe, f"--run-dir={tmp_path}/whole", *settings]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(loop, "interruptions", lambda after: AtOnce())
        assert cli.run(["train", recipe, f"--run-dir={tmp_path}/parts", *settings, "--evaluation.no-baselines"]) == 130
    assert cli.run(["resume", f"{tmp_path}/parts"]) == 0
    assert "continuing after meta-step 1" in capsys.readouterr().out
    assert state_of(tmp_path / "parts") == state_of(tmp_path / "whole")
    result = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert len(result["rows"]) == {"data-weights": 6, "ttt-recall": 4, "ttt-text": 1}[recipe]
    assert all(math.isfinite(row["score"]["mean"]) for row in result["rows"])
    assert set(result["simpler"]) <= set(result["remarks"])
    assert not any("right labels" in each for each in result["simpler"])  # which is told more
    report = (tmp_path / "whole" / "report.html").read_text()
    assert report.count("<svg") == (3 if recipe == "data-weights" else 2)
    assert exported.load(tmp_path / "whole").arrays["params" if recipe == "data-weights" else "params/head"].size
    assert cli.run(["export", f"{tmp_path}/whole", f"--out={tmp_path}/model"]) == 0
    assert (tmp_path / "model" / "weights.safetensors").exists()
