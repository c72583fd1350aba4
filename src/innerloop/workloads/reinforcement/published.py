"""The published returns of single test tasks: what a mean over them does not show."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np


@cache
def _data() -> Any:
    return json.loads((files(__package__) / "published.json").read_text("utf-8"))


def source() -> str:
    """Where the returns were published."""
    return _data()["source"]


def returns(environment: str) -> np.ndarray | None:
    """MAML's published returns on each task of `innerloop.rl.envs.reference_tasks(environment)`.

    Returns:
        `[tasks, 4]`: before adaptation, and after 1, 2 and 3 updates. `None` for an environment of which none were
        published.

    Reference:
        Finn, Abbeel, Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, arXiv 1703.03400,
        and the result files in its code.

    Example:
        >>> print(returns("Navigation2D").mean(axis=0).round(1))
        [-40.4 -11.7  -3.3  -3.2]
    """
    found = _data()["returns"].get(environment)
    return None if found is None else np.array(found).T
