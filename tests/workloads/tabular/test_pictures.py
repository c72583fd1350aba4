"""Images are read to what a viewer shows, from the folders that people have."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from innerloop import InnerloopError
from innerloop.pictures import ImageFormat, as_seen, images_below
from innerloop.workloads.tabular import audit, pictures
from innerloop.workloads.tabular.config import Config

INK = np.array([[0, 64], [128, 255]], np.uint8)


def grey(picture):
    return np.asarray(as_seen(picture, grey=True))


@pytest.mark.parametrize(
    "stored",
    [
        Image.fromarray(INK),
        Image.fromarray(INK.astype(np.uint16) * 257),
        Image.fromarray(INK.astype(np.int32) * 257),
        Image.fromarray(INK.astype(np.float32)),
        Image.fromarray(INK.astype(np.float32) / 255),
        Image.fromarray(INK.astype(np.float32) * 257),
        Image.fromarray(INK.astype(np.float32) * 1e6 - 3e6),
        Image.fromarray(INK).convert("RGB"),
        Image.fromarray(INK).convert("P"),
        Image.merge("LA", [Image.new("L", (2, 2), 0), Image.fromarray(255 - INK)]),
        Image.merge("RGBA", [Image.new("L", (2, 2), 0)] * 3 + [Image.fromarray(255 - INK)]),
    ],
    ids=lambda picture: picture.mode,
)
def test_every_way_of_storing_an_image_reads_to_what_a_viewer_shows(stored):
    np.testing.assert_allclose(grey(stored), INK, atol=1)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_and_real_numbers_keep_their_content_through_a_file(tmp_path, suffix):
    stored = INK.astype(np.uint16) * 257 if suffix == "png" else INK.astype(np.float32) / 255
    Image.fromarray(stored).save(tmp_path / f"x.{suffix}")
    read = ImageFormat(2, 2, 1).read([tmp_path / f"x.{suffix}"])
    np.testing.assert_allclose(read[0, :, :, 0], INK, atol=1)


def test_what_is_no_number_is_black_and_a_transparent_colour_is_paper():
    values = np.array([[np.nan, 1.0], [np.inf, 0.5]], np.float32)
    np.testing.assert_allclose(grey(Image.fromarray(values)), [[0, 255], [0, 128]], atol=1)
    held = io.BytesIO()
    Image.fromarray(INK).save(held, "PNG", transparency=0)
    assert grey(Image.open(held))[0, 0] == 255


@settings(max_examples=200)
@given(st.lists(st.integers(0, 255), min_size=4, max_size=4), st.sampled_from(["L", "I;16", "F", "LA", "RGBA", "RGB"]))
def test_any_grey_values_survive_any_mode(values, mode):
    ink = np.array(values, np.uint8).reshape(2, 2)
    if mode == "I;16":
        stored = Image.fromarray(ink.astype(np.uint16) * 257)
    elif mode == "F":
        stored = Image.fromarray(np.append(ink, [[0, 255]], axis=0).astype(np.float32) / 255)
    elif mode in ("LA", "RGBA"):
        black = [Image.new("L", (2, 2), 0)] * (len(mode) - 1)
        stored = Image.merge(mode, [*black, Image.fromarray(255 - ink)])
    else:
        stored = Image.fromarray(ink).convert(mode)
    np.testing.assert_allclose(grey(stored)[:2], ink, atol=1)


def folder(root, *names, seed=0):
    random = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (4, 4)).astype(np.uint8)).save(root / name)
    return root


def test_what_programs_leave_behind_is_no_image(tmp_path):
    folder(tmp_path, "a/1.png", "b/1.png", ".ipynb_checkpoints/1.png", "a/.ipynb_checkpoints/1-checkpoint.png")
    folder(tmp_path, "__MACOSX/a/1.png")
    (tmp_path / "a" / "._1.png").write_bytes(b"Mac OS X")
    (tmp_path / "__MACOSX" / "a" / "._1.png").write_bytes(b"Mac OS X")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert [str(file.relative_to(tmp_path)) for file in images_below(tmp_path)] == ["a/1.png", "b/1.png"]


def test_folders_that_are_links_are_followed_and_circles_refused(tmp_path):
    folder(tmp_path / "elsewhere", "a/1.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    assert [file.name for file in images_below(tmp_path / "data")] == ["1.png"]
    (tmp_path / "data" / "b").symlink_to(tmp_path / "data")
    with pytest.raises(InnerloopError, match="b is a link to a folder that it lies in"):
        images_below(tmp_path / "data")


def test_images_at_several_depths_are_named(tmp_path):
    folder(tmp_path, "a/1.png", "a/b/2.png")
    with pytest.raises(InnerloopError, match=r"a/1.png lies 1 folder deep and a/b/2.png lies 2 folders deep"):
        pictures.layout_of(tmp_path, images_below(tmp_path))
    with pytest.raises(InnerloopError, match="1.png lies 0 folders deep"):
        pictures.layout_of(tmp_path / "a" / "b", images_below(folder(tmp_path / "a" / "b", "1.png")))


def laid_out(root, *names):
    folder(root, *names)
    return pictures.load(root, Config(data=str(root)))


def test_train_and_test_folders_are_parts_and_not_tasks(tmp_path):
    rows, reasons = laid_out(tmp_path, "Train/a/1.png", "Train/b/1.png", "val/c/1.png", "test/d/1.png")
    assert rows.names == ("Train", "test", "val")
    assert rows.parts == ("train", "test", "valid")
    assert rows.target.tolist() == ["a", "b", "d", "c"]
    assert any("split: by the folders Train/, test/, val/" in reason for reason in reasons)


def test_parts_that_share_classes_split_images_and_so_are_joined(tmp_path):
    rows, reasons = laid_out(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2.png")
    assert len(rows.names) == 1
    assert rows.parts is None
    assert any("share classes" in reason for reason in reasons)


def test_parts_of_tasks(tmp_path):
    rows, _ = laid_out(tmp_path, "train/t1/a/1.png", "train/t1/b/1.png", "test/t2/a/1.png", "test/t2/b/1.png")
    assert dict(zip(rows.names, rows.parts or (), strict=True)) == {"t1": "train", "t2": "test"}
    folder(tmp_path, "test/t1/a/1.png")
    with pytest.raises(InnerloopError, match="Task 't1' lies in two parts"):
        pictures.layout_of(tmp_path, images_below(tmp_path))


def test_a_folder_of_equal_images_is_marked(tmp_path):
    for name in "abc":
        for i in range(5):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (4, 4), 255).save(tmp_path / name / f"{i}.png")
    said = []
    assert audit.examine(Config(data=str(tmp_path), ways=2), said.append) == 1
    assert any(line.startswith("! 15 of 15 images show one colour alone") for line in said)


def test_damaged_images_end_in_a_sentence_that_names_them(tmp_path):
    """The fuzz of PNG, JPEG, GIF and TIFF: 300 mutations of each."""
    random = np.random.default_rng(0)
    shown = Image.fromarray(random.integers(0, 255, (12, 12, 3)).astype(np.uint8))
    read = ImageFormat(4, 4, 1)
    said = []
    for form in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        held = io.BytesIO()
        shown.save(held, form)
        whole = held.getvalue()
        path = tmp_path / f"x.{form.lower()}"
        for _ in range(300):
            path.write_bytes(mutated(whole, random))
            try:
                assert read.read([path]).shape == (1, 4, 4, 1)
            except InnerloopError as error:
                said.append((path, str(error)))
    assert all(sentence.startswith(f"{path} ") and "\n" not in sentence for path, sentence in said)


def mutated(whole, random):
    """Some bytes changed, cut out, doubled or cut off."""
    damaged = bytearray(whole)
    for _ in range(random.integers(1, 5)):
        place = int(random.integers(0, max(len(damaged), 1)))
        kind = random.integers(0, 4)
        if kind == 0 and damaged:
            damaged[min(place, len(damaged) - 1)] = random.integers(0, 256)
        elif kind == 1:
            del damaged[place : place + int(random.integers(1, 9))]
        elif kind == 2:
            damaged[place:place] = damaged[place : place + 8]
        elif random.integers(0, 4) == 0:
            del damaged[place:]
    return bytes(damaged)
