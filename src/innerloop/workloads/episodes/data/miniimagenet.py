"""miniImageNet: 100 classes with 600 photographs each, from a folder of images and the lists of Ravi and Larochelle.

Reference:
    Vinyals et al.: Matching Networks for One Shot Learning, 2016; Ravi, Larochelle: Optimization as a Model for
    Few-Shot Learning, 2017 (the split).
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.pictures import opened
from innerloop.runs import store
from innerloop.workloads.episodes.data.omniglot import Labelled, Part, _pillow

SIDE = 84
LISTS: dict[Part, str] = {"train": "train.csv", "val": "val.csv", "test": "test.csv"}


def load(data_dir: str | None, announce: Callable[[str], None]) -> dict[Part, Labelled]:
    """The three parts of miniImageNet, 84x84 RGB.

    Looks for `train.csv`, `val.csv` and `test.csv` (columns `filename` and `label`) in a folder `miniimagenet` of the
    data directory, or in that directory itself; the images may lie anywhere below, and are found by their names.

    Args:
        data_dir: where to look first.
        announce: told what is prepared.

    Raises:
        InnerloopError: if the lists or images are missing or unreadable.
    """
    place = store.find(data_dir, "miniimagenet", LISTS.values())
    if place is None:
        where = store.places(data_dir, "miniimagenet")[0]
        raise InnerloopError(
            f"miniImageNet is missing: put its images and the lists {', '.join(LISTS.values())} of Ravi and Larochelle "
            f"(github.com/twitter-research/meta-learning-lstm) into {where}; its licence forbids fetching it for you."
        )
    found = {file.name: file for file in sorted(place.rglob("*.jpg"))}
    parts: dict[Part, Labelled] = {}
    for part, name in LISTS.items():
        rows = _read_list(place / name)
        missing = [filename for filename, _ in rows if filename not in found]
        if missing:
            raise InnerloopError(
                f"{place / name} lists {len(missing)} images that are not below {place}, the first {missing[0]}."
            )
        files = [found[filename] for filename, _ in rows]
        sizes = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        key = store.fingerprint([place / name], "miniimagenet", SIDE, 1, sizes)
        arrays = store.prepared(key, lambda files=files, part=part: {"images": _prepare(files, part, announce)})
        _, labels = np.unique([label for _, label in rows], return_inverse=True)
        parts[part] = Labelled(arrays["images"], labels.astype(np.int32))
    return parts


def _read_list(file: Path) -> list[tuple[str, str]]:
    with file.open(newline="") as opened:
        reader = csv.DictReader(opened)
        if not {"filename", "label"} <= set(reader.fieldnames or ()):
            raise InnerloopError(f"{file} has the columns {reader.fieldnames}; it needs filename and label.")
        return [(row["filename"], row["label"]) for row in reader]


def _prepare(files: list[Path], part: str, announce: Callable[[str], None]) -> np.ndarray:
    image_module = _pillow()
    announce(f"preparing {len(files)} images of miniImageNet ({part}, once)")
    images = np.empty((len(files), SIDE, SIDE, 3), np.uint8)
    for i, file in enumerate(files):
        with opened(image_module, file, formats=["JPEG", "PNG"]) as picture:
            picture = picture.convert("RGB")
            if picture.size != (SIDE, SIDE):
                picture = picture.resize((SIDE, SIDE), image_module.Resampling.LANCZOS)
            images[i] = np.asarray(picture)
    return images
