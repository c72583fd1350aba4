"""The configuration of training on one's own tasks. What is left open is chosen from the data, with reasons."""

import csv
import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from innerloop.errors import InnerloopError
from innerloop.runs.codec import LARGEST, Bounds, Count, NotNegative, Positive, Whole, require_bounds
from innerloop.runs.fields import Saving

OPEN = Bounds(-1, 1, False, True, "it must be at least 0 and below 1, or -1, which chooses")


@dataclass(frozen=True)
class Learner:
    """The learner. Zero, `auto` and empty are chosen from the data."""

    widths: tuple[Count, ...] = ()
    """layers of the encoder, which all tasks share; for images the filters of each block"""
    start: Literal["auto", "prototypes", "ridge", "zero", "shrunk"] = "auto"
    """how a task's head begins, from its support set; shrunk departs from what all tasks share"""
    targets: Literal["auto", "support", "global"] = "auto"
    """regression: units of the targets, those of each support set or of all training rows"""
    pooled: Literal["auto", "none", "trees"] = "auto"
    """whether tasks depart from gradient-boosted trees of all training rows together"""
    steps: Annotated[int, Bounds(-1, LARGEST)] = -1
    """inner steps; -1 chooses"""
    learning_rate: Positive = 0.3
    """size of an inner step at the beginning of training, which learns it"""
    dropout: Annotated[float, OPEN] = -1.0
    """share of the encoder's activations that training drops; -1 chooses"""
    dropout_inputs: Annotated[float, OPEN] = -1.0
    """share of the features that training drops; -1 chooses"""


@dataclass(frozen=True)
class Training:
    """Meta-training."""

    iterations: Whole = 0
    """meta-steps at most; training stops earlier when held-out tasks no longer gain; 0 chooses"""
    meta_batch: Count = 16
    """tasks in a meta-step"""
    learning_rate: NotNegative = 0.0
    """peak of the outer step size; 0 chooses"""
    weight_decay: NotNegative = 1e-4
    """of matrices"""


@dataclass(frozen=True)
class Evaluation:
    """What is measured on test tasks when training ends."""

    sizes: tuple[Count, ...] = ()
    """sizes of support sets (for images: shots); empty chooses"""
    draws: Count = 5
    """support sets drawn from each task"""
    baselines: bool = True
    """whether to fit scikit-learn's random forest, nearest neighbours and linear model on the same support sets"""


@dataclass(frozen=True)
class Config:
    """Training on one's own tasks."""

    data: tyro.conf.Suppress[str] = ""
    """a Parquet or CSV file, or a folder of images"""
    task_column: str = ""
    """the column that names a row's task"""
    target: str = ""
    """the column to predict"""
    features: str = ""
    """columns to predict from, separated by commas; empty takes all that can be read"""
    kind: Literal["auto", "classification", "regression"] = "auto"
    """what is predicted"""
    split_column: str = ""
    """the column that says train, valid or test, the same in all rows of a task; empty draws by --seed"""
    supports: tuple[Count, ...] = ()
    """sizes of support sets in training (for images: shots); empty chooses"""
    ways: Annotated[int, Bounds(2, LARGEST)] = 5
    """images: classes in a task drawn from many"""
    preset: Literal["fast", "balanced", "best"] = "balanced"
    """how much to spend: network and meta-steps"""
    time_limit: str = ""
    """longest training, such as 20m, 90s or 1h"""
    algorithm: Literal["maml", "fomaml", "joint"] = "maml"
    """a row of the table of algorithms; joint takes no inner steps"""
    learner: Learner = field(default_factory=Learner)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: Whole = 0
    """of the split, the initial parameters and the training tasks"""
    log: Saving = field(default_factory=Saving)
    run_dir: str | None = None
    """the run directory; else runs/NAME-seedN"""

    @property
    def recipe(self) -> str:
        """The name of the data, in the place of a recipe's."""
        return re.split(r"[\\/]", self.data.rstrip("\\/"))[-1].rsplit(".", 1)[0] or "data"

    @property
    def feature_names(self) -> tuple[str, ...]:
        parts = next(csv.reader([self.features], skipinitialspace=True), [])  # a name with a comma stands in quotes
        return tuple(part.strip() for part in parts if part.strip())

    @property
    def seconds(self) -> float | None:
        """The time limit."""
        return seconds(self.time_limit) if self.time_limit else None


@dataclass(frozen=True)
class Adaptation:
    """Adaptation of a trained learner to a new task."""

    support: str = ""
    """labelled rows of the task: Parquet or CSV, or a folder class/*.png"""
    query: str = ""
    """rows to predict, with the same features"""
    out: str = "predictions.csv"
    """where the predictions are written"""
    target: str = ""
    """the column of labels; empty: as in training"""


@dataclass(frozen=True)
class Serving:
    """A server of a trained learner on this machine."""

    port: int = 8765
    """of 127.0.0.1; 0 takes a free one"""


UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A duration such as `20m`.

    Raises:
        InnerloopError: if it is none.

    Example:
        >>> seconds("20m"), seconds("90"), seconds("1.5h")
        (1200.0, 90.0, 5400.0)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    if not match or match[2] not in UNITS or not float(match[1]):
        raise InnerloopError(f"--time-limit is {text!r}; give a number with s, m or h, such as 20m.")
    return float(match[1]) * UNITS[match[2]]


def check(config: Config) -> None:
    """Refuse what cannot work, before any data is read.

    Raises:
        InnerloopError: for the first value that cannot, naming the flag and the mend.
    """
    require_bounds(config)
    _ = config.seconds
