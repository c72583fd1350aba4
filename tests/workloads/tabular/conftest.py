"""One tiny run on a user's own table, trained once."""

import os
import shutil
from pathlib import Path

import pytest

from innerloop.cli import main as cli
from workloads.tabular import sheets


@pytest.fixture(scope="session")
def trained_shops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shops")
    sheets.write(directory / "shops.csv", sheets.rows())
    before = Path.cwd()
    try:
        os.chdir(directory)
        assert cli.run(["train", "shops.csv", "--run-dir=run", *sheets.TRAIN]) == 0
    finally:
        os.chdir(before)
    return directory


@pytest.fixture
def shops(trained_shops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the directory with `shops.csv` and the finished `run`, which is also where the test runs."""
    path = Path(shutil.copytree(trained_shops, tmp_path / "shops"))
    monkeypatch.chdir(path)
    return path
