"""Runs on episodes and policies, exported as they were trained, and adapted to folders of images by the program."""

import csv
from dataclasses import replace

import jax
import numpy as np
import pytest

import innerloop as il
from innerloop.cli import main as cli
from innerloop.exported import episodes
from innerloop.models import NetworkDescription
from innerloop.pictures import ImageFormat
from innerloop.runs.codec import changed
from innerloop.types import Examples, Meta
from innerloop.workloads.episodes import predict
from innerloop.workloads.episodes.build import Data, assemble
from innerloop.workloads.episodes.recipes import RECIPES

ROWS = ["maml", "fomaml", "maml++", "meta-sgd", "alfa", "anil", "imaml", "reptile", "protonet", "maml+lslr+bnps"]


def small(recipe, algorithm):
    config = RECIPES[recipe].make()
    widths = (4, 4) if config.network.kind == "convnet" else (8, 8)
    network = replace(config.network, widths=widths)
    if algorithm == "cavia":
        return replace(config, algorithm=algorithm, network=replace(network, kind="mlp", widths=(8,)))
    return replace(config, algorithm=algorithm, network=network, inner=replace(config.inner, steps=2))


@pytest.mark.parametrize(
    ("recipe", "algorithm", "changes"),
    [
        *(("omniglot-5way-1shot", row, {}) for row in ROWS),
        ("sinusoid", "cavia", {}),
        ("sinusoid", "imaml", {"variant.line_search": True, "inner.learning_rate": 3.0}),
        ("sinusoid", "reptile", {"inner.optimizer": "adam", "inner.bound_growth": 0.5}),
        ("sinusoid", "anil", {"inner.bound_norm": 0.01}),
    ],
)
def test_what_is_exported_is_what_was_trained(recipe, algorithm, changes):
    """The same network, rule and inner loss: the same parameters after the same inner steps."""

    config = changed(small(recipe, algorithm), changes)
    experiment = assemble(config, Data(None))
    params = experiment.model.init(jax.random.key(0))
    meta = Meta(params, experiment.rule.init(params))
    description = predict.described(experiment, None)
    assert episodes.Description.from_json(to_json(description)) == description
    model = episodes.EpisodesModel(description, meta)
    random = np.random.default_rng(0)
    if config.kind == "regression":
        x, y = random.uniform(-5, 5, (5, 1)).astype(np.float32), random.normal(size=(5, 1)).astype(np.float32)
        targets = y
    else:
        x = random.random((5, *description.network.inputs)).astype(np.float32)
        y, targets = np.array(list("ecadb")), np.array([4, 2, 0, 3, 1], np.int32)
    adapted = il.adapt(
        experiment.loss,
        meta,
        Examples(jax.numpy.asarray(x), jax.numpy.asarray(targets)),
        jax.random.key(0),
        rule=experiment.rule,
        steps=2,
        adjoint=experiment.forward,
    )
    found = model.adapt(x, y, steps=2)
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(adapted.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def to_json(description):
    import json
    from dataclasses import asdict

    return json.loads(json.dumps(asdict(description)))


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """An untrained model of 28x28 images, and folders of support and query images."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    description = episodes.Description(
        NetworkDescription("mlp", (28, 28, 1), 5, (16,)),
        "classification",
        inner_rate=0.1,
        test_steps=20,
        ways=5,
        image=ImageFormat(28, 28, 1, inverted=True),
    )
    params = il.models.from_description(description.network).init(jax.random.key(0))
    episodes.save(tmp_path / "model", description, Meta(params, ()))
    random = np.random.default_rng(0)
    for name in ("loops", "bars", "dots"):
        pattern = np.kron(random.random((7, 7)) < 0.4, np.ones((15, 15)))
        for part, number in (("support", 3), ("query", 4)):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(number):
                noisy = np.where((random.random(pattern.shape) < 0.02) ^ (pattern > 0), 0, 255).astype(np.uint8)
                picture = image.fromarray(noisy)
                picture = picture.convert("RGB") if i % 2 else picture
                picture.save(tmp_path / part / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    return tmp_path


def test_the_program_adapts_to_folders_of_images(drawn, capsys):
    assert cli.run(["adapt", "model", "--support=support", "--query=query", "--out=out.csv"]) == 0
    said = capsys.readouterr().out
    assert "images are read as 28x28 grey, inverted (paper 0, ink 255)" in said
    assert "adapted to 9 images: support loss" in said
    assert "scored by the folders of query, which were not used: accuracy 1.000" in said
    with (drawn / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"].split("/")[0] for row in rows] == [row["prediction"] for row in rows]
    assert sum(float(rows[0][f"probability_{name}"]) for name in ("bars", "dots", "loops")) == pytest.approx(1)

    flat = drawn / "flat"
    flat.mkdir()
    for i, file in enumerate(sorted(drawn.glob("query/bars/*"))):
        file.rename(flat / f"{i}{file.suffix}")
    assert cli.run(["adapt", "model", "--support=support", "--query=flat", "--out=out.csv"]) == 0
    assert "scored" not in capsys.readouterr().out


def test_what_does_not_fit_is_one_sentence(drawn, capsys):
    for arguments, said in [
        (["--support=support/bars", "--query=query"], "lies in no class"),
        (["--support=nowhere", "--query=query"], "is no folder"),
        (["--support=support", "--query=query", "--target=x"], "--target is for tables"),
        (["--support=support", "--query=query", "--out=no/where.csv"], "could not be written"),
    ]:
        assert cli.run(["adapt", "model", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert cli.run(["serve", "model"]) == 2
    assert "serve answers for runs on your own tables" in capsys.readouterr().err
    weights = drawn / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert cli.run(["adapt", "model", "--support=support", "--query=query"]) == 2
    assert "is damaged" in capsys.readouterr().err
