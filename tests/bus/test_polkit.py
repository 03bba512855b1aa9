# SPDX-License-Identifier: GPL-2.0-only
"""Which caller may do what, by polkit's answers."""

import os

import pytest
from gi.repository import Gio, GLib

from ksplicd.errors import PermissionDeniedError
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, MANAGER, SIGNATURE, call
from tests.support.bus.host import Host


def test_polkit_is_asked_with_the_arguments(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    client.undo(KID)
    client.describe(KID)
    assert host.asked()[-1]["details"] == {"kid": KID}
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
        call(host, MANAGER, "ListUpdates", GLib.Variant("(t)", (0,)))
    host.client().history()
    assert [a["interactive"] for a in host.asked()] == [False, False, True]


@pytest.mark.parametrize("answer", ["no", "challenge"])
def test_what_polkit_refuses_is_not_done(host: Host, answer: str) -> None:
    client = host.client()
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
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    host.answer(inspect="no")
    for ask in (client.objects, client.history, lambda: client.describe(KID)):
        with pytest.raises(PermissionDeniedError, match="inspect"):
            ask()
    with pytest.raises(GLib.Error, match="inspect"):
        host.stage_of()


def test_without_polkit_root_alone_may_act(bare_host: Host) -> None:
    bare_host.start()
    client = bare_host.client()
    assert client.objects().updates == ()
    if os.getuid() == 0:
        assert client.apply(client.stage(BUNDLE, SIGNATURE)).result == "done"
    else:
        with pytest.raises(PermissionDeniedError, match="call as root"):
            client.stage(BUNDLE, SIGNATURE)


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
    assert bare_host.client().objects().updates == ()  # behind all that
    assert "Traceback" not in bare_host.log()


def test_polkit_that_cannot_tell(host: Host) -> None:
    host.answer(inspect="fail")
    with pytest.raises(PermissionDeniedError, match=r"inspect is refused for .*did not answer: .+"):
        host.client().objects()
    assert "ksplicd.bus.wrapper" not in host.log()
