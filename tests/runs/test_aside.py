"""What an evaluation trains beside the run: stopped, gone on with, lengthened, begun anew."""

import os
import signal

import jax.numpy as jnp
import pytest

from innerloop.runs.aside import Aside
from innerloop.runs.fields import Saving
from innerloop.runs.loop import InterruptedTraining
from innerloop.runs.progress import Progress
from innerloop.runs.workload import StepInfo


def trained(folder, total, *, seed=0, stop_after=None):
    """Counts to the total, from the seed on; what it did, and where it ended."""
    taken = []

    def steps(state):
        for done in range(int(state["step"]) + 1, total + 1):
            taken.append(done)
            state = {"step": jnp.asarray(done), "sum": state["sum"] + done}
            if done == stop_after:
                os.kill(os.getpid(), signal.SIGINT)
            yield StepInfo(state, done, total, {})

    begin = {"step": jnp.asarray(0), "sum": jnp.asarray(seed)}
    aside = Aside(folder, Saving(checkpoint_seconds=0.0), Progress())
    ended = aside.train(
        "oracle",
        begin,
        steps,
        total=total,
        step_of=lambda state: int(state["step"]),
        settings={"--seed": seed},
        tasks_per_step=1,
    )
    return taken, int(ended["sum"])


def test_what_is_stopped_goes_on_and_what_is_finished_is_not_trained_again(tmp_path):
    with pytest.raises(InterruptedTraining):
        trained(tmp_path, 5, stop_after=2)
    assert trained(tmp_path, 5) == ([3, 4, 5], 15)
    assert trained(tmp_path, 5) == ([], 15)
    assert trained(tmp_path, 6) == ([6], 21)  # a longer one


def test_stopped_in_the_last_iteration_it_stops_too(tmp_path):
    with pytest.raises(InterruptedTraining):
        trained(tmp_path, 3, stop_after=3)
    assert trained(tmp_path, 3) == ([], 6)


def test_a_shorter_one_and_one_of_other_settings_begin_anew(tmp_path):
    trained(tmp_path, 5)
    assert trained(tmp_path, 2) == ([1, 2], 3)
    assert trained(tmp_path, 2, seed=7) == ([1, 2], 10)


def test_a_damaged_checkpoint_is_passed_over_and_with_none_left_it_begins_anew(tmp_path):
    trained(tmp_path, 5)
    newest, before = sorted((tmp_path / "oracle").iterdir(), reverse=True)
    (newest / "state.safetensors").write_bytes(b"damaged")
    assert trained(tmp_path, 5) == ([5], 15)
    for each in (newest, before):
        (each / "state.safetensors").write_bytes(b"damaged")
    assert trained(tmp_path, 5) == ([1, 2, 3, 4, 5], 15)
