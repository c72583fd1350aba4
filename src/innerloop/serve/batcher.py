"""Requests that wait at the same time, put into one batch and computed by one compiled step."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

MOST_BYTES = 8 * 2**20
MOST_ROWS = 4096
MOST_TASKS = 4096
"""Adapted tasks that are kept; the one that was used least recently goes first."""
MOST_KEPT_BYTES = 256 * 2**20
"""Bytes of adapted tasks that are kept."""
MOST_HELD_BYTES = 64 * 2**20
"""Bytes of requests that are being answered; another one is told to come again."""
MOST_PROGRAMS = 64
"""Compiled programs that are kept."""
BODY_SECONDS = 30.0
"""A request whose body does not end within this time is answered with an error."""
SMALL_BATCH, LARGEST_BATCH = 8, 32
SIZES = (1, SMALL_BATCH, LARGEST_BATCH)
"""How many requests are computed together; fewer are filled up, so that few programs are compiled."""
MOST_WAITING = 1024


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        body: bytes of a request.
        rows: rows of a request.
        tasks: adapted tasks that are kept.
        kept: bytes of these.
        held: bytes of requests that are being answered.
        seconds: until a request's body must have come.
        batch: requests that are computed together.
        waiting: requests that may wait.
        programs: compiled programs that are kept.
    """

    body: int = MOST_BYTES
    rows: int = MOST_ROWS
    tasks: int = MOST_TASKS
    kept: int = MOST_KEPT_BYTES
    held: int = MOST_HELD_BYTES
    seconds: float = BODY_SECONDS
    batch: int = LARGEST_BATCH
    waiting: int = MOST_WAITING
    programs: int = MOST_PROGRAMS


class HTTPError(Exception):
    """A request that is answered with an error status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


Member: TypeAlias = tuple[Any, "asyncio.Future[Any]"]
"""An item and what is to get its result."""


class Batcher:
    """Collects what waits and computes it together; what must be compiled first, or is large, on a thread aside.

    Args:
        compute: `(group, items) -> results`, on a thread; all items of a call share the group.
        limits: how many at once, and how many may wait.
        large: whether the items of a group take long.
        forget: drops all compiled programs.
    """

    def __init__(
        self,
        compute: Callable[[Any, list[Any]], list[Any]],
        limits: Limits,
        large: Callable[[Any], bool] = lambda group: False,
        forget: Callable[[], None] = lambda: None,
    ):
        self._compute, self._limits, self._large, self._forget = compute, limits, large, forget
        self._queue: asyncio.Queue[tuple[Any, Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._thread, self._thread_aside = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._aside: dict[Any, list[Member]] = {}
        self._compiled: set[tuple[Any, int]] = set()

    def start(self) -> None:
        self._tasks.add(asyncio.create_task(self._run()))

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for thread in (self._thread, self._thread_aside):
            thread.shutdown(wait=False, cancel_futures=True)

    def warm(self, group: Any, item: Any) -> list[Any]:
        """Compile what requests of a group need, before any comes; the results for one item."""
        results: list[Any] = []
        for size in sizes(self._limits.batch):
            results = self._compute(group, [item] * size)
            self._compiled.add((group, size))
        return results[:1]

    async def __call__(self, group: Any, item: Any) -> Any:
        """The result of one item.

        Raises:
            HTTPError: if too many wait.
        """
        if self._queue.qsize() + sum(map(len, self._aside.values())) >= self._limits.waiting:
            raise HTTPError(503, f"{self._limits.waiting} requests are waiting; try again in a moment.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((group, item, future))
        return await future

    async def _run(self) -> None:
        while True:
            waiting = [await self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            groups: dict[Any, list[Member]] = {}
            for group, item, future in waiting:
                if not future.cancelled():  # its client went away
                    groups.setdefault(group, []).append((item, future))
            for group, members in groups.items():
                for start in range(0, len(members), self._limits.batch):
                    part = members[start : start + self._limits.batch]
                    quick = (group, filled_size(len(part), self._limits.batch)) in self._compiled
                    if quick and not self._large(group):
                        await self._together(self._thread, group, part)
                    elif group in self._aside:
                        self._aside[group] += part
                    else:
                        self._aside[group] = part
                        task = asyncio.create_task(self._slowly(group))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)

    async def _slowly(self, group: Any) -> None:
        """Compute what waits of a group on the thread aside, a batch after the other."""
        waiting = self._aside[group]
        while waiting:
            part, waiting[:] = waiting[: self._limits.batch], waiting[self._limits.batch :]
            if len(self._compiled) >= self._limits.programs:
                self._compiled.clear()
                self._forget()
            await self._together(self._thread_aside, group, part)
            self._compiled.add((group, filled_size(len(part), self._limits.batch)))
        del self._aside[group]

    async def _together(self, thread: ThreadPoolExecutor, group: Any, members: list["Member"]) -> None:
        items = [item for item, _ in members]
        try:
            results = await asyncio.get_running_loop().run_in_executor(thread, self._compute, group, items)
        except Exception as error:
            results = [error] * len(members)
        for (_, future), result in zip(members, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def filled(items: Sequence[Any], largest: int) -> list[Any]:
    """Items filled up with the first to one of three sizes, so that few programs are compiled."""
    return [*items, *[items[0]] * (filled_size(len(items), largest) - len(items))]


def filled_size(number: int, largest: int) -> int:
    """The size to which a number of items is filled up."""
    return next(size for size in sizes(largest) if size >= number)


def sizes(largest: int) -> tuple[int, ...]:
    """The sizes of batches up to the largest."""
    return (*(size for size in SIZES if size < largest), largest)
