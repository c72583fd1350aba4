"""A folder that holds a trained model and runs no code: weights as safetensors, the rest as JSON, a card to read.

    config.json            kind and format of the model, what is needed to rebuild it, and the checksums
    weights.safetensors    every array by its path, such as `params/conv1/kernel`
    README.md              the card

The checksums cover the weights and the configuration, so that a single flipped bit is refused.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from innerloop import __version__
from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.files import write_bytes, write_text

FORMAT = 2
"""Of the folder. Format 1 held learners of tables alone, see `innerloop.tabular.artifact`."""
WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.json", "README.md"
MODEL = "model"
"""The folder of a run in which its model lies, if it was trained on one's own tasks."""

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class Artifact:
    """What such a folder holds.

    Attributes:
        folder: where it was read from.
        kind: of model: `tabular`, `episodes` or `policy`.
        config: what is needed to rebuild it.
        arrays: by their paths.
    """

    folder: Path
    kind: str
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def restored(self, template: Tree) -> Tree:
        """The arrays as a tree.

        Args:
            template: a tree of arrays or of their shapes, as `jax.eval_shape` gives it.

        Raises:
            InnerloopError: if an array is missing, or of another shape or type.
        """

        def restore(path: Any, leaf: Any) -> Any:
            stored = self.arrays.get(path_name(path))
            if stored is None or stored.shape != leaf.shape or stored.dtype != leaf.dtype:
                found = "nothing" if stored is None else f"{stored.dtype}{list(stored.shape)}"
                raise InnerloopError(
                    f"{self.folder / WEIGHTS} does not fit {CONFIG}: {path_name(path)} should be "
                    f"{leaf.dtype}{list(leaf.shape)}, but it holds {found}."
                )
            return jnp.asarray(stored)

        return jax.tree.map_with_path(restore, template)


def write(folder: Path, kind: str, config: dict[str, Any], tree: PyTree, card: str) -> None:
    """Write a folder.

    Args:
        folder: made if it is not there.
        kind: of model.
        config: what is needed to rebuild it, as JSON's values.
        tree: of arrays.
        card: Markdown.

    Raises:
        InnerloopError: if it cannot be written.
    """
    content = save_arrays({path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)})
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InnerloopError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    values = {"kind": kind, "format": FORMAT, "innerloop": __version__, **config}
    checksums = {WEIGHTS: hashlib.sha256(content).hexdigest(), CONFIG: _digest(values)}
    write_bytes(folder / WEIGHTS, content)
    write_text(folder / CONFIG, json.dumps({**values, "sha256": checksums}, indent=1))
    write_text(folder / CARD, card)


def read(folder: Path) -> Artifact:
    """Read a folder that `write` wrote. Nothing in it is executed.

    Raises:
        InnerloopError: if it is not such a folder, is damaged, or of another version.
    """
    try:
        values = json.loads((folder / CONFIG).read_text())
        content = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InnerloopError(
            f"{folder} holds no model that can be read ({why}); it needs {CONFIG} and {WEIGHTS}, as innerloop export "
            "RUN --out FOLDER writes them."
        ) from error
    if not isinstance(values, dict) or "format" not in values:
        raise InnerloopError(
            f"{folder / CONFIG} is not that of a model; write one with: innerloop export RUN --out FOLDER"
        )
    if values["format"] != FORMAT:
        raise InnerloopError(f"{folder} has the format {values['format']}; this version reads {FORMAT}.")
    checksums = values.pop("sha256", None)
    if not isinstance(checksums, dict) or _digest(values) != checksums.get(CONFIG):
        raise InnerloopError(f"{folder / CONFIG} is damaged (its checksum differs); copy it again.")
    if hashlib.sha256(content).hexdigest() != checksums.get(WEIGHTS):
        raise InnerloopError(f"{folder / WEIGHTS} is damaged (it is not what {CONFIG} says); copy it again.")
    try:
        return Artifact(folder, str(values["kind"]), values, load_arrays(content))
    except (KeyError, SafetensorError) as error:
        raise InnerloopError(f"{folder} is no model of this version of innerloop ({error}).") from error


def of_run(path: Path) -> Path:
    """The folder of the model: the folder itself, or that in the directory of a run on one's own tasks."""
    return path / MODEL if (path / MODEL).is_dir() else path


def _digest(values: dict[str, Any]) -> str:
    """Of the configuration, however it is laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
