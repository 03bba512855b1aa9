# SPDX-License-Identifier: GPL-2.0-only
"""Methods, properties and signals, as callers see them."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from gi.repository import Gio, GLib

from ksplicd.bundle import MAX_BUNDLE_SIZE
from ksplicd.bus import names
from ksplicd.bus.errors import text_of
from ksplicd.errors import (
    AlreadyAppliedError,
    AlreadyReversedError,
    BadBundleError,
    BadSignatureError,
    CancelledError,
    CodeBusyError,
    InUseError,
    KspliceError,
    NoMatchError,
    NoSuchUpdateError,
    PermissionDeniedError,
    WrongKernelError,
)
from ksplicd.host.history import write_event
from ksplicd.host.state import Conflict, Event
from ksplicd.model import Kernel, Stage
from tests.bundles import samples
from tests.bus.conftest import Host, wait_for
from tests.unit.host.simulator import NO_MATCH

BUNDLE = samples.bundle()
SIGNATURE = samples.signature(BUNDLE)
KID = samples.KID
MANAGER = (names.BUS_NAME, names.ROOT_PATH, names.MANAGER)
UPDATE = (names.BUS_NAME, names.update_path(KID), names.UPDATE)
ERROR = "org.ksplice.Ksplicd1.Error."


def call(
    host: Host, where: tuple[str, str, str], method: str, args: GLib.Variant | None = None
) -> Any:
    """Call a method and return its reply; raises ``GLib.Error``."""
    flags = Gio.DBusCallFlags.NONE
    reply = host.connect().call_sync(*where, method, args, None, flags, -1, None)
    return reply.unpack()


def error_of(
    host: Host, where: tuple[str, str, str], method: str, args: GLib.Variant | None = None
) -> tuple[str, str]:
    """Return (name, text) of the error that a call ends in."""
    with pytest.raises(GLib.Error, match=r"\w") as caught:
        call(host, where, method, args)
    return Gio.DBusError.get_remote_error(caught.value), text_of(caught.value)


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


# --- stage --------------------------------------------------------------------------------------


def test_what_is_staged_is_described(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    (update,) = host.client().look().updates
    assert update == {
        "Kid": KID,
        "Stage": "staged",
        "AbortCause": "",
        "Detail": update["Detail"],
        "Description": "fcntl: refuse F_SET_RW_HINT on an immutable inode",
        "Targets": ["vmlinux"],
        "Cves": ["CVE-2026-12345"],
        "Kernel": samples.KERNEL.release,
    }
    described = host.client().describe(KID)
    assert (described["Kid"], described["Functions"]) == (KID, ["vmlinux:do_fcntl (fs/fcntl.c)"])


def test_stage_is_refused_with_the_cause(host: Host) -> None:
    client = host.client()
    with pytest.raises(BadSignatureError, match=r"\w"):
        client.stage(BUNDLE, None)
    with pytest.raises(BadSignatureError, match="not trusted"):
        client.stage(BUNDLE, samples.signature(BUNDLE, samples.STRANGER))
    with pytest.raises(BadBundleError, match="archive"):
        client.stage(b"no bundle", samples.signature(b"no bundle"))
    kernel = Kernel(release="6.1.0-49-cloud-amd64", build_id="00" * 20)
    other = samples.bundle(kernel=kernel)
    with pytest.raises(WrongKernelError, match=r"6\.1\.0-49-cloud-amd64"):
        client.stage(other, samples.signature(other))
    assert client.look().updates == ()


def test_unknown_options_are_refused(host: Host) -> None:
    fds = Gio.UnixFDList.new()
    with os.fdopen(os.memfd_create("bundle"), "wb", buffering=0) as f:
        args = GLib.Variant("(ha{sv})", (fds.append(f.fileno()), {"force": GLib.Variant("t", 1)}))
        with pytest.raises(GLib.Error, match="force") as caught:
            host.connect().call_with_unix_fd_list_sync(
                *MANAGER, "Stage", args, None, Gio.DBusCallFlags.NONE, -1, fds, None
            )
    assert Gio.DBusError.get_remote_error(caught.value) == ERROR + "UnknownFlags"


def stage_fd(host: Host, fd: int) -> None:
    fds = Gio.UnixFDList.new()
    args = GLib.Variant("(ha{sv})", (fds.append(fd), {}))
    host.connect().call_with_unix_fd_list_sync(
        *MANAGER, "Stage", args, None, Gio.DBusCallFlags.NONE, -1, fds, None
    )


def test_a_pipe_is_no_bundle(host: Host) -> None:
    r, w = os.pipe()  # nobody writes: reading it would wait for ever
    try:
        with pytest.raises(GLib.Error, match="no regular file"):
            stage_fd(host, r)
    finally:
        os.close(r)
        os.close(w)


def test_a_file_without_end_is_no_bundle(host: Host, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb+") as f:
        f.truncate(MAX_BUNDLE_SIZE + 1)
        with pytest.raises(GLib.Error, match="at most"):
            stage_fd(host, f.fileno())


@pytest.mark.parametrize("handle", [3, -1, -(2**31)])
def test_a_missing_descriptor_is_told(host: Host, handle: int) -> None:
    name, _ = error_of(host, MANAGER, "Stage", GLib.Variant("(ha{sv})", (handle, {})))
    assert name == ERROR + "BadBundle"
    with os.fdopen(os.memfd_create("bundle"), "wb", buffering=0) as f:
        fds = Gio.UnixFDList.new()
        fds.append(f.fileno())
        with pytest.raises(GLib.Error, match="carries no such descriptor"):
            host.connect().call_with_unix_fd_list_sync(
                *MANAGER, "Stage", GLib.Variant("(ha{sv})", (handle, {})), None,
                Gio.DBusCallFlags.NONE, -1, fds, None,
            )  # fmt: skip


def test_descriptors_do_not_pile_up(host: Host) -> None:
    folder = Path(f"/proc/{host.daemon.pid}/fd")
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    before = len(list(folder.iterdir()))
    for _ in range(20):
        client.stage(BUNDLE, SIGNATURE)
    wait_for(lambda: len(list(folder.iterdir())) <= before)


def test_calls_leave_no_memory_behind(host: Host) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{host.daemon.pid}/statm").read_text().split()[1]) * 4096

    connection = host.connect()
    text = "x" * 50_000
    flags = Gio.DBusCallFlags.NONE
    where = (names.BUS_NAME, names.ROOT_PATH, names.MANAGER, "Describe")
    args = GLib.Variant("(s)", (text,))
    sizes = []
    for _ in range(2):
        for _ in range(200):
            with pytest.raises(GLib.Error, match="NoSuchUpdate"):
                connection.call_sync(*where, args, None, flags, -1, None)
        sizes.append(resident())
    assert sizes[1] - sizes[0] < 200 * len(text) / 4


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
    assert client.look().updates == ()
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


@pytest.mark.parametrize(
    ("where", "method", "args"),
    [
        (MANAGER, "ListUpdates", GLib.Variant("(t)", (1,))),
        (MANAGER, "Apply", GLib.Variant("(st)", (KID, 2))),
        (MANAGER, "Undo", GLib.Variant("(st)", (KID, 1 << 40))),
        (MANAGER, "Remove", GLib.Variant("(st)", (KID, 4))),
        (MANAGER, "ListHistory", GLib.Variant("(tu)", (8, 0))),
        (UPDATE, "Apply", GLib.Variant("(t)", (1,))),
        (UPDATE, "Undo", GLib.Variant("(t)", (1,))),
    ],
)
def test_unknown_flags_are_refused(
    host: Host, where: tuple[str, str, str], method: str, args: GLib.Variant
) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    assert error_of(host, where, method, args)[0] == ERROR + "UnknownFlags"


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


# --- who may ------------------------------------------------------------------------------------


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
    for look in (client.look, client.history, lambda: client.describe(KID)):
        with pytest.raises(PermissionDeniedError, match="inspect"):
            look()
    with pytest.raises(GLib.Error, match="inspect"):
        host.stage_of()


def test_without_polkit_root_alone_may_act(bare_host: Host) -> None:
    bare_host.start()
    client = bare_host.client()
    assert client.look().updates == ()
    if os.getuid() == 0:
        assert client.apply(client.stage(BUNDLE, SIGNATURE)).result == "done"
    else:
        with pytest.raises(PermissionDeniedError, match="call as root"):
            client.stage(BUNDLE, SIGNATURE)


# --- jobs ---------------------------------------------------------------------------------------


def begin(host: Host) -> tuple[int, str]:
    """Start a transition that does not end."""
    host.kernel.hold()
    host.client().stage(BUNDLE, SIGNATURE)
    job, path = call(host, MANAGER, "Apply", GLib.Variant("(st)", (KID, 0)))
    return job, path


def test_job_shows_who_holds_it_up(host: Host) -> None:
    job, path = begin(host)
    with host.kernel.open() as kernel:
        kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
        kernel.holders.append(Conflict(pid=17, command="sleeper", stack="schedule < do_fcntl"))
    (shown,) = host.client().look().jobs
    assert shown == {
        "Id": job,
        "Type": "apply",
        "Update": names.update_path(KID),
        "Progress": "transitioning",
        "Conflicts": [(17, "sleeper", "schedule < do_fcntl")],
        "ConflictFunctions": ["do_fcntl"],
    }
    assert path == names.job_path(job)


def test_cancelled_job_leaves_the_kernel_as_it_was(host: Host) -> None:
    _, path = begin(host)
    call(host, (names.BUS_NAME, path, names.JOB), "Cancel")
    wait_for(lambda: host.client().look().jobs[0]["Progress"] == "turning-back")
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "failed")
    assert host.client().look().updates[0]["AbortCause"] == "cancelled"
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_interrupted_client_cancels(host: Host) -> None:
    host.kernel.hold()
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    GLib.timeout_add(200, lambda: os.kill(os.getpid(), 2))
    GLib.timeout_add(400, lambda: host.kernel.hold(on=False))
    with pytest.raises(CancelledError, match="not applied: cancelled"):
        client.apply(KID)


def test_client_interrupted_before_its_turn(host: Host) -> None:
    """Its update is not applied behind its back."""
    other = samples.bundle(samples.OTHER_KID)
    host.client().stage(other, samples.signature(other))
    begin(host)

    def complete() -> None:
        with host.kernel.open() as kernel:
            kernel.complete()

    def go_on() -> None:
        wait_for(lambda: sum(a["action"].endswith(".apply") for a in host.asked()) == 2)
        os.kill(os.getpid(), 2)
        complete()
        wait_for(lambda: host.stage_of(samples.OTHER_KID) == "reversing")
        complete()

    going = threading.Thread(target=go_on)
    going.start()
    with pytest.raises(CancelledError, match="not applied: cancelled"):
        host.client().apply(samples.OTHER_KID)
    going.join()


def test_client_that_may_not_cancel_is_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.kernel.hold()
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    GLib.timeout_add(100, lambda: host.answer(apply="no"))
    GLib.timeout_add(200, lambda: os.kill(os.getpid(), 2))
    GLib.timeout_add(600, lambda: host.kernel.hold(on=False))
    assert client.apply(KID).result == "done"
    told = capsys.readouterr().err
    assert told.startswith("ksplice: not cancelled: org.ksplice.ksplicd1.apply is refused for :")
    assert "Traceback" not in told


def test_transition_limit(bare_host: Host) -> None:
    host = bare_host
    host.configure(transition_limit="1")
    host.start_polkit()
    host.start()
    host.kernel.hold()
    with host.kernel.open() as kernel:
        kernel.holders.append(Conflict(pid=17, command="sleeper", stack="do_fcntl"))
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    GLib.timeout_add(1500, lambda: host.kernel.hold(on=False))
    with pytest.raises(CodeBusyError, match="not applied: code_busy"):
        client.apply(KID)
    assert host.outcomes()[-3:] == ["HELD_UP", "REVERSING", "CODE_BUSY"]
    held_up = next(e for e in host.journal() if e["name"] == "HELD_UP")
    assert "sleeper[17] in do_fcntl" in held_up["message"]
    assert held_up["fields"]["KSPLICE_PIDS"] == "17"


def test_one_update_at_a_time_and_in_order(host: Host) -> None:
    other = samples.bundle(samples.OTHER_KID)
    host.client().stage(other, samples.signature(other))
    begin(host)
    results: list[Any] = []
    waiting = threading.Thread(
        target=lambda client: results.append(client.apply(samples.OTHER_KID)),
        args=(host.client(),),
    )
    waiting.start()
    wait_for(lambda: sum(a["action"].endswith(".apply") for a in host.asked()) == 2)
    assert host.stage_of(samples.OTHER_KID) == "staged"
    host.kernel.hold(on=False)
    waiting.join()
    assert results[0].result == "done"
    stages = [(e["Kid"], e["Stage"]) for e in reversed(host.client().history())]
    assert stages.index((KID, "applied")) < stages.index((samples.OTHER_KID, "loading"))


def test_callers_who_race_for_one_update(host: Host) -> None:
    """Who undoes it comes after who applies it; who removes it is refused till then."""
    begin(host)
    replies: list[Any] = []
    args = GLib.Variant("(st)", (KID, 0))
    undoing = threading.Thread(target=lambda: replies.append(call(host, MANAGER, "Undo", args)))
    undoing.start()
    wait_for(lambda: any(a["action"].endswith(".undo") for a in host.asked()))
    name, text = error_of(host, MANAGER, "Remove", args)
    assert (name, text) == (
        ERROR + "InUse",
        f"{KID}: is transitioning; undo it before it is removed",
    )
    assert replies == []
    host.kernel.hold(on=False)
    undoing.join()
    assert replies == [(2, names.job_path(2))]
    wait_for(lambda: host.stage_of() == "reversed")
    host.client().remove(KID)
    for method in ("Apply", "Undo", "Remove"):
        assert error_of(host, MANAGER, method, args)[0] == ERROR + "NoSuchUpdate"
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def test_who_gave_up_waiting_is_not_served(host: Host) -> None:
    other = samples.bundle(samples.OTHER_KID)
    host.client().stage(other, samples.signature(other))
    begin(host)
    gone = host.connect()
    args = GLib.Variant("(st)", (samples.OTHER_KID, 0))
    # without a callback GDBus would say that no reply is wanted
    gone.call(*MANAGER, "Apply", args, None, Gio.DBusCallFlags.NONE, -1, None, lambda *_: None)
    wait_for(lambda: sum(a["action"].endswith(".apply") for a in host.asked()) == 2)
    host.client().history()  # the answer comes after what polkit and the bus had to say
    gone.close_sync(None)
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "applied")
    assert host.client().undo(KID).result == "done"  # its turn came after the one that is gone
    assert host.stage_of(samples.OTHER_KID) == "staged"


def test_signals_tell_the_story(host: Host) -> None:
    heard: list[tuple[str, str, Any]] = []
    connection = host.connect()

    def on_signal(*args: Any) -> None:
        heard.append((args[2], args[4], args[5].unpack()))

    subscription = connection.signal_subscribe(
        names.BUS_NAME, None, None, None, None, Gio.DBusSignalFlags.NONE, on_signal
    )
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    context = GLib.MainContext.default()
    while heard[-1:] == [] or heard[-1][1] != "JobRemoved":
        context.iteration(may_block=True)
    connection.signal_unsubscribe(subscription)
    update, job = names.update_path(KID), names.job_path(1)
    told = [(signal, args[0]) for path, signal, args in heard if path == names.ROOT_PATH]
    assert told == [
        ("InterfacesAdded", update),
        ("InterfacesAdded", job),
        ("JobNew", 1),
        ("InterfacesRemoved", job),
        ("JobRemoved", 1),
    ]
    assert heard[-1] == (names.ROOT_PATH, "JobRemoved", (1, job, KID, "done"))
    stages = [args[1]["Stage"] for path, _, args in heard if path == update and "Stage" in args[1]]
    assert stages == ["loading", "matched", "transitioning", "applied"]


def test_fifty_callers_at_once(host: Host) -> None:
    host.client().stage(BUNDLE, SIGNATURE)
    answers: list[str] = []

    def use(client: Any, number: int) -> None:
        try:
            match number % 3:
                case 0:
                    answers.append(f"listed {len(client.look().updates)}")
                case 1:
                    answers.append(f"applied {client.apply(KID).result}")
                case _:
                    answers.append(f"undone {client.undo(KID).result}")
        except KspliceError as e:
            answers.append(type(e).__name__)

    threads = [threading.Thread(target=use, args=(host.client(), number)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 50
    assert set(answers) <= {
        "listed 1",
        "applied done",
        "undone done",
        "AlreadyAppliedError",
        "AlreadyReversedError",
    }
    assert answers.count("listed 1") == 17
    applied, undone = answers.count("applied done"), answers.count("undone done")
    assert applied - undone == (host.stage_of() == "applied")
    assert "Traceback" not in host.log()
