"""Every mistake of a user ends in one sentence that names the thing, its value and the mend, and exit status 2."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from innerloop.cli import main as cli
from innerloop.errors import InnerloopError
from innerloop.runs import machine, sealed, store
from innerloop.workloads.episodes.data import omniglot
from workloads.program import TINY

OMNIGLOT = "omniglot-5way-1shot"
SMALL = ["--outer.iterations=1", "--evaluation.no-baselines"]

COMMAND_LINE = {
    "unknown command": (["trian"], "no command 'trian'; did you mean 'train'?"),
    "unknown recipe": (
        ["train", "omniglot-5way-1shots"],
        "no recipe 'omniglot-5way-1shots'; did you mean 'omniglot-5way-1shot'?",
    ),
    "unknown recipe, nothing near": (["train", "xyz"], "choose one of: demo, sinusoid"),
    "no recipe": (["train"], "needs a RECIPE|FILE as its first argument; recipes are: demo"),
    "unknown field": (
        ["train", "demo", "--inner.lerning-rate", "1"],
        "no field --inner.lerning-rate; did you mean '--inner.learning-rate'?",
    ),
    "field of other tasks": (["train", "demo", "--tasks.ways", "5"], "no field --tasks.ways"),
    "word for a number": (
        ["train", "demo", "--inner.steps", "two"],
        "--inner.steps: a whole number is needed, not 'two'",
    ),
    "missing value": (["train", "demo", "--inner.steps"], "--inner.steps"),
    "no such choice": (
        ["train", OMNIGLOT, "--network.kind", "vgg"],
        "invalid choice 'vgg' for argument '--network.kind'. Expected one of",
    ),
    "surplus argument": (["recipes", "all"], "innerloop recipes takes no arguments, but got 'all'"),
    "negative inner steps": (["train", "demo", "--inner.steps=-1"], "--inner.steps is -1; it must be at least 0"),
    "negative inner rate": (
        ["train", "demo", "--inner.learning-rate=-0.1"],
        "--inner.learning-rate is -0.1; it must be a positive number",
    ),
    "infinite outer rate": (
        ["train", "demo", "--outer.learning-rate=inf"],
        "--outer.learning-rate is inf; it must be a positive number",
    ),
    "rate that is no number": (["train", "demo", "--outer.learning-rate=nan"], "--outer.learning-rate is nan"),
    "no iterations": (["train", "demo", "--outer.iterations=0"], "--outer.iterations is 0; it must be at least 1"),
    "no tasks": (["train", "demo", "--outer.meta-batch=0"], "--outer.meta-batch is 0; it must be at least 1"),
    "no shots": (["train", "demo", "--tasks.shots=0"], "--tasks.shots is 0; it must be at least 1"),
    "one way": (["train", OMNIGLOT, "--tasks.ways=1"], "--tasks.ways is 1; it must be at least 2"),
    "seed beyond 32 bits": (["train", "demo", "--seed=99999999999999"], "--seed is 99999999999999; it must be at most"),
    "negative split seed": (["train", OMNIGLOT, "--tasks.split-seed=-1"], "--tasks.split-seed is -1; it must be at"),
    "too many iterations": (["train", "demo", "--outer.iterations=3000000000"], "--outer.iterations is 3000000000; it"),
    "seed of no split": (
        ["train", OMNIGLOT, "--tasks.split=vinyals", "--tasks.split-seed=3"],
        "--tasks.split-seed has no effect with --tasks.split vinyals",
    ),
    "a name beyond the file system": (["report", "r" * 300], "File name too long"),
    "negative clip": (["train", "demo", "--outer.clip=-1"], "--outer.clip is -1.0; it must be a number of at least 0"),
    "decay of one": (
        ["train", OMNIGLOT, "--network.running-decay=1", "--network.normalisation=running"],
        "--network.running-decay is 1.0",
    ),
    "switch without effect": (
        ["train", "demo", "--network.scale"],
        "--network.scale has no effect with --network.kind mlp",
    ),
    "stride of an mlp": (["train", "demo", "--network.downsample=max-pool"], "--network.downsample has no effect"),
    "convnet for numbers": (
        ["train", "demo", "--network.kind=convnet"],
        "--network.kind is convnet, which takes images",
    ),
    "filters that differ": (
        ["train", OMNIGLOT, "--network.widths", "8", "16"],
        "the blocks of a convnet have the same number of filters",
    ),
    "no run": (["resume", "nowhere"], "nowhere is no run directory (it has no config.json)"),
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A directory of the test's own, and no way to the network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(store.VARIABLE, raising=False)
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9")


def refused(capsys, *arguments):
    """Run the program, and return the one sentence that it refuses with."""
    assert cli.run(list(arguments)) == 2
    said = capsys.readouterr().err
    assert said.startswith("innerloop: ")
    assert said.count("\n") == 1, said
    return said


def rewritten(name, change):
    """Change a file of the run, with the checksum that belongs to it."""
    values = sealed.read(Path("run", name))
    change(values)
    sealed.write(Path("run", name), values)


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_command_line(case, capsys):
    arguments, message = COMMAND_LINE[case]
    assert message in refused(capsys, *arguments)
    assert not Path("runs").exists()


def test_unknown_algorithm(capsys):
    assert "no algorithm 'mamal'; choose one of: maml, fomaml" in refused(capsys, "train", "demo", "--algorithm=mamal")


def test_empty_range(capsys):
    arguments = ["train", "demo", "--tasks.amplitude", "5", "0.1"]
    assert "range of the sinusoids' amplitude is 5.0 to 0.1" in refused(capsys, *arguments)
    assert not Path("runs").exists()  # what cannot run leaves nothing behind that a mended command would stumble on


def test_chunk_of_more_tasks_than_there_are(capsys):
    said = refused(capsys, "train", "demo", "--layout.chunk=64")
    assert "chunk=64 tasks at a time, but of 25 tasks each of 1 shard(s) has 25; use a chunk of at most 25" in said
    assert not Path("runs").exists()


def test_choice_among_exact_derivatives_where_none_are_taken(capsys):
    said = refused(capsys, "train", "demo", "--algorithm=fomaml", "--layout.adjoint=reverse")
    assert "--layout.adjoint is reverse, but --algorithm fomaml takes no exact second derivatives; leave it out" in said


def test_precision_that_the_device_lacks(monkeypatch):
    def refuses(*_, **__):
        raise NotImplementedError("float64 is not supported")

    monkeypatch.setattr(jax.numpy, "ones", refuses)
    with pytest.raises(InnerloopError, match=r"--network.precision is float64, which cpu does not compute in; choose"):
        machine._require_precision("float64")


def test_convolution_of_a_network_without_any(capsys):
    said = refused(capsys, "train", "demo", "--layout.convolution=lax")
    assert "--layout.convolution has no effect with --network.kind mlp; leave it out" in said


def test_parameters_divided_among_devices_that_are_no_part_of_all(capsys):
    said = refused(capsys, "train", "demo", "--layout.shards=3", "--layout.parameters=2")
    assert "--layout.parameters is 2, which does not divide --layout.shards 3; change one of them" in said


def test_missing_data_says_where_to_put_it(capsys):
    said = refused(capsys, "train", OMNIGLOT, *SMALL)
    assert "Omniglot is missing: put images_background.zip and images_evaluation.zip into" in said
    assert f"{store.cache_dir()}/data/omniglot" in said


def test_data_directory_that_is_not_there(capsys):
    assert "--data-dir is nowhere, which is not a directory" in refused(capsys, "train", OMNIGLOT, "--data-dir=nowhere")


def test_miniimagenet_that_is_not_there(capsys):
    assert "miniImageNet is missing" in refused(capsys, "train", "miniimagenet-5way-1shot", "--data-dir=.")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"])
def test_empty_or_truncated_archive(capsys, tmp_path, content):
    for name in omniglot.ARCHIVES:
        (tmp_path / name).write_bytes(content)
    said = refused(capsys, "train", OMNIGLOT, "--data-dir=.")
    assert f"images_background.zip ({len(content)} bytes) is not a whole zip archive" in said


@pytest.fixture
def tiny_omniglot(monkeypatch):
    """Two training characters instead of the real data."""
    few = omniglot.Labelled(np.zeros((16, 28, 28, 1), np.uint8), np.repeat(np.arange(4), 4).astype(np.int32))
    monkeypatch.setattr(omniglot, "load", lambda *_: dict.fromkeys(omniglot.PARTS, few))


@pytest.mark.usefixtures("tiny_omniglot")
def test_more_ways_than_classes(capsys):
    said = refused(capsys, "train", OMNIGLOT, *SMALL)
    assert (
        "train part of the data does not give such episodes: ways=5, but there are only 4 classes; lower ways" in said
    )


@pytest.mark.usefixtures("tiny_omniglot")
def test_more_shots_and_queries_than_images(capsys):
    said = refused(capsys, "train", OMNIGLOT, *SMALL, "--tasks.ways=4", "--tasks.shots=3", "--tasks.queries=2")
    assert "shots=3 + queries=2 examples are asked of every class, but class 0 has only 4" in said


@pytest.mark.usefixtures("tiny_omniglot")
def test_test_episodes_that_cannot_be_drawn_are_refused_before_training(capsys):
    said = refused(capsys, "train", OMNIGLOT, *SMALL, "--tasks.ways=4", "--evaluation.queries=9")
    assert "val part of the data does not give such episodes" in said
    assert not list(Path().rglob("step-*"))


@pytest.mark.usefixtures("run")
def test_a_run_under_other_settings(capsys):
    said = refused(capsys, "train", "demo", "--run-dir=run", *TINY, "--inner.learning-rate=0.5")
    assert "run was started with --inner.learning-rate 0.001 (now 0.5); give the same settings" in said
    assert "--inner.steps belongs to the run" in refused(capsys, "evaluate", "run", "--inner.steps=3")
    assert "--seed belongs to the run" in refused(capsys, "report", "run", "--seed=3")
    assert "leave it out" in refused(capsys, "resume", "run", "--run-dir=elsewhere")
    said = refused(capsys, "train", "demo", "--run-dir=run", *TINY, "--layout.adjoint=reverse")
    assert "--layout.adjoint is reverse, but run was started with mixed, on which its bits depend" in said


@pytest.mark.usefixtures("run")
def test_a_checkpoint_of_another_configuration(capsys):
    rewritten("config.json", lambda values: values["config"]["network"].update(widths=[5]))
    said = refused(capsys, "evaluate", "run")
    assert "another configuration: it was written with --network.widths [4], and this run has [5]" in said


@pytest.mark.usefixtures("run")
def test_a_flipped_bit_falls_back_and_says_so(capsys):
    state = Path("run/checkpoints/step-000000040/state.safetensors")
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)
    assert cli.run(["train", "demo", "--run-dir=run", *TINY]) == 0
    said = capsys.readouterr().out
    assert "step-000000040 is damaged" in said
    assert "continuing after meta-step 35" in said


@pytest.mark.usefixtures("run")
def test_a_configuration_of_another_version(capsys):
    rewritten("config.json", lambda values: values["config"]["inner"].update(rate=1.0))
    assert "config.json cannot be read: This is no configuration of this version" in refused(capsys, "report", "run")
    rewritten("config.json", lambda values: values.update(format=99))
    assert "has the format 99, this version reads 3" in refused(capsys, "report", "run")


@pytest.mark.usefixtures("run")
def test_a_run_that_was_never_trained(capsys):
    for path in Path("run/checkpoints").rglob("*.json"):
        path.unlink()
    assert cli.run(["evaluate", "run"]) == 2
    assert "No checkpoint in run/checkpoints is whole, so training cannot go on" in capsys.readouterr().err
    shutil.rmtree("run/checkpoints")
    assert "no whole checkpoint; start training with: innerloop resume run" in refused(capsys, "evaluate", "run")


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"\xff\xfe", "config.json is damaged: it is no JSON"),
        ("config.json", b"[1]", "config.json is damaged: it holds no object"),
        ("config.json", b'{"iterations": "many"}', "config.json carries no checksum"),
        ("config.json", b"", "config.json is damaged"),
        ("environment.json", b"{}", "environment.json is missing or damaged"),
        ("environment.json", None, "environment.json is missing or damaged"),
    ],
)
def test_damaged_files_of_a_run(capsys, file, content, message):
    path = Path("run", file)
    path.unlink() if content is None else path.write_bytes(content)
    assert cli.run(["report", "run"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize(
    ("setting", "value"), [(("outer", "iterations"), "many"), (("network", "kind"), "vgg"), (("seed",), True)]
)
def test_a_value_of_the_wrong_kind_in_a_configuration(capsys, setting, value):
    def change(values):
        part = values["config"][setting[0]] if len(setting) > 1 else values["config"]
        part[setting[-1]] = value

    rewritten("config.json", change)
    assert f"{'.'.join(setting)} is {value!r}" in refused(capsys, "report", "run")


@pytest.mark.usefixtures("run")
def test_damaged_records_and_evaluation_are_made_again(capsys):
    Path("run/evaluation.json").write_text("{bad")
    with Path("run/metrics.jsonl").open("ab") as file:
        file.write(b'\xff\n[1]\n{"loss": 1}\n')
    assert cli.run(["report", "run"]) == 0
    assert json.loads(Path("run/evaluation.json").read_text())["meta_steps"] == 40


def test_a_cache_that_cannot_be_made(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "file"))
    assert "set INNERLOOP_CACHE to a folder that can" in refused(capsys, "train", OMNIGLOT, *SMALL)
    assert cli.run(["doctor"]) == 2
    assert "cannot be made (File exists)" in capsys.readouterr().out


def test_a_second_process_on_the_same_run(capsys, tmp_path):
    holder = "import sys, time; from innerloop.runs.rundir import locked; from pathlib import Path\n"
    holder += "with locked(Path('run')): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holder], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        said = refused(capsys, "train", "demo", "--run-dir=run", *TINY)
        assert f"run is in use by the process {process.pid}" in said
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_run_directory_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    said = refused(capsys, "train", "demo", "--run-dir=file/run", *TINY)
    assert "run directory file/run cannot be written (Not a directory); choose another --run-dir" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.usefixtures("run")
def test_a_full_disk(capsys):
    """The records go to a device that is always full; the last checkpoint stays."""
    for path in sorted(Path("run/checkpoints").iterdir())[1:]:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    Path("run/metrics.jsonl").unlink()
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *TINY],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert "metrics.jsonl could not be written (No space left on device); make room" in process.stderr
    assert len(list(Path("run/checkpoints").glob("step-*"))) == 1


FULL_DISK = """
import sys
from pathlib import Path
from innerloop.cli import main as cli
from innerloop.runs import rundir as run
run.Run.truncate_records, run.Run.records = lambda self, step: 0, lambda self: []
Path("run/metrics.jsonl").symlink_to("/dev/full")
cli.main(["train", "demo", "--run-dir=run", *sys.argv[1:]])
"""


def test_an_inner_loop_that_diverges(capsys):
    arguments = ["train", "demo", "--run-dir=run", *TINY, "--inner.learning-rate=1e6", "--inner.steps=5"]
    said = refused(capsys, *arguments)
    assert "Training diverged: " in said
    assert "with --inner.learning-rate 1e+06 and --outer.learning-rate 0.001; lower one of them" in said
    assert not Path("run/checkpoints").exists()
    [step] = Path("run/skipped").glob("step-*")
    assert (step / "state.safetensors").exists()
    assert json.loads(Path("run/skipped/tasks.json").read_text())["not_finite"]


def test_a_missing_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = refused(capsys, "train", "demo", *TINY, "--log.to", "tensorboard")
    assert "pip install 'innerloop[tensorboard]'" in said


def test_without_matplotlib_all_but_the_report_is_done(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.run(["train", "demo", "--run-dir=run", *TINY]) == 0
    assert "no report: The report needs matplotlib" in capsys.readouterr().out
    assert Path("run/evaluation.json").exists()
