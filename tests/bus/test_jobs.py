# SPDX-License-Identifier: GPL-2.0-only
"""Jobs: who may see and cancel them, and in which order they run."""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.errors import (
    CancelledError,
    CodeBusyError,
    KspliceError,
)
from ksplicd.host.stages import Conflict
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, ERROR, KID, MANAGER, SIGNATURE, begin, call, error_of
from tests.support.bus.host import Host
from tests.support.waiting import wait_for


def test_job_shows_who_holds_it_up(host: Host) -> None:
    job, path = begin(host)
    with host.kernel.open() as kernel:
        kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
        kernel.holders.append(Conflict(pid=17, command="sleeper", stack="schedule < do_fcntl"))
    (shown,) = host.client().objects().jobs
    assert shown == {
        "Id": job,
        "Type": "apply",
        "Update": names.update_path(KID),
        "Progress": "transitioning",
    }
    assert host.client().conflicts(job) == [(17, "sleeper", "schedule < do_fcntl", "do_fcntl")]
    assert path == names.job_path(job)


def test_who_holds_it_up_is_told_to_administrators(host: Host) -> None:
    """Whoever may look sees that, and the history says in which function, but not who it is."""
    job, path = begin(host)
    with host.kernel.open() as kernel:
        kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
        kernel.holders.append(Conflict(pid=17, command="sleeper", stack="schedule < do_fcntl"))
    host.answer(conflicts="challenge")
    assert host.user().conflicts(job) is None
    question = host.asked()[-1]
    assert question["details"] == {"kid": KID}
    assert not question["interactive"], "nobody is asked for a password to look"
    (shown,) = host.user().objects().jobs
    assert "sleeper" not in str(shown)
    name, _ = error_of(
        host, (names.BUS_NAME, path, names.JOB), "ListConflicts", GLib.Variant("(t)", (1,))
    )
    assert name == ERROR + "UnknownFlags"
    call(host, (names.BUS_NAME, path, names.JOB), "Cancel")
    wait_for(lambda: host.client().objects().jobs[0]["Progress"] == "turning-back")
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "failed")
    told = str(host.user().history()) + str(host.user().objects())
    assert "held up by 1 task in do_fcntl" in told
    assert "sleeper" not in told
    assert "schedule" not in told


def test_cancelled_job_leaves_the_kernel_as_it_was(host: Host) -> None:
    _, path = begin(host)
    call(host, (names.BUS_NAME, path, names.JOB), "Cancel")
    wait_for(lambda: host.client().objects().jobs[0]["Progress"] == "turning-back")
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "failed")
    assert host.client().objects().updates[0]["AbortCause"] == "cancelled"
    with host.kernel.open() as kernel:
        assert kernel.leftovers() == []


def asked_to_apply(host: Host) -> int:
    """Return how often polkit was asked about an apply."""
    return sum(asked["action"].endswith(".apply") for asked in host.asked())


def when(is_so: Callable[[], bool], act: Callable[[], object]) -> None:
    """Act on the client's loop as soon as something is so."""

    def look() -> bool:
        if is_so():
            act()
            return False
        return True

    GLib.timeout_add(20, look)


def test_interrupted_client_cancels(host: Host) -> None:
    host.kernel.hold()
    client = host.client()
    client.stage(BUNDLE, SIGNATURE)
    GLib.timeout_add(200, lambda: os.kill(os.getpid(), 2))
    when(lambda: "REVERSING" in host.outcomes(), lambda: host.kernel.hold(on=False))
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
        wait_for(lambda: asked_to_apply(host) == 1)
        os.kill(os.getpid(), 2)
        complete()
        wait_for(lambda: host.stage_of(samples.OTHER_KID) == "reversing")
        complete()

    user = host.user()
    going = threading.Thread(target=go_on)
    going.start()
    with pytest.raises(CancelledError, match="not applied: cancelled"):
        user.apply(samples.OTHER_KID)
    going.join()


def test_client_that_may_not_cancel_is_told(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.kernel.hold()
    client = host.user()
    client.stage(BUNDLE, SIGNATURE)
    GLib.timeout_add(100, lambda: host.answer(apply="no"))
    GLib.timeout_add(200, lambda: os.kill(os.getpid(), 2))
    is_told = lambda: asked_to_apply(host) == 2 or "REVERSING" in host.outcomes()  # noqa: E731
    when(is_told, lambda: host.kernel.hold(on=False))
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
    when(lambda: "REVERSING" in host.outcomes(), lambda: host.kernel.hold(on=False))
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
        args=(host.user(),),
    )
    waiting.start()
    wait_for(lambda: asked_to_apply(host) == 1)
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
    user = host.connect_user()
    undoing = threading.Thread(
        target=lambda: replies.append(call(host, MANAGER, "Undo", args, user))
    )
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
    gone = host.connect_user()
    args = GLib.Variant("(st)", (samples.OTHER_KID, 0))
    # without a callback GDBus would say that no reply is wanted
    gone.call(*MANAGER, "Apply", args, None, Gio.DBusCallFlags.NONE, -1, None, lambda *_: None)
    wait_for(lambda: asked_to_apply(host) == 1)
    host.client().history()  # the answer comes after what polkit and the bus had to say
    gone.close_sync(None)
    host.kernel.hold(on=False)
    wait_for(lambda: host.stage_of() == "applied")
    assert host.client().undo(KID).result == "done"  # its turn came after the one that is gone
    assert host.stage_of(samples.OTHER_KID) == "staged"


def test_signals_tell_the_story(host: Host) -> None:
    heard: list[tuple[str, str, Any]] = []

    def on_signal(*args: Any) -> None:
        heard.append((args[2], args[4], args[5].unpack()))

    unsubscribe = host.subscribe(None, on_signal)
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))
    context = GLib.MainContext.default()
    while heard[-1:] == [] or heard[-1][1] != "JobRemoved":
        context.iteration(may_block=True)
    unsubscribe()
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
                    answers.append(f"listed {len(client.objects().updates)}")
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
