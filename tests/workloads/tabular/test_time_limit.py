"""A time limit holds for choosing a design and for training together."""

from types import SimpleNamespace

import pytest

from innerloop.runs.progress import Progress
from innerloop.tabular.plan import Choices
from innerloop.tabular.prepare import prepare
from innerloop.tabular.selection import candidates, selected
from innerloop.workloads.tabular import loading, training
from innerloop.workloads.tabular.config import Config
from workloads.tabular import sheets


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    file = sheets.write(tmp_path_factory.mktemp("limit") / "shops.csv", sheets.rows())
    return Config(data=str(file), task_column="shop", target="paid", features="size,price", time_limit="100s")


def test_designs_are_not_compared_where_there_is_no_time_and_that_is_said(config):
    data = prepare(loading.load(config).rows, Choices(pooled="none", iterations=8))
    said: list[str] = []
    assert len(candidates(data)) > 1
    assert selected(data, said.append, seconds=0.0) is data
    assert said == ["  designs are not compared, since the time limit is short"]


def test_training_is_planned_for_what_is_left_and_stops_where_another_part_would_not_fit(config, monkeypatch, capsys):
    choices = Choices(preset="fast", pooled="none", widths=(4,), supports=(4,), meta_batch=2, iterations=400)
    data = prepare(loading.load(config).rows, choices)
    fitting = data.fitting()
    now = iter(range(0, 100_000, 2))  # each look at the clock is two seconds after the one before
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    progress = Progress()
    left = training.started(fitting, config, progress, 0.0)
    # Looks: before and after five meta-steps, before and after a validation, and what is left of 100 seconds.
    assert fitting.total(left) == int(0.9 * (100 - 8) / (2 / 5 + 2 / data.plan.schedule.every))
    begun, _ = fitting.advance(fitting.start(0), 1)
    steps = list(training.train(config, data, fitting, begun, progress, spent=80.0))
    assert 0 < len(steps) < 400 // data.plan.schedule.every
    assert "the time limit of 100s is reached" in capsys.readouterr().out
