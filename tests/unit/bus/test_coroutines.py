# SPDX-License-Identifier: GPL-2.0-only
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from gi.repository import GLib

from ksplicd.bus import coroutines
from tests.support.bus.loop import run


@pytest.fixture
def worker() -> Iterator[coroutines.Worker]:
    worker = coroutines.Worker()
    yield worker
    worker.stop()


def test_worker_has_its_own_thread_and_the_coroutine_stays_in_ours(
    worker: coroutines.Worker,
) -> None:
    seen = []

    async def task() -> None:
        seen.append(await worker.run(threading.get_ident))
        seen.append(threading.get_ident())

    run(task())
    assert seen[1] == threading.get_ident() != seen[0]


def test_worker_hands_errors_on(worker: coroutines.Worker) -> None:
    async def task() -> None:
        await worker.run(int, "no number")

    with pytest.raises(ValueError, match="no number"):
        run(task())


def test_loop_is_free_while_the_worker_works(worker: coroutines.Worker) -> None:
    ticks: list[int] = []
    go_on = threading.Event()

    def tick() -> bool:
        ticks.append(1)
        if len(ticks) == 3:
            go_on.set()
        return len(ticks) < 3

    async def task() -> None:
        GLib.timeout_add(1, tick)
        assert await worker.run(go_on.wait, 10)

    run(task())
    assert len(ticks) == 3


def test_worker_keeps_the_order(worker: coroutines.Worker) -> None:
    done: list[int] = []

    async def task() -> None:
        for number in range(20):
            coroutines.spawn(append(number))
        await worker.run(lambda: None)

    async def append(number: int) -> None:
        await worker.run(done.append, number)

    run(task())
    assert done == list(range(20))


def test_turns_come_in_the_order_of_asking() -> None:
    turn = coroutines.Turn()
    told: list[str] = []

    async def take(name: str) -> None:
        await turn.take()
        told.append(f"{name} begins")
        await coroutines.sleep(0.005)
        told.append(f"{name} ends")
        turn.give()

    async def all_of_them() -> None:
        for name in "abc":
            coroutines.spawn(take(name))
        while len(told) < 6:
            await coroutines.sleep(0.002)

    run(all_of_them())
    assert told == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
    assert not turn.is_taken


def test_nobody_passes_those_who_are_called_and_have_not_gone_on() -> None:
    """A place falls free twice in one round of the loop, and somebody comes in in that round."""
    turn = coroutines.Turn(2)
    told: list[str] = []

    async def take(name: str) -> None:
        await turn.take()
        told.append(name)

    async def all_of_them() -> None:
        for name in "abc":
            coroutines.spawn(take(name))
        turn.give()
        turn.give()
        coroutines.spawn(take("d"))
        assert turn.is_taken
        while len(told) < 4:
            await coroutines.sleep(0.002)

    run(all_of_them())
    assert told == list("abcd")


def test_an_error_that_nobody_handles_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def task() -> None:
        raise RuntimeError("unforeseen")

    coroutines.spawn(task())
    assert "unforeseen" in caplog.text


def test_what_waits_at_the_end_is_closed() -> None:
    """In whatever order the futures and the coroutines that wait for them go."""
    ended: list[str] = []

    async def inner(future: "Future[None]") -> None:
        try:
            await coroutines.Wait(future)
        finally:
            ended.append("inner")

    async def outer(future: "Future[None]") -> None:
        await inner(future)
        ended.append("never")

    coroutines.spawn(outer(Future()))
    assert ended == []
    coroutines.close_waiting()
    assert ended == ["inner"]
