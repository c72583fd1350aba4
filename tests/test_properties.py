"""What holds for every input of a kind, on 200 drawn examples each."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop import workloads
from innerloop.core.layout import Layout, map_over_tasks
from innerloop.runs import codec
from innerloop.tabular.draws import stratified
from innerloop.tabular.features import Preparation

drawn = settings(max_examples=200, deadline=None)
RECIPES = [(workload, name) for workload in workloads.registered().values() for name in workload.recipes]


def other(value, data):
    """Another value of the same type, as a user might set it."""
    match value:
        case bool():
            return data.draw(st.booleans())
        case int():
            return data.draw(st.integers(max(value // 2, 0), 2 * value + 1))
        case float():
            return value * data.draw(st.floats(0.5, 1.0, exclude_min=True))
        case tuple() if value and all(isinstance(item, int) for item in value):
            return tuple(data.draw(st.lists(st.integers(1, 300), min_size=1, max_size=5)))
        case _:
            return value


@drawn
@given(st.sampled_from(RECIPES), st.data())
def test_every_configuration_survives_json(recipe, data):
    workload, name = recipe
    config = workload.configure(name, None)
    names = [path for path, _ in codec.leaves(config)]
    chosen = data.draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    values = dict(codec.leaves(config))
    config = codec.changed(config, {path: other(values[path], data) for path in chosen})
    written = json.dumps(codec.encoded(config), allow_nan=False)
    assert codec.decoded(type(config), json.loads(written)) == config


COLUMNS = st.one_of(
    st.lists(st.floats(-1e30, 1e30), min_size=8, max_size=8).map(np.array),
    st.lists(st.one_of(st.floats(-9, 9), st.just(float("nan"))), min_size=8, max_size=8).map(np.array),
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=8, max_size=8).map(lambda rows: np.array(rows, object)),
    st.lists(st.booleans(), min_size=8, max_size=8).map(np.array),
)


@drawn
@given(st.lists(COLUMNS, min_size=1, max_size=4))
def test_whatever_columns_hold_a_network_reads_finite_numbers_the_same_from_a_file(columns):
    named = {"varies": np.arange(8.0), **{str(i): column for i, column in enumerate(columns)}}
    preparation = Preparation.fit(named)
    read = preparation.encode(named)
    assert np.isfinite(read.numbers).all()
    assert (read.counts.shape[1], read.numbers.shape[1]) == preparation.sizes
    again = Preparation.from_json(json.loads(json.dumps(preparation.to_json())))
    np.testing.assert_array_equal(again.encode(named).numbers, read.numbers)


@drawn
@given(st.lists(st.integers(0, 3), min_size=3, max_size=40), st.data())
def test_a_stratified_draw_splits_the_rows_and_has_every_class(labels, data):
    target = np.array([str(label) for label in labels], object)
    classes = len(set(labels))
    if classes > len(labels) - 1:
        return
    size = data.draw(st.integers(classes, len(labels) - 1))
    support, query = stratified(target, size, data.draw(st.integers(0, 9)))
    assert sorted([*support, *query]) == list(range(len(labels)))
    assert len(support) == size
    assert set(target[support]) == set(target)
    shares = [np.mean(target[rows] == "0") for rows in (support, slice(None))]
    assert abs(shares[0] - shares[1]) * size <= classes


@pytest.mark.parametrize("shards", [1, 2])
def test_no_layout_changes_what_tasks_give(shards):
    mapped = {}

    @drawn
    @given(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 5)))
    def check(number, chunk):
        if number < shards or (chunk or 1) * shards > number:
            return
        if (number, chunk) not in mapped:
            run = map_over_tasks(lambda shared, x: shared * x**2, Layout(min(shards, jax.device_count()), chunk))
            mapped[number, chunk] = np.asarray(run(jnp.float32(2.0), jnp.arange(number, dtype=jnp.float32)))
        np.testing.assert_array_equal(mapped[number, chunk], 2 * np.arange(number, dtype=np.float32) ** 2)

    check()


def test_recipes_are_dataclasses_through_and_through():
    for workload, name in RECIPES:
        assert dataclasses.is_dataclass(workload.configure(name, None))
