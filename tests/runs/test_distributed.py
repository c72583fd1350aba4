"""Two processes of two devices each do what one process with four does, to the last bit, also when one is killed."""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from innerloop.cli import main as cli
from innerloop.runs import checkpoint, codec
from runs.spread import SETTINGS
from workloads.program import command

TESTS = Path(__file__).parents[1]
PATIENCE = 150
"""Seconds after which a test gives up, on a machine that does much else."""


@contextlib.contextmanager
def started(directory: Path, *commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes, none of which outlives the test."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    running = [
        subprocess.Popen(
            words,
            cwd=directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()  # what computes ends with what watches over it
            process.wait()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit status of a process, and what it said."""
    said, complained = process.communicate(timeout=PATIENCE)
    return process.returncode, said, complained


def free_port() -> int:
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return at.getsockname()[1]


def of_two(port: int, process: int, *more: str) -> list[str]:
    given = [f"--{codec.flag(name)}={value}" for name, value in SETTINGS.items() if name != "network.widths"]
    small = ["--evaluation.no-baselines", "--evaluation.tasks=4", "--log.checkpoint-seconds=0", "--run-dir=run"]
    where = ["--distributed", f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"]
    return command("train", "demo", *given, "--network.widths", "4", *small, *where, *more)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process with four devices learns."""
    script = [sys.executable, str(TESTS / "runs" / "spread.py"), "4"]
    with started(tmp_path_factory.mktemp("alone"), script) as (process,):
        status, said, complained = ended(process)
    assert status == 0, complained
    return json.loads(said.splitlines()[-1])


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_a_restart_goes_on_to_the_same_bits(alone, tmp_path):
    port = free_port()
    with started(tmp_path, of_two(port, 0), of_two(port, 1)) as (first, second):
        deadline = time.monotonic() + PATIENCE
        while not any((tmp_path / "run" / "checkpoints").glob("step-*")):
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            time.sleep(0.02)
        second.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        status, _, complained = ended(first)
        assert time.monotonic() - killed < 100
        ended(second)
    assert status == 2
    assert re.fullmatch(r"innerloop: Another process of this run ended .* from the last checkpoint\.\n", complained)
    reached = max(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert reached < "step-000000600"

    port = free_port()
    with started(tmp_path, of_two(port, 0), of_two(port, 1)) as both:
        (status, said, complained), (other, silence, _) = map(ended, both)
    assert (status, other) == (0, 0), complained
    assert silence == ""
    assert "continuing after meta-step" in said
    assert "5-shot" in said  # the first process evaluated
    content = (tmp_path / "run" / "checkpoints" / "step-000000600" / checkpoint.STATE).read_bytes()
    assert hashlib.sha256(content).hexdigest() == alone["checkpoint"]


@pytest.mark.slow
def test_each_process_steps_its_own_simulators_to_the_same_bits(alone, tmp_path):
    port = free_port()
    script = [sys.executable, str(TESTS / "runs" / "spread.py"), "2", f"127.0.0.1:{port}", "2"]
    with started(tmp_path, [*script, "0"], [*script, "1"]) as both:
        found = [ended(process) for process in both]
    assert [status for status, _, _ in found] == [0, 0], found
    told = [json.loads(said.splitlines()[-1]) for _, said, _ in found]
    for one in told:
        assert (one["policy"], one["told"]) == (alone["policy"], alone["told"])
    assert all(one["simulated"] for one in told)
    assert sum(one["simulated"] for one in told) == alone["simulated"]


@pytest.mark.slow
def test_processes_that_differ_are_refused_by_all(tmp_path):
    port = free_port()
    with started(tmp_path, of_two(port, 0), of_two(port, 1, "--inner.steps=3")) as both:
        found = [ended(process) for process in both]
    assert [status for status, _, _ in found] == [2, 2]
    for _, _, complained in found:
        assert "The processes of this run differ in --inner.steps: 1 in process 0, 3 in process 1" in complained
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_coordinator_that_is_not_there(tmp_path):
    begun = time.monotonic()
    with started(tmp_path, of_two(free_port(), 1, "--patience=5")) as (process,):
        status, _, complained = ended(process)
    assert status == 2
    assert "did not meet at 127.0.0.1:" in complained
    assert len(complained.splitlines()) == 1
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--processes=2"], "--processes has no effect without --distributed"),
        (["--distributed", "--processes=two"], "--processes is 'two'; give a whole number"),
        (["--distributed", "--coordinator=here"], "--coordinator is 'here'; give HOST:PORT"),
        (["--distributed", "--processes=2", "--process=2"], "--process is 2 of --processes 2"),
        (["--distributed", "--patience=1"], "--patience is 1; it must be at least 5"),
    ],
)
def test_options_that_cannot_be(arguments, sentence, capsys):
    assert cli.run(["train", "demo", *arguments]) == 2
    assert sentence in capsys.readouterr().err
