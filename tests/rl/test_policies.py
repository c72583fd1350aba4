"""Likelihoods, divergences and entropies against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from innerloop import InnerloopError, models
from innerloop.rl import Categorical, Gaussian, StochasticPolicy, collect, envs, policies
from rl.countdown import Countdown

KEY = jax.random.key(0)
OBSERVATIONS = jax.random.normal(jax.random.key(1), (4, 5, 3))


def gaussian():
    policy = Gaussian(models.mlp(3, (8,), 2, initializer=models.glorot), 2)
    return policy, policy.init(KEY) | {"log_std": jnp.array([0.3, -0.7])}


def categorical():
    policy = Categorical(models.mlp(3, (8,), 4, initializer=models.glorot), 4)
    return policy, policy.init(KEY)


def test_a_gaussians_likelihood_is_summed_over_the_dimensions_of_an_action(x64):
    policy, params = gaussian()
    distribution = policy.distribution(params, OBSERVATIONS)
    action = np.random.default_rng(0).normal(size=(4, 5, 2))
    parts = stats.norm(distribution["mean"], np.exp(distribution["log_std"])).logpdf(action)
    np.testing.assert_allclose(policy.log_prob(distribution, jnp.asarray(action)), parts.sum(axis=-1), rtol=1e-5)
    entropy = stats.norm(0, np.exp([0.3, -0.7])).entropy().sum()
    np.testing.assert_allclose(policy.entropy(distribution), np.full((4, 5), entropy), rtol=1e-5)


def test_a_categoricals_likelihood_is_that_of_scipy(x64):
    policy, params = categorical()
    logits = policy.distribution(params, OBSERVATIONS)["logits"]
    action = np.random.default_rng(0).integers(4, size=(4, 5))
    probabilities = np.exp(np.asarray(logits, np.float64))
    expected = np.log(np.take_along_axis(probabilities, action[..., None], -1)[..., 0])
    np.testing.assert_allclose(policy.log_prob({"logits": logits}, jnp.asarray(action)), expected, rtol=1e-5)
    np.testing.assert_allclose(policy.entropy({"logits": logits}), stats.entropy(probabilities, axis=-1), rtol=1e-5)


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_the_divergence_is_the_mean_log_ratio_over_actions_of_the_first(make):
    policy, params = make()
    assert isinstance(policy, StochasticPolicy)
    other = jax.tree.map(lambda leaf: leaf + 0.1, params)
    observation = OBSERVATIONS[0, 0]
    one, two = policy.distribution(params, observation), policy.distribution(other, observation)
    actions, infos = jax.vmap(lambda key: policy(params, observation, key))(jax.random.split(KEY, 100_000))
    ratios = infos["log_prob"] - jax.vmap(lambda action: policy.log_prob(two, action))(actions)
    assert float(policy.kl(one, two)) == pytest.approx(float(ratios.mean()), abs=4 * float(ratios.std()) / 100_000**0.5)
    assert policy.kl(one, one) == 0
    assert float(policy.entropy(one)) == pytest.approx(-float(infos["log_prob"].mean()), abs=0.01)


def test_the_papers_network():
    policy = policies.for_environment(envs.make("Navigation2D"))
    params = policy.init(KEY)
    kernels = [params["mean"][name]["kernel"] for name in ("dense1", "dense2", "head")]
    assert [kernel.shape for kernel in kernels] == [(2, 100), (100, 100), (100, 2)]
    for kernel in kernels:
        bound = np.sqrt(6 / sum(kernel.shape))
        assert 0.8 * bound < np.abs(kernel).max() <= bound
    assert not params["mean"]["dense1"]["bias"].any()
    assert params["log_std"].tolist() == [0, 0]


def test_the_standard_deviation_has_a_floor():
    policy, params = gaussian()
    low = policy.distribution(params | {"log_std": jnp.full(2, -50.0)}, OBSERVATIONS)
    assert np.exp(low["log_std"]) == pytest.approx(1e-6)


def test_any_network_will_do_and_what_was_drawn_is_kept_with_its_likelihood():
    network = models.from_functions(lambda key: {"w": jnp.ones((2, 1))}, lambda params, x: x @ params["w"])
    policy = policies.for_environment(Countdown(), network)
    params = jax.tree.map(lambda leaf: leaf[None], policy.init(KEY))
    rollouts = collect(Countdown(), policy, params, jnp.array([4.0]), KEY, episodes=3)
    again = policy.log_prob(policy.distribution(policy.init(KEY), rollouts.observation), rollouts.action)
    np.testing.assert_allclose(rollouts.info["log_prob"], again * rollouts.mask, rtol=1e-5)


def test_a_network_of_another_size_is_refused():
    policy = Gaussian(models.mlp(3, (), 4), 2)
    with pytest.raises(InnerloopError, match="2 actions"):
        policy.distribution(policy.init(KEY), OBSERVATIONS)
