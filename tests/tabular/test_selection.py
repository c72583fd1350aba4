"""Where validation tasks are few, other tasks take their place in turn."""

import numpy as np
import pytest

from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare
from innerloop.tabular.rows import Rows
from innerloop.tabular.selection import TURNS, rotated


def prepared(tasks):
    random = np.random.default_rng(0)
    owners = np.repeat(np.arange(tasks), 12).astype(np.int32)
    x = random.normal(size=(len(owners), 2))
    rows = Rows({"a": x[:, 0], "b": x[:, 1]}, x @ [1.0, 2.0], owners, tuple(f"task{i}" for i in range(tasks)))
    return prepare(rows, Choices(pooled="none"))


@pytest.mark.parametrize("tasks", [9, 20])
def test_each_task_is_validated_once_and_trained_on_otherwise(tasks):
    data = prepared(tasks)
    allowed = {*data.parts["train"].names, *data.parts["valid"].names}
    turns = rotated(data)
    assert len(turns) == TURNS
    held_out = [name for turn in turns for name in turn.parts["valid"].names]
    assert sorted(held_out) == sorted(allowed)
    for turn in turns:
        assert set(turn.parts["train"].names) | set(turn.parts["valid"].names) == allowed
        assert not set(turn.parts["train"].names) & set(turn.parts["valid"].names)
        assert turn.plan.design == data.plan.design
        for part in turn.parts.values():
            for number, name in enumerate(part.names):
                of_task = np.flatnonzero(part.tasks == number)
                first = 12 * int(name.removeprefix("task"))
                np.testing.assert_array_equal(part.target[of_task], all_targets(tasks)[first : first + 12])


def all_targets(tasks):
    x = np.random.default_rng(0).normal(size=(12 * tasks, 2))
    return x @ [1.0, 2.0]


def test_many_validation_tasks_stay_what_they_are():
    data = prepared(60)
    assert rotated(data) == [data]
