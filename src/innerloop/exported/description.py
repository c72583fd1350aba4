"""What an exported model of episodes is told to be, as JSON and as a card to read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from innerloop.artifacts import CONFIG, WEIGHTS
from innerloop.models import NetworkDescription
from innerloop.pictures import ImageFormat

LATER = ("inner_optimizer", "line_search", "bound_growth", "bound_norm")
"""Fields that models of before did not have, and in which they are as the default says."""


@dataclass(frozen=True)
class Description:
    """All that is needed to rebuild a model and adapt it.

    Attributes:
        network: the network, before what the algorithm asks of it.
        task: what is predicted.
        algorithm: a row of the table of algorithms.
        inner_rate: the (initial) inner step size.
        steps: inner steps in training.
        test_steps: inner steps at adaptation.
        normalisation: whose statistics normalise a query batch: its own, the support set's, running averages.
        adapt_normalisation: whether the inner loop adapts scale and shift.
        context: numbers in CAVIA's context vector.
        features: numbers in the embedding of a prototypical network.
        ways: classes of a task.
        regularisation: of the inner loop of iMAML.
        line_search: whether iMAML searches its inner steps.
        bound_growth: the bound on an inner gradient relative to the task's first; 0 for none.
        bound_norm: the bound on an inner gradient; 0 for none.
        inner_optimizer: gradient descent, or Adam without momentum.
        image: how images are read; `None` if the inputs are none.
        facts: data, scores, versions, for the model card.
    """

    network: NetworkDescription
    task: Literal["classification", "regression"]
    algorithm: str = "maml"
    inner_rate: float = 0.01
    steps: int = 1
    test_steps: int = 10
    normalisation: Literal["none", "transductive", "support", "running"] = "none"
    adapt_normalisation: bool = False
    context: int = 0
    features: int = 0
    ways: int = 0
    regularisation: float = 1.0
    line_search: bool = False
    bound_growth: float = 0.0
    bound_norm: float = 0.0
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    image: ImageFormat | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Description":
        """From the object that `dataclasses.asdict` gives.

        Raises:
            KeyError, TypeError: if it is no such object.
        """
        wanted = [name for name in cls.__dataclass_fields__ if name in values or name not in LATER]
        known: dict[str, Any] = {name: values[name] for name in wanted}
        known["network"] = NetworkDescription.from_json(known["network"])
        known["image"] = None if known["image"] is None else ImageFormat(**known["image"])
        return cls(**known)


def card(description: Description) -> str:
    """The model card, as Markdown."""
    facts, network = description.facts, description.network
    example = ["x, y: labelled examples of the new task", "task = model.adapt(x, y)", "task.predict(x_query)"]
    reading = []
    if description.image is not None:
        example = ["x = model.read_images(support_files)", "task = model.adapt(x, labels)"]
        example += ["task.predict(model.read_images(query_files))"]
        reading = [f"- {description.image.describe()}, scaled to 0..1; `read_images` does so"]
    if network.kind == "field":
        example = ["x: points along rays, [rays, points, 2], in sides of the image from its middle; y: their means"]
        example += ["task = model.adapt(x, y)", "task.predict(pixels[:, None])  # [pixels, 2]: the image"]
    what = f"one of up to {description.ways} classes" if description.task == "classification" else "real numbers"
    normalised = f", normalisation: {description.normalisation}" if network.normalised else ""
    lines = [
        f"# {facts.get('name', 'A few-shot model')}",
        "",
        f"A {network.kind}, meta-trained with innerloop ({description.algorithm}): adapted to a few labelled examples "
        f"of a new task, it predicts {what}.",
        "",
        "```python",
        "import innerloop as il",
        "",
        'model = il.load("this folder")',
        *(f"# {example[0]}" if not reading else example[0], *example[1:]),
        "```",
        "",
        "## What it reads, and how it adapts",
        "",
        *reading,
        f"- inputs {list(network.inputs)}, {description.test_steps} inner steps of {description.inner_rate:g} "
        f"(trained with {description.steps}){normalised}",
        "",
        "A task that is unlike those of training gains nothing from what was learned; compare with a model fitted on "
        "the task alone before relying on it.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items() if name != "name"),
        "",
        f"`{WEIGHTS}`: all parameters; `{CONFIG}`: the rest as JSON, with checksums. Loading runs no code.",
        "",
    ]
    return "\n".join(lines)
