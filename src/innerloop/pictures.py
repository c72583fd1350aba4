"""Image files as a network reads them: sizes, colours and ink as those that it was trained on."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.text import listed

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
GREY_MODES = ("1", "L", "I", "F", "La", "LA", "I;16", "I;16L", "I;16B", "I;16N")
PAPER = 255
"""What lies behind transparent pixels: white."""
HIDDEN = ("__MACOSX", "__pycache__", "@eaDir", "Thumbs.db")
"""Folders that programs leave beside images, like all whose names begin with a dot."""


@dataclass(frozen=True)
class ImageFormat:
    """What every image is made into.

    Attributes:
        height: pixels.
        width: pixels.
        channels: 1 for grey, 3 for red, green and blue.
        inverted: whether white paper becomes 0 and black ink 255, as in Omniglot.
        resampling: how an image of another size is resized.
    """

    height: int
    width: int
    channels: int
    inverted: bool = False
    resampling: Literal["lanczos", "box"] = "lanczos"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def describe(self) -> str:
        """What is done to an image, in a line.

        Example:
            >>> ImageFormat(28, 28, 1, inverted=True).describe()
            'images are read as 28x28 grey, inverted (paper 0, ink 255)'
        """
        colours = "grey" if self.channels == 1 else "in colour"
        return f"images are read as {self.height}x{self.width} {colours}" + (
            ", inverted (paper 0, ink 255)" if self.inverted else ""
        )

    def read(self, files: Sequence[Path]) -> np.ndarray:
        """Images as unsigned bytes, `[images, height, width, channels]`.

        Raises:
            InnerloopError: if one cannot be read, or Pillow is not installed.
        """
        image = require("PIL.Image", "images", "Reading images")
        pixels = np.zeros((len(files), *self.shape), np.uint8)
        for i, file in enumerate(files):
            with opened(image, file) as picture:
                try:
                    pixels[i] = self.converted(picture)
                except (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error) as error:
                    raise _unreadable(file, error) from error
        return pixels

    def converted(self, picture: Any) -> np.ndarray:
        """One image, as Pillow opened it, as unsigned bytes `[height, width, channels]`."""
        image = require("PIL.Image", "images", "Reading images")
        picture = as_seen(picture, grey=self.channels == 1)
        if picture.size != (self.width, self.height):
            method = image.Resampling.LANCZOS if self.resampling == "lanczos" else image.Resampling.BOX
            picture = picture.resize((self.width, self.height), method)
        pixels = np.asarray(picture, np.uint8).reshape(self.shape)
        return 255 - pixels if self.inverted else pixels


def as_seen(picture: Any, grey: bool) -> Any:
    """What a viewer shows of an image as Pillow opened it, in the mode `L` or `RGB`.

    Numbers of more than 8 bits are scaled: 16 bits by their range (65,535 becomes 255); real numbers from 0 to 1, from
    0 to 255 or from 0 to 65,535, by the smallest of these ranges that holds all; others by their own least and
    largest. What is transparent shows white paper. The turn that a camera noted is made.
    """
    image = require("PIL.Image", "images", "Reading images")
    picture = turned(picture)
    if picture.mode.startswith("I;16"):
        picture = image.fromarray(_scaled(np.asarray(picture), 65535.0))
    elif picture.mode in ("I", "F"):
        values = np.asarray(picture, np.float64)
        picture = image.fromarray(_scaled(values, _largest(values, whole=picture.mode == "I")))
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        if picture.mode in ("La", "RGBa"):  # colours that are multiplied by their opacity already
            picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
        picture = picture.convert("RGBA")
        paper = image.new("RGBA", picture.size, (PAPER,) * 3 + (255,))
        picture = image.alpha_composite(paper, picture).convert("RGB")
    return picture.convert("L" if grey else "RGB")


def turned(picture: Any) -> Any:
    """The image as its camera was held, where the file tells."""
    return require("PIL.ImageOps", "images", "Reading images").exif_transpose(picture)


def _largest(values: np.ndarray, whole: bool) -> float:
    """Which number is white; 0 if no usual range holds the values."""
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    ranges = (255.0, 65535.0) if whole else (1.0, 255.0, 65535.0)
    if whole and high > 255.0:
        ranges = ranges[1:]
    return next((largest for largest in ranges if low >= 0 and high <= largest), 0.0)


def _scaled(values: np.ndarray, largest: float) -> np.ndarray:
    """Numbers as unsigned bytes, what is no number as black."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    low, width = 0.0, largest
    if not largest:
        low = float(values[known].min()) if known.any() else 0.0
        width = (float(values[known].max()) - low if known.any() else 0.0) or 1.0
    share = np.where(known, (np.where(known, values, 0.0) - low) / width, 0.0)
    return np.round(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def images_below(path: Path) -> list[Path]:
    """All images, in order of their names, also below folders that are links; hidden ones are left out.

    Raises:
        InnerloopError: if there is none, or links lead around in a circle.
    """
    files: list[Path] = []

    def walk(folder: Path, above: frozenset[Path]) -> None:
        real = folder.resolve()
        if real in above:
            raise InnerloopError(f"{folder} is a link to a folder that it lies in; remove it.")
        for entry in sorted(folder.iterdir()):
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                walk(entry, above | {real})
            elif entry.suffix.lower() in SUFFIXES and entry.is_file():
                files.append(entry)

    walk(path, frozenset())
    if not files:
        raise InnerloopError(f"There are no images below {path} ({listed(SUFFIXES)}); give another folder or a table.")
    return sorted(files)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that programs leave behind: `._x.png`, `.ipynb_checkpoints`, `__MACOSX`."""
    return name.startswith(".") or name in HIDDEN


def opened(image: Any, file: Any) -> Any:
    """An image whose pixels were read.

    Args:
        image: Pillow's module.
        file: a path, or bytes as a file.

    Raises:
        InnerloopError: if it is none.
    """
    try:
        picture = image.open(file)
        picture.load()
    except Exception as error:  # decoders of damaged files raise whatever comes
        raise _unreadable(file, error) from error
    return picture


def _unreadable(file: Any, error: Exception) -> InnerloopError:
    name = file if isinstance(file, Path | str) else "What was sent"
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return InnerloopError(f"{name} cannot be read as an image ({why}); mend or remove it.")
