"""Predictions with a trained run: which folder is meant, and which kind of model it holds."""

from pathlib import Path

from innerloop import workloads
from innerloop.errors import InnerloopError
from innerloop.runs import machine, rundir
from innerloop.runs.progress import Progress
from innerloop.workloads.tabular.config import Adaptation

CONFIG = "config.json"


def model_of(path: Path) -> Path:
    """The folder of the model of a run directory, or the folder itself if it was exported.

    Raises:
        InnerloopError: if there is no model.
    """
    if not (path / CONFIG).exists() and (path / "model.json").exists():
        return path
    run = rundir.stored(path, workloads.registered()) if (path / "checkpoints").exists() else None
    if run is None and (path / CONFIG).exists():
        return path
    if run is None:
        raise InnerloopError(f"{path} holds no model; train one with: innerloop train FILE --task-column T --target Y")
    if not run.model.exists():
        raise InnerloopError(f"{path} is not trained to the end; continue with: innerloop resume {path}")
    return run.model


def adapt(path: Path, asked: Adaptation) -> None:
    """Adapt what a run learned to labelled examples of a new task, and predict others.

    Raises:
        InnerloopError: for files that do not fit the model.
    """
    folder = model_of(path)
    machine.set_up(1)
    from innerloop.workloads.tabular import predict

    out, say = Path(asked.out), Progress().say
    predict.adapt(folder, Path(asked.support), Path(asked.query), out, say, target=asked.target, members=asked.members)


def serve(path: Path, port: int) -> None:
    """Answer requests with what a run learned, until stopped."""
    folder = model_of(path)
    machine.set_up(1)
    from innerloop.serve import http

    http.serve(folder, port, lambda line: print(line, flush=True))
