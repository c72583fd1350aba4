"""Checkpoints: what is read is what was written, and damage is noticed."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from innerloop import InnerloopError, init, rules
from innerloop.runs import checkpoint

SETTINGS = {"--seed": 0, "--network.widths": (40, 40)}


@pytest.fixture
def state():
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "count": jnp.int32(3)}
    return init(params, rules.meta_sgd(0.1), optax.adam(1e-3), jax.random.key(7))


def advance(state, step):
    return state._replace(step=jnp.int32(step))


def fail(message):
    raise AssertionError(message)


def test_everything_comes_back_bit_by_bit(tmp_path, state):
    checkpoint.write(tmp_path, 5, advance(state, 5), 2, SETTINGS)
    restored = checkpoint.read_newest(tmp_path, state, SETTINGS, fail)
    assert int(restored.step) == 5
    assert (jax.random.key_data(restored.key) == jax.random.key_data(state.key)).all()
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and bool((a == b).all()), restored.meta, state.meta)
    assert all(jax.tree.leaves(same))
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_the_newest_are_kept(tmp_path, state):
    for step in (1, 2, 30):
        checkpoint.write(tmp_path, step, advance(state, step), 2, SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000030"]
    assert int(checkpoint.read_newest(tmp_path, state, SETTINGS, fail).step) == 30


def test_nothing_there_is_none(tmp_path, state):
    assert checkpoint.read_newest(tmp_path / "nowhere", state, SETTINGS, fail) is None


@pytest.mark.parametrize("file", ["state.safetensors", "manifest.json"])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.95])
def test_a_flipped_bit_falls_back_to_the_one_before_and_says_so(tmp_path, state, file, place):
    for step in (1, 2):
        checkpoint.write(tmp_path, step, advance(state, step), 2, SETTINGS)
    path = tmp_path / "step-000000002" / file
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    said = []
    restored = checkpoint.read_newest(tmp_path, state, SETTINGS, said.append)
    assert int(restored.step) == 1
    assert "step-000000002 is damaged" in said[0]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_a_checkpoint_cut_off_is_not_there(tmp_path, state, damage):
    checkpoint.write(tmp_path, 1, advance(state, 1), 2, SETTINGS)
    path = tmp_path / "step-000000001" / "state.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    said = []
    with pytest.raises(InnerloopError, match=r"No checkpoint in .* is whole, so training cannot go on; to start over"):
        checkpoint.read_newest(tmp_path, state, SETTINGS, said.append)
    assert len(said) == 1


def test_what_a_killed_process_left_is_removed(tmp_path, state):
    (tmp_path / "partial-1-77").mkdir(parents=True)
    (tmp_path / "trash-1-step-000000001").mkdir()
    checkpoint.write(tmp_path, 1, state, 2, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]


def test_another_configuration_is_refused(tmp_path, state):
    checkpoint.write(tmp_path, 1, state, 2, SETTINGS)
    wider = init({"dense": {"kernel": jnp.ones((2, 4))}}, rules.sgd(0.1), optax.adam(1e-3), jax.random.key(0))
    with pytest.raises(
        InnerloopError, match=r"another configuration: meta/params/dense/kernel should be float32\[2, 4\]"
    ):
        checkpoint.read_newest(tmp_path, wider, SETTINGS, fail)
    fewer = init({"count": jnp.int32(3)}, rules.sgd(0.1), optax.adam(1e-3), jax.random.key(0))
    with pytest.raises(InnerloopError, match="another configuration: it also holds"):
        checkpoint.read_newest(tmp_path, fewer, SETTINGS, fail)


def test_other_settings_are_refused(tmp_path, state):
    """Shapes agree, but what the state depends on does not; a setting that only one of them knows is no difference."""
    checkpoint.write(tmp_path, 1, state, 2, SETTINGS)
    known = {**SETTINGS, "--new": 1}
    assert checkpoint.read_newest(tmp_path, state, known, fail) is not None
    with pytest.raises(InnerloopError, match="it was written with --seed 0, and this run has 1"):
        checkpoint.read_newest(tmp_path, state, {**SETTINGS, "--seed": 1}, fail)


def test_another_format_is_refused(tmp_path, state):
    path = checkpoint.write(tmp_path, 1, state, 2, SETTINGS) / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 99}
    del manifest["checksum"]
    path.write_text(json.dumps(manifest | {"checksum": checkpoint._checksum(manifest)}))
    with pytest.raises(InnerloopError, match="format 99; this version of innerloop reads 2"):
        checkpoint.read_newest(tmp_path, state, SETTINGS, fail)


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path, state, monkeypatch):
    checkpoint.write(tmp_path, 1, advance(state, 1), 2, SETTINGS)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InnerloopError, match=r"step 2 could not be written .* \(No space left on device\)"):
        checkpoint.write(tmp_path, 2, advance(state, 2), 2, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert np.asarray(checkpoint.read_newest(tmp_path, state, SETTINGS, fail).step) == 1
