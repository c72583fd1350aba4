"""Predictions with a trained run: which folder is meant, and which kind of model it holds."""

from pathlib import Path

from innerloop import workloads
from innerloop.errors import InnerloopError
from innerloop.runs import machine, predictions, rundir
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
    progress = Progress()
    folder = model_of(path)
    support, query, out = Path(asked.support), Path(asked.query), Path(asked.out)
    predictions.require_apart(out, {"--support": support, "--query": query, str(path): path})
    machine.set_up(1)
    kind = kind_of(folder)
    if kind == "episodes":
        from innerloop.workloads.episodes import predict as of_episodes

        if asked.target:
            raise InnerloopError("--target is for tables; the folders of the support images tell their classes.")
        of_episodes.adapt(folder, support, query, out, progress.say)
    elif kind == "tabular":
        from innerloop.workloads.tabular import predict as of_tables

        of_tables.adapt(folder, support, query, out, progress.say, target=asked.target)
    elif kind == "streams":
        raise InnerloopError(f"{path} learned of streams, which no files of examples extend; adapt has no use for it.")
    else:
        raise InnerloopError(
            f"{path} is a policy, which adapts by acting and not from files; adapt it in Python: "
            "innerloop.load(folder).adapt_policy(env)."
        )


def serve(path: Path, port: int) -> None:
    """Answer requests with what a run learned, until stopped."""
    folder = model_of(path)
    machine.set_up(1)
    if kind_of(folder) != "tabular":
        raise InnerloopError(
            f"{path} was trained on a recipe; serve answers for runs on your own tables and images. Use innerloop "
            "adapt, or in Python innerloop.load(folder)."
        )
    from innerloop.serve import http

    http.serve(folder, port, Progress().say)


def kind_of(folder: Path) -> str:
    """The kind of model that a folder holds.

    Raises:
        InnerloopError: if it cannot be read.
    """
    from innerloop import artifacts

    return "tabular" if (folder / "model.json").exists() else artifacts.read(folder).kind
