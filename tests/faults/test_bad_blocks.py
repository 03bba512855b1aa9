# SPDX-License-Identifier: GPL-2.0-only
"""A history on a disk with bad blocks: what can still be written and read."""

import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ksplicd.errors import StoreError
from ksplicd.host.stages import Event
from ksplicd.host.store.history import History, write_event
from ksplicd.model import Stage
from tests.faults import inject
from tests.faults.inject import Fault
from tests.support.bundles.samples import KID
from tests.support.host.host import all_events
from tests.support.needs import needs

pytestmark = needs("strace")

EVENT = Event(time=1.0, boot_id="0" * 32, kid=KID, stage=Stage.STAGED)
LINE = len(write_event(EVENT))


def events(count: int, start: int = 1) -> list[Event]:
    return [replace(EVENT, time=float(n)) for n in range(start, start + count)]


def fill(history: History, new: Sequence[Event]) -> None:
    for event in new:
        history.append(event)


def do(fault: Fault, deed: Callable[[], object]) -> Any:
    """Return what ``deed`` returns in a process of its own, to which ``fault`` happens."""

    def prepare(end: socket.socket) -> Callable[[], None]:
        end.send(b'"ready"')

        def send() -> None:
            end.send(json.dumps(deed()).encode())

        return send

    def serve(end: socket.socket) -> Any:
        return json.loads(end.recv(1 << 20))

    return inject.run(prepare, serve, fault)


def bad(
    path: Path, call: str, number: int = 1, *, times: int = 1, is_lasting: bool = False
) -> Fault:
    return Fault(
        call=call, number=number, what="EIO", times=times, is_lasting=is_lasting, path=str(path)
    )


def times(history: History) -> list[float]:
    return [event.time for event in all_events(history)]


@pytest.mark.parametrize("call", ["pread64", "write", "fsync"])
def test_next_line_goes_into_a_new_file(tmp_path: Path, call: str) -> None:
    path = tmp_path / "h"
    fill(History(path), events(2))
    assert do(bad(path, call), lambda: History(path).append(replace(EVENT, time=3.0))) is None
    assert times(History(path)) == [1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h", "h.000001"]
    assert path.read_bytes().count(b"\n") == 1


def test_bad_disk_makes_no_end_of_files(tmp_path: Path) -> None:
    path = tmp_path / "h"
    fill(History(path), events(1))

    def append() -> int:
        history, failed = History(path), 0
        for event in events(5, start=2):
            try:
                history.append(event)
            except StoreError:
                failed += 1
        assert times(history) == [1, 2, 3, 4, 5, 6]
        return failed

    assert do(bad(path, "fsync", is_lasting=True), append) == 5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h", "h.000001"]


def test_bad_block_costs_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "h"
    fill(History(path), events(100))
    assert do(bad(path, "pread64", 2), lambda: times(History(path))) == list(range(1, 101))
    twice = bad(path, "pread64", 2, times=2)
    found = do(twice, lambda: times(History(path)))
    lost = [n for n in range(1, 101) if n not in found]
    assert lost == list(range(4096 // LINE + 1, 8192 // LINE + 2))
    assert do(twice, lambda: is_refused(path)), "who has to know all is told"
    assert times(History(path)) == list(range(1, 101))


def is_refused(path: Path) -> bool:
    try:
        list(History(path).read_back(whole=True))
    except StoreError:
        return True
    return False


def test_damaged_full_file_stays_and_others_do_not_wait_for_it(tmp_path: Path) -> None:
    """It is neither compressed nor merged, nor is an older one merged past it."""
    path, plain = tmp_path / "h", tmp_path / "h.000002"
    fill(History(path, 1000), events(3 * (1000 // LINE)))
    two = tmp_path / "h.000002.gz"
    assert two.exists()
    lines = b"".join(map(write_event, events(1000 // LINE, 1000 // LINE + 1)))
    two.unlink()
    plain.write_bytes(lines)
    new = events(50, 3 * (1000 // LINE) + 1)
    do(
        bad(plain, "pread64", is_lasting=True),
        lambda: fill(History(path, 1000, keep=lambda: 1), new),
    )
    assert plain.read_bytes() == lines
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names[:3] == ["h", "h.000001.gz", "h.000002"]
    assert len(names) == 4, "what came later was condensed"
    read = times(History(path))
    assert read[: 2 * (1000 // LINE)] == list(range(1, 2 * (1000 // LINE) + 1))
    assert read[-1] == new[-1].time
