"""Loggers: told of a training, dropped where they fail, named where they are missing."""

import sys
from types import SimpleNamespace

import pytest

from innerloop import InnerloopError
from innerloop.runs.loggers import LOGGERS, Loggers, RunInfo


class FakeRun:
    """What `init` of Weights & Biases and of trackio gives."""

    def __init__(self, calls, name):
        self.calls, self.id = calls, name

    def log(self, values, step):
        self.calls.append((step, values))

    def finish(self):
        self.calls.append("finished")


@pytest.fixture
def fakes(monkeypatch):
    calls = {"wandb": [], "trackio": [], "tensorboard": []}

    class Writer:
        def __init__(self, folder):
            calls["tensorboard"].append(folder)

        def add_scalar(self, name, value, step):
            calls["tensorboard"].append((name, value, step))

        def close(self):
            calls["tensorboard"].append("finished")

    def init(name):
        def started(**arguments):
            calls[name].append(arguments)
            return FakeRun(calls[name], arguments.get("id") or "new-id")

        return SimpleNamespace(init=started)

    monkeypatch.setitem(sys.modules, "wandb", init("wandb"))
    monkeypatch.setitem(sys.modules, "trackio", init("trackio"))
    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    return calls


def run_of(folder):
    return RunInfo("demo-seed0", folder, {"seed": 0})


def test_all_are_told(fakes, tmp_path):
    said = []
    loggers = Loggers(tuple(LOGGERS), said.append)
    loggers.start(run_of(tmp_path))
    loggers.log(5, {"loss": 1.5})
    loggers.close()
    assert said == []
    for name in ("wandb", "trackio"):
        start, *rest = fakes[name]
        assert (start["name"], start["config"]) == ("demo-seed0", {"seed": 0})
        assert rest == [(5, {"loss": 1.5}), "finished"]
    assert fakes["tensorboard"] == [str(tmp_path / "tensorboard"), ("loss", 1.5, 5), "finished"]


def test_an_interrupted_training_goes_on_in_the_same_run(fakes, tmp_path):
    for _ in range(2):
        Loggers(("wandb",), print).start(run_of(tmp_path))
    first, second = fakes["wandb"]
    assert (first["id"], second["id"]) == (None, "new-id")
    assert second["resume"] == "allow"


@pytest.mark.parametrize("method", ["start", "log", "close"])
def test_one_that_fails_is_said_once_and_dropped(method, fakes, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(LOGGERS["wandb"], method, fail)
    said = []
    loggers = Loggers(("wandb", "tensorboard"), said.append)
    loggers.start(run_of(tmp_path))
    for step in (1, 2):
        loggers.log(step, {"loss": 1.0})
    loggers.close()
    assert said == ["wandb failed and gets no more metrics (no network); training goes on"]
    assert fakes["tensorboard"][1:] == [("loss", 1.0, 1), ("loss", 1.0, 2), "finished"]


@pytest.mark.parametrize(("name", "library"), [("tensorboard", "tensorboardX"), ("wandb",) * 2, ("trackio",) * 2])
def test_a_missing_library_is_named_with_its_extra(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InnerloopError, match=rf"--log.to {name} needs {library}; .*innerloop\[{name}\]"):
        Loggers((name,), print)


def test_a_name_that_is_none():
    with pytest.raises(InnerloopError, match=r"--log.to is 'tensorbord'; choose of: tensorboard, wandb, trackio"):
        Loggers(("tensorbord",), print)
