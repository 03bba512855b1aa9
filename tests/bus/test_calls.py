# SPDX-License-Identifier: GPL-2.0-only
"""Methods, properties and signals, as callers see them."""

import os

import pytest
from gi.repository import GLib

from ksplicd.bus import names
from ksplicd.bus.job import Job
from ksplicd.bus.manager import Manager
from ksplicd.bus.update import Update
from ksplicd.errors import (
    AlreadyAppliedError,
    AlreadyReversedError,
    InUseError,
    NoMatchError,
    NoSuchUpdateError,
)
from ksplicd.host.stages import Event
from ksplicd.host.store.history import write_event
from ksplicd.model import Stage
from tests.support.bus.calls import (
    BUNDLE,
    ERROR,
    KID,
    MANAGER,
    SIGNATURE,
    UPDATE,
    begin,
    call,
    error_of,
)
from tests.support.bus.host import Host
from tests.support.host.simulator import NO_MATCH
from tests.support.waiting import wait_for

# --- as typed -----------------------------------------------------------------------------------


def test_busctl_as_typed(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    stage = (names.BUS_NAME, names.update_path(KID), names.UPDATE, "Stage")
    assert host.busctl("get-property", *stage).stdout == 's "staged"\n'
    applied = host.busctl("call", *MANAGER, "Apply", "st", KID, "0")
    assert applied.stdout == 'to 1 "/org/ksplice/Ksplicd1/job/1"\n'
    wait_for(lambda: host.busctl("get-property", *stage).stdout == 's "applied"\n')
    undone = host.busctl("call", *MANAGER, "Undo", "st", KID, "0")
    assert undone.stdout == 'to 2 "/org/ksplice/Ksplicd1/job/2"\n'
    wait_for(lambda: host.busctl("get-property", *stage).stdout == 's "reversed"\n')
    listed = host.busctl("call", *MANAGER, "ListUpdates", "t", "0").stdout
    assert listed == f'a(sso) 1 "{KID}" "reversed" "{names.update_path(KID)}"\n'


def test_busctl_shows_errors_by_name(host: Host) -> None:
    done = host.busctl("call", *MANAGER, "Undo", "st", "aaaaaaaa", "0")
    assert done.returncode == 1
    assert "aaaaaaaa" in done.stderr


def test_tree_and_introspection(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    assert names.update_path(KID) in host.busctl("tree", names.BUS_NAME).stdout
    described = host.busctl("introspect", *UPDATE[:2]).stdout
    assert all(name in described for name in (".AbortCause", ".Undo", "PropertiesChanged"))


# --- apply and undo -----------------------------------------------------------------------------


def test_life_of_an_update(host: Host) -> None:
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    assert client.apply(KID).result == "done"
    assert host.stage_of() == "applied"
    assert client.undo(KID).result == "done"
    assert host.stage_of() == "reversed"
    assert client.apply(KID).result == "done"  # again, which Ksplice would refuse
    client.undo(KID)
    client.remove(KID)
    assert client.objects().updates == ()
    assert host.outcomes() == [
        "STAGED",
        *("LOADING", "MATCHED", "TRANSITIONING", "APPLIED", "REVERSING", "REVERSED") * 2,
    ]


def test_history_tells_who(host: Host) -> None:
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    events = client.history()
    assert [event["Stage"] for event in events] == [
        *("applied", "transitioning", "matched", "loading", "staged")
    ]
    assert {(e["Uid"], e["Pid"], e["Via"]) for e in events} == {(os.getuid(), os.getpid(), "dbus")}
    assert client.history(2) == events[:2]


def test_history_is_no_larger_than_a_message(bare_host: Host) -> None:
    """The bus would cut the daemon off."""
    bare_host.store.mkdir()
    event = Event(
        time=1.0, boot_id="0" * 32, kid=KID, stage=Stage.FAILED, cause="code_busy",
        detail="held up by " + "x" * (1 << 20),
    )  # fmt: skip
    (bare_host.store / "history.jsonl").write_bytes(write_event(event) * 40)
    bare_host.start()
    client = bare_host.client()
    assert 10 <= len(client.history()) < 12
    assert len(client.history(3)) == 3
    assert bare_host.daemon.poll() is None


def test_update_object_applies_and_undoes(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    assert call(host, UPDATE, "Apply", GLib.Variant("(t)", (0,))) == (1, names.job_path(1))
    wait_for(lambda: host.stage_of() == "applied")
    assert call(host, UPDATE, "Undo", GLib.Variant("(t)", (0,))) == (2, names.job_path(2))
    wait_for(lambda: host.stage_of() == "reversed")


def test_apply_and_undo_are_refused_with_the_cause(host: Host) -> None:
    client = host.client()
    with pytest.raises(NoSuchUpdateError, match=KID):
        client.apply(KID)
    with pytest.raises(NoSuchUpdateError, match=KID):
        client.undo(KID)
    client.stage(BUNDLE, SIGNATURE)
    with pytest.raises(AlreadyReversedError, match=KID):
        client.undo(KID)
    client.apply(KID)
    with pytest.raises(AlreadyAppliedError, match=KID):
        client.apply(KID)
    with pytest.raises(InUseError, match=KID):
        client.remove(KID)


def test_mismatch_is_an_error_of_the_call_and_precise_in_the_journal(host: Host) -> None:
    with host.kernel.open() as kernel:
        kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    with pytest.raises(NoMatchError, match=r"do_fcntl\+0x1c"):
        client.apply(KID)
    entry = host.journal()[-1]
    assert entry["name"] == "NO_MATCH"
    fields = entry["fields"]
    assert fields["KSPLICE_CAUSE"] == "no_match"
    assert fields["KSPLICE_FUNCTION"] == "do_fcntl"
    assert fields["KSPLICE_OFFSET"] == "0x1c"
    assert fields["KSPLICE_EXPECTED"] == "0f1f4400"
    assert fields["KSPLICE_FOUND"] == "90909090"
    assert host.stage_of() == "failed"
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


JOB = names.BUS_NAME, names.job_path(1), names.JOB
WITH_FLAGS = (
    (MANAGER, "ListUpdates", GLib.Variant("(t)", (1,))),
    (MANAGER, "Apply", GLib.Variant("(st)", (KID, 2))),
    (MANAGER, "Undo", GLib.Variant("(st)", (KID, 1 << 40))),
    (MANAGER, "Remove", GLib.Variant("(st)", (KID, 4))),
    (MANAGER, "Release", GLib.Variant("(st)", (KID, 1 << 63))),
    (MANAGER, "ListHistory", GLib.Variant("(tu)", (8, 0))),
    (UPDATE, "Apply", GLib.Variant("(t)", (1,))),
    (UPDATE, "Undo", GLib.Variant("(t)", (1,))),
    (UPDATE, "ListHunks", GLib.Variant("(tuu)", (1, 0, 0))),
    (JOB, "ListConflicts", GLib.Variant("(t)", (1,))),
)


@pytest.mark.parametrize(("where", "method", "args"), WITH_FLAGS)
def test_unknown_flags_are_refused(
    host: Host, where: tuple[str, str, str], method: str, args: GLib.Variant
) -> None:
    begin(host)
    assert error_of(host, where, method, args)[0] == ERROR + "UnknownFlags"


def test_every_method_with_flags_is_among_them() -> None:
    takes = {
        (cls.interface, name)
        for cls in (Manager, Update, Job)
        for name, python in cls.methods.items()
        if ("t", "flags") in getattr(cls, python).dbus_method[0]
    }
    assert {(where[2], method) for where, method, _ in WITH_FLAGS} == takes


def test_errors_say_no_more_than_they_were_sent_with(host: Host) -> None:
    args = GLib.Variant("(st)", (KID, 2))
    name, text = error_of(host, MANAGER, "Apply", args)
    assert (name, text) == (ERROR + "UnknownFlags", "flags 0x2 are not known; pass 0")


def test_no_property_can_be_set(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    args = GLib.Variant("(ssv)", (names.UPDATE, "Stage", GLib.Variant("s", "applied")))
    name, text = error_of(host, (*UPDATE[:2], names.PROPERTIES), "Set", args)
    assert (name, "not writable" in text) == ("org.freedesktop.DBus.Error.InvalidArgs", True)
    assert host.stage_of() == "staged"


def test_unforeseen_errors_tell_nothing_but_to_the_journal(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    host.kernel.path.rename(host.kernel.path.with_suffix(".gone"))
    name, text = error_of(host, MANAGER, "ListUpdates", GLib.Variant("(t)", (0,)))
    assert name == names.INTERNAL_ERROR
    assert str(host.folder) not in text
    assert f"No such file or directory: '{host.kernel.path}'" in host.log()
