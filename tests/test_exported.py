"""Exported models: they adapt and predict as the program does, without it, and a flipped bit is refused."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import innerloop as il
from innerloop import InnerloopError, artifacts, models, rl
from innerloop.core import losses
from innerloop.exported import episodes, policy
from innerloop.models import NetworkDescription
from innerloop.pictures import ImageFormat
from innerloop.tabular import artifact
from innerloop.types import Examples, Meta
from learners import untrained

IMAGE = ImageFormat(12, 12, 1, inverted=True)
CONVNET = NetworkDescription("convnet", (12, 12, 1), 3, (4, 4), normalised=True)
DESCRIPTIONS = {
    "sinusoid": episodes.Description(NetworkDescription("mlp", (1,), 1, (8, 8)), "regression", test_steps=2),
    "maml": episodes.Description(
        CONVNET, "classification", inner_rate=0.4, test_steps=2, normalisation="transductive", ways=3, image=IMAGE
    ),
    "maml++": episodes.Description(
        CONVNET, "classification", "maml++", 0.1, 2, 3, normalisation="support", ways=3, image=IMAGE
    ),
    "protonet": episodes.Description(
        NetworkDescription("convnet", (12, 12, 1), 5, (4, 4), normalised=True),
        "classification",
        "protonet",
        1.0,
        1,
        1,
        normalisation="transductive",
        features=5,
        ways=3,
        image=IMAGE,
    ),
    "cavia": episodes.Description(
        NetworkDescription("mlp", (1,), 1, (8,), more_inputs=3), "regression", "cavia", 0.1, context=3
    ),
    "imaml": episodes.Description(
        NetworkDescription("mlp", (1,), 1, (8,)), "regression", "imaml", 0.05, 4, 4, regularisation=2.0
    ),
    "unicorn-maml": episodes.Description(
        NetworkDescription("convnet", (12, 12, 1), 3, (4, 4)), "classification", "unicorn-maml", ways=3, image=IMAGE
    ),
    "running": episodes.Description(
        NetworkDescription("convnet", (12, 12, 1), 3, (4, 4), normalised=True, running=True),
        "classification",
        normalisation="running",
        ways=3,
        image=IMAGE,
    ),
}


def learned(description):
    return episodes.rebuilt(description).init(jax.random.key(3)).meta


def support(description, seed=0):
    random = np.random.default_rng(seed)
    if description.task == "regression":
        x = random.uniform(-1, 1, (6, 1))
        return x, np.sin(x)
    return random.random((6, 12, 12, 1)).astype(np.float32), np.array(["c", "a", "b", "c", "a", "b"])


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_saved_model_loads_and_adapts_to_the_same_bits(tmp_path, name):
    description = DESCRIPTIONS[name]
    meta = learned(description)
    episodes.save(tmp_path / "model", description, meta)
    model = il.load(tmp_path / "model")
    assert isinstance(model, episodes.EpisodesModel)
    assert model.description == description
    x, y = support(description)
    query, _ = support(description, 1)
    original = episodes.EpisodesModel(description, meta).adapt(x, y)
    task = model.adapt(x, y)
    np.testing.assert_array_equal(task.apply(query), original.apply(query))
    assert len(task.curve) == description.test_steps + 1
    predicted = task.predict(query)
    if description.task == "regression":
        assert predicted.shape == (6, 1)
        assert task.curve[-1] < task.curve[0]
    else:
        assert set(predicted) <= {"a", "b", "c"}
        np.testing.assert_allclose(task.predict_proba(query).sum(axis=1), 1)
        np.testing.assert_allclose(task.apply(query)[:1], task.apply(query[:1]), atol=1e-5)  # each is judged alone
    assert "il.load" in (tmp_path / "model" / "README.md").read_text()


def test_it_adapts_as_the_library_does_by_hand():
    description = DESCRIPTIONS["maml"]
    meta = learned(description)
    x, y = support(description)
    model = models.from_description(CONVNET)
    loss = losses.supervised(model, losses.cross_entropy)
    rule = il.rules.masked(il.rules.sgd(0.4), lambda path, leaf: not path.endswith("shift"))
    batch = Examples(jnp.asarray(x), jnp.array([2, 0, 1, 2, 0, 1]))
    by_hand = il.adapt(loss, meta, batch, jax.random.key(0), rule=rule, steps=2)
    task = episodes.EpisodesModel(description, meta).adapt(x, y)
    for mine, theirs in zip(jax.tree.leaves(task.params), jax.tree.leaves(by_hand.params), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    np.testing.assert_allclose(
        task.apply(x, transductive=True), model.apply(by_hand.params, jnp.asarray(x)), rtol=1e-4, atol=1e-4
    )


def test_images_are_read_as_the_model_was_trained(tmp_path):
    image = pytest.importorskip("PIL.Image")
    model = episodes.EpisodesModel(DESCRIPTIONS["maml"], learned(DESCRIPTIONS["maml"]))
    image.new("RGB", (40, 30), "white").save(tmp_path / "white.png")
    image.new("L", (12, 12), 0).save(tmp_path / "black.jpg")
    image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    read = model.read_images(tmp_path)
    assert read.shape == (3, 12, 12, 1)
    np.testing.assert_allclose(read.mean(axis=(1, 2, 3)), [1.0, 0.0, 0.0], atol=0.01)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InnerloopError, match=r"text\.png cannot be read as an image"):
        model.read_images([tmp_path / "text.png"])
    with pytest.raises(InnerloopError, match="not images"):
        episodes.EpisodesModel(DESCRIPTIONS["sinusoid"], learned(DESCRIPTIONS["sinusoid"])).read_images(tmp_path)


def test_what_does_not_fit_is_refused_in_a_sentence():
    x, y = support(DESCRIPTIONS["maml"])
    model = episodes.EpisodesModel(DESCRIPTIONS["maml"], learned(DESCRIPTIONS["maml"]))
    for inputs, labels, said in [
        (x, y[:3], "x has 6 examples and y 3"),
        (x[:, :5], y, "this model takes numbers of the shape"),
        (x, ["a"] * 6, "one class only"),
        (x, list("abcdef"), "trained to tell 3 apart"),
        (x * np.nan, y, "not finite"),
    ]:
        with pytest.raises(InnerloopError, match=said):
            model.adapt(inputs, labels)
    regression = episodes.EpisodesModel(DESCRIPTIONS["sinusoid"], learned(DESCRIPTIONS["sinusoid"]))
    with pytest.raises(InnerloopError, match="must hold finite numbers"):
        regression.adapt([1.0, 2.0], ["a", "b"])
    with pytest.raises(InnerloopError, match="no probabilities"):
        regression.adapt([1.0, 2.0], [1.0, 2.0]).predict_proba([1.0])
    assert regression.adapt([1.0, 2.0], [1.0, 2.0]).predict([1.0, 0.5, 0.0]).shape == (3,)


def small_policy():
    description = policy.Description("Navigation2D", 2, 2, widths=(8,), inner_rate=0.1)
    params = description.policy().init(jax.random.key(0))
    return description, Meta(params, ())


def test_a_policy_adapts_to_an_environment_of_gymnasium(tmp_path):
    gymnasium = pytest.importorskip("gymnasium")
    description, meta = small_policy()
    policy.save(tmp_path, description, meta)
    model = il.load(tmp_path)
    assert isinstance(model, policy.PolicyModel)
    env = gymnasium.make("innerloop/Navigation2D-v0")
    options = {"task": np.array([0.3, -0.2])}
    adapted = model.adapt_policy(env, updates=2, episodes=4, horizon=20, options=options, seed=5)
    again = model.adapt_policy(env, updates=2, episodes=4, horizon=20, options=options, seed=5)
    assert len(adapted.returns) == 2
    for one, other, before in zip(*map(jax.tree.leaves, (adapted.params, again.params, meta.params)), strict=True):
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, before)
    assert adapted.act(np.zeros(2)).shape == (2,)
    assert not np.array_equal(adapted.act(np.zeros(2), key=jax.random.key(1)), adapted.act(np.zeros(2)))
    with pytest.raises(InnerloopError, match="takes \\[2\\]"):
        model.adapt_policy(gymnasium.make("CartPole-v1"))
    with pytest.raises(InnerloopError, match="updates is 0"):
        model.adapt_policy(env, updates=0)


def test_one_update_is_that_of_the_library(tmp_path):
    """The policy gradient of its own episodes, as `innerloop.rl` takes it."""
    gymnasium = pytest.importorskip("gymnasium")
    description, meta = small_policy()
    model = policy.PolicyModel(description, meta)
    env = gymnasium.make("innerloop/Navigation2D-v0")
    options = {"task": np.array([0.3, -0.2])}
    rollouts = model._collected(env, meta.params, range(3), 10, options)
    assert rollouts.mask.all()
    assert rollouts.truncated[:, -1].all()
    experience = rl.advantages()(rollouts)
    loss = rl.objectives.estimator("log-likelihood").loss(description.policy())
    gradient = jax.grad(lambda params: loss(params, experience, jax.random.key(0))[0])(meta.params)
    expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, meta.params, gradient)
    found = model.adapt_policy(env, updates=1, episodes=3, horizon=10, options=options).params
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_every_kind_refuses_a_flipped_bit_and_a_wrong_folder(tmp_path):
    description, meta = small_policy()
    policy.save(tmp_path / "policy", description, meta)
    episodes.save(tmp_path / "episodes", DESCRIPTIONS["sinusoid"], learned(DESCRIPTIONS["sinusoid"]))
    artifact.save(untrained(), tmp_path / "tabular")
    random = np.random.default_rng(0)
    for kind in ("policy", "episodes", "tabular"):
        for file in (artifacts.WEIGHTS, artifacts.CONFIG):
            path = tmp_path / kind / file
            whole = path.read_bytes()
            for place in random.integers(0, len(whole), 40):
                flipped = bytearray(whole)
                flipped[place] ^= 1 << random.integers(8)
                path.write_bytes(flipped)
                try:
                    il.load(tmp_path / kind)
                except InnerloopError:
                    continue
                raise AssertionError(f"bit at {place} of {path} was not noticed")
            path.write_bytes(whole)
        il.load(tmp_path / kind)
    with pytest.raises(InnerloopError, match="holds no model that can be read"):
        il.load(tmp_path)
    with pytest.raises(InnerloopError, match="not a learner of tables"):
        il.TabularMetaLearner.load(tmp_path / "episodes")


def test_loading_needs_neither_the_program_nor_the_engine(tmp_path):
    episodes.save(tmp_path, DESCRIPTIONS["sinusoid"], learned(DESCRIPTIONS["sinusoid"]))
    script = (
        f"import sys, innerloop as il; il.load({str(tmp_path)!r}).adapt([0.0, 1.0], [0.0, 1.0]).predict([0.5]);"
        "sys.exit(any(name.startswith(('innerloop.runs', 'innerloop.workloads', 'innerloop.cli')) "
        "for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_models_of_the_first_format_are_still_read(tmp_path):
    import hashlib
    import json
    from dataclasses import asdict

    from safetensors.numpy import save as save_arrays

    from innerloop.core.trees import path_name

    learner = untrained()
    arrays = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(learner.meta)}
    content = save_arrays({name.replace("params/encoder/", "params/trunk/"): leaf for name, leaf in arrays.items()})
    (tmp_path / "model.safetensors").write_bytes(content)
    config = {
        "format": 1,
        "design": asdict(learner.design),
        "labels": list(learner.labels),
        "sizes": list(learner.preparation.sizes),
        "outputs": 2,
        "features": learner.preparation.to_json(),
        "facts": {},
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (tmp_path / "model.json").write_text(json.dumps(config))
    old = il.load(tmp_path)
    assert isinstance(old, il.TabularMetaLearner)
    for one, other in zip(jax.tree.leaves(old.trained().meta), jax.tree.leaves(learner.meta), strict=True):
        np.testing.assert_array_equal(one, other)
    (tmp_path / "model.safetensors").write_bytes(content[:-1])
    with pytest.raises(InnerloopError, match="damaged"):
        il.load(tmp_path)
