"""Data sets: found, fetched, prepared, cached; the real Omniglot where it lies at hand."""

import csv
import hashlib
import io
import os
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from innerloop import InnerloopError
from innerloop.runs import store
from innerloop.workloads.episodes.data import glyphs, miniimagenet, omniglot

DATA = os.environ.get(store.VARIABLE)
HERE = DATA is not None and (Path(DATA) / "omniglot" / "images_background.zip").exists()
needs_omniglot = pytest.mark.skipif(not HERE, reason=f"{store.VARIABLE} does not lead to Omniglot")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own, and no data directory unless the test gives one."""
    monkeypatch.setenv("INNERLOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(store.VARIABLE, raising=False)


def quiet(message):
    pass


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_omniglot(folder, characters=(3, 2), side=105, drawers=2):
    """Archives in the shape of the official ones: `characters` in the two, one-bit images with ink 0."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for name, count in zip(omniglot.ARCHIVES, characters, strict=True):
        with zipfile.ZipFile(folder / name, "w") as file:
            for character in range(count):
                number += 1
                for drawer in range(drawers):
                    picture = Image.new("1", (side, side), 1)
                    picture.paste(0, (10 * number, 5, 10 * number + 9, 100))
                    stem = name.removesuffix(".zip")
                    path = f"{stem}/Alphabet_{stem[-4:]}/character{character + 1:02}/{number:04}_{drawer + 1:02}.png"
                    file.writestr(path, png(picture))


@pytest.fixture
def five_characters(monkeypatch):
    monkeypatch.setattr(omniglot, "CHARACTERS", 5)
    monkeypatch.setattr(omniglot, "DRAWERS", 2)
    parts = {"train": np.arange(3), "val": np.array([3]), "test": np.array([4])}
    monkeypatch.setattr(omniglot, "_random_split", lambda seed: parts)


def load(folder, **options):
    defaults = {"split": "random", "split_seed": 0, "rotations": True, "announce": quiet}
    return omniglot.load(str(folder), **defaults | options)


def test_omniglot_is_read_inverted_and_turned(tmp_path, five_characters):
    write_omniglot(tmp_path / "omniglot")
    parts = load(tmp_path)
    assert parts["train"].x.shape == (3 * 2 * 4, 28, 28, 1)
    assert len(np.unique(parts["train"].y)) == 12
    assert parts["test"].x.dtype == np.uint8
    upright = parts["test"].x[parts["test"].y == 16]
    assert upright.max() > 200  # ink is bright, paper dark
    assert np.median(upright) == 0
    assert load(tmp_path, rotations=False)["train"].x.shape == (6, 28, 28, 1)


def test_prepared_images_are_cached_and_the_cache_is_checked(tmp_path, five_characters):
    write_omniglot(tmp_path / "omniglot")
    said = []

    def announce(text):
        if not text.startswith("note:"):  # that these are not the published archives
            said.append(text)

    first = load(tmp_path, announce=announce)
    load(tmp_path, announce=announce)
    assert len(said) == 1
    (cached,) = (store.cache_dir() / "prepared").iterdir()
    content = bytearray(cached.read_bytes())
    content[-40] ^= 1
    cached.write_bytes(content)
    again = load(tmp_path, announce=announce)
    assert len(said) == 2
    assert (first["train"].x == again["train"].x).all()
    assert (store.cache_dir().stat().st_mode & 0o777) == 0o700


def test_the_vinyals_lists_decide_where_they_are_asked_for(tmp_path, five_characters):
    write_omniglot(tmp_path / "omniglot")
    lists = tmp_path / "omniglot" / "splits" / "vinyals"
    lists.mkdir(parents=True)
    members = {"train": ["Alphabet_ound/character01", "Alphabet_tion/character02"], "val": [], "test": []}
    for part, names in members.items():
        (lists / f"{part}.txt").write_text("".join(f"{name}/rot{r:03}\n" for name in names for r in (0, 90, 180, 270)))
    assert len(np.unique(load(tmp_path, split="vinyals")["train"].y)) == 8
    (lists / "val.txt").write_text("Nowhere/character01/rot000\n")
    with pytest.raises(InnerloopError, match="'Nowhere/character01', which the archives do not hold"):
        load(tmp_path, split="vinyals")


def test_archives_that_are_not_the_published_ones_are_told(tmp_path, five_characters):
    write_omniglot(tmp_path / "omniglot")
    said = []
    for _ in range(2):  # also where the images were prepared before
        load(tmp_path, announce=said.append)
    assert sum("images_background.zip is not the published archive (its MD5 is" in line for line in said) == 2


def test_archives_of_something_else_are_refused(tmp_path, five_characters):
    write_omniglot(tmp_path / "small", side=64)
    with pytest.raises(InnerloopError, match="64x64 pixels instead of 105x105"):
        load(tmp_path / "small")
    write_omniglot(tmp_path / "few", characters=(1, 1))
    with pytest.raises(InnerloopError, match="hold 2 characters instead of 5"):
        load(tmp_path / "few")
    write_omniglot(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "text" / "images_evaluation.zip", "a") as file:
        file.writestr("images_evaluation/A/character01/0001_01.png", b"no image")
    with pytest.raises(InnerloopError, match="which is no image of Omniglot"):
        load(tmp_path / "text")


def test_a_data_directory_that_is_none_is_refused(tmp_path, monkeypatch):
    with pytest.raises(InnerloopError, match=r"--data-dir is .*nowhere, which is not a directory"):
        load(tmp_path / "nowhere")
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(InnerloopError, match="INNERLOOP_DATA is"):
        omniglot.load(None, "random", 0, True, quiet)


class Server:
    """A web server on loopback for the files of a folder."""

    def __init__(self, folder):
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_missing_archives_are_fetched_with_their_checksum(tmp_path, five_characters, monkeypatch):
    write_omniglot(tmp_path / "web")
    digests = {name: hashlib.md5((tmp_path / "web" / name).read_bytes()).hexdigest() for name in omniglot.ARCHIVES}
    (tmp_path / "empty").mkdir()
    with Server(tmp_path / "web") as url:
        monkeypatch.setattr(omniglot, "URL", url)
        with pytest.raises(InnerloopError, match=r"has the md5 .*it was not kept"):
            load(tmp_path / "empty")
        assert not list(store.cache_dir().rglob("*.zip*"))
        monkeypatch.setattr(omniglot, "ARCHIVES", digests)
        assert load(tmp_path / "empty")["train"].x.shape[0] == 24
        with pytest.raises(InnerloopError, match=r"could not be fetched .*404"):
            store.download(f"{url}/missing.zip", tmp_path / "x.zip", algorithm="md5", checksum="")
    assert load(tmp_path / "empty")["train"].x.shape[0] == 24  # and is found again without the server


def test_missing_omniglot_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9")
    message = f"Omniglot is missing: put images_background.zip and images_evaluation.zip into {tmp_path}/omniglot"
    with pytest.raises(InnerloopError, match=message):
        load(tmp_path)


def write_miniimagenet(folder, omit=()):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, name in miniimagenet.LISTS.items():
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label"])
            for label in ("n2", "n1"):
                for i in range(3):
                    filename = f"{part}{label}{i}.jpg"
                    writer.writerow([filename, label])
                    if filename not in omit:
                        (folder / "images" / label).mkdir(parents=True, exist_ok=True)
                        picture = Image.fromarray(rng.integers(0, 255, (84, 84 + i, 3), np.uint8))
                        picture.save(folder / "images" / label / filename)


def test_miniimagenet_is_found_by_its_lists(tmp_path):
    write_miniimagenet(tmp_path / "miniimagenet")
    said = []
    parts = miniimagenet.load(str(tmp_path), said.append)
    assert {part: each.x.shape for part, each in parts.items()} == dict.fromkeys(miniimagenet.LISTS, (6, 84, 84, 3))
    assert parts["test"].y.tolist() == [1, 1, 1, 0, 0, 0]
    miniimagenet.load(str(tmp_path), said.append)
    assert len(said) == 3


def test_miniimagenet_that_is_not_whole_is_refused(tmp_path):
    with pytest.raises(InnerloopError, match="miniImageNet is missing: put its images and the lists"):
        miniimagenet.load(str(tmp_path), quiet)
    write_miniimagenet(tmp_path / "a", omit=["valn10.jpg"])
    with pytest.raises(InnerloopError, match=r"val.csv lists 1 images that are not below .*, the first valn10.jpg"):
        miniimagenet.load(str(tmp_path / "a"), quiet)
    write_miniimagenet(tmp_path / "b")
    (tmp_path / "b" / "images" / "n1" / "trainn11.jpg").write_bytes(b"no image")
    with pytest.raises(InnerloopError, match=r"trainn11.jpg cannot be read as an image"):
        miniimagenet.load(str(tmp_path / "b"), quiet)
    (tmp_path / "b" / "train.csv").write_text("file;class\n")
    with pytest.raises(InnerloopError, match="it needs filename and label"):
        miniimagenet.load(str(tmp_path / "b"), quiet)


@needs_omniglot
def test_the_real_omniglot(monkeypatch):
    monkeypatch.setenv(store.VARIABLE, DATA)
    random = omniglot.load(None, "random", 0, True, quiet)
    assert {part: len(np.unique(each.y)) for part, each in random.items()} == {"train": 4400, "val": 400, "test": 1692}
    assert all((np.bincount(each.y)[np.unique(each.y)] == 20).all() for each in random.values())
    train = random["train"].x / 255
    assert 0.05 < train.mean() < 0.15  # a tenth of an image is ink
    other = omniglot.load(None, "random", 1, True, quiet)
    assert set(np.unique(random["test"].y)) != set(np.unique(other["test"].y))
    vinyals = omniglot.load(None, "vinyals", 0, True, quiet)
    assert {part: len(np.unique(each.y)) for part, each in vinyals.items()} == {"train": 4112, "val": 688, "test": 1692}
    classes = [set(np.unique(each.y)) for each in vinyals.values()]
    assert not classes[0] & classes[1]
    assert not (classes[0] | classes[1]) & classes[2]


@pytest.fixture(scope="module")
def letters():
    """Every thirtieth letter of three faces, so that drawing takes a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "FEWEST", 3)
        chosen = glyphs._is_letter
        patch.setattr(glyphs, "_is_letter", lambda code, scripts: code % 30 == 5 and chosen(code, scripts))
        return glyphs._prepare(glyphs._faces()[:3], quiet)


def test_letters_are_drawn_in_each_face_in_the_middle(letters):
    images, labels = letters["train-images"], letters["train-labels"]
    assert images.shape == (len(labels), 28, 28, 1)
    assert images.dtype == np.uint8
    assert (np.bincount(labels) == 3).all()
    for image in images[..., 0]:
        rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
        assert abs(rows[0] - (27 - rows[-1])) <= 1
        assert abs(columns[0] - (27 - columns[-1])) <= 1
    assert len({image.tobytes() for image in images}) == len(images)


def test_scripts_are_held_out_and_no_letter_looks_like_one_of_another_part(letters):
    looks = {part: {image.tobytes() for image in letters[f"{part}-images"]} for part in glyphs.SCRIPTS}
    assert looks["train"]
    assert looks["val"]
    assert looks["test"]
    assert not looks["train"] & looks["test"]
    assert not glyphs._is_letter(ord("A"), glyphs.SCRIPTS["test"])
    assert glyphs._is_letter(0x0531, glyphs.SCRIPTS["test"])
    assert not glyphs._is_letter(ord("1"), glyphs.SCRIPTS["train"])


def test_typefaces_that_are_not_there_are_missed_in_a_sentence(monkeypatch):
    monkeypatch.setattr(glyphs, "FACES", ("Nowhere",))
    with pytest.raises(InnerloopError, match="holds 0 of matplotlib's text faces instead of 16"):
        glyphs.load(True, quiet)
