"""Folders of images: `task/class/*.png` or `class/*.png`."""

from collections import Counter
from pathlib import Path

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.pictures import GREY_MODES, images_below, opened
from innerloop.tabular.images import format_of
from innerloop.tabular.rows import Rows
from innerloop.workloads.tabular.config import Config

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
    depths = Counter(len(file.relative_to(path).parts) - 1 for file in files)
    if len(depths) > 1 or next(iter(depths)) not in (1, 2):
        raise InnerloopError(
            f"The images below {path} lie {' and '.join(map(str, sorted(depths)))} folders deep; put them into "
            "task/class/ or into class/."
        )
    nested = next(iter(depths)) == 2
    size, channels, why = common_size(files)
    pixels = format_of((*size, channels)).read(files).reshape(len(files), -1)
    classes = np.array([file.parent.name for file in files], object)
    owners = [file.parent.parent.name if nested else path.name for file in files]
    names = tuple(dict.fromkeys(owners))
    tasks = np.array([names.index(owner) for owner in owners], np.int32)
    found = "task/class/" if nested else "class/"
    told = f"{len(names)} tasks" if nested else f"{len(set(classes))} classes, from which tasks are drawn"
    reasons = (f"classification: images in {found}: {len(files):,} images, {told}", why)
    return Rows({FEATURE: pixels}, classes, tasks, names, image=(*size, channels)), reasons


def common_size(files: list[Path]) -> tuple[tuple[int, int], int, str]:
    """The height, width and channels that all images are given, and why."""
    image = require("PIL.Image", "images", "Reading images")
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for file in files[:: max(len(files) // 200, 1)]:
        with opened(image, file) as picture:
            sizes[picture.size] += 1
            grey &= picture.mode in GREY_MODES
    width, height = sizes.most_common(1)[0][0]
    side = SMALL_SIDE if grey else LARGEST_SIDE
    factor = min(1.0, side / max(width, height))
    size = max(round(height * factor), 1), max(round(width * factor), 1)
    colours = "grey" if grey else "in colour"
    return size, 1 if grey else 3, f"images: {colours}, {height}x{width} read as {size[0]}x{size[1]}"
