"""Folders of images as people have them: what is seen in a viewer is what is read."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop.errors import InnerloopError
from innerloop.pictures import ImageFormat, images_below, in_bytes
from innerloop.workloads.tabular import audit
from innerloop.workloads.tabular import pictures as folders
from innerloop.workloads.tabular.config import Config

Image = pytest.importorskip("PIL.Image")
INK = np.tile(np.linspace(0, 255, 16).round().astype(np.uint8), (16, 1))


def written(folder, name, values, mode=None):
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    (picture.convert(mode) if mode else picture).save(folder / name)
    return folder / name


def drawn(path, parts, seed=0):
    """A tree of folders with three random images each."""
    random = np.random.default_rng(seed)
    for part in parts:
        for i in range(3):
            written(path / part, f"{i}.png", random.integers(0, 255, (8, 8), np.uint8))


def read(file):
    return ImageFormat(16, 16, 1).read([file])[0, :, :, 0]


def test_deep_images_keep_their_greys(tmp_path):
    deep = INK.astype(np.uint16)
    files = [
        written(tmp_path, "bytes.png", INK),
        written(tmp_path, "sixteen.png", deep * 257),
        written(tmp_path, "twelve.png", (INK / 255 * 4095).round().astype(np.uint16)),
        written(tmp_path, "unit.tif", (INK / 255).astype(np.float32)),
        written(tmp_path, "large.tif", INK.astype(np.float32)),
        written(tmp_path, "whole.tif", INK.astype(np.int32) * 257),
    ]
    for file in files:
        np.testing.assert_allclose(read(file), INK, atol=1, err_msg=file.name)


def test_ink_in_the_alpha_channel_is_ink(tmp_path):
    alpha = np.zeros((16, 16, 4), np.uint8)
    alpha[..., 3] = 255 - INK
    np.testing.assert_allclose(read(written(tmp_path, "alpha.png", alpha)), INK, atol=1)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"]), st.integers(0, 255))
def test_a_shade_of_grey_in_any_mode_is_that_shade(mode, shade):
    if mode == "I;16":
        picture = Image.fromarray(np.full((4, 4), shade * 257, np.uint16))
        shade = round(255 * shade * 257 / 4095) if shade * 257 <= 4095 else shade
    else:
        shade = 255 * (shade > 127) if mode == "1" else shade
        picture = Image.new("L", (4, 4), shade).convert(mode)
    expected = 255 * shade if mode == "F" and shade <= 1 else shade
    assert np.abs(ImageFormat(4, 4, 1).converted(picture).astype(int) - expected).max() <= 2


def test_what_is_no_image_of_a_range_goes_from_its_least_to_its_largest_value():
    assert in_bytes(np.array([-2.0, 0.0, 2.0])).tolist() == [0, 128, 255]
    assert in_bytes(np.array([np.nan, 0.0])).tolist() == [0, 0]


def test_what_other_programs_leave_is_no_image_and_links_are_followed(tmp_path):
    drawn(tmp_path, ["t/a", "t/b", "__MACOSX/t/a", "t/.ipynb_checkpoints"])
    (tmp_path / "t" / "a" / "._0.png").write_bytes(b"apple")
    drawn(tmp_path / "elsewhere", ["c"])
    data = tmp_path / "data"
    data.mkdir()
    (data / "t").symlink_to(tmp_path / "t")
    (tmp_path / "t" / "c").symlink_to(tmp_path / "elsewhere" / "c")
    (tmp_path / "t" / "again").symlink_to(tmp_path / "t")
    names = {os.path.relpath(file, data) for file in images_below(data)}
    assert names == {f"t/{label}/{i}.png" for label in "abc" for i in range(3)}


def test_parts_of_the_data_are_parts_and_not_tasks(tmp_path):
    tasks = [f"train/t{i}" for i in range(3)] + ["val/v", "test/w"]
    drawn(tmp_path / "tasks", [f"{task}/{label}" for task in tasks for label in "ab"])
    rows, reasons = folders.load(tmp_path / "tasks", Config(str(tmp_path / "tasks")))
    assert dict(zip(rows.names, rows.parts, strict=True)) == {
        "t0": "train", "t1": "train", "t2": "train", "v": "valid", "w": "test"
    }  # fmt: skip
    assert "part/task/class/" in reasons[0]
    drawn(tmp_path / "classes", ["train/a", "val/b", "test/c"])
    with pytest.raises(InnerloopError, match="holds the parts test, train, val with folders of classes"):
        folders.load(tmp_path / "classes", Config(str(tmp_path / "classes")))


def test_a_file_at_another_depth_is_named(tmp_path):
    drawn(tmp_path, ["t/a", "t/b", "u/a"])
    written(tmp_path, "stray.png", INK)
    with pytest.raises(InnerloopError, match=r"stray\.png does not lie 2 folders deep"):
        folders.load(tmp_path, Config(str(tmp_path)))


def test_images_that_show_nothing_are_marked(tmp_path):
    for values, said in ((np.full((8, 8), 255, np.uint8), "one shade"), (INK[:8, :8], "are equal")):
        path = tmp_path / said.replace(" ", "")
        for task in "tuv":
            for label in "ab":
                for i in range(3):
                    written(path / task / label, f"{i}.png", values)
        rows, _ = folders.load(path, Config(str(path)))
        assert any(finding.wrong and said in finding.text for finding in audit.findings_of(Config(str(path)), rows))


@pytest.mark.parametrize("form", ["png", "jpg", "tif", "gif"])
def test_a_damaged_image_is_read_or_refused_in_a_sentence(form, tmp_path):
    content = written(tmp_path, f"whole.{form}", INK).read_bytes()
    generator, sentences = np.random.default_rng(0), []
    file = tmp_path / f"damaged.{form}"
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.integers(1, 5)):
            damaged[int(generator.integers(len(damaged)))] = generator.integers(256)
        file.write_bytes(
            damaged[: int(generator.integers(1, len(damaged) + 1))] if generator.random() < 0.3 else damaged
        )
        try:
            assert read(file).shape == (16, 16)
        except InnerloopError as error:
            sentences.append(str(error))
    assert all(str(file) in sentence for sentence in sentences)
