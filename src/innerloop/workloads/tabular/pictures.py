"""Folders of images: `task/class/*.png` or `class/*.png`, also below `train/`, `valid/` and `test/`."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.extras import require
from innerloop.pictures import GREY_MODES, ImageFormat, images_below, opened, turned
from innerloop.tabular.rows import PARTS, SYNONYMS, Rows
from innerloop.workloads.tabular.config import Config

LARGEST_SIDE = 84
"""Larger images are made smaller, to this side."""
SMALL_SIDE = 28
"""Greyscale images are made this small unless they are smaller."""
FEATURE = "image"
NEARLY_ALL = 0.9
"""A larger share of equal images is a mistake in reading or in making them."""


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
    layout = layout_of(path, files)
    size, channels, why = common_size(files)
    pixels = format_of((*size, channels)).read(files).reshape(len(files), -1)
    names = tuple(dict.fromkeys(layout.owners))
    index = {name: i for i, name in enumerate(names)}
    tasks = np.array([index[owner] for owner in layout.owners], np.int32)
    parts = tuple(layout.parts[name] for name in names) if layout.parts else None
    nested = len(names) > 1 and not layout.of_classes
    told = f"{len(names)} tasks" if nested else f"{len(set(layout.classes))} classes, from which tasks are drawn"
    reasons = (f"classification: images in {layout.found}: {len(files):,} images, {told}", *layout.reasons, why)
    same = nearly_equal(pixels)
    classes = np.array(layout.classes, object)
    rows = Rows({FEATURE: pixels}, classes, tasks, names, parts, (same,) if same else (), (*size, channels))
    return rows, reasons


class Layout(NamedTuple):
    """What the folders of images tell.

    Attributes:
        found: in words.
        classes: of each image.
        owners: the task of each image.
        parts: of the data, by task; empty if no folder tells.
        of_classes: whether tasks are drawn from the classes of each part.
        reasons: what was noticed, a line each.
    """

    found: str
    classes: list[str]
    owners: list[str]
    parts: dict[str, str]
    of_classes: bool
    reasons: tuple[str, ...] = ()


def layout_of(path: Path, files: list[Path]) -> Layout:
    """Tasks, classes and parts of the data by folders: `class/`, `task/class/`, `part/class/` or `part/task/class/`.

    Folders `train` and `test` (and `valid`, by their usual names) above all others are parts of the data.

    Raises:
        InnerloopError: naming a file that lies at another depth, or a task that lies in two parts.
    """
    above = {file: file.relative_to(path).parts[:-1] for file in files}
    tops = dict.fromkeys(folders[0] if folders else "" for folders in above.values())
    parted = len(tops) > 1 and all(_part(top) for top in tops) and "train" in map(_part, tops)
    allowed = (2, 3) if parted else (1, 2)
    first: dict[int, Path] = {}
    for file, folders in above.items():
        first.setdefault(len(folders), file)
    if len(first) > 1 or next(iter(first)) not in allowed:
        shown = " and ".join(
            f"{file.relative_to(path)} lies {depth} folder{'' if depth == 1 else 's'} deep"
            for depth, file in sorted(first.items())[:2]
        )
        wanted = "task/class/ or class/, below train/, valid/ and test/ or without them"
        raise InnerloopError(f"Of the images below {path}, {shown}; put all into {wanted}.")
    depth = next(iter(first))
    classes = [folders[-1] for folders in above.values()]
    if not parted:
        found = "task/class/" if depth == 2 else "class/"
        owners = [folders[0] if depth == 2 else path.name for folders in above.values()]
        return Layout(found, classes, owners, {}, depth == 1)
    part_of: dict[str, str] = {}
    named = [folders[-2] if depth == 3 else folders[-1] for folders in above.values()]
    shared = []
    for name, folders in zip(named, above.values(), strict=True):
        part = _part(folders[0])
        if part_of.setdefault(name, part) != part:
            shared.append(name)
    folders_named = ", ".join(f"{top}/" for top in tops)
    if depth == 3:
        if shared:
            raise InnerloopError(
                f"Task {shared[0]!r} lies in two parts of the data ({folders_named}); tasks are split, never images: "
                "move it into one."
            )
        return Layout("part/task/class/", classes, named, part_of, False, (f"split: by the folders {folders_named}",))
    if shared:
        why = f"{folders_named} share classes ({shared[0]}), so they split images; classes are split by seed instead"
        return Layout("part/class/", classes, [path.name] * len(files), {}, True, (f"split: {why}",))
    owners = [folders[0] for folders in above.values()]
    parts = {top: _part(top) for top in tops}
    return Layout("part/class/", classes, owners, parts, True, (f"split: by the folders {folders_named}",))


def nearly_equal(pixels: np.ndarray) -> str:
    """What to say if nearly all images are equal, or show nothing; otherwise nothing.

    Args:
        pixels: unsigned bytes, `[images, pixels]`.
    """
    if len(pixels) < 2:
        return ""
    same = Counter(row.tobytes() for row in pixels).most_common(1)[0][1]
    blank = int((pixels == pixels[:, :1]).all(axis=1).sum())
    if max(same, blank) <= NEARLY_ALL * len(pixels):
        return ""
    what = "show one colour alone" if blank >= same else "are equal"
    return (
        f"{max(same, blank):,} of {len(pixels):,} images {what} as they are read, so nothing can be learned from them: "
        "are they of a kind that is read otherwise than it is shown?"
    )


def _part(folder: str) -> str:
    """The part of the data that a folder is called by, or nothing."""
    name = folder.strip().lower()
    name = SYNONYMS.get(name, name)
    return name if name in PARTS else ""


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


def format_of(shape: tuple[int, int, int]) -> ImageFormat:
    """How images of that height, width and channels are read in training and at adaptation."""
    return ImageFormat(*shape, resampling="box")
