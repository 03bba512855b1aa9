# SPDX-License-Identifier: GPL-2.0-only
"""Tripwires, from a core's message to the journal and the bus."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gi.repository import GLib

from ksplicd.bus import names
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, SIGNATURE
from tests.support.bus.host import Host
from tests.support.bus.serve import DatagramListener
from tests.support.host.netlink import SUPPRESSED, THE_HIT, message
from tests.support.waiting import wait_for

CVES = samples.manifest().cves


@pytest.fixture
def wired(host: Host) -> Host:
    """A host with an update applied that has tripwires."""
    apply(host)
    wait_for(family(host).exists)
    return host


def apply(host: Host) -> None:
    """Apply an update that has tripwires."""
    with host.kernel.open() as kernel:
        kernel.tripwires = {KID}
    host.client().stage(BUNDLE, SIGNATURE)
    assert host.ksplice("apply", KID).returncode == 0


def family(host: Host) -> Path:
    return host.folder / f"kspl_{KID}"


def say(host: Host, *messages: bytes) -> None:
    """Let the core say something."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as core:
        for data in messages:
            core.sendto(data, str(family(host)))


def told(host: Host) -> list[dict[str, Any]]:
    return [entry for entry in host.journal() if entry["name"].startswith("TRIPWIRE")]


@contextmanager
def signals(host: Host) -> Iterator[list[Any]]:
    """Collect the signals TripwireHit."""
    heard: list[Any] = []
    context = GLib.MainContext()
    context.push_thread_default()

    def on_signal(*args: Any) -> None:
        assert args[2:5] == (names.ROOT_PATH, names.MANAGER, "TripwireHit")
        heard.append(args[5].unpack())

    unsubscribe = host.subscribe("TripwireHit", on_signal)
    try:
        yield heard
        end = time.monotonic() + 5
        while not heard and time.monotonic() < end:
            context.iteration(may_block=False)
            time.sleep(0.01)
    finally:
        unsubscribe()
        while context.iteration(may_block=False):
            pass
        context.pop_thread_default()


def test_journal_and_signal(wired: Host) -> None:
    with signals(wired) as heard:
        say(wired, message(THE_HIT))
        wait_for(lambda: told(wired))
    (entry,) = told(wired)
    assert entry["name"] == "TRIPWIRE"
    assert entry["fields"]["KSPLICE_CVE"] == "CVE-2022-0847"
    assert entry["fields"]["KSPLICE_COMMAND"] == "exploit"
    assert "OBJECT_PID" not in entry["fields"], "it is an old one"
    assert heard == [
        (
            KID, "CVE-2022-0847", "copy_page_to_iter_pipe",
            {
                "Pid": 4711, "Tgid": 4710, "Uid": 1000, "Command": "exploit",
                "Context": "task", "Time": 1700 * 10**12,
            },
        )
    ]  # fmt: skip


def test_those_that_are_not_told_one_by_one(wired: Host) -> None:
    with signals(wired) as heard:
        say(wired, message(SUPPRESSED))
        wait_for(lambda: told(wired))
    (entry,) = told(wired)
    assert CVES
    assert entry["fields"]["KSPLICE_CVE"] == " ".join(CVES), "the update's, for want of another"
    assert entry["fields"]["KSPLICE_SUPPRESSED"] == "9"
    assert heard == [(KID, " ".join(CVES), "here", {"Suppressed": 9})]


def test_what_no_core_says_is_ignored(wired: Host) -> None:
    bad = [b"", b"\0", message(THE_HIT)[:-1], message({**THE_HIT, 7: b"no end"}), os.urandom(200)]
    say(wired, *bad, message(THE_HIT))
    wait_for(lambda: told(wired))
    assert len(told(wired)) == 1
    assert wired.log().count("messages that no tripwire sends") == 1
    assert wired.stage_of() == "applied"


def test_overrun_is_told(wired: Host) -> None:
    say(wired, DatagramListener.OVERRUN, message(THE_HIT))
    wait_for(lambda: len(told(wired)) == 2)
    assert [entry["name"] for entry in told(wired)] == ["TRIPWIRE_OVERRUN", "TRIPWIRE"]


def test_many_at_once(wired: Host) -> None:
    threads = [
        threading.Thread(target=lambda: say(wired, *[message(THE_HIT)] * 50)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_for(lambda: len(told(wired)) == 150)


def test_listener_goes_with_the_update_and_comes_with_the_daemon(wired: Host) -> None:
    wired.kill()
    family(wired).unlink()  # a socket of netlink has no name that stays
    wired.start()
    wait_for(family(wired).exists)
    say(wired, message(THE_HIT))
    wait_for(lambda: told(wired))
    assert wired.ksplice("undo", KID).returncode == 0
    wait_for(lambda: not family(wired).exists())
    assert wired.ksplice("apply", KID).returncode == 0
    wait_for(family(wired).exists)
    assert wired.stop() == 0
    assert not family(wired).exists()


def test_no_listener_without_tripwires(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    assert host.ksplice("apply", KID).returncode == 0
    assert not family(host).exists()


def test_listening_fails_for_a_while(host: Host) -> None:
    family(host).write_text("in the way")
    apply(host)
    wait_for(lambda: "tries again in 2 s" in host.log())
    assert "cannot listen to tripwires" in host.log()
    family(host).unlink()
    wait_for(family(host).exists)
    say(host, message(THE_HIT))
    wait_for(lambda: told(host))
    assert host.ksplice("undo", KID).returncode == 0


def test_undone_before_listening_is_tried_again(host: Host) -> None:
    family(host).write_text("in the way")
    apply(host)
    wait_for(lambda: "tries again in 1 s" in host.log())
    assert host.ksplice("undo", KID).returncode == 0
    time.sleep(1.5)
    assert "tries again in 2 s" not in host.log()
    assert family(host).read_text() == "in the way"
