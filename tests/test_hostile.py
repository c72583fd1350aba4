"""Archives, images and tables that somebody made to break a reader: each is refused in one sentence, at little cost."""

import io
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from innerloop.errors import InnerloopError
from innerloop.pictures import ImageFormat
from innerloop.workloads.episodes.data.archive import read_members
from innerloop.workloads.tabular import audit
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.tables import Table, label_texts, read

pyarrow = pytest.importorskip("pyarrow")


def png(width, height, body=b"", kind=0):
    """A PNG file that declares a size, whatever it holds."""
    chunk = lambda name, data: (  # noqa: E731
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    )
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def tiff(width, height):
    """The head of a TIFF file of that size, without its pixels."""
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 2**31 - 1)]
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + body + b"\x00" * 4


def whole(kind="PNG", mode="L"):
    buffer = io.BytesIO()
    Image.new(mode, (9, 9)).save(buffer, kind)
    return buffer.getvalue()


PICTURES = {
    "empty": b"",
    "text": b"no image",
    "60,000 squared": png(60_000, 60_000),
    "15,000 squared": png(15_000, 15_000, b"\0" * 15_001 * 100),
    "2^31 - 1 wide": png(2**31 - 1, 1),
    "2^32 - 1 squared": png(2**32 - 1, 2**32 - 1),
    "no pixels": png(0, 0),
    "too few pixels": png(100, 100, b"\0" * 10),
    "bad kind": png(10, 10, b"\0" * 110, kind=7),
    "tiff of 15,000 squared": tiff(15_000, 15_000),
    "tiff of 2^32 - 1": tiff(2**32 - 1, 2**32 - 1),
    "tiff without pixels": tiff(20, 20),
    "tiff cut off": tiff(20, 20)[:40],
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n",
    "pdf": b"%PDF-1.4\n%%EOF",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "ico of a png": b"\0\0\1\0\1\0\0\0\0\0\0\0\x20\0" + struct.pack("<II", 60, 22) + png(60_000, 60_000),
    "gif cut off": whole("GIF")[:20],
    "jpeg cut off": whole("JPEG")[:100],
    "bmp of negative size": b"BM"
    + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHH6I", 40, -9, -9, 1, 24, *[0] * 6),
    "webp cut off": whole("WEBP", "RGB")[:24],
    "png with a bad checksum": whole()[:40] + b"\xff" + whole()[41:],
}


@pytest.mark.parametrize("content", PICTURES.values(), ids=PICTURES)
def test_pictures_that_are_none(tmp_path, content):
    file = tmp_path / "a.png"
    file.write_bytes(content)
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InnerloopError, match=r"a\.png cannot be read as an image \(.+\); mend or remove it"):
            ImageFormat(28, 28, 1).read([file])
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP"])
def test_pictures_that_are_some(tmp_path, kind):
    file = tmp_path / "a.png"
    file.write_bytes(whole(kind, "RGB" if kind == "WEBP" else "L"))
    assert ImageFormat(9, 9, 1).read([file]).shape == (1, 9, 9, 1)


def zipped(*members, **flags):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def poked(content, *pairs):
    """Bytes with others in their place."""
    for old, new in pairs:
        assert old in content
        content = content.replace(old, new)
    return content


GOOD = zipped(("a/1.png", b"12345"), ("a/2.png", b"67890"))
OLD_METHOD = b"\x14\x03\x14\x00\x00\x00\x08\x00"
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def flagged(content, bit):
    """All members with a bit of their flags set."""
    changed = bytearray(content)
    for signature, offset in ((LOCAL, 6), (CENTRAL, 8)):
        at = content.find(signature)
        while at >= 0:
            changed[at + offset + bit // 8] |= 1 << bit % 8
            at = content.find(signature, at + 1)
    return bytes(changed)


ARCHIVES = {
    "empty": b"",
    "text": b"no archive",
    "cut in the directory": GOOD[:-30],
    "cut in a member": GOOD[:40],
    "end record alone": GOOD[GOOD.index(END) :],
    "name that is no utf-8": flagged(poked(GOOD, (b"a/1.png", b"\xff/1.png")), 11),
    "encrypted": flagged(GOOD, 0),
    "other method": poked(
        GOOD, (CENTRAL + b"\x14\x03\x14\x00\x00\x00\x08\x00", CENTRAL + b"\x14\x03\x14\x00\x00\x00\x63\x00")
    ),
    "wrong checksum": poked(GOOD, (struct.pack("<I", zlib.crc32(b"12345")), b"\1\2\3\4")),
    "absolute": zipped(("/etc/1.png", b"1")),
    "outside": zipped(("../1.png", b"1")),
    "outside, backwards": zipped(("..\\1.png", b"1")),
    "drive": zipped(("C:/1.png", b"1")),
    "bomb": zipped(("1.png", b"\0" * 33 * 2**20)),
    "ratio": zipped(("1.png", b"\0" * 2**20)),
    "other names in head and directory": poked(
        GOOD, (LOCAL + GOOD[4:30] + b"a/1.png", LOCAL + GOOD[4:30] + b"b/9.png")
    ),
    "offset beyond the end": GOOD[:-6] + struct.pack("<I", 2**31 - 1)[:4] + GOOD[-2:],
    "comment longer than the file": GOOD[:-2] + b"\xff\xff",
    "directory of other size": GOOD[:-10] + struct.pack("<I", 3) + GOOD[-6:],
    "huge count": GOOD[: GOOD.index(END) + 8] + b"\xff\xff\xff\xff" + GOOD[GOOD.index(END) + 12 :],
}


@pytest.mark.parametrize("content", ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_are_none(tmp_path, content):
    """Refused in a sentence; or, where only what zip itself ignores was changed, read to the same bytes."""
    file = tmp_path / "a.zip"
    file.write_bytes(content)
    said = ""
    try:
        assert list(read_members(file, ".png")) == [("a/1.png", b"12345"), ("a/2.png", b"67890")]
    except InnerloopError as error:
        said = str(error)
    assert not said or str(file) in said


def parquet(path, columns, **options):
    import pyarrow.parquet

    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    pyarrow.parquet.write_table(table, path, **options)


def damaged(path):
    content = bytearray(path.read_bytes())
    for at in range(4, 4 + len(content) // 3):
        content[at] ^= 0x5A
    path.write_bytes(bytes(content))


def everything(path):
    """All that training reads of a table."""
    table = Table(path)
    described = table.described(list(table.columns))
    for name, column in described.items():
        label_texts(table, name)
        if not column.problem:
            read(table, [column])


def make_parquet(path, name):
    rows = pyarrow.array([f"row {i} " * 50 for i in range(2000)])
    if name == "two columns of one name":
        parquet(path, pyarrow.Table.from_arrays([rows, rows], ["a", "a"]))
    elif name == "no utf-8":
        raw = pyarrow.array([b"\xff\xfe", b"ok"] * 1000)
        parquet(path, {"a": pyarrow.Array.from_buffers(pyarrow.string(), 2000, raw.buffers())})
    elif name == "corrupt pages":
        parquet(path, {"a": rows}, compression="snappy", use_dictionary=False)
        damaged(path)
    elif name == "cut off":
        parquet(path, {"a": rows})
        path.write_bytes(path.read_bytes()[:-100])
    elif name == "magic alone":
        path.write_bytes(b"PAR1PAR1")
    elif name == "huge footer":
        path.write_bytes(b"PAR1" + b"\0" * 20 + struct.pack("<I", 2**31 - 1) + b"PAR1")
    elif name == "folder":
        path.mkdir()


PARQUETS = ["two columns of one name", "no utf-8", "corrupt pages", "cut off", "magic alone", "huge footer", "folder"]


@pytest.mark.parametrize("name", PARQUETS)
def test_parquet_files_that_are_none(tmp_path, name):
    path = tmp_path / "a.parquet"
    make_parquet(path, name)
    with pytest.raises(InnerloopError, match=r"a\.parquet"):
        everything(path)


CSVS = {
    "brackets": b"a,b\n" + b"[" * 20_000 + b",1\n" + b"[" * 20_000 + b",2\n",
    "one bracket each": b"a\n[\n[\n",
    "nested": b"a\n" + b"[[1]]\n" * 3,
    "a number of 400 digits": b"a\n" + b"9" * 400 + b"\n1\n",
    "a list of it": b"a\n[" + b"9" * 400 + b"]\n[1]\n",
    "1e999": b"a\n1e999\n-1e999\n",
    "nul bytes": b"a,b\n\0\0,\0\n1,2\n",
    "no utf-8": b"a,b\n\xff\xfe,1\n",
    "utf-16": "a,b\n1,2\n".encode("utf-16"),
    "an open quote": b'a,b\n"1,2\n3,4\n',
    "other lengths": b"a,b\n1\n1,2,3\n",
    "one column twice": b"a,a\n1,2\n",
    "no name": b",\n1,2\n",
    "head alone": b"a,b\n",
    "blank lines": b"\n\n\n",
    "a line of a million commas": b"," * 10**6 + b"\n",
    "a cell of a million letters": b"a,b\n" + b"x" * 10**6 + b",1\n",
    "carriage returns": b"a,b\r1,2\r3,4\r",
    "formula": b"a,b\n=cmd|' /C calc'!A0,1\n",
}


@pytest.mark.parametrize("content", CSVS.values(), ids=CSVS)
def test_csv_files_are_read_or_refused(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    began, said = time.monotonic(), ""
    try:
        with np.errstate(all="ignore"):
            everything(path)
    except InnerloopError as error:
        said = str(error)
    assert not said or "a.csv" in said
    assert time.monotonic() - began < 60


def test_a_folder_with_one_class_is_told_before_training(tmp_path, capsys):
    for i in range(4):
        Path(tmp_path, "pictures", "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / "cat" / f"{i}.png").write_bytes(whole())
    assert audit.examine(Config(data=str(tmp_path / "pictures")), print) == 1
    assert (
        "! training refuses it: There are 1 classes; tasks of 5 classes (--ways) need at least 15"
        in capsys.readouterr().out
    )
