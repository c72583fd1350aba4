"""A run on episodes, as a folder to be used elsewhere; and such a model, adapted to a folder of images."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from innerloop import artifacts
from innerloop.errors import InnerloopError
from innerloop.exported import episodes
from innerloop.exported.description import Description
from innerloop.pictures import ImageFormat, images_below
from innerloop.runs import machine, predictions
from innerloop.types import Meta
from innerloop.workloads.episodes import modulations
from innerloop.workloads.episodes.build import Experiment
from innerloop.workloads.episodes.config import Config, GlyphTasks, OmniglotTasks
from innerloop.workloads.episodes.network import IMAGE_SHAPES, described_network, ways_of

MODEL_CHOICE = "choose a model of Omniglot or miniImageNet, or adapt it in Python: innerloop.load(folder)"


def export(experiment: Experiment, meta: Meta, folder: Path, result: Mapping[str, Any] | None) -> None:
    """Write what a run learned as a folder that `innerloop.load` reads.

    Args:
        experiment: what was trained.
        meta: what was learned.
        folder: made if it is not there.
        result: the evaluation, for the model card.

    Raises:
        InnerloopError: if it cannot be written.
    """
    episodes.save(folder, described(experiment, result), meta)
    modulations.write(experiment, meta, folder)


def described(experiment: Experiment, result: Mapping[str, Any] | None) -> Description:
    """What an exported model is told to be."""
    config, row = experiment.config, experiment.algorithm
    classes = ways_of(config)
    context = config.variant.context if row.network == "context" else 0
    features = config.variant.features if row.network == "prototypes" and classes else 0
    facts = {
        "name": f"{config.recipe or 'a recipe'}, {config.algorithm}",
        "seed": config.seed,
        "meta-steps": (result or {}).get("meta_steps", config.outer.iterations),
        "versions": machine.description()["versions"],
        "commit": machine.commit(),
    }
    return Description(
        network=described_network(config, features or None, context),
        task=config.kind,
        algorithm=config.algorithm,
        inner_rate=config.inner.learning_rate,
        inner_optimizer=config.inner.optimizer,
        steps=config.inner.steps,
        test_steps=config.evaluation.steps,
        normalisation=config.network.normalisation,
        adapt_normalisation=config.network.adapt_normalisation,
        context=context,
        features=features,
        ways=classes,
        regularisation=config.variant.regularisation,
        line_search=config.variant.line_search,
        bound_growth=config.inner.bound_growth,
        bound_norm=config.inner.bound_norm,
        image=image_format(config),
        facts=facts,
    )


def image_format(config: Config) -> ImageFormat | None:
    """How images are made into what the network was trained on, as the loader of the data does."""
    shape = IMAGE_SHAPES.get(type(config.tasks))
    return None if shape is None else ImageFormat(*shape, inverted=isinstance(config.tasks, OmniglotTasks | GlyphTasks))


def adapt(folder: Path, support: Path, query: Path, out: Path, say: Callable[[str], None]) -> None:
    """Adapt an exported model to labelled images, predict others, and write a CSV file.

    Args:
        folder: of the model.
        support: a folder `class/*.png`, whose folders are the classes.
        query: a folder of images, or of such folders; then the predictions are scored.
        out: the CSV file.
        say: told what was noticed.

    Raises:
        InnerloopError: for folders that do not fit the model.
    """
    model = episodes.from_artifact(artifacts.read(folder))
    if model.description.image is None:
        shape = list(model.description.network.inputs)
        raise InnerloopError(f"{folder} takes inputs of the shape {shape}, not images; {MODEL_CHOICE}.")
    given, asked = _images(support, "--support"), _images(query, "--query")
    flat = [file for file in given if file.parent == support]
    if flat:
        raise InnerloopError(f"{flat[0]} lies in no class; put the support images into {support}/CLASS/.")
    labels = np.array([_class_of(file, support) for file in given], object)
    say(model.image_format.describe())
    task = model.adapt(model.read_images(given), labels)
    chances = task.predict_proba(model.read_images(asked))
    classes = [str(label) for label in task.classes.tolist()] if task.classes is not None else []
    predicted = [classes[i] for i in chances.argmax(axis=1)]
    columns: dict[str, Any] = {"file": [str(file.relative_to(query)) for file in asked], "prediction": predicted}
    columns |= {f"probability_{label}": chances[:, i] for i, label in enumerate(classes)}
    predictions.write(out, columns, len(asked))
    say(predictions.adapted(len(given), "images", task.curve.tolist()))
    truth = [_class_of(file, query) if file.parent != query else None for file in asked]
    if all(label in classes for label in truth):
        right = float(np.mean([label == found for label, found in zip(truth, predicted, strict=True)]))
        say(f"scored by the folders of {query}, which were not used: accuracy {right:.3f}")
    say(f"{len(asked):,} predictions: {out.resolve()}")


def _images(path: Path, flag: str) -> list[Path]:
    if not path.is_dir():
        raise InnerloopError(f"{flag} is {path}, which is no folder; this model was trained on images, give a folder.")
    return images_below(path)


def _class_of(file: Path, folder: Path) -> str:
    """The class of an image: the folders that it lies in."""
    return file.parent.relative_to(folder).as_posix()
