"""Each mistake with one's own data ends in one sentence that names it and the mend, exit status 2, nothing lost."""

import numpy as np
import pytest

from innerloop.cli import main as cli
from innerloop.workloads.tabular import loading
from innerloop.workloads.tabular.tables import Column
from workloads.tabular import sheets

ASK = ["--task-column=shop", "--target=bought"]


def refused(capsys, *arguments):
    assert cli.run(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


@pytest.fixture
def sheet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return sheets.write(tmp_path / "shops.csv", sheets.rows(tasks=8, each=10))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task-column=shp", "--target=bought"], "did you mean 'shop'?"),
        (["--task-column=shop", "--target=bougt"], "did you mean 'bought'?"),
        ([*ASK, "--features=size,pric"], "did you mean 'price'?"),
        ([*ASK, "--features=size,bought"], "names 'bought', which is the task, target or split"),
        ([*ASK, "--split-column=colour"], "it must say train, valid or test"),
        (["--target=bought"], "--task-column is needed; the columns of shops.csv are: shop, size"),
        ([*ASK, "--kind=regression"], "in row 1; give numbers, or --kind classification"),
        ([*ASK, "--time-limit=soon"], "--time-limit is 'soon'"),
        ([*ASK, "--learner.dropout=1.5"], "--learner.dropout is 1.5"),
        ([*ASK, "--learner.dropout-inputs=-0.5"], "dropout_inputs is -0.5; it must be at least 0 and below 1, or -1"),
        ([*ASK, "--supports", "0"], "--supports is (0,)"),
        ([*ASK, "--supports", "50"], "a task needs at least 100 rows"),
        ([*ASK, "--algorithm=reptile"], "algorithm"),
        ([*ASK, "--featurs=size"], "did you mean '--features'?"),
    ],
)
def test_settings_that_do_not_fit_the_data(sheet, capsys, arguments, said):
    assert said in refused(capsys, "train", "shops.csv", *arguments)
    assert not (sheet.parent / "runs").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("shop,size,bought\n", "holds no rows"),
        ("shop,size,size\na,1,2\n", "two columns of the name 'size'"),
        ("shop,size,bought\na,1,yes\nb,2\n", "cannot be read as CSV"),
        ("shop,size,bought\n" + "a,1,yes\na,x,no\na,2,no\n", "row 2 holds the text 'x'"),
        ("shop,size,bought\n" + "a,1,\na,2,\n", "--target is 'bought', but it is empty in every row"),
        ("shop,size,bought\n" + "a,1,yes\nb,2,no\n" * 9, "one class only"),
        ("shop,size,bought\n" + "".join(f"s{i % 2},{i},{i % 3 > 0}\n" for i in range(60)), "at least 5 are needed"),
        ("shop,bought\n" + "a,yes\na,no\n" * 9, "has no column to predict from"),
        ("shop,size,bought\n" + "".join(f"s{i % 6},1,{i % 4 > 1}\n" for i in range(99)), "No feature varies"),
    ],
)
def test_files_that_cannot_be_learned_from(sheet, capsys, content, said):
    sheet.write_text(content)
    assert said in refused(capsys, "train", "shops.csv", *ASK)


def test_files_that_are_not_there_or_of_another_kind(sheet, capsys):
    assert "did you mean 'shops.csv'?" in refused(capsys, "train", "shop.csv", *ASK)
    sheet.rename("shops.xlsx")
    assert "neither .parquet nor .csv" in refused(capsys, "train", "shops.xlsx", *ASK)
    (sheet.parent / "broken.parquet").write_bytes(b"PAR1 nothing")
    assert "cannot be read as PARQUET" in refused(capsys, "train", "broken.parquet", *ASK)
    (sheet.parent / "folder").mkdir()
    assert "There are no images below folder" in refused(capsys, "train", "folder")
    assert "is for tables" in refused(capsys, "train", "folder", *ASK)


def test_tasks_in_two_parts_are_refused(sheet, capsys):
    table = [[*row, "train" if i % 2 else "test"] for i, row in enumerate(sheets.rows(tasks=8, each=10))]
    sheets.write(sheet, table, [*sheets.HEAD, "part"])
    said = refused(capsys, "train", "shops.csv", *ASK, "--split-column=part")
    assert "tasks are split, never rows" in said


def test_a_check_reports_what_is_wrong_by_its_status(sheet, capsys):
    clean = ["data", "check", "shops.csv", *ASK, "--features=size,price,colour"]
    assert cli.run(clean) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    table = sheets.rows(tasks=8, each=10)
    for row in table:
        row[6] = 5 if row[5] == "yes" else 3
    table += [["lonely", 1, 2, "red", "row", "yes", 5], [*["shop1"], *table[0][1:]]]
    table[3][1] = ""
    sheets.write(sheet, [[*row, 1] for row in table], [*sheets.HEAD, "same"])
    assert cli.run(["data", "check", "shops.csv", *ASK]) == 1
    said = capsys.readouterr().out
    for each in (
        "! paid alone tells the classes",
        "the same in every row, so of no use: same",
        "size: missing in 1 rows",
        "2 rows have the same features as a row of another task",
        "1 tasks cannot be learned from and are left out (lonely: 1 rows",
        "left out: id (more than 64",
    ):
        assert each in said
    assert "did you mean 'check'" not in refused(capsys, "data", "look", "shops.csv")


def test_a_check_says_whether_training_accepts_the_data(sheet, capsys):
    ask = ["--task-column=shop", "--target=paid", "--features=size"]
    table = sheets.rows(tasks=8, each=10)
    for i, row in enumerate(table):
        row[1] = i % 10  # the same grid in all tasks, under targets of their own
    sheets.write(sheet, table)
    assert cli.run(["data", "check", "shops.csv", *ask]) == 0
    assert "also occur in training tasks, 0 with the same target" in capsys.readouterr().out
    assert cli.run(["data", "check", "shops.csv", *ask, "--evaluation.sizes", "64"]) == 1
    assert "! no test task has more than 64 rows" in capsys.readouterr().out
    sheets.write(sheet, [[row[0], 1, *row[2:]] for row in table])
    assert cli.run(["data", "check", "shops.csv", *ask]) == 1
    assert "! training refuses it: No feature varies" in capsys.readouterr().out


def test_a_check_of_images_says_whether_training_accepts_them(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    for label in "abcdefg":
        (tmp_path / "signs" / label).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng((ord(label), i)).integers(0, 256, (8, 8)).astype(np.uint8)
            image.fromarray(pixels).save(tmp_path / "signs" / label / f"{i}.png")
    assert cli.run(["data", "check", "signs", "--ways=2"]) == 0
    capsys.readouterr()
    assert cli.run(["data", "check", "signs", "--ways=5"]) == 1
    assert "need at least 15" in capsys.readouterr().out


def test_adaptation_that_does_not_fit_the_learner(shops, capsys):
    new = sheets.rows(tasks=1, each=12, seed=5)
    sheets.write(shops / "support.csv", new)
    adapt = ["adapt", "run", "--support=support.csv", "--query=support.csv"]
    sheets.write(shops / "other.csv", [[row[0], *row[2:]] for row in new], [sheets.HEAD[0], *sheets.HEAD[2:]])
    assert "lacks 1 of the 3 features of the learner: size" in refused(capsys, *adapt[:3], "--query=other.csv")
    assert "--query is needed" in refused(capsys, *adapt[:3])
    assert "--target is 'nothing'" in refused(capsys, *adapt, "--target=nothing")
    sheets.write(shops / "one.csv", [[*row[:5], "yes", row[6]] for row in new])
    assert "has one class only ('yes')" in refused(capsys, "adapt", "run", "--support=one.csv", "--query=one.csv")
    sheets.write(shops / "none.csv", [[*row[:5], "", row[6]] for row in new])
    assert "No row of none.csv has a target" in refused(
        capsys, "adapt", "run", "--support=none.csv", "--query=none.csv"
    )
    sheets.write(shops / "text.csv", [[row[0], "large", *row[2:]] for row in new])
    assert "holds text in 'size'" in refused(capsys, *adapt[:3], "--query=text.csv")
    assert "holds no model" in refused(capsys, "adapt", "nowhere", *adapt[2:])
    assert "was started with --target bought" in refused(
        capsys, "train", "shops.csv", "--run-dir=run", *sheets.TRAIN, "--target=colour"
    )


def test_what_memory_does_not_hold_is_thinned_in_large_tasks_first():
    tasks = np.repeat([0, 1, 2], [1000, 50, 10])
    known = np.ones(1060, bool)
    columns = [Column("x", "list", width=10)]
    kept, notes = loading._within_memory(known, tasks, columns, seed=0, budget=200 * 3 * 40)
    assert np.bincount(tasks[kept]).tolist() == [140, 50, 10]
    assert "memory holds 200 of 1,060 rows" in notes[0]
    assert loading._within_memory(known, tasks, columns, seed=0, budget=10**9)[1] == []
