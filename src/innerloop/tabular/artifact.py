"""A trained learner as plain values, and a folder that holds all of it and runs no code."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from innerloop import artifacts
from innerloop.artifacts import Artifact
from innerloop.errors import InnerloopError
from innerloop.tabular import learner
from innerloop.tabular.card import card
from innerloop.tabular.certainty import Certainty
from innerloop.tabular.design import Design
from innerloop.tabular.features import Preparation
from innerloop.tabular.pooled import Trees
from innerloop.types import Meta

KIND = "tabular"


@dataclass(frozen=True)
class TrainedLearner:
    """What meta-training gave.

    Attributes:
        design: what the learner is.
        preparation: how features are read.
        meta: what was learned.
        labels: the classes that all tasks share, in order; empty if each has its own, or for regression.
        facts: data, scores, versions, for the model card.
        units: mean and standard deviation of all training targets, for a regression.
        certainty: what validation tasks said of intervals and probabilities.
    """

    design: Design
    preparation: Preparation
    meta: Meta
    labels: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    units: tuple[float, float] = (0.0, 1.0)
    certainty: Certainty = field(default_factory=Certainty)

    @property
    def regression(self) -> bool:
        return self.design.kind == "regression"


def save(learned: TrainedLearner, folder: Path) -> None:
    """Write weights, configuration and model card.

    Raises:
        InnerloopError: if they cannot be written.
    """
    config = {
        "design": asdict(learned.design),
        "labels": list(learned.labels),
        "sizes": list(learned.preparation.sizes),
        "outputs": int(learned.meta.params["head"]["common"].shape[1]),
        "features": learned.preparation.to_json(),
        "pooled": learned.preparation.pooled.to_json() if learned.preparation.pooled else None,
        "units": list(learned.units),
        "certainty": learned.certainty.to_json(),
        "facts": learned.facts,
    }
    about = card(learned.design.kind, learned.labels, learned.preparation, learned.facts)
    artifacts.write(folder, KIND, config, learned.meta, about)


def load(folder: Path) -> TrainedLearner:
    """Read a folder that `save` wrote, of this version or of format 1. Nothing in it is executed.

    Args:
        folder: the folder, or the directory of a run that holds it.

    Raises:
        InnerloopError: if it is not such a folder, is damaged, or of another version.
    """
    folder = artifacts.of_run(folder)
    old = (folder / "model.json").exists() and not (folder / artifacts.CONFIG).exists()
    return from_artifact(_format_1(folder) if old else artifacts.read(folder))


def from_artifact(stored: Artifact) -> TrainedLearner:
    """The learner that a folder holds.

    Raises:
        InnerloopError: if it holds another kind of model, or does not fit this version.
    """
    if stored.kind != KIND:
        raise InnerloopError(
            f"{stored.folder} holds a model of the kind {stored.kind!r}, not a learner of tables; read it with "
            "innerloop.load(folder)."
        )
    config = stored.config
    try:
        design = design_from_json(config["design"])
        preparation = Preparation.from_json(config["features"])
        if config.get("pooled"):
            preparation = replace(preparation, pooled=Trees.from_json(config["pooled"]))
        center, scale = config.get("units", (0.0, 1.0))
        counts, numbers = config["sizes"]
        template = jax.eval_shape(
            lambda: learner.initial(design, (counts, numbers), config["outputs"], jax.random.key(0))
        )
        labels, facts = tuple(config["labels"]), dict(config["facts"])
        certainty = Certainty.from_json(config["certainty"]) if "certainty" in config else Certainty()
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InnerloopError):
            raise
        raise InnerloopError(f"{stored.folder} is no model of this version of innerloop ({error}).") from error
    return TrainedLearner(design, preparation, stored.restored(template), labels, facts, (center, scale), certainty)


def _format_1(folder: Path) -> Artifact:
    """A folder as versions before 0.2 wrote it, where the encoder was called a trunk."""
    try:
        config = json.loads((folder / "model.json").read_text())
        content = (folder / "model.safetensors").read_bytes()
        arrays = load_arrays(content)
        if config["format"] != 1 or hashlib.sha256(content).hexdigest() != config["sha256"]:
            raise ValueError("its checksum differs")
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise InnerloopError(f"{folder} holds a model that is damaged ({error}); copy it again.") from error
    renamed = {name.replace("params/trunk/", "params/encoder/"): array for name, array in arrays.items()}
    return Artifact(folder, KIND, config, renamed)


def design_from_json(values: dict[str, Any]) -> Design:
    """A design from the object that `config.json` holds."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    design = Design(**fields)
    design.require()
    return design
