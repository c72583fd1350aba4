"""Images are read to what a viewer shows, from the folders that people have."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from innerloop.pictures import ImageFormat
from innerloop.workloads.tabular import pictures

INK = np.array([[0, 64], [128, 255]], np.uint8)


def grey(picture):
    width, height = picture.size
    return ImageFormat(height, width, 1).converted(picture)[:, :, 0]


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
        stored = Image.fromarray(np.append(ink, [[0, 255]], axis=0).astype(np.uint16) * 257)
    elif mode == "F":
        stored = Image.fromarray(np.append(ink, [[0, 255]], axis=0).astype(np.float32) / 255)
    elif mode in ("LA", "RGBA"):
        black = [Image.new("L", (2, 2), 0)] * (len(mode) - 1)
        stored = Image.merge(mode, [*black, Image.fromarray(255 - ink)])
    else:
        stored = Image.fromarray(ink).convert(mode)
    np.testing.assert_allclose(grey(stored)[:2], ink, atol=1)


def test_the_turn_that_a_camera_noted_is_made(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(INK).resize((8, 4)).save(tmp_path / "x.png", exif=exif)
    with Image.open(tmp_path / "x.png") as picture:
        assert ImageFormat(8, 4, 1).converted(picture).shape == (8, 4, 1)
        assert pictures.common_size([tmp_path / "x.png"])[0] == (8, 4)
