"""A sample of `make test-faults`: flips over a finished run, fuzzed configurations, a kill, a full disk."""

import os
import subprocess
import sys

import pytest

from faults import flips, runs, streams
from innerloop.cli import main as cli


def none(count):
    assert (count.lost, count.silent, count.tracebacks) == (0, 0, 0), count.remarks


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, which is never changed for good."""
    folder = tmp_path_factory.mktemp("faults")
    before = os.environ.get("INNERLOOP_CACHE")
    os.environ["INNERLOOP_CACHE"] = str(folder / "cache")
    try:
        assert cli.run(["train", *runs.ARGUMENTS["episodes"], f"--run-dir={folder / 'run'}"]) == 0
    finally:
        os.environ.pop("INNERLOOP_CACHE")
        if before is not None:
            os.environ["INNERLOOP_CACHE"] = before
    return folder


def test_no_flipped_bit_and_no_end_cut_off_is_taken_for_a_value(finished):
    count = runs.Count()
    archive = streams.archive(finished / "images.zip")
    flips.damage(finished / "run", finished / "cache", archive, flips=150, cuts=30, count=count)
    assert count.tried == 180
    none(count)


def test_fuzzed_configurations_and_heads_are_refused_in_a_sentence(finished):
    none(streams.fuzzed(finished / "run", 40))


@pytest.mark.slow
def test_a_run_that_is_killed_and_whose_operations_fail_ends_in_the_same_bits(tmp_path):
    command = [sys.executable, "-m", "faults", "--parts=runs", "--kinds=episodes", f"--folder={tmp_path / 'runs'}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    limits = ["--seconds=20", "--kills=2", "--stride=30"]
    done = subprocess.run([*command, *limits], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
