"""Where the user's cache is, and writing files whole or not at all, also when the machine stops in the middle."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from innerloop.errors import InnerloopError


def cache_dir() -> Path:
    """The user's cache: `INNERLOOP_CACHE`, else `innerloop` under `XDG_CACHE_HOME` or `~/.cache`; mode 0700.

    Raises:
        InnerloopError: if it cannot be made.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(os.environ.get("INNERLOOP_CACHE") or Path(base) / "innerloop")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InnerloopError(
            f"The cache folder {path} cannot be made ({error.strerror}); set INNERLOOP_CACHE to a folder that can."
        ) from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, as UTF-8.

    Args:
        path: the file; its folder must exist.
        text: what it then holds.

    Raises:
        InnerloopError: if it cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: after a power cut too, it holds its old content or its new one.

    Args:
        path: the file; its folder must exist.
        content: what it then holds.

    Raises:
        InnerloopError: if it cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_bytes(Path(folder, "a.bin"), b"abc")
        ...     [(file.name, file.read_bytes()) for file in Path(folder).iterdir()]
        [('a.bin', b'abc')]
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InnerloopError(
            f"{path} could not be written ({error.strerror or error}); mend that and give the same command again."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


LOCK = ".lock"
"""The file by which a process keeps others out of a folder."""
PARTIAL = re.compile(r"\..+\.(\d+)")
"""The name of a file that is being written, with the number of the process that writes it."""
HALF_FOLDER = re.compile(r"(?:partial|trash)-\d+-(?:step-)?\d+")
"""The name of a checkpoint that is being written or removed, with the number of the process that does."""


def remove_partial(folder: Path) -> None:
    """Remove what processes that were killed have left half written, in a folder and those within it.

    Args:
        folder: where nothing else is writing now.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in (".a.bin.123", "a.bin", ".lock"):
        ...         _ = Path(folder, name).write_bytes(b"abc")
        ...     Path(folder, "trash-123-step-000000001").mkdir()
        ...     remove_partial(Path(folder))
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['.lock', 'a.bin']
    """
    entries: list[Path] = []
    with suppress(OSError):
        entries = list(folder.iterdir())
    for entry in entries:
        if entry.is_symlink() or not entry.is_dir():
            if PARTIAL.fullmatch(entry.name):
                with suppress(OSError):
                    entry.unlink()
        elif HALF_FOLDER.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
        elif not (entry / LOCK).exists():  # another run within this one, which may be written to
            remove_partial(entry)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last; a file system that cannot is left to itself."""
    number = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(number)
    finally:
        os.close(number)
