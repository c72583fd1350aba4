"""Connections that cannot wear a server out: silent ones are closed, and the longest silent one makes room."""

import asyncio
import resource
from collections import OrderedDict
from contextlib import suppress
from typing import Any

from innerloop.extras import require

SILENCE_SECONDS = 10.0
"""A connection on which no request begins, or whose head does not end, for so long is closed."""
SPARE_DESCRIPTORS = 64
"""File descriptors for all else than connections."""
MOST_CONNECTIONS = 4096


def most_connections() -> int:
    """How many connections file descriptors allow, whose limit is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    room = MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - SPARE_DESCRIPTORS
    return max(min(MOST_CONNECTIONS, room), 1)


def protocol(most: int, silence: float = SILENCE_SECONDS) -> type[Any]:
    """Uvicorn's protocol with a bound on silence, and on the number of connections.

    Args:
        most: connections; one more closes the one that has been silent for longest.
        silence: seconds until a request must have begun and its head be complete.
    """
    h11 = require("h11", "serve", "Serving")
    base = require("uvicorn.protocols.http.h11_impl", "serve", "Serving").H11Protocol
    silent: OrderedDict[Any, None] = OrderedDict()

    class Connection(base):  # pyright: ignore[reportGeneralTypeIssues, reportUntypedBaseClass]
        """A connection that is closed when it has been silent for too long."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most and silent:
                next(iter(silent)).close_silently()
            self._timer: asyncio.TimerHandle | None = None
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def handle_events(self) -> None:
            super().handle_events()
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.IDLE:
                self._wait()

        def close_silently(self) -> None:
            """End a connection on which nothing happens."""
            self._stop_waiting()
            self.transport.close()

        def _wait(self) -> None:
            if self._timer is None and not self.transport.is_closing():
                silent[self] = None
                self._timer = self.loop.call_later(silence, self.close_silently)

        def _stop_waiting(self) -> None:
            silent.pop(self, None)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
