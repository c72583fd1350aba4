"""Single bits that are flipped, and ends that are cut off, in every file that is read back."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from faults.runs import Count
from innerloop.errors import InnerloopError

Reader = Callable[[Path], Any]
"""What the program reads of a file. `TOLD` in the place of what it drops with a word, or makes anew."""

TOLD = "told"


def readers(run: Path, cache: Path, archive: Path) -> Mapping[Path, Reader]:
    """All files of a run, its model, the caches and an archive, each with what reads it."""
    from jax._src.lru_cache import LRUCache

    from innerloop import artifacts, programs, workloads
    from innerloop.runs import checkpoint, rundir, sealed, store
    from innerloop.workloads.episodes.data.archive import read_members

    programs.keep_in(cache / "xla")
    kinds = workloads.registered()
    here = lambda: rundir.existing(run, kinds)  # noqa: E731
    plain = lambda arrays: {name: (array.tobytes(), str(array.dtype), array.shape) for name, array in arrays.items()}  # noqa: E731
    number = len(here().records())

    def records(_: Path) -> Any:
        found = here().records()
        return found if len(found) == number else TOLD  # `truncate_records` counts the others, and says so

    def of_checkpoint(file: Path) -> Any:
        verified = checkpoint._verified(file.parent)
        return TOLD if verified is None else verified

    def of_model(file: Path) -> Any:
        model = artifacts.read(file.parent)
        return model.kind, model.config, plain(model.arrays)

    def evaluation(_: Path) -> Any:
        found = here().result()
        return TOLD if found is None else found

    def prepared(file: Path) -> Any:
        found = store._read(file)
        return TOLD if found is None else plain(found)

    def program(file: Path) -> Any:
        found = LRUCache(str(file.parent), max_size=-1).get(file.name.removesuffix("-cache"))
        return TOLD if found is None else found

    published = hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()

    def members(file: Path) -> Any:
        found = list(read_members(file, ".png"))
        same = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == published
        return found if same else TOLD  # as Omniglot's loader says it

    known: dict[Path, Reader] = {
        run / "config.json": lambda _: (here().config, here().workload.name, here().beginning),
        run / "environment.json": lambda _: here().environment(),
        run / "metrics.jsonl": records,
        run / "evaluation.json": evaluation,
        run / "scores.safetensors": lambda _: plain(here().scores()),
        run / "costs.json": lambda _: here().costs() or TOLD,
        run / "model" / "config.json": of_model,
        run / "model" / "weights.safetensors": of_model,
        archive: members,
    }
    known |= dict.fromkeys((run / "checkpoints").glob("step-*/*"), of_checkpoint)
    known |= dict.fromkeys((cache / "prepared").glob("*.safetensors"), prepared)
    known |= {file: lambda file: sealed.read(file) for file in (cache / "layouts").glob("*.json")}
    known |= dict.fromkeys(sorted((cache / "xla").glob("*-cache"))[:5], program)
    return {file: read for file, read in known.items() if file.is_file()}


def damage(run: Path, cache: Path, archive: Path, *, flips: int, cuts: int, count: Count) -> None:
    """Flip so many bits and cut so many ends over all files, and read each back."""
    random = np.random.default_rng(0)
    files = readers(run, cache, archive)
    for at, (file, read) in enumerate(files.items()):
        content, truth = file.read_bytes(), read(file)
        share = lambda number, at=at: number // len(files) + (at < number % len(files))  # noqa: E731
        for trial in range(share(flips) + share(cuts)):
            changed = bytearray(content)
            if trial < share(flips):
                changed[random.integers(len(content))] ^= 1 << random.integers(8)
            else:
                del changed[random.integers(len(content)) :]
            file.write_bytes(bytes(changed))
            judge(file, read, truth, count)
        file.write_bytes(content)
        assert read(file) == truth


def judge(file: Path, read: Reader, truth: Any, count: Count) -> None:
    """Whether a damaged file is told, makes no difference, or is taken for another."""
    count.tried += 1
    try:
        found = read(file)
    except InnerloopError:
        count.told += 1
    except Exception as error:
        count.tracebacks += 1
        count.note(f"{file.name}: {type(error).__name__}: {error}")
    else:
        if isinstance(found, str) and found == TOLD:
            count.told += 1
        elif found != truth:
            count.silent += 1
            count.note(f"{file.name}: taken for another")
