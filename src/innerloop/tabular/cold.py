"""A learner that was never trained, for a task that has no relatives."""

import jax
import numpy as np

from innerloop import programs
from innerloop.tabular.artifact import TrainedLearner
from innerloop.tabular.columns import Kind
from innerloop.tabular.design import Design
from innerloop.tabular.features import Feature, Preparation
from innerloop.tabular.learner import initial

COLD_WIDTH = 256
"""Random features that a learner without training reads a task by."""


@programs.kept()
def cold(X: np.ndarray, kind: Kind) -> TrainedLearner:
    """A learner without training: random features of scaled inputs, and a head by ridge regression.

    Args:
        X: the features of the task, from which their scales are taken.
        kind: what is predicted.
    """
    columns = {str(i): X[:, i] for i in range(X.shape[1])}
    constant = Feature("0", "numbers", 1, (0,), (float(np.nan_to_num(X[0, 0])),), (1.0,))
    varies = any(len(np.unique(column[np.isfinite(column)])) > 1 for column in columns.values())
    fitted = Preparation.fit(columns) if varies else Preparation((constant,))
    widths = (COLD_WIDTH, COLD_WIDTH)
    design = Design(kind=kind, widths=widths, start="ridge", steps=0)
    meta = initial(design, fitted.sizes, 1 if kind == "regression" else 2, jax.random.key(0))
    weights = meta.params["encoder"]
    bias = jax.random.normal(jax.random.key(1), (COLD_WIDTH,))  # or what the network reads of one number is its sign
    layers = weights | {"dense1": weights["dense1"] | {"bias": bias}}
    head = meta.params["head"] | {"log_ridge": np.float32(np.log(1e-2))}
    return TrainedLearner(design, fitted, meta._replace(params={**meta.params, "encoder": layers, "head": head}))
