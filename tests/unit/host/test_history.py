# SPDX-License-Identifier: GPL-2.0-only
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.errors import StoreError
from ksplicd.host.history import History, read_event, read_events, write_event
from ksplicd.host.state import Actor, Event, Via
from ksplicd.model import Stage

EVENT = Event(
    time=1700000000.25,
    boot_id="0" * 32,
    kid="8c4o6ucj",
    stage=Stage.FAILED,
    cause="no_match",
    detail="vmlinux: do_fcntl+0x1c: expected 0f1f, found 9090",
    actor=Actor(uid=1000, pid=12, unit="user@1000.service", via=Via.DBUS),
    mismatch={"function": "do_fcntl", "offset": "0x1c"},
)

lines = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=40)
events = st.builds(
    Event,
    time=st.floats(0, 2**39),
    boot_id=st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    kid=st.from_regex(r"([a-z0-9]{8})?", fullmatch=True),
    stage=st.sampled_from(Stage),
    cause=st.sampled_from(["", "code_busy"]),
    detail=lines,
    actor=st.builds(
        Actor, uid=st.integers(0, 2**32), pid=st.integers(0, 2**22), unit=lines, via=...
    ),
    mismatch=st.dictionaries(st.sampled_from(["function", "offset"]), lines),
)


def test_append_and_read(tmp_path: Path) -> None:
    history = History(tmp_path / "h")
    assert history.read() == []
    history.append(EVENT)
    history.append(EVENT)
    assert history.read() == [EVENT, EVENT]
    assert (tmp_path / "h").stat().st_mode & 0o777 == 0o600


def test_a_line_cut_short_is_kept_and_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "h"
    history = History(path)
    history.append(EVENT)
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        history.append(EVENT)
        kept = path.read_bytes()
        assert kept.startswith(whole + whole[:cut])
        # all but the newline is a whole line, too
        assert len(history.read()) == (3 if cut == len(whole) - 1 else 2)


def test_nothing_moves_the_cursor_or_breaks_the_line(tmp_path: Path) -> None:
    history = History(tmp_path / "h")
    bad = Event(
        time=1,
        boot_id="0" * 32,
        kid="",
        stage=Stage.REJECTED,
        detail="a\nb\x1b[2J\u2028\ud800",
        actor=Actor(uid=0, unit="x\ny", via=Via.DROP),
    )
    history.append(bad)
    (read,) = history.read()
    assert read.detail == "a b [2J  "
    assert read.actor.unit == "x y"


@given(events)
def test_round_trip(event: Event) -> None:
    line = write_event(event)
    assert line.count(b"\n") == 1
    assert read_event(line) == event


@given(st.binary())
def test_any_line_is_read_or_refused(line: bytes) -> None:
    with pytest.raises(StoreError, match=r"^history"):
        read_event(line)
    assert read_events([line, write_event(EVENT)]) == [EVENT]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "melted"}, "history: stage: 'melted' is not a stage"),
        ({"time": True}, "history: time: True is not a number of seconds"),
        ({"time": -1}, "history: time: -1 is not a number of seconds"),
        ({"kid": "x"}, "history: kid: 'x' is not an update id"),
        ({"actor": []}, r"history: actor: \[\] is not an object"),
        ({"actor": {"uid": -1, "pid": 0, "unit": "", "via": "dbus"}}, "history: actor.uid: -1"),
        ({"mismatch": {"A B": ""}}, "history: mismatch.A B: unknown field"),
        ({"more": 1}, "history: more: unknown field"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    value = json.loads(write_event(EVENT)) | change
    with pytest.raises(StoreError, match=message):
        read_event(json.dumps(value).encode())


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path}: Is a directory"):
        History(tmp_path).read()
    with pytest.raises(StoreError, match="h: No such file or directory"):
        History(tmp_path / "none" / "h").append(EVENT)
