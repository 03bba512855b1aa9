# SPDX-License-Identifier: GPL-2.0-only
import gzip
import json
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.errors import StoreError
from ksplicd.host.stages import Actor, Event, Via
from ksplicd.host.store.history import History, last_words, read_event, read_events, write_event
from ksplicd.model import Stage
from tests.support.host.host import EVENT, all_events

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
    up=st.none() | st.floats(0, 2**39),
)


def test_append_and_read(tmp_path: Path) -> None:
    history = History(tmp_path / "h")
    assert all_events(history) == []
    history.append(EVENT)
    history.append(EVENT)
    assert all_events(history) == [EVENT, EVENT]
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
        assert len(all_events(history)) == (3 if cut == len(whole) - 1 else 2)


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
    (read,) = all_events(history)
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
        all_events(History(tmp_path))
    with pytest.raises(StoreError, match="h: No such file or directory"):
        History(tmp_path / "none" / "h").append(EVENT)


# --- what was released stays readable ------------------------------------------------------------


def test_history_of_every_release() -> None:
    """A cut line between whole ones, as a power failure leaves it."""
    files = sorted((Path(__file__).parent / "data").glob("history-*.jsonl"))
    assert [path.name for path in files] == ["history-0.1.0.jsonl"]
    for path in files:
        events = all_events(History(path))
        assert len(events) == path.read_bytes().count(b"\n") - 1
        assert {event.stage for event in events} == set(Stage) - {Stage.DROPPED, Stage.QUARANTINED}
        assert {event.actor.via for event in events} == set(Via)
        assert events[3].mismatch["function"] == "do_fcntl"


# --- full files -----------------------------------------------------------------------------------


def fill(history: History, count: int, start: int = 0) -> list[Event]:
    events = [replace(EVENT, time=float(i)) for i in range(start, start + count)]
    for event in events:
        history.append(event)
    return events


def test_full_files_are_turned_over_without_loss(tmp_path: Path) -> None:
    history = History(tmp_path / "h", max_size=1000)
    events = fill(history, 20)
    assert (tmp_path / "h").stat().st_size <= 1000
    full = sorted(path.name for path in tmp_path.iterdir() if path.name != "h")
    assert full == [f"h.{i:06}.gz" for i in range(1, len(full) + 1)]
    assert len(full) > 3
    assert all_events(History(tmp_path / "h")) == events
    newest = next(iter(history.read_back()))
    assert newest == events[-len(newest) :]


@pytest.mark.parametrize("left", ["plain", "both", "half"])
def test_killed_while_a_file_is_turned_over(tmp_path: Path, left: str) -> None:
    history = History(tmp_path / "h", max_size=1000)
    events = fill(history, 2)
    plain = (tmp_path / "h").rename(tmp_path / "h.000001")
    if left == "both":
        (tmp_path / "h.000001.gz").write_bytes(gzip.compress(plain.read_bytes()))
    if left == "half":
        (tmp_path / ".h.000001.gz.new").write_bytes(b"\x1f\x8b")
    assert all_events(history) == events
    events += fill(history, 4, start=2)
    assert all_events(history) == events
    assert {p.name for p in tmp_path.iterdir()} == {"h", "h.000001.gz", "h.000002.gz"}


def test_damaged_full_file_costs_no_more_than_itself(tmp_path: Path) -> None:
    history = History(tmp_path / "h", max_size=1000)
    events = fill(history, 9)
    first = tmp_path / "h.000001.gz"
    for data in (b"", b"no gzip", first.read_bytes()[:-20]):
        first.write_bytes(data)
        found = all_events(history)
        assert found[-6:] == events[-6:]
        assert found[:-6] == events[: len(found) - 6]


def test_full_file_that_unpacks_without_end(tmp_path: Path) -> None:
    history = History(tmp_path / "h")
    history.append(EVENT)
    bomb = gzip.compress(write_event(EVENT) + bytes(200 << 20), 1)
    (tmp_path / "h.000001.gz").write_bytes(bomb)
    tracemalloc.start()
    try:
        assert all_events(history) == [EVENT, EVENT]
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_full_file_that_unpacks_without_end_is_not_condensed(tmp_path: Path) -> None:
    """Events in a file that cannot be read must not be lost."""
    history = History(tmp_path / "h", max_size=1000, keep=lambda: 1)
    bomb = gzip.compress(write_event(EVENT) + bytes(65 << 20), 1)
    (tmp_path / "h.000001.gz").write_bytes(bomb)
    fill(history, 12)
    assert (tmp_path / "h.000001.gz").read_bytes() == bomb
    assert len([*tmp_path.glob("h.*")]) == 2, "the others are"
    with pytest.raises(StoreError, match="more than"):
        list(history.read_back(whole=True))


class Full(History):
    """A history on a disk that is full for a while."""

    is_full = False

    def _turn_over(self, more: int) -> None:
        if self.is_full:
            raise StoreError("the disk is full")


def test_line_that_could_not_be_written_goes_before_the_next_one(tmp_path: Path) -> None:
    history = Full(tmp_path / "h")
    events = [replace(EVENT, time=float(i)) for i in range(4)]
    history.append(events[0])
    history.is_full = True
    for event in events[1:3]:
        with pytest.raises(StoreError, match="full"):
            history.append(event)
    assert all_events(History(tmp_path / "h")) == events[:1]
    assert all_events(history) == events[:3], "what has happened is told, written or not"
    history.is_full = False
    history.append(events[3])
    assert all_events(history) == events
    history.catch_up()
    assert all_events(history) == events


def test_folder_that_cannot_be_turned_over_in(tmp_path: Path) -> None:
    history = History(tmp_path / "h", max_size=1000)
    events = fill(history, 2)
    (tmp_path / "h.000001.gz").mkdir()  # in the way of the compressed file
    (tmp_path / "h.000001.gz/x").touch()
    events += fill(history, 4, start=2)
    assert [e for e in all_events(history) if e in events] == events


@given(st.lists(st.integers(300, 2000), max_size=4))
def test_nothing_is_lost_whatever_the_sizes(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        events: list[Event] = []
        for size in sizes:
            events += fill(History(Path(folder) / "h", max_size=size), 4, start=len(events))
        assert all_events(History(Path(folder) / "h")) == events


def of(kid: str, stage: Stage) -> Event:
    return replace(EVENT, kid=kid, stage=stage, detail=str(len(kid)))


def test_last_words() -> None:
    events = [
        of("aaaaaaaa", Stage.APPLIED),
        of("aaaaaaaa", Stage.REVERSED),
        of("bbbbbbbb", Stage.STAGED),
        of("aaaaaaaa", Stage.REMOVED),
        of("bbbbbbbb", Stage.FAILED),
        of("bbbbbbbb", Stage.REJECTED),
        of("cccccccc", Stage.APPLIED),
    ]
    kept = [(event.kid[0], event.stage.value) for event in last_words(events)]
    assert kept == [("a", "reversed"), ("a", "removed"), ("b", "failed"), ("c", "applied")]
    assert last_words(last_words(events)) == last_words(events)


def test_old_files_are_condensed(tmp_path: Path) -> None:
    history = History(tmp_path / "h", max_size=2000, keep=lambda: 1000)
    history.append(of("undone00", Stage.APPLIED))
    history.append(of("undone00", Stage.REVERSED))
    history.append(of("undone00", Stage.REMOVED))
    for number in range(200):
        history.append(replace(of("8c4o6ucj", Stage.FAILED), detail=str(number)))
    full = sorted(path for path in tmp_path.iterdir() if path.name != "h")
    assert sum(path.stat().st_size for path in full) <= 1000
    assert all(path.name.endswith(".gz") for path in full)
    read = all_events(history)
    assert [e.stage.value for e in read if e.kid == "undone00"] == ["reversed", "removed"]
    numbers = [int(event.detail) for event in read if event.kid == "8c4o6ucj"]
    assert numbers == sorted(numbers)
    assert numbers[-3:] == [197, 198, 199]


def test_nothing_is_condensed_that_fits(tmp_path: Path) -> None:
    history = History(tmp_path / "h", max_size=2000, keep=lambda: 1 << 20)
    for _ in range(100):
        history.append(EVENT)
    assert all_events(history) == [EVENT] * 100


def test_damaged_file_is_not_condensed_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = History(tmp_path / "h", max_size=2000, keep=lambda: 1)
    for _ in range(20):
        history.append(EVENT)
    (first, *_) = sorted(path for path in tmp_path.iterdir() if path.name != "h")
    damaged = first.read_bytes()[:-9]
    first.write_bytes(damaged)
    for _ in range(20):
        history.append(EVENT)
    assert first.read_bytes() == damaged
    assert "it is tried again" in caplog.text


@pytest.mark.parametrize("done", ["replaced", "all"])
def test_killed_while_condensing(tmp_path: Path, done: str) -> None:
    """The older file still exists, with events that the newer one has already."""
    history = History(tmp_path / "h", max_size=2000)
    for number in range(20):
        history.append(replace(EVENT, detail=str(number)))
    first, second, *_ = sorted(path for path in tmp_path.iterdir() if path.name != "h")
    before = first.read_bytes()
    events = read_events(
        (gzip.decompress(before) + gzip.decompress(second.read_bytes())).split(b"\n")
    )
    second.write_bytes(gzip.compress(b"".join(map(write_event, last_words(events)))))
    if done == "all":
        first.unlink()
    History(tmp_path / "h", max_size=2000, keep=lambda: 1)._condense()
    assert not first.exists()
    assert all_events(history)[-1].detail == "19"
