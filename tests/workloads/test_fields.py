"""The recipe `neural-field-ct`: a run with its report, CAVIA's contexts as a data set, what is refused."""

import json

import jax
import numpy as np
import pytest

import innerloop as il
from innerloop.cli import main as cli
from innerloop.exported.episodes import EpisodesModel
from innerloop.tasks import Phantoms
from innerloop.workloads.episodes import recipes, report
from innerloop.workloads.episodes.fields import tomography

TINY = [
    *("--tasks.shots=3", "--tasks.resolution=8", "--tasks.queries=5", "--network.widths", "4"),
    *("--network.frequencies=4", "--inner.batch=6", "--outer.iterations=4", "--log.every=2", "--log.validate-every=0"),
    *("--evaluation.tasks=3", "--evaluation.shots", "2", "--evaluation.steps=2", "--evaluation.baseline-iterations=2"),
]


def test_a_run_compares_with_the_standard_start_and_shows_the_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", "neural-field-ct", "--run-dir=run", *TINY]) == 0
    said = capsys.readouterr().out
    assert "2-view, PSNR in dB: mean ± 95 % interval, 3 test tasks" in said
    assert "difference to the random initialisation after 2 steps, paired over tasks: " in said
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    (table,) = result["tables"]
    own, scratch = (
        {row["method"]: row for row in table["rows"]}[name] for name in ("reptile", "random initialisation")
    )
    means = [np.array(row["metrics"]["psnr"]["mean"]) for row in (own, scratch)]
    assert np.allclose(table["gain"]["mean"], means[0] - means[1], atol=1e-4)
    assert len(table["gain"]["interval"]) == 3
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Images from few projections" in page
    for label in ("phantom", "random start", "learned start", "PSNR in dB"):
        assert label in page
    model = il.load(tmp_path / "run")
    assert isinstance(model, EpisodesModel)
    task = Phantoms(views=2, resolution=8, angles="even").sample(jax.random.key(0), 1)
    adapted = model.adapt(task.support.x[0], task.support.y[0])
    assert adapted.predict(np.asarray(task.query.x[0])).shape == (64, 1)
    with pytest.raises(il.InnerloopError, match=r"\[examples, points, 2\]"):
        model.adapt(np.zeros((3, 2)), np.zeros(3))


def test_contexts_are_exported_beside_what_the_phantoms_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    more = ["--evaluation.modulations=5", "--variant.context=3", "--evaluation.no-baselines"]
    assert cli.run(["train", "neural-field-ct", "--algorithm=cavia", "--run-dir=run", *TINY, *more]) == 0
    assert cli.run(["export", "run", "--out=folder"]) == 0
    first, second = (np.load(tmp_path / name / "modulations.npz") for name in ("run/model", "folder"))
    assert first["modulations"].shape == (5, 3)
    assert first["ellipses"].shape == (5, 10, 6)
    assert first["columns"][0] == "density"
    assert np.isfinite(first["psnr"]).all()
    assert np.ptp(first["modulations"], axis=0).min() > 0
    assert all(np.array_equal(first[name], second[name]) for name in first.files)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--network.kind", "mlp"], "phantoms take a field without normalisation"),
        (["--tasks.queries", "5000"], "an image of 64 x 64 has 4096 pixels"),
        (["--evaluation.queries", "5"], "whole image counts"),
        (["--inner.batch", "5000"], "20 views have 1280 rays"),
        (["--evaluation.modulations", "5"], "has no effect but with --algorithm cavia"),
        (["--layout.convolution", "lax"], "no effect with --network.kind field"),
        (["--algorithm", "protonet"], "these tasks are regression"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", "neural-field-ct", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_field_elsewhere_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", "demo", "--network.kind", "field"]) == 2
    assert "only phantoms have them" in capsys.readouterr().err


def test_the_published_settings_are_at_hand():
    settings = recipes.RECIPES["neural-field-ct"].published_settings("reptile")
    assert settings["tasks.resolution"] == 256
    assert settings["outer.iterations"] == 100_000
    assert tomography().inner.learning_rate == 10.0
    assert report.RECIPES["neural-field-ct"].deviations
