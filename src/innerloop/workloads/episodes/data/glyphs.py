"""Letters in the typefaces that matplotlib ships: few-shot classification of images that needs no download.

The faces (DejaVu Sans, Sans Mono and Serif, STIX; upright, slanted and bold) take the place of Omniglot's drawers.
Scripts are held out whole: training sees Latin and Cyrillic, validation Greek, test Armenian and Georgian letters.
"""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np

from innerloop.errors import InnerloopError
from innerloop.runs import store
from innerloop.tasks import with_rotations
from innerloop.workloads.episodes.data.omniglot import Labelled, Part

SIDE = 28
EM = 24
"""Pixels of an em, so that a capital letter is 17 pixels high."""
FACES = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
"""What the names of text faces begin with; the others hold pieces of mathematics."""
FEWEST = 8
"""Faces that a letter must be in."""
SCRIPTS: dict[Part, tuple[str, ...]] = {
    "train": ("LATIN", "CYRILLIC"),
    "val": ("GREEK",),
    "test": ("ARMENIAN", "GEORGIAN"),
}
"""The scripts of each part, as Unicode's names of letters begin."""
LETTERS = ("Lu", "Ll", "Lo")
"""Unicode's categories of letters: upper case, lower case, neither."""


def load(rotations: bool, announce: Callable[[str], None]) -> dict[Part, Labelled]:
    """The letters of each part, 28x28 with ink as 255 and paper as 0; each is a class, with an image from each face.

    A letter that looks in every face like one before it (a Greek capital like a Latin one) is left out.

    Args:
        rotations: whether each turn by a quarter is a class of its own, as in Omniglot.
        announce: told what is prepared.

    Raises:
        InnerloopError: if matplotlib is not installed, or ships other typefaces.
    """
    faces = _faces()
    arrays = store.prepared(store.fingerprint(faces, "glyphs", SIDE, EM, 1), lambda: _prepare(faces, announce))
    parts: dict[Part, Labelled] = {}
    for part in SCRIPTS:
        x, y = arrays[f"{part}-images"], arrays[f"{part}-labels"]
        parts[part] = Labelled(*(with_rotations(x, y) if rotations else (x, y)))
    return parts


def _faces() -> list[Path]:
    """The files of the text faces."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise InnerloopError(
            "The letters are drawn in the typefaces of matplotlib; install it with: pip install 'innerloop[report]'"
        ) from error
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    faces = sorted(file for face in FACES for file in folder.glob(f"{face}*.ttf") if "Display" not in file.name)
    if len(faces) < FEWEST:
        raise InnerloopError(
            f"{folder} holds {len(faces)} of matplotlib's text faces instead of 16; install matplotlib from PyPI."
        )
    return faces


def _prepare(faces: list[Path], announce: Callable[[str], None]) -> dict[str, np.ndarray]:
    from matplotlib.ft2font import FT2Font

    announce("drawing the letters of matplotlib's typefaces (once)")
    fonts = [FT2Font(str(face)) for face in faces]
    charmaps = [font.get_charmap() for font in fonts]
    seen: set[bytes] = set()
    arrays: dict[str, np.ndarray] = {}
    for part, scripts in SCRIPTS.items():
        images, labels = [], []
        letters = 0
        for code in sorted({code for charmap in charmaps for code in charmap if _is_letter(code, scripts)}):
            having = [font for font, charmap in zip(fonts, charmaps, strict=True) if code in charmap]
            if len(having) < FEWEST:
                continue
            drawn = np.stack([_draw(font, code) for font in having])
            if (same := drawn.tobytes()) in seen:
                continue
            seen.add(same)
            images.append(drawn)
            labels += [letters] * len(drawn)
            letters += 1
        arrays[f"{part}-images"] = np.concatenate(images)[..., None]
        arrays[f"{part}-labels"] = np.asarray(labels, np.int32)
    return arrays


def _is_letter(code: int, scripts: tuple[str, ...]) -> bool:
    character = chr(code)
    return unicodedata.category(character) in LETTERS and unicodedata.name(character, "").startswith(scripts)


def _draw(font, code: int) -> np.ndarray:
    """A letter in the middle of its image, smaller where it would not fit."""
    ink = np.zeros((1, 1), np.uint8)
    for size in range(EM, 0, -1):
        font.set_size(size, 72)
        font.set_text(chr(code))
        font.draw_glyphs_to_bitmap(antialiased=True)
        ink = np.array(font.get_image())
        rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        if rows.size:
            ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if max(ink.shape) <= SIDE:
            break
    image = np.zeros((SIDE, SIDE), np.uint8)
    top, left = (SIDE - ink.shape[0]) // 2, (SIDE - ink.shape[1]) // 2
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return image
