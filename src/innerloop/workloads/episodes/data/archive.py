"""Reading archives that one does not trust, without unpacking them."""

import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from innerloop.errors import InnerloopError

MAX_MEMBERS = 200_000
MAX_MEMBER_BYTES = 32 * 2**20
MAX_TOTAL_BYTES = 4 * 2**30
MAX_RATIO = 200


def read_members(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of a zip archive whose name ends in `suffix`, in the order of their names.

    Nothing is written to disk. Members that point outside the archive, links, encrypted members, and members whose size
    or ratio of compression is that of a bomb are refused, and so is an archive that is cut off or damaged.

    Args:
        path: the archive.
        suffix: for example `".png"`.

    Raises:
        InnerloopError: if the archive cannot be read or is refused; the message names the archive and the member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise InnerloopError(
                    f"{path} holds {len(members)} members, more than the {MAX_MEMBERS} that are allowed."
                )
            for member in members:
                _refuse(path, member)
            total = sum(member.file_size for member in members)
            if total > MAX_TOTAL_BYTES:
                raise InnerloopError(
                    f"{path} would unpack to {total} bytes, more than the {MAX_TOTAL_BYTES} that are allowed."
                )
            for member in sorted(members, key=lambda member: member.filename):
                if member.filename.endswith(suffix):
                    yield member.filename, archive.read(member)
    except InnerloopError:
        raise
    except Exception as error:  # zipfile and its decoders meet damaged archives with whatever Python raises
        size = path.stat().st_size if path.exists() else 0
        raise InnerloopError(
            f"{path} ({size} bytes) is not a whole zip archive ({error}); delete it and fetch it again."
        ) from error


def _refuse(path: Path, member: zipfile.ZipInfo) -> None:
    name = PurePosixPath(member.filename.replace("\\", "/"))
    reason = None
    if name.is_absolute() or ".." in name.parts or ":" in (name.parts or ("",))[0]:
        reason = "points outside the archive"
    elif stat.S_ISLNK(member.external_attr >> 16):
        reason = "is a link"
    elif member.flag_bits & 1:
        reason = "is encrypted"
    elif member.file_size > MAX_MEMBER_BYTES:
        reason = f"would unpack to {member.file_size} bytes"
    elif member.file_size > MAX_RATIO * max(member.compress_size, 1):
        reason = f"unpacks to more than {MAX_RATIO} times its size"
    if reason:
        raise InnerloopError(f"{path} is refused: its member {member.filename!r} {reason}.")
