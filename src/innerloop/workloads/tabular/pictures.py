"""Folders of images: `task/class/*.png` or `class/*.png`."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.workloads.tabular.config import Config
from innerloop.workloads.tabular.rows import Rows, listed

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
LARGEST_SIDE = 84
"""Larger images are made smaller, to this side."""
SMALL_SIDE = 28
"""Greyscale images are made this small unless they are smaller."""
FEATURE = "image"


def load(path: Path, config: Config) -> tuple[Rows, tuple[str, ...]]:
    """The images below a folder as rows, with what was decided and why.

    Raises:
        InnerloopError: if there are none, they lie at different depths, or one cannot be read.
    """
    for name in ("task_column", "target", "features", "split_column"):
        if getattr(config, name):
            raise InnerloopError(
                f"--{name.replace('_', '-')} is for tables; in {path} the folders tell tasks and classes; leave it out."
            )
    if config.kind == "regression":
        raise InnerloopError(f"--kind is regression, but {path} is a folder of images, whose folders are classes.")
    files = images_below(path)
    depths = Counter(len(each.relative_to(path).parts) - 1 for each in files)
    if len(depths) > 1 or next(iter(depths)) not in (1, 2):
        raise InnerloopError(
            f"The images below {path} lie {' and '.join(map(str, sorted(depths)))} folders deep; put them into "
            "task/class/ or into class/."
        )
    nested = next(iter(depths)) == 2
    size, channels, why = common_size(files)
    pixels = np.stack([pixels_of(each, size, channels) for each in files]).reshape(len(files), -1)
    classes = np.array([each.parent.name for each in files], object)
    owners = [each.parent.parent.name if nested else path.name for each in files]
    names = tuple(dict.fromkeys(owners))
    tasks = np.array([names.index(each) for each in owners], np.int32)
    found = "task/class/" if nested else "class/"
    told = f"{len(names)} tasks" if nested else f"{len(set(classes))} classes, from which tasks are drawn"
    reasons = (f"classification: images in {found}: {len(files):,} images, {told}", why)
    return Rows({FEATURE: pixels}, classes, tasks, names, image=(*size, channels)), reasons


def images_below(path: Path) -> list[Path]:
    """All images, in order of their names.

    Raises:
        InnerloopError: if there is none.
    """
    files = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES and each.is_file())
    if not files:
        raise InnerloopError(f"There are no images below {path} ({listed(SUFFIXES)}); give another folder or a table.")
    return files


def common_size(files: list[Path]) -> tuple[tuple[int, int], int, str]:
    """The height, width and channels that all images are given, and why."""
    image = require("PIL.Image", "images", "Reading images")
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for file in files[:: max(len(files) // 200, 1)]:
        with opened(image, file) as each:
            sizes[each.size] += 1
            grey &= each.mode in ("1", "L", "I", "I;16", "LA")
    width, height = sizes.most_common(1)[0][0]
    side = SMALL_SIDE if grey else LARGEST_SIDE
    factor = min(1.0, side / max(width, height))
    size = max(round(height * factor), 1), max(round(width * factor), 1)
    colours = "grey" if grey else "in colour"
    return size, 1 if grey else 3, f"images: {colours}, {height}x{width} read as {size[0]}x{size[1]}"


def pixels_of(file: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """One image as unsigned bytes, `[height, width, channels]`.

    Raises:
        InnerloopError: if it cannot be read.
    """
    image = require("PIL.Image", "images", "Reading images")
    with opened(image, file) as each:
        converted = each.convert("L" if channels == 1 else "RGB")
        resized = (
            converted.resize((size[1], size[0]), image.Resampling.BOX) if converted.size != size[::-1] else converted
        )
        return np.asarray(resized, np.uint8).reshape(*size, channels)


def opened(image: Any, file: Path) -> Any:
    """An image whose pixels were read."""
    try:
        each = image.open(file)
        each.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise InnerloopError(f"{file} cannot be read as an image ({error}); mend or remove it.") from error
    return each
