"""Where metrics go beside the run directory's own file: TensorBoard, Weights & Biases, trackio.

A logger is told of a training, and has no say in it: one that fails is named once and dropped.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from innerloop.errors import InnerloopError
from innerloop.extras import require

PROJECT = "innerloop"
"""What a run belongs to where runs are kept by project."""


class RunInfo(NamedTuple):
    """What a logger is told of a run.

    Attributes:
        name: what the run is called.
        folder: its directory.
        settings: its configuration by flag, values as JSON holds them.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]


class Logger(Protocol):
    """Takes metrics as they come."""

    def start(self, run_info: RunInfo) -> None:
        """Begin, or go on after an interruption."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        ...

    def close(self) -> None:
        """Write what is not yet written."""
        ...


class TensorBoard:
    """Event files in the folder `tensorboard` of the run directory.

    Raises:
        InnerloopError: if tensorboardX is not installed.
    """

    def __init__(self):
        self._library = require("tensorboardX", "tensorboard", "--log.to tensorboard")

    def start(self, run_info: RunInfo) -> None:
        self._writer = self._library.SummaryWriter(str(run_info.folder / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases; an interrupted training goes on in the same one.

    Where it goes, and whether at all, its own environment variables say, such as `WANDB_MODE=offline`.

    Raises:
        InnerloopError: if wandb is not installed.
    """

    def __init__(self):
        self._library = require("wandb", "wandb", "--log.to wandb")

    def start(self, run_info: RunInfo) -> None:
        kept = run_info.folder / "wandb-id"
        name = kept.read_text().strip() if kept.exists() else None
        self._run = self._library.init(
            project=PROJECT,
            name=run_info.name,
            id=name,
            resume="allow",
            dir=str(run_info.folder),
            config=dict(run_info.settings),
        )
        kept.write_text(self._run.id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of trackio, which keeps it on this machine unless its own environment variables say otherwise.

    Raises:
        InnerloopError: if trackio is not installed.
    """

    def __init__(self):
        self._library = require("trackio", "trackio", "--log.to trackio")

    def start(self, run_info: RunInfo) -> None:
        self._run = self._library.init(
            project=PROJECT, name=run_info.name, resume="allow", config=dict(run_info.settings), embed=False
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


LOGGERS: dict[str, Callable[[], Logger]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


class Loggers:
    """All the loggers of a training as one that cannot fail.

    Args:
        names: which, among `LOGGERS`.
        say: tells the user which one failed.

    Raises:
        InnerloopError: for a name that is none, or a library that is not installed, before anything is trained.
    """

    def __init__(self, names: Sequence[str], say: Callable[[str], None]):
        unknown = [name for name in names if name not in LOGGERS]
        if unknown:
            raise InnerloopError(f"--log.to is {unknown[0]!r}; choose of: {', '.join(LOGGERS)}.")
        self._loggers: dict[str, Logger] = {name: LOGGERS[name]() for name in dict.fromkeys(names)}
        self._say = say

    def start(self, run_info: RunInfo) -> None:
        """Begin, or go on after an interruption."""
        self._all(lambda logger: logger.start(run_info))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hand on the metrics of a step."""
        self._all(lambda logger: logger.log(step, values))

    def close(self) -> None:
        """Write what is not yet written."""
        self._all(lambda logger: logger.close())

    def _all(self, call: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                call(logger)
            except Exception as error:
                del self._loggers[name]
                what = " ".join(str(error).split()) or type(error).__name__
                self._say(f"{name} failed and gets no more metrics ({what[:300]}); training goes on")
