"""Requests that wait at the same time, put into one batch and computed by one compiled step."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 8 * 2**20
MOST_ROWS = 4096
MOST_TASKS = 4096
"""Adapted tasks that are kept; the one that was used least recently goes first."""
SMALL_BATCH, LARGEST_BATCH = 8, 32
MOST_WAITING = 1024


@dataclass(frozen=True)
class Limits:
    """What a server takes on.

    Attributes:
        body: bytes of a request.
        rows: rows of a request.
        tasks: adapted tasks that are kept.
        batch: requests that are computed together.
        waiting: requests that may wait.
    """

    body: int = MOST_BYTES
    rows: int = MOST_ROWS
    tasks: int = MOST_TASKS
    batch: int = LARGEST_BATCH
    waiting: int = MOST_WAITING


class HTTPError(Exception):
    """A request that is answered with an error status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Batcher:
    """Collects what waits and computes it together.

    Args:
        compute: `(group, items) -> results`, on a thread of its own; all items of a call share the group.
        limits: how many at once, and how many may wait.
    """

    def __init__(self, compute: Callable[[Any, list[Any]], list[Any]], limits: Limits):
        self._compute, self._limits = compute, limits
        self._queue: asyncio.Queue[tuple[Any, Any, asyncio.Future[Any]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, group: Any, item: Any) -> Any:
        """The result of one item.

        Raises:
            HTTPError: if too many wait.
        """
        if self._queue.qsize() >= self._limits.waiting:
            raise HTTPError(503, f"{self._limits.waiting} requests are waiting; try again in a moment.")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((group, item, future))
        return await future

    async def _run(self) -> None:
        while True:
            waiting = [await self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get_nowait())
            groups: dict[Any, list[tuple[Any, asyncio.Future[Any]]]] = {}
            for group, item, future in waiting:
                if not future.cancelled():  # its client went away
                    groups.setdefault(group, []).append((item, future))
            for group, members in groups.items():
                for start in range(0, len(members), self._limits.batch):
                    await self._together(group, members[start : start + self._limits.batch])

    async def _together(self, group: Any, members: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        items = [item for item, _ in members]
        try:
            results = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, group, items)
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
    size = next(batch for batch in (1, SMALL_BATCH, largest) if batch >= len(items))
    return [*items, *[items[0]] * (size - len(items))]
