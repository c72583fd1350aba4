"""The model card of a learner."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from innerloop.artifacts import CONFIG, WEIGHTS
from innerloop.tabular.features import Preparation


def card(kind: str, labels: Sequence[str], preparation: Preparation, facts: Mapping[str, Any]) -> str:
    """The model card of a learner, as Markdown.

    Args:
        kind: what it predicts.
        labels: the classes that all tasks share.
        preparation: its features.
        facts: data, scores, versions.
    """
    what = "a real number" if kind == "regression" else "a class"
    classes = f" Classes in training: {', '.join(labels)}." if labels else ""
    features = ", ".join(f"`{feature.name}` ({feature.kind}, {feature.width})" for feature in preparation.features[:20])
    lines = [
        f"# {facts.get('name', 'A few-shot learner')}",
        "",
        "A learner of tasks in tables, meta-trained with innerloop: from a few labelled rows of a new task it "
        f"predicts {what} for further rows.{classes}",
        "",
        "## Intended use",
        "",
        "New tasks of the same kind as the training tasks, with the same features. A task that is unlike all of them "
        "gains nothing from what was learned; compare with a model fitted on the task alone before relying on it. "
        "Probabilities are not calibrated beyond what training gave.",
        "",
        "```python",
        "import innerloop as il",
        "",
        'task = il.load("this folder").adapt(X_support, y_support)',
        "task.predict(X_query)",
        "```",
        "",
        "## Data",
        "",
        *(f"- {name}: {value}" for name, value in facts.get("data", {}).items()),
        f"- features: {features}" + (" and more" if len(preparation.features) > 20 else ""),
        "",
    ]
    if facts.get("scores"):
        lines += [
            "## Scores on test tasks",
            "",
            *([facts["verdict"], ""] if facts.get("verdict") else []),
            *score_table(facts["scores"]),
            "",
        ]
    lines += ["## Files", "", f"`{WEIGHTS}`: all parameters; `{CONFIG}`: the rest as JSON. Loading runs no code.", ""]
    return "\n".join(lines)


def score_table(scores: Sequence[dict[str, Any]]) -> list[str]:
    """Rows of an evaluation as a Markdown table."""
    metrics = list(scores[0]["metrics"])
    lines = [f"| method | support | {' | '.join(metrics)} |", "|---|---|" + "---|" * len(metrics)]
    for score in scores:
        cells = " | ".join(measured(*score["metrics"][name]) for name in metrics)
        lines.append(f"| {score['method']} | {score['size']} | {cells} |")
    return lines


def measured(mean: float, error: float) -> str:
    """A mean with its standard error.

    Example:
        >>> measured(0.2071, 0.0123)
        '0.207 ± 0.012'
    """
    return f"{mean:.3f}" if math.isnan(error) else f"{mean:.3f} ± {error:.3f}"
