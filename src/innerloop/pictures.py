"""Image files as a network reads them: sizes, colours and ink as those that it was trained on."""

import os
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.text import listed

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
MOST_PIXELS = 50_000_000
"""Pixels of an image; a declared size beyond it is not believed."""
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F", "LA")
RANGES = (255.0, 4095.0, 65535.0)
"""The largest values of images of 8, 12 and 16 bits."""
ASIDE = ("__MACOSX",)
"""Folders of other programs, beside all those whose names begin with a dot."""


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
        picture = turned(picture)
        if picture.mode in ("La", "RGBa"):  # colours that are multiplied by their opacity already
            picture = picture.convert("LA" if picture.mode == "La" else "RGBA")
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:  # what is transparent is paper
            picture = picture.convert("RGBA")
            paper = image.new("RGBA", picture.size, "white")
            picture = image.alpha_composite(paper, picture)
        if picture.mode.startswith(("I", "F")):
            picture = image.fromarray(in_bytes(np.asarray(picture)))
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        if picture.size != (self.width, self.height):
            method = image.Resampling.LANCZOS if self.resampling == "lanczos" else image.Resampling.BOX
            picture = picture.resize((self.width, self.height), method)
        pixels = np.asarray(picture, np.uint8).reshape(self.shape)
        return 255 - pixels if self.inverted else pixels


def in_bytes(values: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, or real ones, as unsigned bytes.

    White is 1 for real numbers of no more than that, and otherwise the largest value of the fewest bits, of 8, 12 and
    16, that hold the image, if it has whole numbers: a deep image keeps its greys. Anything else goes from its least
    to its largest value. What is no number is black.

    Example:
        >>> in_bytes(np.array([0, 65535], np.uint16)).tolist(), in_bytes(np.array([0.0, 0.5, 1.0])).tolist()
        ([0, 255], [0, 128, 255])
    """
    numbers = np.asarray(values, np.float64)
    finite = np.isfinite(numbers)
    numbers = np.where(finite, numbers, numbers.min(initial=0.0, where=finite))
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    whole = values.dtype.kind in "iu"
    if low >= 0 and high <= 1 and not whole:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= RANGES[-1]:
        bits = RANGES[1:] if values.dtype == np.uint16 else RANGES
        low, high = 0.0, min(most for most in bits if most >= high)
    return np.round(255 * (numbers - low) / ((high - low) or 1.0)).astype(np.uint8)


def images_below(path: Path) -> list[Path]:
    """All images, in order of their names, also in folders that are links; not what other programs leave behind.

    Raises:
        InnerloopError: if there is none.
    """
    files, seen = [], set()
    for folder, below, names in os.walk(path, followlinks=True):
        true = os.path.realpath(folder)
        below[:] = [] if true in seen else sorted(name for name in below if not _is_aside(name))
        if true not in seen:
            files += [Path(folder, name) for name in names if _is_image(name)]
        seen.add(true)
    files = sorted(file for file in files if file.is_file())
    if not files:
        raise InnerloopError(f"There are no images below {path} ({listed(SUFFIXES)}); give another folder or a table.")
    return files


def _is_aside(name: str) -> bool:
    return name.startswith(".") or name in ASIDE


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def opened(image: Any, file: Any, *, formats: Sequence[str] = FORMATS, name: str = "") -> Any:
    """An image whose pixels were read.

    Args:
        image: Pillow's module.
        file: a path, or bytes as a file.
        formats: in Pillow's names; all else is refused, whatever the file is called.
        name: what to call it; its path unless given.

    Raises:
        InnerloopError: if it is none, or larger than any that is read.
    """
    name = name or (str(file) if isinstance(file, Path | str) else "What was sent")
    picture = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, of a size that is refused below, or of odd metadata
            picture = image.open(file, formats=list(formats))
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise ValueError(f"{width}x{height} pixels, more than the {MOST_PIXELS:,} that are read")
            picture.load()
    except Exception as error:  # its decoders meet damaged files with whatever Python raises
        if picture is not None:
            picture.close()
        raise _unreadable(name, error) from error
    return picture


def turned(picture: Any) -> Any:
    """The image as its camera was held, where the file tells."""
    return require("PIL.ImageOps", "images", "Reading images").exif_transpose(picture)


def _unreadable(name: Any, error: Exception) -> InnerloopError:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return InnerloopError(f"{name} cannot be read as an image ({why[:300]}); mend or remove it.")
