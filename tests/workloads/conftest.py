"""A tiny finished run, trained once and copied into each test that asks for it."""

import os
import shutil
from pathlib import Path

import pytest

from innerloop.cli import main as cli
from workloads.program import TINY


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    try:
        os.chdir(directory)
        assert cli.run(["train", "demo", "--run-dir=run", *TINY]) == 0
    finally:
        os.chdir(before)
    return directory / "run"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run as `run` in the test's own directory."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))
