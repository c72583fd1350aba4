"""Folders of images: `task/class/*.png` or `class/*.png`."""

from collections import Counter
from pathlib import Path

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.pictures import GREY_MODES, images_below, opened, turned
from innerloop.tabular.images import format_of
from innerloop.tabular.rows import PART_NAMES, Rows, part_named
from innerloop.text import listed
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
    depth, split = depth_of(path, files)
    size, channels, why = common_size(files)
    pixels = format_of((*size, channels)).read(files).reshape(len(files), -1)
    classes = np.array([file.parent.name for file in files], object)
    inside = [file.relative_to(path).parts for file in files]
    owners = ["/".join(parts[int(split) : depth - 1]) or path.name for parts in inside]
    names = tuple(dict.fromkeys(owners))
    tasks = np.array([names.index(owner) for owner in owners], np.int32)
    parts = _parts(path, owners, [parts[0] for parts in inside]) if split else None
    found = ("part/" if split else "") + ("task/class/" if depth - split == 2 else "class/")
    told = f"{len(names)} tasks" if len(names) > 1 else f"{len(set(classes))} classes, from which tasks are drawn"
    reasons = (f"classification: images in {found}: {len(files):,} images, {told}", why)
    if parts is not None:
        parts = tuple(parts[name] for name in names)
    return Rows({FEATURE: pixels}, classes, tasks, names, parts, image=(*size, channels)), reasons


def depth_of(path: Path, files: list[Path]) -> tuple[int, bool]:
    """How many folders deep the images lie, and whether the first of these are parts of the data.

    Raises:
        InnerloopError: if they lie at different depths, naming a file, or too deep.
    """
    depths = Counter(len(file.relative_to(path).parts) - 1 for file in files)
    depth = depths.most_common(1)[0][0]
    for file in files:
        if len(file.relative_to(path).parts) - 1 != depth:
            raise InnerloopError(
                f"{file} does not lie {depth} {'folder' if depth == 1 else 'folders'} deep in {path}, as most images "
                "there do; put all into task/class/ or into class/, or remove it."
            )
    tops = {file.relative_to(path).parts[0] for file in files}
    split = depth > 1 and all(name.lower() in PART_NAMES for name in tops)
    if split and depth == 2:
        raise InnerloopError(
            f"{path} holds the parts {listed(sorted(tops))} with folders of classes in them; give one part alone, such "
            f"as {path / sorted(tops)[-1]}, whose classes are split anew, or tasks in each part (part/task/class/)."
        )
    if depth - split not in (1, 2):
        raise InnerloopError(
            f"The images below {path} lie {depth} folders deep, such as {files[0]}; put them into task/class/, "
            "class/, or train/task/class/, valid/task/class/ and test/task/class/."
        )
    return depth, split


def _parts(path: Path, owners: list[str], tops: list[str]) -> dict[str, str]:
    """The part of each task.

    Raises:
        InnerloopError: if a task is in two.
    """
    part_of: dict[str, str] = {}
    for owner, top in zip(owners, tops, strict=True):
        if part_of.setdefault(owner, part_named(top)) != part_named(top):
            raise InnerloopError(
                f"The task {owner!r} of {path} lies in two parts, {part_of[owner]} and {part_named(top)}; rename one."
            )
    return part_of


def common_size(files: list[Path]) -> tuple[tuple[int, int], int, str]:
    """The height, width and channels that all images are given, and why."""
    image = require("PIL.Image", "images", "Reading images")
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for file in files[:: max(len(files) // 200, 1)]:
        with opened(image, file) as picture:
            sizes[turned(picture).size] += 1
            grey &= picture.mode in GREY_MODES
    width, height = sizes.most_common(1)[0][0]
    side = SMALL_SIDE if grey else LARGEST_SIDE
    factor = min(1.0, side / max(width, height))
    size = max(round(height * factor), 1), max(round(width * factor), 1)
    colours = "grey" if grey else "in colour"
    return size, 1 if grey else 3, f"images: {colours}, {height}x{width} read as {size[0]}x{size[1]}"
