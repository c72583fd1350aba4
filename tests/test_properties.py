"""What holds for any input of a kind: 200 drawn examples each."""

import io
import json
import zipfile
from dataclasses import fields, is_dataclass, replace

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from innerloop import InnerloopError, Layout
from innerloop.core.layout import map_over_tasks, mean_over_tasks
from innerloop.runs import codec
from innerloop.tabular.draws import stratified
from innerloop.tabular.features import LIMIT, Preparation
from innerloop.workloads import recipes
from innerloop.workloads.episodes.data import archive

RECIPES = recipes()


def drawn_config(config, draw):
    """The same configuration with other numbers and flags, of the types that its fields hold."""
    changes = {}
    for field in fields(config):
        value = vars(config)[field.name]
        if is_dataclass(value):
            changes[field.name] = drawn_config(value, draw)
        elif isinstance(value, bool):
            changes[field.name] = draw(st.booleans())
        elif isinstance(value, int) and draw(st.booleans()):
            changes[field.name] = draw(st.integers(1, 2**31 - 1))
        elif isinstance(value, float) and draw(st.booleans()):
            changes[field.name] = draw(st.floats(allow_nan=False, allow_infinity=False))
    return replace(config, **changes)


@settings(max_examples=200)
@given(st.data())
def test_the_codec_gives_back_any_configuration_of_any_recipe(data):
    made = RECIPES[data.draw(st.sampled_from(sorted(RECIPES)))].make()
    try:
        config = drawn_config(made, data.draw)
    except InnerloopError:  # what cannot be is refused where it is made
        config = made
    text = json.dumps(codec.encoded(config))
    assert codec.decoded(type(config), json.loads(text)) == config


NUMBERS = st.one_of(st.none(), st.floats(-1e100, 1e100), st.integers(-(2**53), 2**53))
TEXTS = st.one_of(st.none(), st.text(max_size=5))


@settings(max_examples=200)
@given(st.lists(st.tuples(NUMBERS, TEXTS), min_size=2, max_size=12), st.lists(st.tuples(NUMBERS, TEXTS), max_size=6))
def test_preparation_reads_any_row_to_bounded_numbers_and_survives_json(fitted, others):
    def columns(rows):
        numbers = np.array([np.nan if number is None else float(number) for number, _ in rows], np.float64)
        texts = np.empty(len(rows), object)
        texts[:] = [text for _, text in rows]
        return {"size": numbers, "kind": texts}

    try:
        preparation = Preparation.fit(columns(fitted))
    except InnerloopError:  # nothing varies
        return
    again = Preparation.from_json(json.loads(json.dumps(preparation.to_json())))
    assert again == preparation
    for rows in (fitted, others):
        encoded = preparation.encode(columns(rows))
        assert encoded.numbers.shape == (len(rows), preparation.sizes[1])
        assert np.isfinite(encoded.numbers).all()
        assert np.abs(encoded.numbers).max(initial=0) <= LIMIT
        np.testing.assert_array_equal(again.encode(columns(rows)).numbers, encoded.numbers)


@settings(max_examples=200)
@given(st.lists(st.sampled_from("abcd"), min_size=4, max_size=40), st.data())
def test_stratified_draws_part_the_rows_with_every_class_in_proportion(labels, data):
    target = np.array(labels, object)
    classes, counts = np.unique(labels, return_counts=True)
    size = data.draw(st.integers(len(classes), len(labels)))
    support, query = stratified(target, size, data.draw(st.integers(0, 10)))
    assert sorted([*support, *query]) == list(range(len(labels)))
    assert len(support) == size
    for label, count in zip(classes, counts, strict=True):
        drawn = int((target[support] == label).sum())
        assert drawn >= 1
        assert drawn >= np.floor(count / len(labels) * size) - len(classes)


@settings(max_examples=200)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 3))
def test_padding_of_a_layout_counts_for_nothing(tasks, chunk, seed):
    values = np.random.default_rng(seed).integers(-5, 5, tasks).astype(np.float32)
    layout = Layout(chunk=min(chunk, tasks), products="as-written")

    def square(shared, item):
        (weight,) = shared
        return (weight - item) ** 2, {"value": item}

    gradient, metrics = mean_over_tasks(square, layout)((jnp.float32(1.0),), jnp.asarray(values))
    np.testing.assert_allclose(gradient, np.mean(2 * (1 - values)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(metrics["value"], values.mean(), rtol=1e-5, atol=1e-5)
    mapped = map_over_tasks(lambda shared, item: 2 * item, layout)(jnp.zeros(()), jnp.asarray(values))
    np.testing.assert_array_equal(mapped, 2 * values)


def test_a_damaged_archive_gives_its_members_or_a_sentence(tmp_path):
    """The fuzz of zip: 300 mutations."""
    random = np.random.default_rng(0)
    held = io.BytesIO()
    members = {f"{name}.png": bytes(random.integers(0, 256, 40).astype(np.uint8)) for name in "abc"}
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    whole, path = held.getvalue(), tmp_path / "a.zip"
    said = []
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(0, len(damaged)))
            if random.integers(0, 2):
                damaged[place] = random.integers(0, 256)
            else:
                del damaged[place : place + int(random.integers(1, 9))]
        path.write_bytes(damaged)
        try:
            read = dict(archive.read_members(path, ".png"))
        except InnerloopError as error:
            said.append(str(error))
        else:
            assert set(read.values()) <= set(members.values())
    assert all(str(path) in sentence and "\n" not in sentence for sentence in said)
