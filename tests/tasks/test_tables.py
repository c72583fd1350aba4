"""Episodes from tasks of unequal sizes: shapes, disjoint support and query, classes in proportion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from innerloop import InnerloopError
from innerloop.tabular.episodes import ClassEpisodes, RaggedEpisodes, padded_size, stratified

SIZES = (5, 40, 2000, 12)


def tables(supports=(4, 16), queries=10):
    tasks = np.repeat(np.arange(len(SIZES)), SIZES)
    y = np.concatenate([np.arange(size) % 4 == 0 for size in SIZES]).astype(int)
    return RaggedEpisodes.from_rows(np.arange(len(tasks)), y, tasks, supports=supports, queries=queries), tasks, y


def test_support_and_query_are_disjoint_rows_of_one_task_and_padding_weighs_nothing():
    distribution, tasks, y = tables()
    drawn = jax.tree.map(np.asarray, distribution.sample(jax.random.key(0), 64))
    sizes = set()
    for support, query in zip(zip(*drawn.support[:3], strict=True), zip(*drawn.query[:3], strict=True), strict=True):
        rows = [x[weight > 0] for x, _, weight in (support, query)]
        of_task = {int(tasks[row]) for part in rows for row in part}
        assert len(of_task) == 1
        size = SIZES[of_task.pop()]
        together = np.concatenate(rows)
        assert len(set(together.tolist())) == len(together)
        most = size - max(size // 4, 1)
        assert len(rows[0]) in {min(4, most), min(16, most)}
        assert len(rows[1]) == min(10, size - len(rows[0]))
        np.testing.assert_array_equal(y[support[0]], support[1])
        assert set(support[1][support[2] > 0]) == {0, 1}
        sizes.add(len(rows[0]))
    assert {4, 9, 16} <= sizes


def test_one_program_serves_all_sizes_of_tasks():
    distribution, *_ = tables()
    sample = jax.jit(lambda tables, key: tables.sample(key, 8))
    for i in range(3):
        sample(distribution, jax.random.key(i))
    assert sample._cache_size() == 1


def test_every_beginning_of_a_stratified_order_has_the_classes_in_proportion():
    labels = np.array([0] * 60 + [1] * 30 + [2] * 10 + [9] * 5)
    orders = jax.vmap(lambda key: stratified(key, jnp.asarray(labels), 3))(jax.random.split(jax.random.key(0), 50))
    for order in np.asarray(orders):
        assert sorted(order.tolist()) == list(range(105))
        assert (labels[order[100:]] == 9).all()
        assert set(labels[order[:3]]) == {0, 1, 2}
        shares = np.bincount(labels[order[:50]], minlength=3)
        assert np.abs(shares - [30, 15, 5]).max() <= 2
    assert len({int(order[0]) for order in orders}) > 5


def test_sizes_are_padded_to_powers_of_two():
    assert [padded_size(n) for n in (1, 8, 9, 64, 65)] == [8, 8, 16, 64, 128]


def test_what_gives_no_episodes_is_refused():
    with pytest.raises(InnerloopError, match="task 3 has 1"):
        RaggedEpisodes.from_rows(np.ones(3), np.zeros(3), np.array([1, 1, 3]), supports=(2,), queries=2)
    with pytest.raises(InnerloopError, match="must be at least 1"):
        RaggedEpisodes.from_rows(np.ones(3), np.zeros(3), np.ones(3), supports=(0,), queries=2)
    with pytest.raises(InnerloopError, match=r"\[2, 3\] rows"):
        RaggedEpisodes.from_rows(np.ones(3), np.zeros(2), np.ones(3), supports=(1,), queries=2)


def test_classes_are_drawn_from_one_task_with_as_many_shots_as_weigh():
    y, tasks = np.arange(240) % 24, np.arange(240) % 24 // 8
    drawn = ClassEpisodes.from_rows(np.arange(240), y, tasks, ways=4, shots=(1, 3), queries=2)
    episodes = jax.tree.map(np.asarray, drawn.sample(jax.random.key(0), 32))
    shots = set()
    for x, labels, weight, query in zip(*episodes.support[:3], episodes.query.x, strict=True):
        assert len(set(tasks[x])) == 1
        assert len(set(y[x])) == 4
        np.testing.assert_array_equal(np.unique(labels), np.arange(4))
        assert not set(x) & set(query)
        np.testing.assert_array_equal(y[query], np.repeat(y[x][::3], 2))
        shots.add(weight.sum())
    assert shots == {4.0, 12.0}
    with pytest.raises(InnerloopError, match="no task has more than 8 classes"):
        ClassEpisodes.from_rows(np.arange(240), y, tasks, ways=9, shots=(1,), queries=1)
    with pytest.raises(InnerloopError, match="one has 10"):
        ClassEpisodes.from_rows(np.arange(240), y, tasks, ways=4, shots=(9,), queries=2)
