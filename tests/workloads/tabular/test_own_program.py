"""From a table of one's own to predictions on a new task, by the program."""

import csv
import json

import numpy as np
import pytest

from innerloop import TabularMetaLearner, artifacts
from innerloop.cli import main as cli
from innerloop.runs.rundir import existing
from innerloop.tabular import adaptation
from innerloop.tabular import artifact as model
from innerloop.workloads import registered
from workloads.tabular import sheets


def test_training_leaves_a_run_with_scores_beside_baselines_a_report_and_a_model(shops, capsys):
    result = json.loads((shops / "run" / "evaluation.json").read_text())
    methods = [each["method"] for each in result["tables"]["rows"]]
    assert methods[:2] == ["innerloop", "innerloop, untrained"]
    assert {"constant (of the support rows)", "random forest", "linear", "pooled trees + intercept"} < set(methods)
    assert len(result["tables"]["differences"]) == len(methods) - 1
    assert result["verdict"] in result["remarks"]
    assert result["verdict"] in (shops / "run" / "model" / "README.md").read_text()
    assert (shops / "run" / "report.html").read_text().count("<svg") >= 2
    card = (shops / "run" / "model" / "README.md").read_text()
    assert "train: 8 tasks, 160 rows" in card
    assert "`price` (numbers, 1)" in card
    assert cli.run(["train", "shops.csv", "--run-dir=run", *sheets.TRAIN]) == 0  # nothing is left to do
    said = capsys.readouterr().out
    assert "continuing after meta-step 24" in said
    assert "classes: no, yes, the same in all tasks" in said
    assert cli.run(["config", "run"]) == 0
    assert existing(shops / "run", registered()).config.target == "bought"


def test_adaptation_gives_a_row_of_probabilities_for_each_query(shops, capsys):
    new = sheets.rows(tasks=1, each=40, seed=7)
    sheets.write(shops / "support.csv", new[:16])
    sheets.write(shops / "query.csv", [[*row[1:4], row[4]] for row in new[16:]], [*sheets.HEAD[1:4], "id"])
    sheets.write(shops / "labelled.csv", new[16:])
    assert cli.run(["adapt", "run", "--support=support.csv", "--query=query.csv", "--out=out.csv"]) == 0
    with (shops / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "id", "prediction", "probability_no", "probability_yes"]
    assert [row["id"] for row in rows] == [row[4] for row in new[16:]]
    chances = np.array([[float(row["probability_no"]), float(row["probability_yes"])] for row in rows])
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    assert "not used" not in capsys.readouterr().out
    assert cli.run(["adapt", "run", "--support=support.csv", "--query=labelled.csv", "--out=again.csv"]) == 0
    said = capsys.readouterr().out
    assert "it is not used for the predictions" in said
    assert "accuracy" in said
    with (shops / "again.csv").open() as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == [row["prediction"] for row in rows]


def test_a_class_that_training_never_saw_is_predicted_and_told(shops, capsys):
    new = sheets.rows(tasks=1, each=30, seed=3)
    for row in new:
        row[5] = "maybe" if row[1] > 0.5 else row[5]
    sheets.write(shops / "support.csv", new[:20])
    assert cli.run(["adapt", "run", "--support=support.csv", "--query=support.csv"]) == 0
    assert "maybe: not seen in training" in capsys.readouterr().out
    assert "probability_maybe" in (shops / "predictions.csv").read_text().splitlines()[0]


def test_a_model_loads_elsewhere_to_the_same_bits_and_is_refused_when_damaged(shops, tmp_path):
    learned = model.load(shops / "run" / "model")
    model.save(learned, tmp_path / "copy")
    again = model.load(tmp_path / "copy")
    random = np.random.default_rng(0)
    columns = {"size": random.normal(size=9), "price": random.normal(size=9), "colour": np.array(["red"] * 9, object)}
    target = np.array(["yes", "no", "no"] * 3, object)
    one, other = (adaptation.adapt(each, columns, target).probabilities(columns) for each in (learned, again))
    np.testing.assert_array_equal(one, other)

    weights = tmp_path / "copy" / artifacts.WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        model.load(tmp_path / "copy")
    (tmp_path / "copy" / artifacts.CONFIG).write_text('{"format": 99}')
    with pytest.raises(ValueError, match="has the format 99"):
        model.load(tmp_path / "copy")


@pytest.mark.slow
def test_a_regression_predicts_with_intervals(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sheets.write(tmp_path / "shops.csv", sheets.rows())
    regression = [each for each in sheets.TRAIN if "bought" not in each]
    assert cli.run(["train", "shops.csv", "--target=paid", "--time-limit=60s", "--run-dir=run", *regression]) == 0
    assert "regression: paid has" in capsys.readouterr().out
    new = sheets.rows(tasks=1, each=40, seed=7)
    sheets.write(tmp_path / "support.csv", new[:16])
    sheets.write(tmp_path / "query.csv", new[16:])
    assert cli.run(["adapt", "run", "--support=support.csv", "--query=query.csv"]) == 0
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    predicted = np.array([float(row["prediction"]) for row in rows])
    assert np.corrcoef(predicted, [row[6] for row in new[16:]])[0, 1] > 0.6
    assert min(float(row["high"]) - float(row["low"]) for row in rows) > 0


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
def test_folders_of_images_are_learned_from_and_adapted_to(tmp_path, monkeypatch, capsys, nested):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for c in range(24):
        folder = tmp_path / "images" / (f"alphabet{c // 4}" if nested else "") / f"class{c}"
        folder.mkdir(parents=True)
        pattern = random.integers(0, 255, (8, 8))
        for i in range(8):
            noisy = np.clip(pattern + random.normal(0, 20, (8, 8)), 0, 255).astype(np.uint8)
            image.fromarray(noisy).save(folder / f"{i}.png")
    settings = ["--ways=3", "--training.iterations=10", "--training.meta-batch=2", "--learner.widths", "4", "4"]
    if nested:
        settings += ["--seed=1"]
    assert cli.run(["train", "images", "--run-dir=run", "--supports", "2", *settings]) == 0
    for name in ("a", "b", "c"):
        (tmp_path / "support" / name).mkdir(parents=True)
        image.fromarray(random.integers(0, 255, (8, 8)).astype(np.uint8)).save(tmp_path / "support" / name / "x.png")
    assert cli.run(["adapt", "run", "--support=support", "--query=support"]) == 0
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert [line.split(",")[1:3] for line in lines[1:]] == [["a/x.png", "a"], ["b/x.png", "b"], ["c/x.png", "c"]]
    said = capsys.readouterr().out
    assert "nearest neighbour of pixels" in said
    assert "scored by the labels in support, which were not used: accuracy 1.000" in said
    learner = TabularMetaLearner.load("run")
    pixels = learner.read_images([f"support/{name}/x.png" for name in "abc"])
    assert learner.adapt(pixels, ["a", "b", "c"]).predict(pixels).tolist() == ["a", "b", "c"]
    assert cli.run(["adapt", "run", "--support=support/a", "--query=support"]) == 2
    assert "put those of each class into a folder of its own" in capsys.readouterr().err


def test_a_file_with_rows_of_several_tasks_is_adapted_to_task_by_task(shops, capsys):
    table = sheets.rows(tasks=3, each=20, seed=9)
    sheets.write(shops / "support.csv", [row for i, row in enumerate(table) if i % 20 < 8])
    queries = [row for i, row in enumerate(table) if i % 20 >= 8]
    sheets.write(shops / "query.csv", queries)
    assert cli.run(["adapt", "run", "--support=support.csv", "--query=query.csv"]) == 0
    assert "adapted to 3 tasks, 24 rows in all" in capsys.readouterr().out
    together = (shops / "predictions.csv").read_text().splitlines()
    sheets.write(shops / "support.csv", table[20:28])
    sheets.write(shops / "query.csv", table[28:40])
    assert cli.run(["adapt", "run", "--support=support.csv", "--query=query.csv"]) == 0
    alone = (shops / "predictions.csv").read_text().splitlines()
    column = together[0].split(",").index("probability_yes")
    both = [[float(line.split(",")[column]) for line in lines] for lines in (together[13:25], alone[1:])]
    np.testing.assert_allclose(both[0], both[1], atol=1e-5)
    sheets.write(shops / "support.csv", table[:8])
    sheets.write(shops / "both.csv", table[:8] + table[20:28])
    sheets.write(shops / "query.csv", table[45:])
    assert cli.run(["adapt", "run", "--support=both.csv", "--query=query.csv"]) == 2
    assert "has rows of shop2, of which both.csv has none" in capsys.readouterr().err


def test_a_run_goes_on_where_its_table_has_moved_and_from_another_directory(
    shops, trained_shops, tmp_path, monkeypatch, capsys, request
):
    elsewhere, table = tmp_path / "elsewhere", trained_shops / "shops.csv"
    elsewhere.mkdir()
    (elsewhere / "moved.csv").write_bytes(table.read_bytes())
    hidden = table.rename(trained_shops / "hidden")
    request.addfinalizer(lambda: hidden.rename(table))
    assert cli.run(["resume", str(shops / "run")]) == 2
    assert "If it was moved, say where it is: --data FILE." in capsys.readouterr().err
    monkeypatch.chdir(elsewhere)
    assert cli.run(["resume", str(shops / "run"), "--data", "moved.csv"]) == 0
    text = (elsewhere / "moved.csv").read_text()
    (elsewhere / "moved.csv").write_text(text.replace("yes", "perhaps"))
    assert cli.run(["resume", str(shops / "run"), "--data", "moved.csv"]) == 2
    assert "belongs to another configuration: it was written with data" in capsys.readouterr().err
    assert cli.run(["resume", "nowhere", "--data"]) == 2


def test_predictions_never_replace_what_they_are_made_of(shops, capsys):
    (shops / "query.csv").symlink_to(shops / "shops.csv")
    before = (shops / "shops.csv").read_bytes()
    for out in ("shops.csv", "./shops.csv", "query.csv"):
        given = ["--support", "shops.csv", "--query", "query.csv", f"--out={out}"]
        assert cli.run(["adapt", "run", *given]) == 2
        assert "reads and which would be lost; choose another --out" in capsys.readouterr().err
    assert cli.run(["adapt", "run", "--support=shops.csv", "--query=query.csv", "--out=run/config.json"]) == 2
    assert (shops / "shops.csv").read_bytes() == before
