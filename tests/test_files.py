"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from innerloop import files
from innerloop.errors import InnerloopError


def test_text_is_written_as_utf_8_and_replaces_what_was_there(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("a longer text that was there before")
    files.write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_keeps_the_old_file_and_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InnerloopError, match=r"a\.bin could not be written \(No space left on device\); mend that"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_missing_folder_is_one_sentence(tmp_path: Path):
    with pytest.raises(InnerloopError, match="could not be written"):
        files.write_text(tmp_path / "missing" / "a.txt", "text")
