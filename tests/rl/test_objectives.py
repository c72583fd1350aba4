"""Meta-gradients on a decision process so small that all its trajectories can be listed: expectations are exact.

Each trajectory is a row of the experience whose weight is its probability, so a mean over steps is an expectation.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError, Meta, adapt, models, rules
from innerloop.rl import ESTIMATORS, Categorical, Experience, objectives

STATES, ACTIONS, STEPS, RATE = 2, 2, 3, 2.0
DYNAMICS = np.random.default_rng(0).dirichlet(np.ones(STATES), (STATES, ACTIONS))
REWARD = np.random.default_rng(1).normal(size=(STATES, ACTIONS))
BASELINE = np.random.default_rng(2).normal(size=STATES)  # any function of the state will do
PATHS = np.array(list(product(range(STATES), repeat=STEPS - 1)))
CHOICES = np.array(list(product(range(ACTIONS), repeat=STEPS)))
STATE = np.repeat(np.concatenate([np.zeros((len(PATHS), 1), int), PATHS], axis=1), len(CHOICES), axis=0)
ACTION = np.tile(CHOICES, (len(PATHS), 1))
CHANCE = DYNAMICS[STATE[:, :-1], ACTION[:, :-1], STATE[:, 1:]].prod(axis=1)  # the dynamics' part of the probability
GAIN = REWARD[STATE, ACTION]
TO_GO = GAIN[:, ::-1].cumsum(axis=1)[:, ::-1]

TABLE = models.from_functions(lambda key: jnp.zeros((STATES, ACTIONS)), lambda params, x: x @ params)
POLICY = Categorical(TABLE, ACTIONS)
THETA = np.random.default_rng(3).normal(size=(STATES, ACTIONS))
KEY = jax.random.key(0)
RULE = rules.sgd(RATE)


def log_probs(theta):
    return jax.nn.log_softmax(theta)[STATE, ACTION]


def probability(theta):
    return CHANCE * jnp.exp(log_probs(theta).sum(axis=1))


def worth(theta):
    """The exact expected return per step, the negative of what the losses estimate."""
    return jnp.sum(probability(theta) * GAIN.sum(axis=1)) / STEPS


slope_of_worth = jax.jit(jax.grad(worth))


@jax.jit
def all_trajectories(theta):
    """What the policy with these parameters draws, every trajectory with its probability as its weight."""
    chance = jnp.broadcast_to(probability(theta)[:, None], STATE.shape)
    value = jnp.asarray(BASELINE[STATE])
    return Experience(
        observation=jnp.eye(STATES)[STATE],
        action=jnp.asarray(ACTION),
        info={"log_prob": log_probs(theta), "logits": jax.nn.log_softmax(theta)[STATE]},
        t=jnp.broadcast_to(jnp.arange(STEPS), STATE.shape),
        weight=chance,
        advantage=jnp.asarray(TO_GO) - value,
        reward=jnp.asarray(GAIN),
        value=value,
        scale=jnp.ones(()),
    )


def after(name, theta, batch):
    loss = ESTIMATORS[name].loss(POLICY)
    return adapt(loss, Meta(theta, ()), batch, KEY, rule=RULE, steps=1).params


def meta_gradient(name):
    """Of the return after one update on all trajectories, which are constants, as in the outer update."""
    batch = all_trajectories(THETA)
    return jax.jit(jax.grad(lambda theta: worth(after(name, theta, batch))))(jnp.asarray(THETA))


def by_differences(function, step=1e-5):
    found = np.zeros_like(THETA)
    for place in np.ndindex(THETA.shape):
        shift = np.zeros_like(THETA)
        shift[place] = step
        found[place] = (function(jnp.asarray(THETA + shift)) - function(jnp.asarray(THETA - shift))) / (2 * step)
    return found


@jax.jit
def exactly_adapted(theta):
    return worth(theta + RATE * jax.grad(worth)(theta))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_the_gradient_of_the_expected_return(x64, name):
    batch = all_trajectories(THETA)
    found = jax.jit(jax.grad(lambda theta: ESTIMATORS[name].loss(POLICY)(theta, batch, KEY)[0]))(jnp.asarray(THETA))
    np.testing.assert_allclose(found, -slope_of_worth(jnp.asarray(THETA)), atol=1e-12)


def test_so_has_the_surrogate(x64):
    for clip in (None, 0.2):
        loss = objectives.surrogate(POLICY, clip)
        found, metrics = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(THETA), all_trajectories(THETA), KEY)
        np.testing.assert_allclose(found, -slope_of_worth(jnp.asarray(THETA)), atol=1e-12)
        assert metrics["kl"] == 0


@pytest.mark.parametrize("name", ["dice", "loaded-dice"])
def test_the_meta_gradient_of_dice_is_that_of_the_exactly_adapted_policy(x64, name):
    np.testing.assert_allclose(meta_gradient(name), by_differences(exactly_adapted), atol=1e-8)


def parts_of_the_hessian():
    r"""$\mathbb{E}\sum_t A_t H_t$, $\mathbb{E}\sum_t A_t g_t g_t^\top$, and the products of different steps."""
    weight = np.asarray(probability(jnp.asarray(THETA)))
    advantage = TO_GO - BASELINE[STATE]
    slope = np.asarray(jax.jit(jax.jacfwd(log_probs))(jnp.asarray(THETA))).reshape(*STATE.shape, -1)
    bend = np.asarray(jax.jit(jax.hessian(log_probs))(jnp.asarray(THETA))).reshape(*slope.shape, slope.shape[-1])
    first = np.einsum("n,nt,ntij->ij", weight, advantage, bend) / STEPS
    second = np.einsum("n,nt,nti,ntj->ij", weight, advantage, slope, slope) / STEPS
    past = slope.cumsum(axis=1) - slope
    cross = np.einsum("n,nt,nti,ntj->ij", weight, advantage, slope, past) / STEPS
    return first, second, cross + cross.T


@pytest.mark.parametrize(("name", "kept"), [("log-likelihood", 1), ("lvc", 2), ("loaded-dice", 3)])
def test_each_estimator_keeps_the_part_of_the_hessian_that_it_claims(x64, name, kept):
    adapted = jax.jit(after, static_argnums=0)(name, jnp.asarray(THETA), all_trajectories(THETA))
    jacobian = np.eye(THETA.size) + RATE * sum(parts_of_the_hessian()[:kept])
    expected = jacobian @ np.asarray(slope_of_worth(adapted)).ravel()
    np.testing.assert_allclose(meta_gradient(name).ravel(), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["log-likelihood", "lvc"])
def test_the_others_are_biased_as_documented(x64, name):
    truth = by_differences(exactly_adapted)
    bias = np.linalg.norm(meta_gradient(name) - truth) / np.linalg.norm(truth)
    assert bias > 0.01


def test_without_influence_of_earlier_actions_loaded_dice_is_lvc(x64):
    row = ESTIMATORS["lvc"]._replace(gain=objectives.loaded_dice(0.0))
    batch = all_trajectories(THETA)

    def jacobian(row):
        loss = row.loss(POLICY)
        step = lambda theta: adapt(loss, Meta(theta, ()), batch, KEY, rule=RULE, steps=1).params  # noqa: E731
        return jax.jit(jax.jacobian(step))(jnp.asarray(THETA))

    np.testing.assert_allclose(jacobian(row), jacobian(ESTIMATORS["lvc"]), atol=1e-12)


def one_trajectory():
    batch = all_trajectories(THETA)._replace(weight=jnp.ones(STATE.shape), scale=jnp.ones(len(STATE)))
    return jax.tree.map(lambda leaf: leaf[:, None] if leaf.ndim > 1 else leaf, batch)


def test_emaml_adds_what_the_log_likelihood_lacks(x64):
    """The policy is adapted on one drawn trajectory: `F(θ) = Σ p(τ; θ) J(U(τ; θ))`, and θ changes what is drawn."""
    batches = one_trajectory()

    @jax.jit
    def full(theta):
        return jnp.sum(
            probability(theta) * jax.vmap(lambda batch: worth(after("log-likelihood", theta, batch)))(batches)
        )

    def estimate(theta, coefficient):
        def one(batch, chance):
            value = worth(after("e-maml", theta, batch))
            drawn = objectives.exploration(POLICY, theta, batch, value)
            return jax.lax.stop_gradient(chance) * (value - coefficient * STEPS * drawn)

        return jnp.sum(jax.vmap(one)(batches, probability(theta)))

    truth = by_differences(full)
    found = {coefficient: jax.jit(jax.grad(estimate))(jnp.asarray(THETA), coefficient) for coefficient in (0.0, 1.0)}
    np.testing.assert_allclose(found[1.0], truth, atol=1e-8)
    assert np.linalg.norm(found[0.0] - truth) > 0.01 * np.linalg.norm(truth)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_padding_never_changes_a_loss_or_its_derivatives(x64, name):
    batch = all_trajectories(THETA)
    padded = jax.tree.map(
        lambda leaf: jnp.pad(leaf, ((0, 2), (0, 4), *((0, 0),) * (leaf.ndim - 2))) if leaf.ndim else leaf, batch
    )
    theta = jnp.asarray(THETA) + 0.1
    for loss in (ESTIMATORS[name].loss(POLICY), objectives.surrogate(POLICY, 0.2)):

        @jax.jit
        def derivatives(batch, value=lambda theta, batch, loss=loss: loss(theta, batch, KEY)[0]):
            return jax.value_and_grad(value)(theta, batch), jax.hessian(value)(theta, batch)

        for one, two in zip(jax.tree.leaves(derivatives(batch)), jax.tree.leaves(derivatives(padded)), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-12)


def test_clipping_holds_back_the_ratio_of_what_was_good(x64):
    batch = one_trajectory()._replace(advantage=jnp.ones((len(STATE), 1, STEPS)))
    far = jnp.asarray(THETA) + 3 * jax.nn.one_hot(jnp.array([0, 0]), ACTIONS)
    loss = jax.vmap(lambda b: objectives.surrogate(POLICY, 0.2)(far, b, KEY)[0])(batch)
    assert loss.min() >= -1.2 - 1e-6


def test_an_unknown_estimator_is_refused():
    with pytest.raises(InnerloopError, match="log-likelihood, lvc, dice, loaded-dice, e-maml"):
        objectives.estimator("reinforce")
    with pytest.raises(InnerloopError, match="decay"):
        objectives.loaded_dice(2.0)
