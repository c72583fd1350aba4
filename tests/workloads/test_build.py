"""What an experiment is built of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop.workloads.episodes import recipes, training
from innerloop.workloads.episodes.build import build
from innerloop.workloads.episodes.recipes import changed


@pytest.mark.parametrize(
    ("algorithm", "rate", "share"),
    [("maml++", 0.001, 0.01), ("meta-sgd", 0.01, 0.1), ("maml+lslr", 0.4, 1.0), ("meta-curvature", 0.001, 1.0)],
)
def test_learned_step_sizes_change_in_proportion_to_where_they_start(algorithm, rate, share):
    """As Adam's first step is the outer step size in each entry: all else is changed by that."""
    config = changed(recipes.configure("sinusoid", algorithm), {"inner.learning_rate": rate})
    experiment = build(config, print)
    meta = training.initial_state(experiment).meta
    gradient = jax.tree.map(jnp.ones_like, meta)
    updates, _ = experiment.optimizer.update(gradient, experiment.optimizer.init(meta), meta)
    for tree, factor in ((updates.params, 1.0), (updates.rule, share)):
        for leaf in jax.tree.leaves(tree):
            np.testing.assert_allclose(leaf, -factor * config.outer.learning_rate, rtol=1e-3)
