"""Texts of many different values: read by their words and by what they meant elsewhere, and never by a row's target."""

import csv
import json

import numpy as np
import pytest

from innerloop import TabularMetaLearner
from innerloop.cli import main as cli
from innerloop.serve.batcher import Limits
from innerloop.serve.http import description
from innerloop.serve.service import Service
from innerloop.tabular import adaptation, artifact
from innerloop.tabular.adaptation import Support
from innerloop.tabular.columns import matched
from innerloop.tabular.features import LARGEST_CATEGORIES, Preparation
from innerloop.tabular.given import Frame
from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare
from innerloop.tabular.rows import rows_of_tasks
from innerloop.tabular.texts import effects, effects_at, effects_elsewhere, names_rows, signatures
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.loading import load
from workloads.tabular import sheets

TOWNS = [f"{first} {second}" for first in ("Old", "New", "North", "South", "East", "West") for second in range(20)]
CHOICES = Choices(preset="fast", widths=(8,), supports=(4,), iterations=2)


def table(tasks=12, rows=40, noise=0.1, seed=0):
    """By name of the task, its rows: a town that means the same in each, and a number."""
    random = np.random.default_rng(seed)
    meant = dict(zip(TOWNS, random.normal(size=len(TOWNS)), strict=True))
    found = {}
    for task in range(tasks):
        town = random.choice(TOWNS, rows).astype(object)
        size = random.normal(size=rows).round(3)
        level = 5 * random.normal()
        paid = level + size + np.array([meant[name] for name in town]) + noise * random.normal(size=rows)
        found[f"shop{task}"] = (Frame({"town": town, "size": size}), paid.round(4))
    return found, meant


def flat(tasks):
    towns = np.concatenate([frame["town"] for frame, _ in tasks.values()])
    paid = np.concatenate([paid for _, paid in tasks.values()])
    owners = np.repeat(np.arange(len(tasks)), [len(paid) for _, paid in tasks.values()])
    return towns, paid[:, None], owners


def test_what_a_text_means_is_found_whatever_the_level_of_its_task():
    tasks, meant = table(tasks=60)
    found = effects(*flat(tasks))
    truth = np.array([meant[name] for name in found.levels])
    assert len(found.levels) == len(TOWNS)
    assert np.corrcoef(effects_at(found, np.array(found.levels, object))[:, 0], truth)[0, 1] > 0.9
    towns, _, owners = flat(tasks)
    np.testing.assert_allclose(np.mean(effects_at(found, towns) ** 2), 1, rtol=1e-3)
    noise = np.random.default_rng(1).normal(size=(len(towns), 1))
    rare = effects(towns[:200], noise[:200], owners[:200])
    assert not rare.outputs or np.abs(rare.values).max() < 10
    assert (effects_at(found, np.array(["never seen", None], object)) == 0).all()


def test_no_target_of_a_rows_own_task_is_in_what_training_reads_of_it():
    towns, paid, owners = flat(table()[0])
    before = effects_elsewhere(towns, paid, owners, 1)
    assert np.abs(before).max() > 0.5
    other = paid.copy()
    own = owners == 5
    other[own] = np.random.default_rng(3).normal(size=(own.sum(), 1))
    after = effects_elsewhere(towns, other, owners, 1)
    np.testing.assert_array_equal(after[own], before[own])
    assert (after[~own] != before[~own]).any()
    data = prepare(rows_of_tasks(table()[0])[0], CHOICES)
    place = [feature.name for feature in data.preparation.features].index("town") + 16
    training = data.parts["train"]
    own_too = data.preparation.encode(training.columns).numbers[:, place]
    assert data.elsewhere is not None
    np.testing.assert_array_equal(data.features_of_training().numbers[:, place], data.elsewhere["town"][:, 0])
    assert (data.features_of_training().numbers[:, place] != own_too).any()


def test_a_signature_depends_on_the_words_alone_in_every_process():
    found = signatures(np.array(["New York", "new york ", "York", None], object))
    assert found[0].tolist() == found[1].tolist()
    assert found[3].tolist() == [0] * 16
    signs = (np.sign(found[2]) > 0).astype(int)
    assert "".join(map(str, signs.tolist())) == "0101110110011101"
    np.testing.assert_allclose(np.abs(found[2]), 1)
    assert found[0] @ found[2] > 0


def test_columns_that_name_rows_are_told_from_those_that_mean_something():
    number = range(200)
    assert names_rows(np.array([f"{i * 7919:07x}" for i in number], object))
    assert names_rows(np.array([f"row {i % 9} {i}" for i in number], object))
    assert not names_rows(np.array([f"code{i % 70}" for i in number], object))
    assert not names_rows(np.array([f"{i} good {'bread' if i % 2 else 'milk'}" for i in number], object))
    names = np.array([f"{i * 7919:07x}" for i in number], object)
    assert Preparation.fit({"id": names, "size": np.arange(200.0)}).sizes == (0, 1)


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_it_is_saved_and_predicts_the_same_in_memory_from_files_and_over_http(tmp_path, capsys, classes):
    tasks, _ = table(tasks=8)
    if classes:
        cut = lambda paid: np.digitize(paid, np.quantile(paid, np.arange(1, classes) / classes))  # noqa: E731
        tasks = {name: (X, np.array([f"c{i}" for i in cut(paid)], object)) for name, (X, paid) in tasks.items()}
    sheet = [[name, *row] for name, (X, y) in tasks.items() for row in zip(X["town"], X["size"], y, strict=True)]
    head = ["shop", "town", "size", "paid"]
    file = sheets.write(tmp_path / "shops.csv", sheet, head)
    loaded = load(Config(data=str(file), task_column="shop", target="paid"))
    data, in_memory = (prepare(rows, CHOICES) for rows in (loaded.rows, rows_of_tasks(tasks)[0]))
    assert data.preparation.features == in_memory.preparation.features
    assert any("town has many different ones" in line for line in data.plan.reasons)
    town = data.preparation.features[0]
    assert (town.kind, town.outputs) == ("texts", 16 + {0: 1, 2: 1, 3: 3}[classes])
    assert json.loads(json.dumps(data.preparation.to_json()))[0]["levels"]

    learned = data.learned(data.fitting().start(0).best, {"target": "paid"})
    artifact.save(learned, tmp_path / "model")
    assert not list((tmp_path / "model").glob("*.pkl"))
    again = TabularMetaLearner.load(tmp_path / "model")
    assert again.trained().preparation == learned.preparation
    X, y = tasks["shop0"]
    known, asked = (Frame({name: X[name][part] for name in X.columns}) for part in (slice(16), slice(16, None)))
    asked["town"][0], asked["town"][1] = "Nowhere at all", None
    adapted = again.adapt(known, y[:16])
    support = Support({name: known[name] for name in known.columns}, np.asarray(y[:16]))
    expected = adaptation.adapt(learned, *support)
    columns = {name: asked[name] for name in asked.columns}
    of = lambda task: task.probabilities(columns) if classes else task.targets(columns)  # noqa: E731
    predicted = adapted.predict_proba(asked) if classes else adapted.predict(asked)
    np.testing.assert_array_equal(predicted, of(expected))

    rows = list(zip(asked["town"], asked["size"], strict=True))
    sheets.write(tmp_path / "support.csv", [row[1:] for row in sheet[:16]], head[1:])
    sheets.write(tmp_path / "query.csv", [["" if town is None else town, size] for town, size in rows], head[1:3])
    files = [f"--{name}={tmp_path / name}.csv" for name in ("support", "query", "out")]
    assert cli.run(["adapt", str(tmp_path / "model"), *files]) == 0
    with (tmp_path / "out.csv").open() as out:
        first = "probability_c0" if classes else "prediction"
        written = [float(row[first]) for row in csv.DictReader(out)]
    np.testing.assert_allclose(written, predicted[:, 0] if classes else predicted, rtol=1e-4, atol=1e-5)

    service = Service(learned, Limits())
    schema = json.dumps(description(learned))
    assert '"town": {"type": ["string", "null"]}' in schema
    given = service._encoded([{"town": town, "size": size} for town, size in rows], "query")
    here = learned.preparation.encode(matched(columns, learned.preparation.features, "X"))
    np.testing.assert_array_equal(given.numbers, here.numbers)
    if not classes:
        assert cli.run(["data", "check", str(file), "--task-column=shop", "--target=paid"]) == 0
        said = capsys.readouterr().out
        assert "texts: town has many different ones, read by their words, and by what the same text meant" in said


def test_what_a_text_means_helps_where_it_is_all_that_counts():
    tasks, meant = table(tasks=40)
    data = prepare(rows_of_tasks(tasks)[0], CHOICES)
    test = data.parts["test"]
    inputs = data.preparation.encode(test.columns).numbers
    truth = np.array([meant[name] for name in test.columns["town"]])
    assert len(set(test.columns["town"])) <= len(TOWNS) > LARGEST_CATEGORIES
    assert np.corrcoef(inputs[:, 16], truth)[0, 1] > 0.9
