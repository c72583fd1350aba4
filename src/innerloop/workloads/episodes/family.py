"""The other rows of the table of algorithms: settings that suit them here, and those that they were published with."""

from collections.abc import Mapping
from typing import Any

SINUSOID: Mapping[str, Mapping[str, Any]] = {
    "fomaml": {"inner.learning_rate": 0.003, "inner.steps": 5, "evaluation.steps": 10},
    "truncated-maml": {"inner.learning_rate": 0.003, "inner.steps": 5, "evaluation.steps": 10},
    "maml++": {"inner.learning_rate": 0.001, "inner.steps": 5, "evaluation.steps": 5},
    "meta-sgd": {"inner.learning_rate": 0.003, "inner.steps": 5, "evaluation.steps": 10},
    "alfa": {"inner.learning_rate": 0.03, "inner.steps": 1, "evaluation.steps": 1},
    "meta-curvature": {"inner.learning_rate": 0.003, "inner.steps": 5, "evaluation.steps": 10},
    "anil": {"inner.learning_rate": 0.03, "inner.steps": 5, "evaluation.steps": 10},
    "boil": {"inner.learning_rate": 0.01, "inner.steps": 5, "evaluation.steps": 10},
    "cavia": {"inner.learning_rate": 0.1, "inner.steps": 5, "evaluation.steps": 10},
    "reptile": {"inner.learning_rate": 0.01, "inner.steps": 10, "evaluation.steps": 10},
    "sharp-maml": {"inner.learning_rate": 0.01, "inner.steps": 5, "evaluation.steps": 10},
    "joint": {"inner.learning_rate": 0.001, "inner.steps": 1, "evaluation.steps": 10},
    "imaml": {"inner.learning_rate": 0.001, "inner.steps": 20, "variant.regularisation": 10.0, "evaluation.steps": 20},
}
"""What `python -m benchmarks.family search` found best on validation tasks, of what does not diverge later; MAML itself
is as published."""
OMNIGLOT: Mapping[str, Mapping[str, Any]] = {
    "maml++": {"inner.learning_rate": 0.1, "inner.steps": 5, "evaluation.steps": 5, "network.scale": True},
    "reptile": {"inner.learning_rate": 0.1, "inner.steps": 5, "evaluation.steps": 50},
    "imaml": {
        "inner.learning_rate": 0.1,
        "inner.steps": 16,
        "evaluation.steps": 16,
        "variant.regularisation": 2.0,
        "variant.solver_steps": 5,
    },
}
MINIIMAGENET: Mapping[str, Mapping[str, Any]] = {
    "maml++": {"inner.learning_rate": 0.1, "evaluation.steps": 5, "network.scale": True},
    "reptile": {"inner.steps": 8, "evaluation.steps": 50},
    "imaml": {"inner.steps": 10, "variant.regularisation": 0.5, "variant.solver_steps": 5},
}


def published_on_characters(ways: int) -> Mapping[str, Mapping[str, Any]]:
    """The settings with which MAML's descendants were published on Omniglot, as far as they are known.

    Reptile: the commands of its released code (openai/supervised-reptile). iMAML: section 5 and the released code
    (aravindr93/imaml_dev, examples/README.md). Meta-SGD: section 4.2 (one inner step, step sizes that start between
    0.005 and 0.1; here all at 0.05). ANIL takes those of MAML. BOIL has no figures on Omniglot; these are of its
    4-block networks (HJ-Yoo/BOIL, run_4conv.sh). Prototypical networks: section 3.1 (tasks of 60 classes in training;
    here the step size falls along a cosine, there by half every 2,000 tasks).
    """
    few = ways == 5
    steps = 16 if few else 25
    implicit = {"inner.steps": steps, "evaluation.steps": steps, "outer.iterations": 20_000}
    return {
        "reptile": {
            "tasks.shots": 10,
            "tasks.queries": 1,
            "network.scale": True,
            "network.adapt_normalisation": True,
            "inner.optimizer": "adam",
            "inner.learning_rate": 0.001 if few else 0.0005,
            "inner.steps": 5 if few else 10,
            "inner.batch": 10 if few else 20,
            "outer.optimizer": "sgd",
            "outer.learning_rate": 1.0,
            "outer.schedule": "linear",
            "outer.iterations": 100_000 if few else 200_000,
            "outer.meta_batch": 5,
            "evaluation.steps": 50,
        },
        "imaml": {**OMNIGLOT["imaml"], **implicit},
        "meta-sgd": {"inner.learning_rate": 0.05, "inner.steps": 1, "evaluation.steps": 1},
        "boil": {"inner.learning_rate": 0.5, "inner.steps": 1, "evaluation.steps": 1},
        "protonet": {**_prototypes(60, ways), "tasks.queries": 5, "network.downsample": "max-pool"},
    }


def _prototypes(ways: int, test_ways: int) -> Mapping[str, Any]:
    """How prototypical networks are published: one task of many classes in a meta-step."""
    return {
        "tasks.ways": ways,
        "evaluation.ways": test_ways,
        "inner.steps": 1,
        "evaluation.steps": 1,
        "outer.meta_batch": 1,
        "outer.schedule": "cosine",
        "outer.iterations": 20_000,
    }


def prototypes_on_photographs(ways: int) -> Mapping[str, Any]:
    """The same on miniImageNet, whose network then has 64 filters: 30 classes for 1 shot, 20 for 5."""
    return {**_prototypes(ways, 5), "network.widths": (64,) * 4, "outer.clip": 0.0}
