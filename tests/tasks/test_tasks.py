"""Task distributions: what they draw, that the key fixes it, and what they refuse."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError, PerStep, tasks
from innerloop.tasks.images import distinct

KEY = jax.random.key(0)


def labelled(classes=6, each=4, side=3):
    """Images whose pixels tell their class and their place in it."""
    x = np.zeros((classes * each, side, side, 1), np.uint8)
    y = np.repeat(np.arange(classes), each)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = y, np.tile(np.arange(each), classes)
    return x, y


def test_sinusoids_are_sinusoids_of_the_papers_distribution():
    task = tasks.Sinusoids(shots=30, queries=20).sample(KEY, 400)
    assert task.support.x.shape == (400, 30, 1)
    assert task.query.y.shape == (400, 20, 1)
    x, y = (np.concatenate([getattr(part, name) for part in task], axis=1)[..., 0] for name in ("x", "y"))
    assert -5 <= x.min() < -4.9
    assert 4.9 < x.max() <= 5
    basis = np.stack([np.sin(x), np.cos(x)], axis=-1)
    weights = np.stack([np.linalg.lstsq(b, t, rcond=None)[0] for b, t in zip(basis, y, strict=True)])
    np.testing.assert_allclose(np.einsum("tnk,tk->tn", basis, weights), y, atol=1e-3)
    amplitude, phase = np.hypot(*weights.T), np.arctan2(-weights[:, 1], weights[:, 0])
    assert amplitude.min() + 1e-3 >= 0.1
    assert amplitude.max() <= 5 + 1e-3
    assert abs(amplitude.mean() - 2.55) < 0.25
    assert phase.min() > -1e-2
    assert phase.max() < np.pi + 1e-2
    assert abs(phase.mean() - np.pi / 2) < 0.15


def test_the_key_fixes_the_tasks():
    distribution = tasks.Sinusoids()
    one, again, other = (
        distribution.sample(KEY, 2),
        distribution.sample(KEY, 2),
        distribution.sample(jax.random.key(1), 2),
    )
    assert (one.support.x == again.support.x).all()
    assert (one.support.x != other.support.x).any()


def test_episodes_have_the_right_classes_and_no_image_twice():
    x, y = labelled()
    episodes = tasks.Episodes.from_labels(x, y, ways=4, shots=1, queries=2)
    drawn = jax.jit(lambda episodes, key: episodes.sample(key, 50))(episodes, KEY)
    assert drawn.support.x.shape == (50, 4, 3, 3, 1)
    assert drawn.query.y.shape == (50, 8)
    assert (drawn.support.y == jnp.arange(4)).all()
    assert (drawn.query.y == jnp.repeat(jnp.arange(4), 2)).all()
    pixels = lambda batch: np.rint(np.asarray(batch.x)[:, :, 0, :2, 0] * 255).astype(int)  # noqa: E731
    for support, query in zip(pixels(drawn.support), pixels(drawn.query), strict=True):
        assert len(set(support[:, 0])) == 4
        assert (query[:, 0] == np.repeat(support[:, 0], 2)).all()
        assert len({tuple(image) for image in np.concatenate([support, query])}) == 12


def test_every_class_and_image_is_drawn_equally_often():
    x, y = labelled()
    drawn = tasks.Episodes.from_labels(x, y, ways=2, shots=1, queries=1).sample(KEY, 3000)
    pixels = np.rint(np.asarray(drawn.support.x)[:, :, 0, :2, 0] * 255).astype(int).reshape(-1, 2)
    counts = np.array(list(Counter(map(tuple, pixels)).values()))
    assert len(counts) == 24
    assert np.abs(counts / 250 - 1).max() < 0.3


def test_classes_may_differ_in_size_and_come_unsorted():
    rng = np.random.default_rng(0)
    y = np.repeat(["b", "a", "c"], [3, 7, 5])
    x = np.array([ord(name) for name in y], np.float32)[:, None]
    order = rng.permutation(len(y))
    episodes = tasks.Episodes.from_labels(x[order], y[order], ways=3, shots=2, queries=1)
    drawn = episodes.sample(KEY, 20)
    per_class = np.asarray(drawn.support.x).reshape(20, 3, 2)
    assert (per_class[:, :, 0] == per_class[:, :, 1]).all()
    assert {frozenset(each) for each in per_class[:, :, 0]} == {frozenset(map(float, map(ord, "abc")))}


@pytest.mark.parametrize(("size", "count"), [(5, 5), (9, 3), (4400, 20), (1, 1)])
def test_distinct_is_uniform(size, count):
    drawn = np.asarray(jax.vmap(lambda key: distinct(key, size, count))(jax.random.split(KEY, 500)))
    assert drawn.min() >= 0
    assert drawn.max() < size
    assert all(len(set(row)) == count for row in drawn)
    if size < 10:
        for place in drawn.T:  # every integer in every place: the order is random too
            assert len(set(place)) == size
            assert np.abs(np.bincount(place, minlength=size) * size / 500 - 1).max() < 0.5


def test_rotations_are_classes_of_their_own():
    x, y = labelled(2, 2)
    turned, labels = tasks.with_rotations(x, y)
    assert turned.shape == (16, 3, 3, 1)
    assert sorted(Counter(labels.tolist()).items()) == [(c, 2) for c in range(8)]
    np.testing.assert_array_equal(turned[labels == 6][0], np.rot90(x[y == 1][0], 2))


def test_batches_keep_their_labels():
    x, y = labelled()
    batch = tasks.Batches.from_labels(x, y, size=9).sample(KEY, 3).support
    assert batch.x.shape == (3, 9, 3, 3, 1)
    np.testing.assert_array_equal(np.rint(batch.x[:, :, 0, 0, 0] * 255), batch.y)


def test_referenced_hands_the_support_to_the_query():
    task = tasks.WithSupportStatistics(tasks.Sinusoids(3, 4)).sample(KEY, 2)
    np.testing.assert_array_equal(task.query.reference, task.support.x)


X, Y = labelled()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tasks.Episodes.from_labels(X, Y, ways=7, shots=1, queries=1), "ways=7, but there are only 6 classes"),
        (lambda: tasks.Episodes.from_labels(X, Y, ways=2, shots=3, queries=2), r"class 0 has only 4"),
        (lambda: tasks.Episodes.from_labels(X, Y, ways=2, shots=0, queries=2), "shots=0"),
        (lambda: tasks.Episodes.from_labels(X, Y[:-1], ways=2, shots=1, queries=1), "24 examples but labels of shape"),
        (lambda: tasks.Episodes.from_labels(X, Y + 0.5, ways=2, shots=1, queries=1), "labels are float64 numbers"),
        (
            lambda: tasks.Episodes.from_labels(np.where(X == 3, np.nan, X), Y, ways=2, shots=1, queries=1),
            "examples hold NaN or infinite values, the first at index 3",
        ),
        (
            lambda: tasks.Episodes.from_labels(X.astype(np.int64), Y, ways=2, shots=1, queries=1),
            "of type int64; they must be unsigned bytes",
        ),
        (lambda: tasks.Episodes.from_labels(X[:0], Y[:0], ways=2, shots=1, queries=1), "There are no examples"),
        (
            lambda: tasks.Episodes.from_labels(X[:2], np.array(["a", 1], object), ways=2, shots=1, queries=1),
            r"labels are of several types \(int, str\)",
        ),
        (lambda: tasks.Sinusoids(shots=0), "shots=0"),
        (lambda: tasks.Sinusoids(amplitude=(5.0, 0.1)), "range of the sinusoids' amplitude is 5.0 to 0.1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make, message):
    with pytest.raises(InnerloopError, match=message):
        make()


def test_a_minibatch_holds_support_examples_each_once_before_any_again():
    base = tasks.Sinusoids(6, 3)
    whole = base.sample(jax.random.split(KEY)[0], 4)
    task = jax.jit(tasks.Minibatched(base, 4, 3).sample, static_argnums=1)(KEY, 4)
    assert isinstance(task.support, PerStep)
    assert task.support.batches.x.shape == (4, 4, 3, 1)
    np.testing.assert_array_equal(task.query.x, whole.query.x)
    for half in (slice(0, 2), slice(2, 4)):  # two steps of three are all six
        seen = np.sort(np.asarray(task.support.batches.x[:, half]).reshape(4, -1))
        np.testing.assert_array_equal(seen, np.sort(np.asarray(whole.support.x).reshape(4, -1)))
    order = np.asarray(task.support.batches.x).reshape(4, 2, 6)
    assert (order[:, 0] != order[:, 1]).any()
    assert (np.asarray(task.support.batches.y) != np.asarray(whole.support.y[:, None, :3])).any()
    with pytest.raises(InnerloopError, match="An inner step on 7 support examples"):
        tasks.Minibatched(base, 2, 7).sample(KEY, 1)
