"""A model that was trained on episodes (images, sinusoids): adapted to a task of a user's, without the program."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from innerloop import artifacts, models
from innerloop.artifacts import Artifact
from innerloop.core import algorithms, losses
from innerloop.core.adjoints import Implicit
from innerloop.core.algorithms import MetaLearner
from innerloop.errors import InnerloopError
from innerloop.exported.description import Description, card
from innerloop.pictures import ImageFormat, images_below
from innerloop.types import Examples, Meta, Params

KIND = "episodes"
BLOCK = 256
"""Rows that are predicted at once, where each is judged alone."""


class EpisodesModel:
    """What was learned on episodes. Read it with `innerloop.load`.

    Args:
        description: what it is.
        meta: what was learned.
    """

    def __init__(self, description: Description, meta: Meta):
        self.description, self.meta = description, meta
        self.learner = rebuilt(description)
        self._adapt = jax.jit(self._adapted, static_argnames="steps")
        self._outputs = jax.jit(self._apply)

    def adapt(self, x: Any, y: Any, *, steps: int | None = None) -> "AdaptedModel":
        """Adapt to the labelled examples of a task.

        Args:
            x: inputs as the network was trained on, `[examples, ...]`; images as `read_images` gives them.
            y: labels of any type, or real targets, `[examples]`.
            steps: inner steps; those of the run's evaluation unless given.

        Raises:
            InnerloopError: if x and y do not fit the network, or there are more classes than it can tell apart.
        """
        inputs = self._inputs(x)
        labels = np.asarray(y)
        if len(labels) != len(inputs) or not len(inputs):
            raise InnerloopError(f"x has {len(inputs)} examples and y {len(labels)}; give a target for each example.")
        classes: np.ndarray | None = None
        if self.description.task == "classification":
            classes, places = np.unique(labels, return_inverse=True)
            self._require_classes(classes)
            targets = jnp.asarray(places.reshape(-1), jnp.int32)
        else:
            if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
                raise InnerloopError("y must hold finite numbers; this model is one of regression.")
            targets = jnp.asarray(labels, inputs.dtype).reshape(len(labels), -1)
            if targets.shape[1] != self.description.network.outputs:
                raise InnerloopError(
                    f"y has {targets.shape[1]} numbers for each example; this model predicts "
                    f"{self.description.network.outputs}."
                )
        steps = self.description.test_steps if steps is None else steps
        params, curve = self._adapt(self.meta, Examples(inputs, targets), steps=steps)
        return AdaptedModel(self, params, inputs, classes, np.asarray(curve), labels.shape[1:])

    def read_images(self, paths: Iterable[str | Path] | str | Path) -> np.ndarray:
        """Image files, made into what the network was trained on: size, colours, ink and scale.

        Args:
            paths: files of any format that Pillow reads, grey or in colour, of any size; or a folder of them.

        Returns:
            Numbers from 0 to 1, `[images, height, width, channels]`.

        Raises:
            InnerloopError: if the model takes no images, or a file is none.
        """
        return self.image_format.read(self._files(paths)).astype(np.float32) / 255

    @property
    def image_format(self) -> ImageFormat:
        """How images are read.

        Raises:
            InnerloopError: if the model takes none.
        """
        if self.description.image is None:
            raise InnerloopError(
                f"This model takes inputs of the shape {list(self.description.network.inputs)}, not images."
            )
        return self.description.image

    @staticmethod
    def _files(paths: Iterable[str | Path] | str | Path) -> Sequence[Path]:
        if isinstance(paths, str | Path):
            return images_below(Path(paths)) if Path(paths).is_dir() else [Path(paths)]
        return [Path(path) for path in paths]

    def _inputs(self, x: Any) -> jax.Array:
        shape, array = self.description.network.inputs, np.asarray(x)
        if shape == (1,) and array.ndim == 1:
            array = array[:, None]
        wanted = ("points", *shape[1:]) if self.description.network.kind == "field" else shape
        fits = array.shape[2:] == shape[1:] and array.ndim == 3 if "points" in wanted else array.shape[1:] == shape
        if array.dtype.kind not in "iufb" or not fits:
            raise InnerloopError(
                f"x has the shape {list(array.shape)} and the type {array.dtype}; this model takes numbers of the "
                f"shape [examples, {', '.join(map(str, wanted))}]."
            )
        if self.description.image is not None and array.dtype == np.uint8:
            array = array.astype(np.float32) / 255
        if not np.isfinite(array).all():
            raise InnerloopError("x holds numbers that are not finite; mend or leave out these examples.")
        return jnp.asarray(array, jnp.float64 if self.description.network.precision == "float64" else jnp.float32)

    def _require_classes(self, classes: np.ndarray) -> None:
        ways = self.description.ways
        if len(classes) < 2:
            raise InnerloopError(
                f"The support set has one class only ({classes[0].item()!r}); give examples of at least two."
            )
        if len(classes) > ways:
            raise InnerloopError(
                f"The support set has {len(classes)} classes; this model was trained to tell {ways} apart, give at "
                f"most {ways}."
            )

    def _adapted(self, meta: Meta, support: Examples, *, steps: int) -> tuple[Params, jax.Array]:
        key = jax.random.key(0)
        found = self.learner.adapt(meta, support, key, steps=steps)
        return found.params, jnp.append(found.losses, self.learner.loss(found.params, support, key)[0])

    def _apply(self, params: Params, x: jax.Array, reference: jax.Array | None) -> jax.Array:
        moments, model = None, self.learner.model
        if model.running is not None and reference is not None:
            moments = model.running(params)
        elif model.moments is not None and reference is not None:
            moments = model.moments(params, reference, None)
        return model.apply(params, x, moments=moments)


class AdaptedModel:
    """A model adapted to one task.

    Attributes:
        params: the adapted parameters.
        classes: the labels, in order, of a classification.
        curve: support loss after 0, 1, ..., k inner steps.
    """

    def __init__(
        self,
        source: EpisodesModel,
        params: Params,
        support: jax.Array,
        classes: np.ndarray | None,
        curve: np.ndarray,
        target_shape: tuple[int, ...],
    ):
        self.params, self.classes, self.curve = params, classes, curve
        self._source, self._support, self._target_shape = source, support, target_shape

    def predict(self, x: Any, *, transductive: bool = False) -> np.ndarray:
        """The most probable label, or the predicted target, of each example; for `transductive` see `apply`."""
        if self.classes is None:
            return self.apply(x, transductive=transductive).reshape(-1, *self._target_shape)
        return self.classes[self.predict_proba(x, transductive=transductive).argmax(axis=1)]

    def predict_proba(self, x: Any, *, transductive: bool = False) -> np.ndarray:
        """The probability of each label, in the order of `classes`, `[examples, classes]`.

        Raises:
            InnerloopError: if the model is one of regression.
        """
        if self.classes is None:
            raise InnerloopError("A regression has no probabilities; use predict.")
        scores = self.apply(x, transductive=transductive)[:, : len(self.classes)].astype(np.float64)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)

    def apply(self, x: Any, *, transductive: bool = False) -> np.ndarray:
        """The network's outputs, `[examples, outputs]`.

        Args:
            x: inputs, as of `EpisodesModel.adapt`.
            transductive: normalise the examples by their own statistics, all together, as the published results of
                MAML do. Otherwise by those of the support set (or running averages), so that each is judged alone.
        """
        inputs, source = self._source._inputs(x), self._source
        if transductive or not len(inputs):
            return np.asarray(source._outputs(self.params, inputs, None))
        parts = []
        for start in range(0, len(inputs), BLOCK):
            block = inputs[start : start + BLOCK]
            room = max(8, 1 << (len(block) - 1).bit_length()) - len(block)  # few shapes are ever compiled
            padded = jnp.concatenate([block, jnp.zeros((room, *block.shape[1:]), block.dtype)])
            parts.append(np.asarray(source._outputs(self.params, padded, self._support))[: len(block)])
        return np.concatenate(parts)


def rebuilt(description: Description) -> MetaLearner:
    """The algorithm on the network; its outer half, which nothing here uses, has settings that stand for any."""
    row = algorithms.algorithm(description.algorithm)
    if isinstance(row.adjoint, Implicit):
        row = row._replace(adjoint=Implicit(description.regularisation, line_search=description.line_search))
    if description.inner_optimizer == "adam":
        row = row.with_adam()
    row = row.bounded(growth=description.bound_growth, norm=description.bound_norm)
    return row(
        models.from_description(description.network),
        losses.squared_error if description.task == "regression" else losses.cross_entropy,
        inner_rate=description.inner_rate,
        steps=description.steps,
        optimizer=optax.identity(),
        meta_batch=1,
        iterations=1,
        statistics="support" if description.normalisation == "support" else "batch",
        adapt_normalisation=description.adapt_normalisation,
        context=description.context or None,
        features=description.features or None,
        ways=description.ways if description.features else None,
    )


def save(folder: Path, description: Description, meta: Meta) -> None:
    """Write a model as a folder that `innerloop.load` reads.

    Args:
        folder: made if it is not there.
        description: what the model is.
        meta: what was learned.

    Raises:
        InnerloopError: if it cannot be written.
    """
    artifacts.write(folder, KIND, asdict(description), meta, card(description))


def from_artifact(stored: Artifact) -> EpisodesModel:
    """The model that a folder holds.

    Raises:
        InnerloopError: if it does not fit this version.
    """
    try:
        description = Description.from_json(stored.config)
        if description.network.precision == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
            raise InnerloopError(
                f"{stored.folder} was trained in float64; call jax.config.update('jax_enable_x64', True) before."
            )
        template = jax.eval_shape(lambda: rebuilt(description).init(jax.random.key(0)).meta)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InnerloopError):
            raise
        raise InnerloopError(f"{stored.folder} is no model of this version of innerloop ({error}).") from error
    return EpisodesModel(description, stored.restored(template))
