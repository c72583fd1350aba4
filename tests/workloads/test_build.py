"""What an experiment is built of."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import innerloop as il
from innerloop import ALGORITHMS, Truncated, losses, models, tasks
from innerloop.runs.codec import changed
from innerloop.workloads.episodes import recipes, training
from innerloop.workloads.episodes.build import Data, assemble, build
from innerloop.workloads.episodes.config import OmniglotTasks
from innerloop.workloads.episodes.data.omniglot import Labelled


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


STEPS = 50
TINY = {
    "network.widths": (8,),
    "inner.learning_rate": 0.02,
    "inner.steps": 2,
    "outer.iterations": 2 * STEPS,
    "outer.meta_batch": 3,
    "outer.learning_rate": 2e-3,
    "layout.shards": 1,
    "seed": 5,
}
SIZES = {"cavia": {"context": 5}, "protonet": {"features": 6, "ways": 3}}


def by_the_library(name, ways=0):
    """What the README's few lines train."""
    inputs, outputs = (784, ways) if ways else (1, 1)
    if name == "cavia":
        inputs += 5
    if name == "protonet":
        outputs = 6
    normalisation = models.Normalisation(scale=True) if ways else None
    model = models.mlp(inputs, (8,), outputs, initializer=models.glorot, normalisation=normalisation)
    return il.algorithm(name)(
        model,
        losses.cross_entropy if ways else losses.squared_error,
        inner_rate=0.02,
        steps=2,
        optimizer=optax.adam(2e-3),
        meta_batch=3,
        iterations=2 * STEPS,
        **SIZES.get(name, {}),
    )


def trained(state, step, distribution):
    return jax.jit(il.repeat(step))(state, distribution, np.int32(STEPS))[0]


def same_bits(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


REGRESSION = [name for name in (*ALGORITHMS, "maml+msl+lslr") if name not in ("protonet", "unicorn-maml")]


@pytest.mark.parametrize("name", REGRESSION)
def test_a_row_from_the_library_alone_is_what_the_program_trains(name):
    made = recipes.configure("sinusoid")
    config = changed(replace(made, algorithm=name), TINY)
    experiment = build(config, print)
    program = trained(training.initial_state(experiment), experiment.meta_step(), experiment.training_tasks())
    learner = by_the_library(name)
    library = trained(learner.init(jax.random.key(5)), learner.update, tasks.Sinusoids(10, 10))
    same_bits(library, program)


@pytest.mark.parametrize("name", ["protonet", "unicorn-maml", "maml++", "maml"])
def test_a_row_that_classifies_from_the_library_alone_is_what_the_program_trains(name):
    """On images, normalised, with scale and shift that the inner loop leaves alone."""
    rng = np.random.default_rng(0)
    images = Labelled(rng.integers(0, 255, (24, 28, 28, 1)).astype(np.uint8), np.repeat(np.arange(6), 4))
    made = replace(recipes.configure("sinusoid"), algorithm=name, tasks=OmniglotTasks(ways=3, shots=1, queries=2))
    config = changed(made, TINY | {"network.normalisation": "transductive", "network.scale": True})
    if name == "protonet":
        config = changed(config, {"variant.features": 6})
    experiment = assemble(config, Data({"train": images, "val": images, "test": images}))
    program = trained(training.initial_state(experiment), experiment.meta_step(), experiment.training_tasks())
    learner = by_the_library(name, ways=3)
    episodes = tasks.Episodes.from_labels(*images, ways=3, shots=1, queries=2)
    library = trained(learner.init(jax.random.key(5)), learner.update, tasks.WithSupportStatistics(episodes))
    same_bits(library, program)


def test_a_row_may_be_changed_before_it_is_called():
    row = il.algorithm("truncated-maml")._replace(adjoint=Truncated(2))
    learner = row(
        models.mlp(1, (8,), 1),
        losses.squared_error,
        inner_rate=0.02,
        steps=2,
        optimizer=optax.adam(2e-3),
        meta_batch=3,
    )
    config = changed(
        replace(recipes.configure("sinusoid"), algorithm="truncated-maml"), TINY | {"variant.exact_steps": 2}
    )
    assert learner.adjoint == build(config, print).algorithm.adjoint
