"""`compare --launch`: runs in processes of their own, the table as they finish, and a Slurm that is none."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from innerloop import InnerloopError
from innerloop.cli import main as cli
from innerloop.runs import launch, rundir
from workloads.program import TINY

SWEEP = ["compare", "demo", "--algorithms=maml,fomaml", "--output=sweep", "--launch=local:2", *TINY]
SLURM = {
    "sbatch": 'cp "$1" "$0.script"\n'  # now, as Slurm does: submitit moves its file as soon as it has the number
    'SLURM_JOB_ID=7 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 SLURM_NODEID=0 SLURM_NNODES=1 '
    'sh -c \'sh "$1" >>"$0.log" 2>&1; echo COMPLETED >"$0.state"\' "$0" "$0.script" >/dev/null 2>&1 &\n'
    "echo Submitted batch job 7",
    "srun": 'while [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift 2;; *) shift;; esac; done\nexec "$@"',
    "sacct": 'echo "JobID|State|NodeList"; echo "7|$(cat "$(dirname "$0")/sbatch.state" 2>/dev/null || echo RUNNING)|here"',  # noqa: E501
    "scontrol": "echo here",
}  # fmt: skip
"""What of Slurm submitit calls, each as a script of the shell that runs the job here."""


class Ended:
    """A job that is over."""

    def ended(self):
        return True

    def stop(self):
        return True


@pytest.fixture
def elsewhere(finished_run, monkeypatch, tmp_path):
    """Processes that finish at once: each run becomes the finished one, but those that are to fail."""
    started, failing = [], {}

    def start(self, run):
        started.append(run.name)
        assert rundir.existing(run, {"episodes": cli.workloads.registered()["episodes"]}).config.seed == 0
        if run.name in failing:
            launch.log_of(run).write_text(f"training ...\ninnerloop: {failing[run.name]}\n")
        else:
            for name in ("evaluation.json", "scores.safetensors", "metrics.jsonl", "costs.json"):
                shutil.copy(finished_run / name, run / name)
        return Ended()

    monkeypatch.setattr(launch.Local, "start", start)
    monkeypatch.chdir(tmp_path)
    return started, failing


def test_the_table_fills_and_a_second_call_has_nothing_left_to_do(elsewhere, capsys):
    started, _ = elsewhere
    assert cli.run(SWEEP) == 0
    said = capsys.readouterr().out
    assert said.index("1 of 2 runs are finished") < said.index("2 of 2 runs are finished")
    assert said.count("test tasks") >= 3  # after each, and at the end
    assert Path("sweep/comparison.json").exists()
    assert cli.run(SWEEP) == 0
    assert started == ["maml-seed0", "fomaml-seed0"]


def test_runs_that_fail_are_named_and_tried_again(elsewhere, capsys):
    started, failing = elsewhere
    failing["fomaml-seed0"] = "no space left"
    assert cli.run(SWEEP) == 2
    assert "1 of 2 runs failed, among them sweep/fomaml-seed0 (innerloop: no space left)" in capsys.readouterr().err
    failing["fomaml-seed0"] = "Training diverged: loss is nan at step 5"
    assert cli.run(SWEEP) == 0
    assert "fomaml: training diverged at 1 of 1 seeds" in capsys.readouterr().out
    assert started == ["maml-seed0", "fomaml-seed0", "fomaml-seed0"]


def test_a_run_in_a_process_of_this_machine(tmp_path, monkeypatch):
    words = [sys.executable, "-c", "import signal, time\ntry: print('up', flush=True); time.sleep(60)\nexcept BaseException as e: print(type(e))"]  # fmt: skip # noqa: E501
    monkeypatch.setattr(launch, "_command", lambda run: words)
    job = launch.Local(1).start(tmp_path / "run")
    while "up" not in launch.log_of(tmp_path / "run").read_text():
        assert not job.ended()
    assert job.stop()
    while not job.ended():
        time.sleep(0.1)
    assert "KeyboardInterrupt" in launch.log_of(tmp_path / "run").read_text()


@pytest.mark.slow
def test_a_run_by_slurm_which_is_found_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    submitit = pytest.importorskip("submitit")
    for name, script in SLURM.items():
        file = tmp_path / "bin" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(
        launch, "_command", lambda run: ["sh", "-c", f"until [ -e {tmp_path / 'go'} ]; do sleep 0.1; done; echo done"]
    )
    monkeypatch.setattr(submitit.SlurmJob, "watcher", type(submitit.SlurmJob.watcher)(delay_s=1))
    by = launch.launcher("slurm:partition=gpu,time=10", tmp_path)
    run = tmp_path / "maml-seed0"
    by.start(run)
    assert not by.start(run).ended()  # the same job, not a second one
    assert len(list((tmp_path / "slurm").glob("*_submission.sh"))) == 1
    assert "partition=gpu" in next((tmp_path / "slurm").glob("*_submission.sh")).read_text()
    (tmp_path / "go").touch()
    launch.work_off([run], by, lambda run: None, lambda seconds: time.sleep(0.1))
    assert launch.log_of(run).read_text() == "done\n"


@pytest.mark.parametrize("text", ["local", "local:0", "local:x", "slurm:gpu", "pbs"])
def test_what_cannot_be_launched(text, tmp_path):
    with pytest.raises(InnerloopError, match="give local:N for N runs at once"):
        launch.launcher(text, tmp_path)
