"""The experiments with long inner loops that come with the program."""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args, get_type_hints

from innerloop.errors import InnerloopError
from innerloop.runs.fields import Log
from innerloop.runs.recipe import Recipe
from innerloop.workloads.streams.config import (
    Config,
    DigitTasks,
    Evaluation,
    Inner,
    Network,
    Outer,
    RecallTasks,
    TextTasks,
)


def _data_weights() -> Config:
    return Config(
        tasks=DigitTasks(),
        inner=Inner(learning_rate=0.05, momentum=0.9, decay=0.006, steps=500, levels=2),
        outer=Outer(iterations=100, meta_batch=1, learning_rate=0.1),
        evaluation=Evaluation(tasks=5),
        algorithm="data-weights",
        log=Log(every=1),
    )


def _recall() -> Config:
    return Config(
        tasks=RecallTasks(),
        network=Network(chunk=16),
        inner=Inner(learning_rate=3.0),
        outer=Outer(iterations=300, clip=1.0),
        evaluation=Evaluation(tasks=500),
        log=Log(every=20),
    )


def _text() -> Config:
    return Config(
        tasks=TextTasks(),
        network=Network(width=48, window=32, chunk=32),
        inner=Inner(learning_rate=0.3),
        outer=Outer(iterations=400, meta_batch=8, clip=1.0),
        evaluation=Evaluation(tasks=200),
        log=Log(every=20),
    )


RECIPES: Mapping[str, Recipe[Config]] = {
    "data-weights": Recipe(
        _data_weights, "weights of training examples, learned through whole trainings: digits, 40 % of the labels wrong"
    ),
    "ttt-recall": Recipe(_recall, "a sequence model that trains at test time: recall beyond its window"),
    "ttt-text": Recipe(_text, "the same on the bytes of Python's documentation; --algorithm ttt, window or full"),
}


def configure(name: str, algorithm: str | None = None) -> Config:
    """The configuration of the recipe of that name, for an algorithm or for the recipe's own.

    Raises:
        InnerloopError: for an algorithm that is not for such experiments.
    """
    known = get_args(get_type_hints(Config)["algorithm"])
    if algorithm is not None and algorithm not in known:
        raise InnerloopError(f"--algorithm is {algorithm!r}; for streams choose of: {', '.join(known)}.")
    made = replace(RECIPES[name].make(), recipe=name)
    return made if algorithm is None else replace(made, algorithm=algorithm)  # pyright: ignore[reportArgumentType]
