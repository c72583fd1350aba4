"""A trained learner as plain values: adaptation to a task, and a folder that holds all of it and runs no code."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from innerloop import artifacts
from innerloop.artifacts import Artifact
from innerloop.errors import InnerloopError
from innerloop.tabular import learner
from innerloop.tabular.card import card
from innerloop.tabular.columns import in_order
from innerloop.tabular.design import Design
from innerloop.tabular.episodes import padded_size
from innerloop.tabular.features import Columns, Inputs, Preparation
from innerloop.tabular.learner import Adapted
from innerloop.tabular.pooled import Trees
from innerloop.types import Examples, Meta

KIND = "tabular"
MEMBERS = 16
"""Adaptations, each to a reweighted support set, whose disagreement is the spread of a prediction."""
SMALLEST_SPREAD = 1e-12
"""Of support targets, relative to their size: below it they are all the same."""
BLOCK = 4096
"""Rows that are predicted at once."""
SMALLEST_BLOCK = 64
"""Fewer rows are filled up, so that what is predicted of a row has the same bits whichever few rows stand beside it."""


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
    """

    design: Design
    preparation: Preparation
    meta: Meta
    labels: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    units: tuple[float, float] = (0.0, 1.0)

    @property
    def regression(self) -> bool:
        return self.design.kind == "regression"


class SupportTargets(NamedTuple):
    """Targets of a support set as the learner reads them.

    Attributes:
        labels: the classes of the task, in order; empty for regression.
        places: the head's output for each of them.
        outputs: of the head, few different numbers.
        y: class of each row, or target in units of `scale` from `center`, `[rows]`.
        center: of a regression's targets.
        scale: of a regression's targets.
    """

    labels: tuple[str, ...]
    places: tuple[int, ...]
    outputs: int
    y: np.ndarray
    center: float = 0.0
    scale: float = 1.0

    def original(self, scores: np.ndarray) -> np.ndarray:
        """Predicted targets of a regression in their own units."""
        return np.asarray(scores, np.float64) * self.scale + self.center


@dataclass(frozen=True)
class AdaptedTask:
    """A learner adapted to one task.

    Attributes:
        learned: the learner.
        support: the targets that it was adapted to.
        adapted: the parameters of all members, the plain adaptation first; leaves `[members, ...]`.
    """

    learned: TrainedLearner
    support: SupportTargets
    adapted: Adapted

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the task, in order; empty for regression."""
        return self.support.labels

    @property
    def curve(self) -> list[float]:
        """Support loss after 0, 1, ..., k inner steps."""
        return [float(loss) for loss in np.asarray(self.adapted.losses)[0]]

    def probabilities(self, columns: Columns) -> np.ndarray:
        """The probability of each of the task's classes, `[rows, classes]`."""
        scores = self._scores(columns)[0].astype(np.float64)[:, list(self.support.places)]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def targets(self, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Predicted targets, and their spread over the members, both `[rows]`."""
        scores = self.support.original(self._scores(columns)[:, :, 0])
        return scores[0], np.std(scores, axis=0)

    def _scores(self, columns: Columns) -> np.ndarray:
        """Outputs of the heads, `[members, rows, outputs]`; rows in blocks, padded to powers of two."""
        inputs = self.learned.preparation.encode(columns)
        number, parts = len(inputs.numbers), []
        for start in range(0, max(number, 1), BLOCK):
            block = Inputs(*(array[start : start + BLOCK] for array in inputs))
            count = len(block.numbers)
            padded, _ = pad(block, np.zeros(count), padded_size(count, SMALLEST_BLOCK))
            scores = learner.outputs_of_members(
                self.learned.design, self.support.outputs, self.learned.meta, self.adapted, padded.x
            )
            parts.append(np.asarray(scores)[:, :count])
        return np.concatenate(parts, axis=1)


def adapt(
    learned: TrainedLearner, columns: Columns, target: np.ndarray, *, members: int = 1, seed: int = 0
) -> AdaptedTask:
    """Adapt to one task.

    Args:
        learned: the learner.
        columns: features of the support rows.
        target: their labels as texts, or real targets, `[rows]`.
        members: adaptations; all but the first weigh the rows by exponential random numbers (a Bayesian bootstrap).
        seed: of these weights.

    Raises:
        InnerloopError: if there is no row, only one class, or a target is missing.

    Reference:
        Rubin: The Bayesian Bootstrap, 1981.
    """
    support = support_targets(learned, target)
    y = support.y
    inputs = learned.preparation.encode(columns)
    examples, count = pad(inputs, y, padded_size(len(y)))
    weights = np.zeros((members, len(examples.y)), np.float32)
    weights[:, :count] = 1.0
    if members > 1:
        weights[1:, :count] = np.random.default_rng(seed).standard_exponential((members - 1, count))
    many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (members, *leaf.shape)), examples)._replace(weight=weights)
    adapted = learner.adapt_tasks(learned.design, support.outputs, learned.meta, many)
    return AdaptedTask(learned, support, adapted)


def support_targets(learned: TrainedLearner, target: np.ndarray) -> SupportTargets:
    """Targets of a support set as the learner reads them.

    Args:
        learned: the learner.
        target: labels as texts, or real targets, `[rows]`.

    Raises:
        InnerloopError: if there is no row, only one class, or a target is missing.
    """
    if not len(target):
        raise InnerloopError("The support set holds no rows; give some labelled rows of the task.")
    if learned.regression:
        values = np.asarray(target, np.float64)
        if not np.isfinite(values).all():
            raise InnerloopError(f"The target of row {int(np.argmin(np.isfinite(values))) + 1} is missing; fill it.")
        center, scale = learned.units
        if learned.design.targets == "support":  # in 64 bits, so that units and offsets of any size leave no trace
            center, spread = float(np.mean(values)), float(np.std(values))
            scale = spread if spread > SMALLEST_SPREAD * (abs(center) + scale) else scale
        return SupportTargets((), (0,), 1, ((values - center) / scale).astype(np.float32), center, scale)
    texts = ["" if label is None else str(label) for label in target]
    if set(texts) <= {"0", "1"} and learned.labels == ("false", "true"):
        texts = ["true" if text == "1" else "false" for text in texts]
    labels = in_order(set(texts))
    if len(labels) < 2:
        raise InnerloopError(
            f"The support set has one class only ({texts[0]!r}); give rows of at least two, or there is nothing to "
            "tell apart."
        )
    new = [label for label in labels if label not in learned.labels]
    place = {label: learned.labels.index(label) if label in learned.labels else 0 for label in labels}
    place |= {label: len(learned.labels) + i for i, label in enumerate(new)}
    needed = max(place.values()) + 1
    outputs = len(learned.labels) if not new and learned.labels else padded_size(needed, 2)
    y = np.array([place[text] for text in texts], np.int32)
    return SupportTargets(labels, tuple(place[label] for label in labels), outputs, y)


def pad(inputs: Inputs, y: np.ndarray, size: int) -> tuple[Examples, int]:
    """Rows filled up to a size with rows that weigh nothing."""
    count = len(y)
    room = lambda leaf: np.concatenate([leaf, np.zeros((size - count, *leaf.shape[1:]), leaf.dtype)])  # noqa: E731
    weight: Any = (np.arange(size) < count).astype(np.float32)
    return Examples(Inputs(room(inputs.counts), room(inputs.numbers)), room(y), weight), count


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
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InnerloopError):
            raise
        raise InnerloopError(f"{stored.folder} is no model of this version of innerloop ({error}).") from error
    return TrainedLearner(design, preparation, stored.restored(template), labels, facts, (center, scale))


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
