"""Image files as a network reads them: sizes, colours and ink as those that it was trained on."""

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
GREY_MODES = ("1", "L", "I", "I;16", "LA")


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
                pixels[i] = self.converted(picture)
        return pixels

    def converted(self, picture: Any) -> np.ndarray:
        """One image, as Pillow opened it, as unsigned bytes `[height, width, channels]`."""
        image = require("PIL.Image", "images", "Reading images")
        if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:  # what is transparent is paper
            picture = picture.convert("RGBA")
            paper = image.new("RGBA", picture.size, "white")
            picture = image.alpha_composite(paper, picture)
        picture = picture.convert("L" if self.channels == 1 else "RGB")
        if picture.size != (self.width, self.height):
            method = image.Resampling.LANCZOS if self.resampling == "lanczos" else image.Resampling.BOX
            picture = picture.resize((self.width, self.height), method)
        pixels = np.asarray(picture, np.uint8).reshape(self.shape)
        return 255 - pixels if self.inverted else pixels


def images_below(path: Path) -> list[Path]:
    """All images, in order of their names.

    Raises:
        InnerloopError: if there is none.
    """
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InnerloopError(f"There are no images below {path} ({listed(SUFFIXES)}); give another folder or a table.")
    return files


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
        why = " ".join(str(error).split()) or type(error).__name__
        raise InnerloopError(f"{name} cannot be read as an image ({why[:300]}); mend or remove it.") from error
    return picture
