# SPDX-License-Identifier: GPL-2.0-only
"""Which caller may do what, by polkit's answers."""

import os
import signal
import time

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.errors import PermissionDeniedError
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, MANAGER, SIGNATURE, UPDATE, call
from tests.support.bus.forks import Fork
from tests.support.bus.host import Host
from tests.support.needs import have_root
from tests.support.waiting import wait_for


def test_polkit_is_asked_with_the_arguments(host: Host) -> None:
    client = host.user()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    client.undo(KID)
    client.describe(KID)
    client.remove(KID)
    asked = [(a["action"].rpartition(".")[2], a["details"]) for a in host.asked()]
    assert [a for a in asked if a[0] != "inspect"] == [
        ("stage", {}),
        ("apply", {"kid": KID}),
        ("undo", {"kid": KID}),
        ("stage", {"kid": KID}),
    ]
    assert {a["subject"] for a in host.asked()} == {"system-bus-name"}


def test_polkit_may_ask_the_user_only_when_the_caller_says_so(host: Host) -> None:
    host.answer(inspect="password")
    with pytest.raises(GLib.Error, match="call again with interactive authorization"):
        call(host, MANAGER, "ListUpdates", GLib.Variant("(t)", (0,)), host.connect_user())
    host.user().history()
    assert [a["interactive"] for a in host.asked()] == [False, False, True]


def test_looking_is_asked_once_until_something_changes(host: Host, polkit: Fork) -> None:
    connection = host.connect_user()

    def look() -> int:
        for _ in range(3):
            call(host, MANAGER, "ListUpdates", GLib.Variant("(t)", (0,)), connection)
            call(host, MANAGER, "ListHistory", GLib.Variant("(tu)", (0, 0)), connection)
        return len(host.asked())

    assert look() == 1
    assert look() == 1
    host.answer(inspect="no")
    polkit.send_signal(signal.SIGUSR1)

    def is_refused() -> bool:
        try:
            look()
        except GLib.Error as e:
            return "inspect is refused" in e.message
        return False

    wait_for(is_refused)


@pytest.mark.parametrize("answer", ["no", "challenge"])
def test_what_polkit_refuses_is_not_done(host: Host, answer: str) -> None:
    client = host.user()
    client.stage(BUNDLE, SIGNATURE)
    host.answer(apply=answer, undo=answer, stage=answer)
    for forbidden in (client.apply, client.undo, client.remove):
        with pytest.raises(PermissionDeniedError, match="refused for :"):
            forbidden(KID)
    other = samples.bundle(samples.OTHER_KID)
    with pytest.raises(PermissionDeniedError, match="refused for :"):
        client.stage(other, samples.signature(other))
    assert host.outcomes() == ["STAGED"]


def test_looking_can_be_refused_too(host: Host) -> None:
    client = host.user()
    client.stage(BUNDLE, SIGNATURE)
    host.answer(inspect="no")
    for ask in (client.objects, client.history, lambda: client.describe(KID)):
        with pytest.raises(PermissionDeniedError, match="inspect"):
            ask()
    args = GLib.Variant("(ss)", (UPDATE[2], "Stage"))
    with pytest.raises(GLib.Error, match="inspect"):
        call(host, (*UPDATE[:2], names.PROPERTIES), "Get", args, host.connect_user())


def test_without_polkit_root_alone_may_act(bare_host: Host) -> None:
    bare_host.start()
    user = bare_host.user()
    assert user.objects().updates == ()
    with pytest.raises(PermissionDeniedError, match="call as root"):
        user.stage(BUNDLE, SIGNATURE)
    if os.getuid() == 0:
        client = bare_host.client()
        assert client.apply(client.stage(BUNDLE, SIGNATURE)).result == "done"


@have_root
@pytest.mark.parametrize("state", ["stopped", "ill", "refusing"])
def test_root_is_obeyed_whatever_polkit_does(host: Host, polkit: Fork, state: str) -> None:
    match state:
        case "stopped":
            polkit.send_signal(signal.SIGSTOP)
        case "ill":
            (host.folder / "hold").touch()
        case _:
            host.answer(stage="no", apply="no", undo="fail", inspect="no")
    waiting = [host.connect_user() for _ in range(8)]
    args = GLib.Variant("(t)", (0,))
    for user in waiting:  # polkit owes an answer to each
        user.call(*MANAGER, "ListUpdates", args, None, Gio.DBusCallFlags.NONE, -1, None, None)
    begin = time.monotonic()
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    client.undo(KID)
    assert client.describe(KID)["Stage"] == "reversed"
    client.remove(KID)
    assert time.monotonic() - begin < 5
    polkit.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("has_polkit", [True, False])
def test_callers_who_do_not_stay_are_no_fault_of_ours(
    bare_host: Host,
    has_polkit: bool,  # noqa: FBT001
) -> None:
    if has_polkit:
        bare_host.start_polkit()
    bare_host.start()
    for _ in range(5):
        connection = bare_host.connect()
        args, flags = GLib.Variant("(st)", (KID, 0)), Gio.DBusCallFlags.NONE
        connection.call(*MANAGER[:3], "Undo", args, None, flags, -1, None, None)
        connection.flush_sync(None)
        connection.close_sync(None)
    assert bare_host.user().objects().updates == ()  # behind all that
    assert "Traceback" not in bare_host.log()


def test_polkit_that_cannot_tell(host: Host) -> None:
    host.answer(inspect="fail")
    with pytest.raises(PermissionDeniedError, match=r"inspect is refused for .*did not answer: .+"):
        host.user().objects()
    assert "ksplicd.bus.wrapper" not in host.log()
