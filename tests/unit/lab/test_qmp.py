# SPDX-License-Identifier: GPL-2.0-only
import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from ksplicd.errors import LabError
from ksplicd.lab.qmp import Event, Qmp

GREETING = b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
DONE = b'{"return": {}}\r\n'


@contextlib.contextmanager
def connected(*answers: bytes) -> Iterator[tuple[Qmp, socket.socket]]:
    """A control socket whose other end, which stands for QEMU, has said all its lines at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(GREETING + DONE + b"".join(answers))
        yield Qmp(ours, timeout=0.2), theirs


def event(name: str, **data: object) -> bytes:
    return json.dumps({"event": name, "data": data}).encode() + b"\r\n"


def test_command_is_sent_and_its_answer_returned() -> None:
    with connected(b'{"return": {"status": "running"}}\n') as (qmp, theirs):
        assert qmp.command("query-status") == {"status": "running"}
        requests = [json.loads(line) for line in theirs.recv(4096).splitlines()]
        assert requests == [{"execute": "qmp_capabilities"}, {"execute": "query-status"}]


def test_events_before_an_answer_are_kept() -> None:
    with connected(event("STOP"), event("SHUTDOWN", reason="guest-reset"), DONE) as (qmp, _):
        qmp.command("stop")
        assert qmp.wait_event("SHUTDOWN", timeout=1).data == {"reason": "guest-reset"}
        assert qmp.take_events() == []


def test_refusal_carries_qemus_words() -> None:
    with (
        connected(b'{"error": {"class": "GenericError", "desc": "No such thing"}}\n') as (qmp, _),
        pytest.raises(LabError, match="QEMU refused migrate: No such thing"),
    ):
        qmp.command("migrate", uri="x")


def test_silence_and_end_are_told() -> None:
    with connected() as (qmp, theirs):
        with pytest.raises(LabError, match="did not answer in time"):
            qmp.command("stop")
        with pytest.raises(LabError, match="did not answer in time"):
            qmp.wait_event("STOP", timeout=0.01)
        theirs.close()
        with pytest.raises(LabError, match="QEMU ended before"):
            qmp.command("stop")


def test_last_events_are_read_after_the_end() -> None:
    with connected(event("SHUTDOWN", reason="guest-panic")) as (qmp, theirs):
        theirs.close()
        assert qmp.take_events() == [Event(name="SHUTDOWN", data={"reason": "guest-panic"})]


def test_other_greeting_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'{"hello": 1}\n')
        with pytest.raises(LabError, match="greets with"):
            Qmp(ours)
