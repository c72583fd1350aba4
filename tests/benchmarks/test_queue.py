"""The queue of long runs: what is left, one at a time, stopped cleanly, recorded from clean trees alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import longruns as queue
from innerloop import InnerloopError

ALONE = queue.alone
ROW = queue.Row("rl-navigation-2d", 4, 1, ("--published",), "published")
TRAINS = """
import json, pathlib, signal, sys, time
run = pathlib.Path([each for each in sys.argv if each.startswith("--run-dir=")][0].removeprefix("--run-dir="))
run.mkdir(exist_ok=True)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
(run / "begun").touch()
while not stop and not (run / "quick").exists():
    time.sleep(0.01)
if stop:
    (run / "saved").touch()
    sys.exit(130)
(run / "evaluation.json").write_text(json.dumps({"meta_steps": 4}))
(run / "environment.json").write_text(json.dumps({"started": "today", "commit": "abc"}))
"""
STOPPED = """
import pathlib, sys
from benchmarks import longruns as queue
sys.exit(queue.work([queue.ROWS[0]], pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1])))
"""


def write(runs, row, *, steps=0, evaluated=False, started="today", commit="abc"):
    folder = runs / row.name
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step + 1, "seconds": 30.0}) for step in range(steps)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 9, "sec']))  # the last one was cut off
    (folder / "environment.json").write_text(json.dumps({"started": started, "commit": commit}))
    if evaluated:
        (folder / "evaluation.json").write_text(json.dumps({"meta_steps": row.iterations}))


def test_a_row_has_a_name_and_a_command():
    assert ROW.name == "rl-navigation-2d-published-seed1"
    assert ROW.command(Path("/runs"))[1:] == [
        *("-m", "innerloop", "train", "rl-navigation-2d", "--published", "--seed=1", "--outer.iterations=4"),
        "--run-dir=/runs/rl-navigation-2d-published-seed1",
    ]
    assert len({row.name for row in queue.ROWS}) == len(queue.ROWS)


def test_a_supervised_row_has_an_algorithm_and_a_pace_and_may_end_early(tmp_path):
    row = queue.Row("omniglot-20way-1shot", 60, 0, ("--log.patience=3",), algorithm="maml++")
    assert row.name == "omniglot-20way-1shot-maml++-seed0"
    assert "--algorithm=maml++" in row.command(tmp_path)
    folder = tmp_path / row.name
    folder.mkdir()
    assert queue.standing(row, tmp_path, tmp_path) == queue.Standing(0, False, False, False, None)
    (folder / "config.json").write_text(json.dumps({"config": {"outer": {"meta_batch": 16}}}))
    lines = [{"step": 10 * (i + 1), "tasks_per_second": 8.0} for i in range(3)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert queue.standing(row, tmp_path, tmp_path) == queue.Standing(30, False, False, False, 2.0)
    assert "30/60 iterations, about 1:00" in queue.status([row], tmp_path, tmp_path)[0]
    (folder / "evaluation.json").write_text(json.dumps({"meta_steps": 30}))
    assert queue.standing(row, tmp_path, tmp_path).evaluated
    assert not queue.standing(row._replace(flags=()), tmp_path, tmp_path).evaluated


def test_a_row_that_asks_for_another_evaluation_than_there_is_is_not_done(tmp_path):
    row = queue.Row("rl-ant-direction", 1, 0, ("--evaluation.baseline-iterations=2000", "--evaluation.no-baselines"))
    folder = tmp_path / row.name
    folder.mkdir()
    for iterations in (300, 2000):
        evaluation = {"meta_steps": 1, "settings": {"baseline_iterations": iterations}}
        (folder / "evaluation.json").write_text(json.dumps(evaluation))
        assert queue.standing(row, tmp_path, tmp_path).evaluated == (iterations == 2000)


def test_a_row_that_was_evaluated_otherwise_is_evaluated_again_and_not_recorded_as_it_was(tmp_path, monkeypatch):
    row = queue.Row("rl-ant-direction", 1, 0, ("--evaluation.oracle-iterations=2000",))
    folder = tmp_path / row.name
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({"meta_steps": 1, "settings": {"oracle_iterations": 900}}))
    assert "to be evaluated with the settings of the row" in queue.status([row], tmp_path, tmp_path)[0]
    asked, kept = [], []
    monkeypatch.setattr(queue, "keep", lambda row, runs: kept.append(row.name))

    def evaluated(worker, command, log):
        asked.append(command[1:])
        said = {"meta_steps": 1, "settings": {"oracle_iterations": 2000}}
        (folder / "evaluation.json").write_text(json.dumps(said))
        return 0

    monkeypatch.setattr(queue.Worker, "run", evaluated)
    (folder / "environment.json").write_text(json.dumps({"started": "today", "commit": "abc"}))
    before = {"environment": {"started": "today"}, "evaluation": {"settings": {"oracle_iterations": 900}}}
    (tmp_path / f"{row.name}.json").write_text(json.dumps(before))
    assert queue.work([row], tmp_path, tmp_path) == 0
    assert asked == [["-m", "innerloop", "evaluate", str(folder), "--evaluation.oracle-iterations=2000"]]
    assert kept == [row.name]


def test_what_ends_without_what_the_row_asks_for_is_not_recorded(tmp_path, monkeypatch, capsys):
    row = queue.Row("rl-ant-direction", 1, 0, ("--evaluation.oracle-iterations=2000",))
    (tmp_path / row.name).mkdir()
    said = {"meta_steps": 1, "settings": {"oracle_iterations": 900}}
    (tmp_path / row.name / "evaluation.json").write_text(json.dumps(said))
    monkeypatch.setattr(queue.Worker, "run", lambda worker, command, log: 0)
    monkeypatch.setattr(queue, "keep", lambda row, runs: pytest.fail("recorded"))
    assert queue.work([row], tmp_path, tmp_path) == 1
    assert "not trained and evaluated as the row asks; it is not recorded" in capsys.readouterr().out


def test_rows_are_chosen_by_a_pattern(tmp_path, capsys):
    assert queue.main([f"--runs={tmp_path}", "--rows=miniimagenet-*", "--status"]) == 0
    rows = [row for row in queue.ROWS if row.recipe.startswith("miniimagenet-")]
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 1
    assert queue.main([f"--runs={tmp_path}", "--rows=mini", "--status"]) == 2
    assert "no row is called 'mini'" in capsys.readouterr().err


def test_the_status_says_what_is_left_and_how_long(tmp_path):
    rows = [queue.Row("a", 10, seed) for seed in range(4)] + [queue.Row("b", 10)]
    write(tmp_path, rows[0], steps=10, evaluated=True)
    (tmp_path / "a-seed0.json").write_text(json.dumps({"environment": {"started": "today"}}))
    write(tmp_path, rows[1], steps=10, evaluated=True, started="tomorrow")
    (tmp_path / "a-seed1.json").write_text(json.dumps({"environment": {"started": "today"}}))  # of an earlier run
    write(tmp_path, rows[2], steps=6)
    lines = queue.status(rows, tmp_path, tmp_path)
    assert [line.split(maxsplit=1)[1] for line in lines[:3]] == [
        "done",
        "to be recorded",
        "6/10 iterations, about 2:00 of training left",
    ]
    assert "0/10 iterations, about 5:00" in lines[3]  # at the pace of the same recipe
    assert "not yet timed" in lines[4]
    assert lines[5] == "4 left: about 7:00 of training, and 1 not yet timed"


def test_a_second_queue_says_so_and_leaves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(queue, "alone", lambda: ALONE(tmp_path / "lock"))
    with ALONE(tmp_path / "lock"):
        assert queue.main([f"--runs={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert f"already runs on this machine, process {os.getpid()}" in said
    assert said.count("\n") == 1
    with ALONE(tmp_path / "lock"):
        pass  # the lock went with its owner


@pytest.mark.parametrize("commit", [None, "abc (with changes)"])
def test_nothing_is_recorded_from_a_tree_with_changes(tmp_path, monkeypatch, capsys, commit):
    monkeypatch.setattr(queue, "alone", lambda: ALONE(tmp_path / "lock"))
    monkeypatch.setattr(queue.machine, "commit", lambda: commit)
    assert queue.main([f"--runs={tmp_path}"]) == 2
    assert "recorded from a clean tree; commit first" in capsys.readouterr().err
    write(tmp_path, ROW, evaluated=True, commit="abc (with changes)")
    monkeypatch.setattr(queue.machine, "commit", lambda: "abc")
    with pytest.raises(InnerloopError, match="source that is changed"):
        queue.keep(ROW, tmp_path)


def test_rows_are_run_and_recorded_and_a_failure_does_not_stop_the_next(tmp_path, monkeypatch, capsys):
    rows = [queue.Row("bad", 4), queue.Row("good", 4)]
    script = tmp_path / "trains.py"
    script.write_text(TRAINS)
    (tmp_path / "good-seed0").mkdir()
    (tmp_path / "good-seed0" / "quick").touch()
    of = {"bad": [sys.executable, "-c", "raise SystemExit('no')"], "good": [sys.executable, str(script)]}
    monkeypatch.setattr(queue.Row, "command", lambda row, runs: [*of[row.recipe], f"--run-dir={runs / row.name}"])
    kept = []
    monkeypatch.setattr(queue, "keep", lambda row, runs: kept.append(row.name))
    assert queue.work(rows, tmp_path, tmp_path) == 1
    assert kept == ["good-seed0"]
    assert "bad-seed0 failed with status 1" in capsys.readouterr().out
    assert (tmp_path / "bad-seed0.log").read_text() == "no\n"


def test_a_disk_that_is_full_is_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(queue, "alone", lambda: ALONE(tmp_path / "lock"))
    monkeypatch.setattr(queue.machine, "commit", lambda: "abc")
    monkeypatch.setattr(queue, "lowest_priority", lambda: None)

    def full(rows, runs, results):
        raise OSError(28, "No space left on device", str(runs))

    monkeypatch.setattr(queue, "work", full)
    assert queue.main([f"--runs={tmp_path}"]) == 2
    assert f"queue: {tmp_path} cannot be written (No space left on device)" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_once_the_child_has_saved(tmp_path, number):
    script = tmp_path / "trains.py"
    script.write_text(TRAINS)
    patched = (
        "import sys; from benchmarks import longruns as queue\n"
        f"queue.Row.command = lambda row, runs: [sys.executable, {str(script)!r}, f'--run-dir={{runs / row.name}}']\n"
    )
    root = str(Path(queue.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", patched + STOPPED, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    run = tmp_path / queue.ROWS[0].name
    deadline = time.monotonic() + 60
    while not (run / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (run / "saved").exists()
    assert "the same command goes on with it" in out


def test_scripts_beside_it_still_find_the_module_of_the_standard_library():
    code = "import queue, concurrent.futures.thread; queue.SimpleQueue(), queue.Queue()"
    folder = str(Path(queue.__file__).parent)
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {code}"], check=True)


def test_it_starts_as_a_module(tmp_path):
    root = Path(queue.__file__).parents[1]
    command = [sys.executable, "-m", "benchmarks.queue", f"--runs={tmp_path}", "--status"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert "rl-ant-direction-seed0" in said
    assert "not yet timed" in said
