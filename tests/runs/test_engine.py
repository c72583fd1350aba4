"""The engine drives any workload: a kind of run in one file trains, is killed, resumes, evaluates, reports, exports."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from innerloop import programs
from innerloop.errors import InnerloopError
from innerloop.runs import checkpoint, engine, loop, machine, rundir, sealed
from innerloop.runs.best import KEPT, Best
from innerloop.runs.workload import Examined
from innerloop.workloads import registered
from runs import toy

KINDS = {"toy": toy.WORKLOAD}


def start(directory, iterations):
    command = [sys.executable, "-m", "runs.toy", str(directory), str(iterations)]
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def final_state(directory, step):
    return (directory / "checkpoints" / f"step-{step:09d}" / "state.safetensors").read_bytes()


def wait_for_records(process, directory, count):
    path = directory / "metrics.jsonl"
    while process.poll() is None and (not path.exists() or path.read_text().count("\n") < count):
        time.sleep(0.005)


def test_it_trains_evaluates_reports_exports_and_is_not_trained_again(tmp_path, capsys):
    config = toy.Config(run_dir=str(tmp_path / "run"))
    assert engine.train(toy.WORKLOAD, config) == 0
    said = capsys.readouterr().out
    assert "step 40/40" in said
    assert "note: 40 records" in said
    run = rundir.existing(tmp_path / "run", KINDS)
    assert run.result()["error"]["mean"] > 0
    assert "What was learned" in run.report.read_text()
    assert float((run.model / "weight.txt").read_text()) == pytest.approx(3, abs=1)
    before = final_state(run.path, 40)
    assert engine.train(toy.WORKLOAD, config) == 0
    assert "continuing after meta-step 40" in capsys.readouterr().out
    assert final_state(run.path, 40) == before
    engine.export(run, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "weight.txt").read_text() == (run.model / "weight.txt").read_text()


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path):
    reference = start(tmp_path / "reference", 400)
    reference.communicate()
    assert reference.returncode == 0
    moments = random.Random(0)
    for count in (1, 60, 200):
        process = start(tmp_path / "run", 400)
        wait_for_records(process, tmp_path / "run", count)
        time.sleep(moments.random() * 0.05)
        process.kill()
        process.communicate()
    last = start(tmp_path / "run", 400)
    last.communicate()
    assert last.returncode == 0
    assert final_state(tmp_path / "run", 400) == final_state(tmp_path / "reference", 400)
    kept = [
        {file.name: file.read_bytes() for file in (tmp_path / of / "best").iterdir()} for of in ("run", "reference")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) == KEPT + 1


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    config = toy.Config(iterations=20)
    assert engine.train(toy.WORKLOAD, replace(config, run_dir=str(tmp_path / "run"))) == 0
    left = [tmp_path / "run" / name for name in (".config.json.19078", "best/.step-000000210.safetensors.19078")]
    for file in left:
        file.write_bytes(b"half of it")
    for name in ("trash-19078-step-000000010", "partial-19078-step-000000030"):
        left.append(tmp_path / "run" / "checkpoints" / name)
        left[-1].mkdir()
        (left[-1] / "state.safetensors").write_bytes(b"half of it")
    of_another = tmp_path / "run" / "inner" / ".config.json.19079"
    of_another.parent.mkdir()
    for file in (of_another, of_another.with_name(".lock")):
        file.write_bytes(b"another run is writing")
    run = rundir.existing(tmp_path / "run", KINDS)
    before = final_state(run.path, 20)
    engine.evaluate(run, run.config, again=True)
    assert of_another.exists()
    assert not any(file.exists() for file in left)
    assert final_state(run.path, 20) == before


def test_the_best_on_validation_tasks_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    best, said = Best(tmp_path / "best"), []
    for step, score in enumerate([0.5, 0.9, 0.7, 0.9, 0.1, 0.2, 0.8, 0.3], 1):
        best.offer(step, {"w": np.full(2, step)}, score)
    again = Best(tmp_path / "best")
    found = again.read({"w": np.zeros(2, int)}, said.append)
    assert [(each.step, each.score, each.learned["w"][0]) for each in found] == [
        *((2, 0.9, 2), (4, 0.9, 4), (7, 0.8, 7), (3, 0.7, 3), (1, 0.5, 1)),
    ]
    assert again.since_best() == 6
    again.forget_after(3)
    assert [each.step for each in Best(tmp_path / "best").read({"w": np.zeros(2, int)}, said.append)] == [2, 3, 1]
    assert again.since_best() == 1
    assert said == []
    (tmp_path / "best" / "step-000000002.safetensors").write_bytes(b"")
    assert [each.step for each in again.read({"w": np.zeros(2, int)}, said.append)] == [3, 1]
    assert "step-000000002.safetensors is missing or damaged" in said[0]


def test_where_validation_gets_no_better_training_ends_for_good(tmp_path, capsys):
    config = toy.Config(
        run_dir=str(tmp_path / "run"), iterations=4000, log=toy.Log(patience=3, checkpoint_seconds=99.0)
    )
    for _ in range(2):
        assert engine.train(toy.WORKLOAD, config, report=False) == 0
        assert "has not got better for 3 validations: training ends here" in capsys.readouterr().out
        run = rundir.existing(tmp_path / "run", KINDS)
        step = run.result()["meta_steps"]
        assert step < 1000
        assert run.records()[-1]["step"] == step
        assert Best(run.best).since_best() == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    process = start(tmp_path / "run", 100_000)
    wait_for_records(process, tmp_path / "run", 3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped and saved; continue with: innerloop resume" in said
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_other_settings_and_other_kinds_are_refused(tmp_path):
    config = toy.Config(run_dir=str(tmp_path / "run"))
    assert engine.train(toy.WORKLOAD, config, report=False) == 0
    with pytest.raises(InnerloopError, match=r"was started with --rate 0.1 \(now 0.2\)"):
        engine.train(toy.WORKLOAD, replace(config, rate=0.2))

    class Other(toy.Toy):
        name = "other"

    with pytest.raises(InnerloopError, match="is a run of the kind 'toy', not other; choose another --run-dir"):
        engine.train(Other(), config)


def test_divergence_names_the_rate_and_keeps_what_was_saved(tmp_path):
    config = toy.Config(run_dir=str(tmp_path / "run"), rate=1e30)
    with pytest.raises(InnerloopError, match=r"Training diverged: loss is inf at step 1 with --rate 1e\+30"):
        engine.train(toy.WORKLOAD, config)


@pytest.mark.parametrize("name", ["config.json", "evaluation.json", "environment.json", "costs.json"])
def test_a_flipped_bit_in_any_file_is_noticed(tmp_path, name):
    config = toy.Config(run_dir=str(tmp_path / "run"))
    assert engine.train(toy.WORKLOAD, config) == 0
    file = tmp_path / "run" / name
    content = file.read_bytes()
    readers = {"evaluation.json": "result", "environment.json": "environment", "costs.json": "costs"}
    for place in random.Random(0).sample(range(len(content)), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        file.write_bytes(bytes(damaged))
        try:
            run = rundir.existing(tmp_path / "run", KINDS)
            read = getattr(run, readers[name])() if name in readers else None
        except InnerloopError:
            continue
        assert not read, "a damaged file was taken for a whole one"
        assert name != "config.json", "a damaged configuration was taken for a whole one"


def test_a_damaged_line_of_metrics_is_left_out_and_told(tmp_path, capsys):
    config = toy.Config(run_dir=str(tmp_path / "run"))
    assert engine.train(toy.WORKLOAD, config, report=False) == 0
    run = rundir.existing(tmp_path / "run", KINDS)
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"loss", b"lass")
    run.metrics.write_bytes(b"".join(lines))
    assert [record["step"] for record in run.records()] == [1, 2, 3, *range(5, 41)]
    assert engine.train(toy.WORKLOAD, config, report=False) == 0
    assert "1 damaged lines" in capsys.readouterr().out


def test_an_older_run_directory_is_refused_in_a_sentence(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"recipe": "demo", "seed": 0}')
    with pytest.raises(InnerloopError, match=r"before 0\.2 wrote it"):
        rundir.existing(folder, KINDS)


def test_rotation_counts_only_whole_checkpoints_and_keeps_the_newest(tmp_path):
    directory = tmp_path / "run"
    config = toy.Config(run_dir=str(directory), iterations=10)
    assert engine.train(toy.WORKLOAD, config, report=False) == 0
    checkpoints = directory / "checkpoints"
    for stray in ("step-old", "step-999 (copy)", "step-000000040.bak"):
        (checkpoints / stray).mkdir()
    state = checkpoints / "step-000000010" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(bytes(content))
    log = replace(config.log, keep=1)
    assert engine.train(toy.WORKLOAD, replace(config, log=log), report=False) == 0
    from innerloop.runs import checkpoint

    run = rundir.existing(directory, KINDS)
    session = toy.Session(config, None)
    newest = checkpoint.read_newest(run.checkpoints, session.init(), session.settings, print)
    assert int(newest.step) == 10
    assert all((checkpoints / stray).exists() for stray in ("step-old", "step-999 (copy)", "step-000000040.bak"))


class Skipping(toy.Session):
    """Every step among `bad` has no finite gradient, because of its second task."""

    bad = frozenset({3, 4, 11})

    def steps(self, state):
        for info in super().steps(state):
            skipped = info.step in self.bad
            yield info._replace(
                values={"loss": math.nan if skipped else info.values["loss"], "skipped": float(skipped)}
            )

    def examined(self, state, step):
        return Examined(state, ["task b"], {"support/x": np.arange(3.0), "step": np.asarray(step)})


class SkippingToy(toy.Toy):
    session = Skipping

    def open(self, config, progress, *, resolve):
        machine.set_up(1)
        return self.session(config, progress)


def test_steps_without_a_finite_gradient_are_counted_told_and_reported(tmp_path, capsys):
    config = toy.Config(run_dir=str(tmp_path / "run"))
    assert engine.train(SkippingToy(), config) == 0
    said = " ".join(capsys.readouterr().out.split())
    told = "meta-step 3 was skipped, for its meta-gradient: that of task b is not finite; training goes on"
    assert told in said
    assert "3 skipped" in said
    run = rundir.existing(tmp_path / "run", KINDS)
    records = {record["step"]: record for record in run.records()}
    assert [records[step].get("skipped") for step in (2, 3, 4, 5)] == [None, 1.0, 1.0, None]
    assert "loss" not in records[3]
    assert (
        "3 of 40 meta-steps were skipped, since their meta-gradients were not finite, among them that of task b"
        in (run.result()["remarks"])
    )
    assert load_file(run.path / "skipped" / "tasks.safetensors")["step"] == 2


def test_training_ends_where_nothing_but_skipped_steps_is_left(tmp_path, capsys):
    class Lost(Skipping):
        bad = frozenset(range(9, 100))

    kind = SkippingToy()
    kind.session = Lost
    config = toy.Config(run_dir=str(tmp_path / "run"))
    config = replace(config, log=replace(config.log, skip_limit=12))
    with pytest.raises(InnerloopError, match=r"12 meta-steps in a row have no finite .*task b") as e:
        engine.train(kind, config)
    assert "(the checkpoint of step 8 is kept, from which" in str(e.value)
    kept = checkpoint.read_newest(tmp_path / "run" / "skipped", *dumped(config), print)
    assert int(kept.step) == 20
    assert load_file(tmp_path / "run" / "skipped" / "tasks.safetensors")["step"] == 19


def dumped(config):
    session = Skipping(config, None)
    return session.init(), session.settings


def test_a_run_begins_from_another_ones_checkpoint_with_other_settings(tmp_path, capsys):
    engine.train(toy.WORKLOAD, toy.Config(run_dir=str(tmp_path / "a"), iterations=20))
    origin = rundir.existing(tmp_path / "a", KINDS)
    config = toy.Config(run_dir=str(tmp_path / "b"), rate=0.01, seed=3)
    assert engine.train(toy.WORKLOAD, config, origin=origin) == 0
    assert "begun from" in capsys.readouterr().out
    begun = rundir.existing(tmp_path / "b", KINDS)
    assert [record["step"] for record in begun.records()] == list(range(21, 41))
    session = toy.Session(config, None)
    state = checkpoint.read_as(Path(begun.beginning.checkpoint), begun.beginning.sha256, session.init())
    for info in session.steps(session.begun(state)):
        last = info.state
    kept = checkpoint.read_newest(begun.checkpoints, session.init(), session.settings, print)
    assert float(kept.weight) == float(last.weight)
    engine.train(toy.WORKLOAD, config, origin=origin)  # goes on, as any run does
    with pytest.raises(InnerloopError, match="began with nothing, not from"):
        engine.train(toy.WORKLOAD, toy.Config(run_dir=str(tmp_path / "a"), iterations=20), origin=begun)
    for state in Path(begun.beginning.checkpoint).glob("*.safetensors"):
        state.write_bytes(b"")
    shutil.rmtree(begun.checkpoints)
    with pytest.raises(InnerloopError, match="with which this run begins, is gone or another one"):
        engine.train(toy.WORKLOAD, config)
    with pytest.raises(InnerloopError, match="holds no whole checkpoint, so nothing can begin from it"):
        engine.train(toy.WORKLOAD, toy.Config(run_dir=str(tmp_path / "c")), origin=begun)


def test_numbers_that_json_does_not_know_are_kept_beside_a_null(tmp_path):
    values = {"a": {"b": [1.0, math.nan, {"c": math.inf}]}, "d": -math.inf, "e": None, "f": "nan"}
    sealed.write(tmp_path / "a.json", values)

    def refuse(word):
        raise AssertionError(word)

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found["a"]["b"][1] is None
    again = sealed.read(tmp_path / "a.json")
    assert repr(again) == repr(values)
    assert sealed.plain(values)["d"] is None


def test_checkpoints_take_a_small_share_of_the_time():
    assert loop.interval(30.0, 0.1) == 30.0
    for pause in (1.0, 7.0):
        assert pause / (loop.interval(30.0, pause) + pause) < 0.02


class Kept:
    """What a cache of compiled programs does, as JAX's does it."""

    def __init__(self, path):
        self.path = path

    def get(self, key):
        file = self.path / f"{key}-cache"
        return file.read_bytes() if file.exists() else None

    def put(self, key, value):
        file = self.path / f"{key}-cache"
        if not file.exists():
            file.write_bytes(value)


def test_a_damaged_compiled_program_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "_sealed", {tmp_path})
    programs._seal(Kept)
    cache = Kept(tmp_path)
    for damage in (lambda content: content[:-1], lambda content: b"x" + content[1:], lambda content: b""):
        cache.put("a", b"program")
        assert cache.get("a") == b"program"
        file = tmp_path / "a-cache"
        file.write_bytes(damage(file.read_bytes()))
        assert cache.get("a") is None
        assert not file.exists()
    other = Kept(tmp_path / "other")  # somebody else's is left as it is
    other.path.mkdir()
    other.put("a", b"program")
    assert (other.path / "a-cache").read_bytes() == b"program"


@pytest.mark.parametrize(
    ("name", "algorithm", "folder"),
    [
        ("sinusoid", None, "sinusoid-seed0"),
        ("sinusoid", "reptile", "sinusoid-reptile-seed0"),
        ("neural-field-ct", None, "neural-field-ct-seed0"),
        ("data-weights", None, "data-weights-seed0"),
        ("ttt-text", "window", "ttt-text-window-seed0"),
        ("rl-navigation-2d", None, "rl-navigation-2d-seed0"),
        ("shops.csv", None, "shops-seed0"),
        ("shops.csv", "fomaml", "shops-fomaml-seed0"),
    ],
)
def test_a_run_lies_where_its_recipe_says_and_its_algorithm_if_that_is_another(name, algorithm, folder):
    workload = next((each for each in registered().values() if name in each.recipes), registered()["tabular"])
    assert rundir.directory_of(workload, workload.configure(name, algorithm)) == Path("runs", folder)
