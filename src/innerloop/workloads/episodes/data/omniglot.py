"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Reference:
    Lake, Salakhutdinov, Tenenbaum: Human-level concept learning through probabilistic program induction, Science 350,
    2015.
"""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.pictures import opened
from innerloop.runs import store
from innerloop.tasks import with_rotations
from innerloop.workloads.episodes.data.archive import read_members

SIDE = 28
RAW_SIDE = 105
CHARACTERS = 1623
DRAWERS = 20
"""People who drew each character, once."""
ARCHIVES = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
"""MD5 of the official archives (the only checksum that is published for them)."""
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
SPLITS = {
    "train": "984522c194c30fb678ce53304a160a42faf5403ad4f9a67010f32dd3a35738e0",
    "val": "11f99e54faee3e26f53d3231c1cceac5bf7b8730e9be31cb6dab256551dc0c1a",
    "test": "845264cc5c156180828ccf17915668b17ee21424d0170df6e7d81676aa5d1204",
}
"""SHA-256 of the lists of Vinyals et al."""
SPLITS_URL = (
    "https://raw.githubusercontent.com/jakesnell/prototypical-networks/"
    "c9bb4d258267c11cb6e23f0a19242d24ca98ad8a/data/omniglot/splits/vinyals"
)

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


class Labelled(NamedTuple):
    """Images as bytes with their class: `x` is `[images, height, width, channels]`, `y` is `[images]`."""

    x: np.ndarray
    y: np.ndarray


def load(
    data_dir: str | None,
    split: Literal["random", "vinyals"],
    split_seed: int,
    rotations: bool,
    announce: Callable[[str], None],
) -> dict[Part, Labelled]:
    """The three parts of Omniglot, reduced to 28x28 with ink as 255 and paper as 0.

    Args:
        data_dir: where to look first.
        split: `"random"`: 1100 characters for training, 100 for validation, 423 for test, drawn by `split_seed`;
            `"vinyals"`: the lists of Vinyals et al. (2016), whose classes are turned characters.
        split_seed: of the random split.
        rotations: whether each turn by a quarter is a class of its own.
        announce: told what is downloaded or prepared.

    Raises:
        InnerloopError: if the archives are not there and cannot be fetched, or are not what they should be.
    """
    place = _locate(data_dir, announce)
    files = [place / name for name in ARCHIVES]
    arrays = store.prepared(store.fingerprint(files, "omniglot", SIDE, 1), lambda: _prepare(files, announce))
    _tell_unpublished(files, announce)
    images, labels, names = arrays["images"], arrays["labels"], bytes(arrays["names"]).decode().split("\n")
    parts = _random_split(split_seed) if split == "random" else _vinyals_split(data_dir, place, names, announce)
    result: dict[Part, Labelled] = {}
    for part, characters in parts.items():
        chosen = np.isin(labels, characters)
        x, y = images[chosen], labels[chosen]
        result[part] = Labelled(*(with_rotations(x, y) if rotations else (x, y)))
    return result


def _locate(data_dir: str | None, announce: Callable[[str], None]) -> Path:
    place = store.find(data_dir, "omniglot", ARCHIVES)
    if place:
        return place
    target = store.cache_dir() / "data" / "omniglot"
    try:
        for name, checksum in ARCHIVES.items():
            announce(f"downloading {URL}/{name} to {target}")
            store.download(f"{URL}/{name}", target / name, algorithm="md5", checksum=checksum)
    except InnerloopError as error:
        where = store.places(data_dir, "omniglot")[0]
        raise InnerloopError(f"Omniglot is missing: put {' and '.join(ARCHIVES)} into {where}. {error}") from error
    return target


def _prepare(files: list[Path], announce: Callable[[str], None]) -> dict[str, np.ndarray]:
    image_module = _pillow()
    announce("preparing the images of Omniglot (once)")
    images, characters = [], []
    for file in files:
        for name, content in read_members(file, ".png"):
            *_, alphabet, character, _ = name.split("/") if name.count("/") >= 2 else ("", "", "", name)
            try:
                with opened(image_module, io.BytesIO(content), formats=["PNG"], name="it") as picture:
                    if picture.size != (RAW_SIDE, RAW_SIDE):
                        raise ValueError(f"{picture.size[0]}x{picture.size[1]} pixels instead of {RAW_SIDE}x{RAW_SIDE}")
                    grey = picture.convert("L").resize((SIDE, SIDE), image_module.Resampling.LANCZOS)
            except (ValueError, InnerloopError) as error:
                raise InnerloopError(f"{file} holds {name!r}, which is no image of Omniglot ({error}).") from error
            images.append(255 - np.asarray(grey))
            characters.append(f"{alphabet}/{character}")
    names, labels = np.unique(characters, return_inverse=True)
    if len(names) != CHARACTERS:
        raise InnerloopError(
            f"{' and '.join(str(file) for file in files)} hold {len(names)} characters instead of {CHARACTERS}; fetch "
            f"them again."
        )
    drawn = np.bincount(labels)
    if (drawn != DRAWERS).any():
        odd = int(np.argmax(drawn != DRAWERS))
        raise InnerloopError(
            f"{' and '.join(str(file) for file in files)} hold {drawn[odd]} drawings of {names[odd]} instead of "
            f"{DRAWERS}; fetch them again."
        )
    return {
        "images": np.stack(images)[..., None],
        "labels": labels.astype(np.int32),
        "names": np.frombuffer("\n".join(names).encode(), np.uint8),
    }


def _tell_unpublished(files: list[Path], announce: Callable[[str], None]) -> None:
    """Say of archives that they are not the published ones: packed anew, or damaged where it does not show."""
    for file in files:
        found = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
        if found != ARCHIVES[file.name]:
            announce(
                f"note: {file} is not the published archive (its MD5 is {found}, not {ARCHIVES[file.name]}), though it "
                "holds all characters and drawings"
            )


def _random_split(seed: int) -> dict[Part, np.ndarray]:
    order = np.random.default_rng(seed).permutation(CHARACTERS)
    return {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]}


def _vinyals_split(
    data_dir: str | None, place: Path, names: list[str], announce: Callable[[str], None]
) -> dict[Part, np.ndarray]:
    folder = place / "splits" / "vinyals"
    if not all((folder / f"{part}.txt").exists() for part in SPLITS):
        folder = store.cache_dir() / "data" / "omniglot" / "splits" / "vinyals"
        for part, checksum in SPLITS.items():
            if not (folder / f"{part}.txt").exists():
                announce(f"downloading {SPLITS_URL}/{part}.txt to {folder}")
                store.download(
                    f"{SPLITS_URL}/{part}.txt", folder / f"{part}.txt", algorithm="sha256", checksum=checksum
                )
    index = {name: i for i, name in enumerate(names)}
    parts: dict[Part, np.ndarray] = {}
    for part in PARTS:
        file = folder / f"{part}.txt"
        characters = {line.rsplit("/", 1)[0] for line in file.read_text(errors="replace").split()}
        unknown = characters - index.keys()
        if unknown:
            raise InnerloopError(f"{file} names the character {min(unknown)!r}, which the archives do not hold.")
        parts[part] = np.array(sorted(index[name] for name in characters))
    return parts


def _pillow():
    try:
        from PIL import Image
    except ImportError as error:
        raise InnerloopError("Reading images needs Pillow; install it with: pip install 'innerloop[images]'") from error
    return Image
