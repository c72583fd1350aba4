"""Phantoms: projections are line integrals of what the query shows, and a task is what its ellipses say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop.errors import InnerloopError
from innerloop.tasks import Minibatched, Phantoms
from innerloop.tasks.phantoms import HEAD, density, image_points, integrals, middles, random_head


def test_a_disc_has_its_area_and_its_chords():
    disc = jnp.array([[2.0, 0.3, 0.3, 0.1, -0.05, 0.7]])
    assert float(jnp.mean(density(disc, image_points(256)))) == pytest.approx(2 * np.pi * 0.09, rel=2e-3)
    through, beside, outside = integrals(disc, jnp.zeros(3), jnp.array([0.1, 0.1 + 0.18, 0.45]))
    assert float(through) == pytest.approx(2 * 0.6, rel=1e-6)
    assert float(beside) == pytest.approx(2 * 0.48, rel=1e-6)
    assert float(outside) == 0.0


def test_integrals_are_those_of_the_density_along_the_points_of_each_ray():
    @jax.jit
    def both(key):
        phantoms = Phantoms(views=3, resolution=24)
        task = jax.tree.map(lambda leaf: leaf[0], phantoms.sample(key, 1))
        start, end = task.support.x[:, 0], task.support.x[:, -1]
        along = (end - start) * (24 / 23)  # the whole ray
        fine = (start + end)[:, None] / 2 + middles(4000)[:, None] * along[:, None]
        found = jnp.mean(density(phantoms.ellipses(key, 1)[0], fine), axis=1)
        return task.support.y[:, 0], found, jnp.linalg.norm(along, axis=-1)

    exact, found, lengths = both(jax.random.key(1))
    assert np.allclose(lengths, 1.0, atol=1e-5)
    assert np.allclose(found, exact, atol=2e-3)
    assert float(exact.max()) > 0.1


def test_the_query_is_the_image_of_the_same_ellipses():
    key = jax.random.key(2)

    @jax.jit
    def shown(key):
        phantoms, few = Phantoms(views=1, resolution=16), Phantoms(views=1, resolution=16, queries=10)
        whole, some = (each.sample(key, 3).query for each in (phantoms, few))
        points = (whole.x[:, :, 0], some.x[:, :, 0])
        return (whole.y, some.y), tuple(
            jax.vmap(density)(phantoms.ellipses(key, 3), each)[..., None] for each in points
        )

    (whole, some), (expected, expected_some) = shown(key)
    assert whole.shape == (3, 256, 1)
    assert some.shape == (3, 10, 1)
    assert np.mean(whole != expected) < 0.01  # a point on an edge may fall to either side
    assert np.mean(some != expected_some) < 0.01


def test_even_angles_are_those_of_every_task():
    sample = jax.jit(lambda key: Phantoms(views=4, resolution=8, angles="even").sample(key, 2).support.x)
    even = sample(jax.random.key(0))
    assert np.array_equal(even[0], even[1])
    assert np.allclose(even[0, :8, :, 0].std(axis=1), 0, atol=1e-7)  # the first view: every ray upright
    sample = jax.jit(lambda key: Phantoms(views=4, resolution=8).sample(key, 2).support.x)
    turned = sample(jax.random.key(0))
    assert not np.array_equal(turned[0], turned[1])


def test_heads_stay_within_the_image_and_are_dense_as_heads():
    @jax.jit
    def drawn(key):
        heads = jax.vmap(random_head)(jax.random.split(key, 50))
        return heads, jax.vmap(lambda head: density(head, image_points(64)))(heads)

    heads, images = drawn(jax.random.key(0))
    assert float(images.min()) > -0.3
    assert float(images.max()) == pytest.approx(1.0)
    assert float(jnp.abs(images.reshape(50, 64, 64)[:, [0, -1]]).max()) == 0.0
    assert np.allclose(heads[:, :2, 0], HEAD[:2, 0])
    assert float(heads[:, 2:, 0].std(axis=0).min()) > 0


def test_inner_steps_on_a_few_rays_each():
    distribution = Minibatched(Phantoms(views=2, resolution=8), 3, 4)
    tasks = jax.eval_shape(lambda key: distribution.sample(key, 2), jax.random.key(0))
    assert tasks.support.batches.x.shape == (2, 3, 4, 8, 2)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"views": 0}, "at least 1 view"),
        ({"resolution": 1}, "2 pixels along a side"),
        ({"resolution": 4, "queries": 17}, "has 16 pixels"),
    ],
)
def test_what_cannot_be_a_phantom_is_refused(settings, sentence):
    with pytest.raises(InnerloopError, match=sentence):
        Phantoms(**settings)
