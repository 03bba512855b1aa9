# SPDX-License-Identifier: GPL-2.0-only
"""Coroutines on the GLib loop.

A coroutine that awaits leaves the loop free: so a D-Bus method answers later.  It awaits a
``concurrent.futures.Future``, which any thread or GLib callback may complete; the coroutine always
continues in the loop's thread.  ``Worker`` is one thread for slow calls; ``Turn`` lets one
coroutine at a time through, in order of arrival.

GLib 2.74's Python binding has no asyncio loop, and asyncio beside GLib would be a second loop.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from ksplicd.bus.loop import call_later, call_soon

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Wait(Generic[_T]):
    """``await Wait(future)`` gives the future's result or raises its exception."""

    def __init__(self, future: "Future[_T]") -> None:
        self._future = future

    def __await__(self) -> "Generator[Future[_T], None, _T]":
        if not self._future.done():
            yield self._future
        future = self._future
        try:
            return future.result()
        finally:
            # An error holds the frames that it passed, and those hold what they worked on, such as
            # a whole bundle: so no frame may hold the error.
            del future, self._future


_waiting: Final[set[Coroutine[Any, None, None]]] = set()
"""Those that the loop has to go on with."""


def spawn(coroutine: Coroutine[Any, None, None]) -> None:
    """Run ``coroutine`` until it first waits; the loop runs the rest of it."""
    _waiting.discard(coroutine)
    try:
        future = coroutine.send(None)
    except StopIteration:
        return
    except Exception:
        _log.exception("a coroutine ended in an error that it should have handled")
        return
    _waiting.add(coroutine)
    future.add_done_callback(lambda _: call_soon(spawn, coroutine))


def close_waiting() -> None:
    """End what still waits when the loop has ended.

    A coroutine that is only dropped closes itself, and while it does so drops the future whose
    callback has it, and so itself again.
    """
    while _waiting:
        _waiting.pop().close()


async def sleep(seconds: float) -> None:
    """Wait without holding the loop."""
    future: Future[None] = Future()
    call_later(seconds, future.set_result, None)
    await Wait(future)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A call that a worker makes now; no two are equal."""

    function: Callable[..., Any]
    thread: int
    """As of ``threading.get_ident()``."""


class Worker:
    """One thread; calls are made in the order in which they were given."""

    def __init__(self) -> None:
        self.work: Work | None = None
        """What is done now; for other threads to look at."""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ksplicd-worker")

    async def run(self, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        """Call ``function`` on the thread and return what it returns, or raise what it raises."""
        return await Wait(self._pool.submit(self._do, function, *args, **kwargs))

    def _do(self, function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T:
        self.work = Work(function, threading.get_ident())
        try:
            return function(*args, **kwargs)
        finally:
            self.work = None

    def stop(self) -> None:
        """Finish the call that runs now, drop those that wait, and end the thread."""
        self._pool.shutdown(cancel_futures=True)


class Turn:
    """Lets one coroutine through at a time, or a few, first come, first served."""

    def __init__(self, places: int = 1) -> None:
        self._free = places
        self._waiting: deque[Future[None]] = deque()
        """A woken waiter keeps its place until it runs, so newcomers cannot overtake it."""

    async def take(self) -> None:
        """Wait until it is our turn."""
        if self.is_taken:
            future: Future[None] = Future()
            self._waiting.append(future)
            await Wait(future)
            self._waiting.popleft()
        self._free -= 1
        self._wake_next()

    def give(self) -> None:
        """Wake the next waiter."""
        self._free += 1
        self._wake_next()

    def _wake_next(self) -> None:
        if self._free and self._waiting and not self._waiting[0].done():
            self._waiting[0].set_result(None)

    @property
    def is_taken(self) -> bool:
        """Whether the next one has to wait."""
        return not self._free or bool(self._waiting)
