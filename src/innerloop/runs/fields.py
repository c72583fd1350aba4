"""Parts of configurations that several kinds of run have."""

from dataclasses import dataclass
from typing import Literal

from innerloop.runs.codec import Count, NotNegative, Whole


@dataclass(frozen=True)
class Layout:
    """How a meta-step is computed, on which its time and memory depend, and its result up to rounding.

    What is left open (0, auto) is chosen by a short measurement, which is kept for the next time.
    """

    shards: Whole = 0
    """devices that the tasks are spread over, on a CPU one for each core; 0 chooses"""
    chunk: Whole = 0
    """tasks computed at once on a device; 0 chooses"""
    adjoint: Literal["auto", "mixed", "reverse"] = "auto"
    """exact derivatives: forward over reverse mode, recomputed where scanned, or reverse over reverse, all stored"""
    loop: Literal["auto", "unrolled", "scanned"] = "auto"
    """the inner steps: unrolled runs faster, scanned compiles faster and takes less memory"""
    levels: Whole = 0
    """long inner loops: segments within segments so many times, recomputed instead of kept; 0 keeps every step"""
    convolution: Literal["auto", "patches", "lax"] = "auto"
    """image networks: patches and a matrix product, or XLA's own convolution"""
    products: Literal["auto", "row-major", "as-written"] = "auto"
    """matrix products: rewritten into the form that CPU kernels are fast for, or as written; auto rewrites on a CPU"""


@dataclass(frozen=True)
class Saving:
    """What is saved and told along the way. Nothing here changes a result."""

    checkpoint_seconds: NotNegative = 30.0
    """time between checkpoints"""
    keep: Count = 2
    """checkpoints kept"""
    skip_limit: Count = 20
    """steps in a row without a finite meta-gradient, which are skipped, after which training stops"""
    to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """where metrics go beside the run directory's metrics.jsonl"""


@dataclass(frozen=True)
class Log(Saving):
    """What is recorded along the way. Nothing here changes a result."""

    every: Count = 100
    """meta-steps between records"""


@dataclass(frozen=True)
class ValidatedLog(Log):
    """What is recorded along the way. Nothing here changes a result, but that patience may end training early."""

    validate_every: Whole = 0
    """records between validations on held-out tasks; 0 for none"""
    patience: Whole = 0
    """validations in a row without a better score after which training ends; 0: it goes on"""
