"""Which design suits these tasks: a few are trained for a while, and validation tasks decide.

What is compared is the loss on query rows of validation tasks, the same episodes for all: cross-entropy, or the squared
error relative to the variance of an episode's targets, which does not depend on the units that a design computes in.
Where validation tasks are few, each task that training may see is one of them in turn.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from innerloop.tabular.design import Design
from innerloop.tabular.plan import STEPS
from innerloop.tabular.prepare import Prepared, prepare
from innerloop.tabular.rows import joined

SHARE = 0.2
"""Of the meta-steps of the schedule, that a candidate is trained for."""
LEAST_STEPS = 40
WORTH = 0.01
"""How much lower, relatively, the loss of a later candidate must be: the rest is chance, in short trainings."""
FEW_TASKS = 5
"""Validation tasks below which one task's luck decides, so that parts change places."""
TURNS = 3


class Candidate(NamedTuple):
    """A design that is tried.

    Attributes:
        name: what is told of it.
        design: the design.
    """

    name: str
    design: Design


def candidates(data: Prepared) -> list[Candidate]:
    """The designs that are possible where the user left the choice open, the first one being what is planned.

    The preset `fast` tries no other.
    """
    planned, choices = data.plan.design, data.choices
    if choices.preset == "fast" or planned.image is not None or planned.start != "shrunk" or choices.start != "auto":
        return [Candidate("as planned", planned)]
    common = "trees and network" if planned.pooled else "network"
    found = [Candidate(f"{common}, moved towards the task", planned)]
    if planned.pooled and choices.pooled == "auto":
        found.append(Candidate("network alone, moved towards the task", replace(planned, pooled=0)))
    if planned.kind == "regression" and choices.targets == "auto":
        found.append(Candidate("the same in units of each support set", replace(planned, pooled=0, targets="support")))
    if planned.kind == "classification" and choices.steps < 0:
        prototypes = replace(planned, pooled=0, start="prototypes", steps=STEPS)
        found.append(Candidate(f"class means and {STEPS} inner steps", prototypes))
    return found


def selected(
    data: Prepared, say: Callable[[str], None], *, share: float = SHARE, seconds: float = math.inf
) -> Prepared:
    """The data with the design that validation tasks prefer.

    Args:
        data: with the design that was planned.
        say: told of each candidate and its loss.
        share: of the meta-steps of the schedule that a candidate is trained for.
        seconds: that it may take; a candidate that would take longer is not tried.

    Returns:
        The same data if there is nothing to choose or no validation task.
    """
    tried = candidates(data)
    if len(tried) < 2 or "valid" not in data.parts:
        return data
    end, longest, scores = time.monotonic() + seconds, 0.0, list[float]()
    turns = rotated(data)
    tasks = "validation tasks" if turns[0] is data else "validation tasks, which were others in turn"
    for i in range(len(tried)):
        began, losses = time.monotonic(), list[float | None]()
        for turn in turns if began + longest < end else ():
            losses.append(_score(turn.designed(candidates(turn)[i].design), share, end))
            if losses[-1] is None:
                break
        longest = max(longest, time.monotonic() - began)
        known = [loss for loss in losses if loss is not None]
        if len(known) < len(turns):  # what was cut short says nothing of the design
            break
        scores.append(float(np.mean(known)))
    if len(scores) < 2:
        say("  designs are not compared, since the time limit is short")
        return data
    for candidate in tried[len(scores) :]:
        say(f"  not tried, since the time limit is short: {candidate.name}")
    tried = tried[: len(scores)]
    best = 0
    for i, score in enumerate(scores):
        if score < scores[best] * (1 - WORTH):
            best = i
    for i, (candidate, score) in enumerate(zip(tried, scores, strict=True)):
        say(f"  tried: {candidate.name}: loss {score:.4f} on {tasks}{' (chosen)' if i == best else ''}")
    return data.designed(tried[best].design, f"design: {tried[best].name}, the best of {len(tried)} on {tasks}")


def rotated(data: Prepared) -> list[Prepared]:
    """The data itself, or where validation tasks are few, with other tasks of training and validation in their place.

    All that is fitted to training rows is fitted again, so that no validation task has left a trace in it.
    """
    training, held_out = data.parts["train"], data.parts["valid"]
    both = joined(training, held_out)
    number = len(both.names)
    if len(held_out.names) >= FEW_TASKS or number < 2 * TURNS or both.image:
        return [data]
    turn = np.random.default_rng(data.choices.seed).permutation(number) % TURNS
    parts = [tuple("valid" if of == now else "train" for of in turn.tolist()) for now in range(TURNS)]
    turns = [prepare(both._replace(parts=part), data.choices) for part in parts]
    return turns if all(len(candidates(turn)) == len(candidates(data)) for turn in turns) else [data]


def _score(data: Prepared, share: float, end: float) -> float | None:
    """The lowest validation loss of a short training, or `None` if it lasts longer than to `end`."""
    fitting = data.fitting()
    fit = fitting.start(data.choices.seed)
    length = max(int(share * fitting.schedule.iterations), min(LEAST_STEPS, fitting.schedule.iterations))
    fit = fitting.limited(fit, length)
    for now, _ in fitting.run(fit):
        fit = now
        if time.monotonic() > end:
            return None
    return float(fit.best_loss)
