"""Task distributions: pytrees with a pure `sample(key, num_tasks)`, and the features of tables."""

from innerloop.tasks.features import Inputs, Preparation
from innerloop.tasks.images import Batches, Episodes, with_rotations
from innerloop.tasks.sinusoid import Sinusoids
from innerloop.tasks.tables import Drawn, Tables
from innerloop.tasks.wrappers import Referenced

__all__ = [
    "Batches",
    "Drawn",
    "Episodes",
    "Inputs",
    "Preparation",
    "Referenced",
    "Sinusoids",
    "Tables",
    "with_rotations",
]
