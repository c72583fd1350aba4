"""What was learned at the best scores on validation tasks, kept beside the newest checkpoints.

`best/scores.json` holds every validation score so far, sealed, with the SHA-256 of the files that are kept; each of
these is `best/step-NNN.safetensors`. A file is written before the scores that name it, so a process may be killed at
any moment.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load, save

from innerloop.core.trees import arrays_of
from innerloop.errors import InnerloopError
from innerloop.files import write_bytes
from innerloop.runs import checkpoint, sealed

KEPT = 5
"""How many are kept: as many as the ensemble of MAML++ has members."""


class Validated(NamedTuple):
    """What was learned by a step that was scored on validation tasks.

    Attributes:
        step: the steps that led to it.
        score: its validation score, of which more is better.
        learned: what was learned, a pytree of arrays.
    """

    step: int
    score: float
    learned: Any


class Best:
    """The best of a training.

    Args:
        folder: where they are kept; made when there is something to keep.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._scores: dict[int, float] = {}
        self._kept: dict[int, str] = {}
        with suppress(InnerloopError):
            found = sealed.read(folder / "scores.json")
            self._scores = {int(step): score for step, score in found["scores"].items()}
            self._kept = {int(step): digest for step, digest in found["files"].items()}

    def offer(self, step: int, learned: Any, score: float) -> None:
        """Note a score, and keep what was learned if it is among the best.

        Raises:
            InnerloopError: if it cannot be written.
        """
        self._scores[step] = score
        if step in self._leaders():
            content = save(arrays_of(learned))
            self._kept[step] = hashlib.sha256(content).hexdigest()
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file(step), content)
        self._write()

    def forget_after(self, step: int) -> None:
        """Drop what came after a step, from which training goes on."""
        if any(later > step for later in self._scores):
            self._scores = {at: score for at, score in self._scores.items() if at <= step}
            self._write()

    def since_best(self) -> int:
        """How many validations in a row have not been better than the best before them."""
        leaders = self._leaders()
        return sum(step > leaders[0] for step in self._scores) if leaders else 0

    def read(self, template: Any, warn: Callable[[str], None]) -> list[Validated]:
        """What is kept, the best first.

        Args:
            template: something learned, of the same structure, shapes and types.
            warn: told of each file that is damaged and passed over.
        """
        found = []
        for step in self._leaders():
            with suppress(OSError):
                content = self._file(step).read_bytes()
                if hashlib.sha256(content).hexdigest() == self._kept.get(step):
                    learned = checkpoint.from_arrays(load(content), template, self._file(step))
                    found.append(Validated(step, self._scores[step], learned))
                    continue
            warn(f"{self._file(step)} is missing or damaged, and is passed over")
        return found

    def _leaders(self) -> Sequence[int]:
        """The steps of the best scores, the best first; of equal ones the earlier."""
        return sorted(self._scores, key=lambda step: (-self._scores[step], step))[:KEPT]

    def _write(self) -> None:
        leaders = self._leaders()
        self._kept = {step: digest for step, digest in self._kept.items() if step in leaders}
        values: Mapping[str, Any] = {
            "scores": {str(step): score for step, score in sorted(self._scores.items())},
            "files": {str(step): digest for step, digest in self._kept.items()},
        }
        sealed.write(self.folder / "scores.json", values)
        for file in self.folder.glob("step-*.safetensors"):
            if file not in [self._file(step) for step in leaders]:
                file.unlink()

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"
