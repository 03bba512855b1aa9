# SPDX-License-Identifier: GPL-2.0-only
"""Messages of tripwires: those that are read, and those that are ignored."""

import struct
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.errors import UnexpectedError
from ksplicd.host.kernel.tripwire import Hit, Intruder, open_listener, read_hit
from ksplicd.host.report.journal import Outcome, about_hit, about_overrun
from ksplicd.run import run
from tests.support.host.netlink import FAMILY, SUPPRESSED, THE_HIT, attribute, message

WHO = Intruder(pid=4711, tgid=4710, uid=1000, command="exploit", in_task=True, time=1700 * 10**15)
HIT = Hit(cve="CVE-2022-0847", place="copy_page_to_iter_pipe", who=WHO)
NOW = WHO.time / 1e9


def test_hit() -> None:
    assert read_hit(message(THE_HIT), FAMILY) == HIT


def test_many_more() -> None:
    assert read_hit(message(SUPPRESSED), FAMILY) == Hit(
        cve="", place="here", who=None, suppressed=9
    )


def test_order_of_attributes_does_not_matter() -> None:
    backwards = dict(reversed(list(THE_HIT.items())))
    assert read_hit(message(backwards), FAMILY) == HIT


def test_names_that_a_process_chose() -> None:
    data = message({**THE_HIT, 7: b"\x1b[2J\n\\\xff\xe2\x80\xae\0"})
    hit = read_hit(data, FAMILY)
    assert hit is not None
    assert hit.who is not None
    assert hit.who.command == r"\x1b[2J\x0a\x5c\xff\xe2\x80\xae"


LATER = b"\x08\0\x0a\0\0\0\0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"overrun",
        message(THE_HIT)[:19],
        message(THE_HIT)[:-1],
        message(THE_HIT) + b"\0",
        message(THE_HIT, kind=FAMILY + 1),
        message(THE_HIT, kind=2),
        message(THE_HIT, command=2),
        message(THE_HIT, version=2),
        message({}),
        message({**THE_HIT, 3: struct.pack("=I", 1)}),
        message({**SUPPRESSED, 4: struct.pack("=I", 1)}),
        message({k: v for k, v in THE_HIT.items() if k != 5}),
        message({**THE_HIT, 8: struct.pack("=I", 2)}),
        message({**THE_HIT, 4: b"\1\0\0\0\0\0\0\0"}),
        message({**THE_HIT, 9: b"\1\0\0\0"}),
        message({**THE_HIT, 7: b"no end"}),
        message({**THE_HIT, 7: b"two\0ends\0"}),
        message({**THE_HIT, 7: b""}),
        message({**THE_HIT, 7: b"x" * 16 + b"\0"}),
        message({**THE_HIT, 1: b"x" * 24 + b"\0"}),
        message({**THE_HIT, 10: b"\1\0\0\0"}),
        message(THE_HIT, more=attribute(4, b"\1\0\0\0")),
        message(THE_HIT, more=b"\3\0\4\0"),
        message(THE_HIT, more=b"\xff\xff\x0a\0"),
        message(THE_HIT, more=b"\4\0"),
        message(THE_HIT, more=LATER),
    ],
)
def test_anything_else_is_no_hit(data: bytes) -> None:
    assert read_hit(data, FAMILY) is None


@given(st.binary(max_size=400))
def test_noise(data: bytes) -> None:
    assert read_hit(data, FAMILY) is None


@given(st.integers(0, len(message(THE_HIT)) - 1), st.integers(0, 255))
def test_altered_messages(at: int, byte: int) -> None:
    """A message with one altered byte is ignored, or still within what a message may hold."""
    data = bytearray(message(THE_HIT))
    data[at] = byte
    hit = read_hit(bytes(data), FAMILY)
    if hit is not None:
        assert hit.who is not None
        assert all(" " <= c <= "~" for c in hit.cve + hit.place + hit.who.command)


def test_journal() -> None:
    entry = about_hit("8c4o6ucj", "CVE-2022-0847", HIT, NOW)
    assert entry.message_id is Outcome.TRIPWIRE
    assert entry.message == (
        "CVE-2022-0847 was tried and stopped (copy_page_to_iter_pipe)"
        " by exploit[4710], user 1000"
    )  # fmt: skip
    assert entry.fields == {
        "KSPLICE_KID": "8c4o6ucj",
        "KSPLICE_CVE": "CVE-2022-0847",
        "KSPLICE_PLACE": "copy_page_to_iter_pipe",
        "KSPLICE_PID": "4711",
        "KSPLICE_TGID": "4710",
        "KSPLICE_UID": "1000",
        "KSPLICE_COMMAND": "exploit",
        "KSPLICE_CONTEXT": "task",
        "KSPLICE_TIME": str(1700 * 10**12),
        "OBJECT_PID": "4710",
    }


def interrupted(hit: Hit) -> Hit:
    assert hit.who is not None
    who = Intruder(
        pid=hit.who.pid, tgid=hit.who.tgid, uid=hit.who.uid, command=hit.who.command,
        in_task=False, time=hit.who.time,
    )  # fmt: skip
    return Hit(cve=hit.cve, place=hit.place, who=who)


@pytest.mark.parametrize(
    ("change", "now", "words"),
    [
        (interrupted, NOW, "in an interrupt of exploit[4710]"),
        (lambda hit: hit, NOW + 5, "by exploit[4710]"),
    ],
)
def test_nobody_is_blamed_who_may_not_be_meant(
    change: Callable[[Hit], Hit], now: float, words: str
) -> None:
    entry = about_hit("8c4o6ucj", "", change(HIT), now)
    assert "OBJECT_PID" not in entry.fields
    assert entry.message.startswith("what update 8c4o6ucj fixes was tried")
    assert words in entry.message


def test_journal_of_many_more() -> None:
    hit = Hit(cve="", place="here", who=None, suppressed=990)
    entry = about_hit("8c4o6ucj", "CVE-1", hit, NOW)
    assert entry.message == "CVE-1 was tried and stopped (here), 990 more times"
    assert entry.fields["KSPLICE_SUPPRESSED"] == "990"
    assert "KSPLICE_PID" not in entry.fields


def test_journal_of_an_overrun() -> None:
    assert about_overrun("8c4o6ucj").message_id is Outcome.TRIPWIRE_OVERRUN


def test_no_such_family() -> None:
    with pytest.raises(UnexpectedError, match="kspl_none0000: cannot listen to tripwires: "):
        open_listener("kspl_none0000")


def test_who_has_nothing_to_hear_does_not_pay() -> None:
    program = "import sys, ksplicd.daemon; print('pyroute2' in sys.modules)"
    assert run([sys.executable, "-c", program]) == b"False\n"
