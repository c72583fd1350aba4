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
from innerloop.workloads.episodes.build import Data, assemble, build, require_fitting
from innerloop.workloads.episodes.config import OmniglotTasks, check
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


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"joint", "cavia"}))
def test_every_row_takes_a_meta_step_on_the_normalised_images_of_the_recipe(name):
    """Whose inner loop leaves scale and shift alone: a mask around what restricts the rule to the head or the body.

    Joint training is for regression, and convolutions have no place for a context: both are refused.
    """
    images = Labelled(np.zeros((60, 28, 28, 1), np.uint8), np.repeat(np.arange(6), 10))
    made = recipes.configure("omniglot-5way-1shot", name)
    config = changed(made, {"network.widths": (4,) * 4, "outer.meta_batch": 1, "tasks.queries": 2})
    experiment = assemble(config, Data({"train": images, "val": images, "test": images}))
    state = training.initial_state(experiment)
    after, metrics = jax.eval_shape(experiment.meta_step(), state, experiment.training_tasks())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert "loss_after" in metrics


@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_no_row_is_refused_for_a_setting_that_is_the_recipes_own(recipe):
    refused = {}
    for name in ALGORITHMS:
        config = recipes.configure(recipe, name)
        check(config)
        try:
            require_fitting(config)
        except il.InnerloopError as error:
            refused[name] = str(error)
    assert all(reason.startswith(f"--algorithm {name} ") for name, reason in refused.items())  # the data, the network


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


def test_reptile_as_published_takes_minibatches_and_adam_and_steps_that_fall():
    """Against the library: Adam without momentum in a plain loop over the batches, and a step towards where it ends."""
    config = changed(recipes.configure("sinusoid", "reptile"), TINY | {"layout.chunk": 1})
    outer = {"outer.optimizer": "sgd", "outer.learning_rate": 0.5, "outer.schedule": "linear", "outer.iterations": 2}
    inner = {"inner.optimizer": "adam", "inner.batch": 4, "inner.steps": 5, "outer.meta_batch": 1}
    experiment = build(changed(config, outer | inner), print)
    state, source = training.initial_state(experiment), experiment.training_tasks()
    meta = state.meta.params
    for step, rate in enumerate((0.5, 0.25)):
        key = jax.random.fold_in(state.key, step)
        sample_key, _ = jax.random.split(jax.random.fold_in(key, 0))
        task = jax.tree.map(lambda leaf: leaf[0], source.sample(sample_key, 1))
        params, second = meta, jax.tree.map(jnp.zeros_like, meta)
        for t in range(5):
            batch = jax.tree.map(lambda leaf, t=t: leaf[t], task.support.batches)
            slope = jax.grad(lambda params, batch=batch: experiment.loss(params, batch, state.key)[0])(params)
            second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, slope)
            taken = lambda p, v, g, t=t: p - 0.02 * g / jnp.sqrt(v / (1 - 0.999 ** (t + 1)) + 1e-16)  # noqa: E731
            params = jax.tree.map(taken, params, second, slope)
        meta = jax.tree.map(lambda now, end, rate=rate: now + rate * (end - now), meta, params)
    state, _ = jax.jit(il.repeat(experiment.meta_step()))(state, source, 2)
    for ours, theirs in zip(jax.tree.leaves(state.meta.params), jax.tree.leaves(meta), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "changes", "said"),
    [
        ("maml++", {"inner.optimizer": "adam"}, "The inner rule of this algorithm is what makes it what it is"),
        ("imaml", {"inner.batch": 2}, "needs one support set for all inner steps"),
        ("joint", {"inner.batch": 2}, "--inner.batch has no effect with --algorithm joint"),
        ("maml", {"variant.line_search": True}, "--variant.line-search has no effect with --algorithm maml"),
    ],
)
def test_what_an_algorithm_has_no_use_for_is_refused(algorithm, changes, said):
    with pytest.raises(il.InnerloopError, match=said):
        require_fitting(changed(recipes.configure("sinusoid", algorithm), changes))


@pytest.mark.parametrize(
    ("algorithm", "changes", "said"),
    [
        ("maml", {"evaluation.ways": 4}, "has an output for each class of a training task"),
        ("protonet", {"evaluation.ways": 6}, "a number of classes from 2 to that of a training task, 5"),
        ("protonet", {"evaluation.ways": 1}, "from 2 to that of a training task, 5"),
    ],
)
def test_other_classes_at_test_than_the_network_has_room_for_are_refused(algorithm, changes, said):
    with pytest.raises(il.InnerloopError, match=f"--evaluation.ways is {changes['evaluation.ways']}.*{said}"):
        require_fitting(changed(recipes.configure("omniglot-5way-1shot", algorithm), changes))
    require_fitting(changed(recipes.configure("omniglot-5way-1shot", algorithm), {"evaluation.ways": 5}))
    with pytest.raises(il.InnerloopError, match=r"--evaluation\.ways is 4, but these tasks have no classes"):
        require_fitting(changed(recipes.configure("sinusoid", "maml"), {"evaluation.ways": 4}))


def test_the_published_settings_of_every_row_can_be_run():
    for name, recipe in recipes.RECIPES.items():
        for algorithm in recipe.published_rows:
            config = changed(recipes.configure(name, algorithm), recipe.published_settings(algorithm))
            check(config)
            require_fitting(config)
            steps = {each.steps for each in recipe.published if each.method == recipes.METHODS[algorithm]}
            assert steps <= {config.evaluation.steps}


def test_two_bounds_on_the_inner_gradient_are_one_too_many():
    with pytest.raises(il.InnerloopError, match="exclude each other"):
        check(changed(recipes.configure("sinusoid"), {"inner.bound_growth": 1.0, "inner.bound_norm": 1.0}))
