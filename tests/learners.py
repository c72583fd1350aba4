"""Learners that were never trained, for what does not depend on training."""

import jax
import numpy as np

from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.design import Design
from innerloop.tabular.features import Preparation
from innerloop.tabular.learner import initial


def untrained(kind="classification", labels=("no", "yes"), seed=0):
    """A learner that reads two numbers and a list of three."""
    random = np.random.default_rng(seed)
    size, price, bits = random.normal(size=50), 1e3 * random.normal(size=50), random.normal(size=(50, 3))
    columns = {"size": size, "price": price, "bits": bits}
    preparation = Preparation.fit(columns)
    design = Design(kind=kind, widths=(16,), start="ridge", steps=1)
    outputs = 1 if kind == "regression" else max(len(labels), 2)
    meta = initial(design, preparation.sizes, outputs, jax.random.key(seed))
    return TrainedLearner(design, preparation, meta, () if kind == "regression" else labels)


def task(number, seed=1):
    """Rows as objects, and their labels."""
    random = np.random.default_rng(seed)
    size, price, bits = random.normal(size=number), 1e3 * random.normal(size=number), random.normal(size=(number, 3))
    rows = [
        {"size": s, "price": p, "bits": b} for s, p, b in zip(size.tolist(), price.tolist(), bits.tolist(), strict=True)
    ]
    return rows, ["yes" if each > 0 else "no" for each in size]
