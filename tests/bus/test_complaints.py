# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's log, as the daemon reads it; a FIFO stands in for /dev/kmsg."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from ksplicd.model import new_module
from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID, SIGNATURE
from tests.support.bus.host import Host
from tests.support.waiting import wait_for

OTHER = samples.OTHER_KID


class Log:
    """The kernel's log."""

    def __init__(self, host: Host) -> None:
        path = host.folder / "kmsg"
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # never without a writer

    def write(self, *lines: str, facility: int = 0) -> None:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        text = "".join(f"{facility * 8 + 4},1,{now},-;{line}\n" for line in lines)
        os.write(self._fd, text.encode())

    def complain(self, kid: str = KID, facility: int = 0) -> None:
        self.write(
            f"WARNING: CPU: 0 PID: 1 at fs/fcntl.c:1 do_fcntl+0x1/0x2 [{new_module(kid)}]",
            facility=facility,
        )

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def log(bare_host: Host) -> Iterator[Log]:
    log = Log(bare_host)
    bare_host.start_polkit()
    yield log
    log.close()


def start(host: Host, **settings: str) -> None:
    host.configure(**settings)
    host.start()
    client = host.client()
    client.apply(client.stage(BUNDLE, SIGNATURE))


def test_complaint_is_reported(bare_host: Host, log: Log) -> None:
    start(bare_host)
    log.complain(facility=1)
    log.write("WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2", f"Modules linked in: {new_module(KID)}")
    log.complain()
    wait_for(lambda: bare_host.outcomes()[-1:] == ["KERNEL_WARNING"])
    status = bare_host.ksplice("status", "--check")
    assert status.returncode == 2
    assert "the kernel's log names do_fcntl" in status.stdout
    assert bare_host.stage_of() == "applied"
    assert bare_host.outcomes().count("KERNEL_WARNING") == 1


def test_complaint_undoes_by_policy(bare_host: Host, log: Log) -> None:
    start(bare_host, undo_on_warning="yes")
    second = samples.bundle(OTHER, depends=(KID,))
    client = bare_host.client()
    client.apply(client.stage(second, samples.signature(second)))
    log.complain()
    wait_for(lambda: bare_host.outcomes().count("REVERSED") == 2)
    events = [event for event in client.history() if event["Stage"] == "reversing"]
    assert [event["Kid"] for event in events] == [KID, OTHER]  # the newest first
    assert events[0]["Detail"].startswith("undo-on-warning: WARNING: CPU: 0")
    assert events[0]["Via"] == "daemon"


def test_transition_is_turned_around_by_policy(bare_host: Host, log: Log) -> None:
    bare_host.kernel.hold()
    bare_host.configure(undo_on_warning="yes")
    bare_host.start()
    bare_host.client().stage(BUNDLE, SIGNATURE)
    manager = "org.ksplice.Ksplicd1", "/org/ksplice/Ksplicd1", "org.ksplice.Ksplicd1.Manager"
    assert bare_host.busctl("call", *manager, "Apply", "st", KID, "0").returncode == 0
    log.complain()
    wait_for(lambda: bare_host.stage_of() == "reversing")
    bare_host.kernel.hold(on=False)
    wait_for(lambda: bare_host.stage_of() == "failed")
    assert bare_host.client().history(1)[0]["Cause"] == "kernel_warning"


def turn_undo_around(host: Host) -> None:
    """Have somebody stay in the code until the limit."""
    count = host.outcomes().count("KEPT")
    wait_for(lambda: host.stage_of() == "transitioning")
    with host.kernel.open() as kernel:
        kernel.complete()
    wait_for(lambda: host.outcomes().count("KEPT") > count)


def begin_undo(host: Host, log: Log, **settings: str) -> None:
    """Have the kernel complain of an update whose code is busy, so that it is not undone."""
    start(host, undo_on_warning="yes", transition_limit="1", **settings)
    host.kernel.hold()
    log.complain()
    turn_undo_around(host)


def test_busy_code_is_undone_at_the_second_try(bare_host: Host, log: Log) -> None:
    begin_undo(bare_host, log, retries="1", retry_delay="1")
    told = f"update {KID} is not undone: {KID}: its code was busy; it is tried again in 1 s"
    wait_for(lambda: told in bare_host.log())
    bare_host.kernel.hold(on=False)
    wait_for(lambda: bare_host.outcomes()[-1] == "REVERSED")
    assert bare_host.outcomes().count("KERNEL_WARNING") == 1
    undone = [e for e in bare_host.client().history() if e["Stage"] == "reversing"]
    assert len(undone) == 2
    assert undone[0]["Detail"].startswith("undo-on-warning: WARNING: CPU: 0")


def test_busy_code_is_not_undone_for_ever(bare_host: Host, log: Log) -> None:
    begin_undo(bare_host, log, retries="1", retry_delay="1")
    turn_undo_around(bare_host)
    wait_for(lambda: "`ksplice undo` does it by hand" in bare_host.log())
    time.sleep(1.5)
    assert bare_host.outcomes().count("KEPT") == 2
    assert bare_host.stage_of() == "applied"


def test_busy_code_is_undone_after_a_restart(bare_host: Host, log: Log) -> None:
    begin_undo(bare_host, log, retries="1", retry_delay="60")
    bare_host.kill()
    bare_host.kernel.hold(on=False)
    bare_host.start()
    wait_for(lambda: bare_host.outcomes()[-1] == "REVERSED")
    assert bare_host.outcomes().count("KERNEL_WARNING") == 1
    event = bare_host.client().history(2)[1]
    assert event["Detail"].startswith("undo-on-warning: the kernel's log names do_fcntl")


def test_what_a_person_has_applied_anew_is_not_undone(bare_host: Host, log: Log) -> None:
    begin_undo(bare_host, log, retries="1", retry_delay="4")
    bare_host.kernel.hold(on=False)
    client = bare_host.client()
    client.undo(KID)
    client.apply(KID)
    time.sleep(4.5)
    assert bare_host.outcomes()[-1] == "APPLIED"
    assert bare_host.stage_of() == "applied"


def test_policy_is_asked_before_each_try(bare_host: Host, log: Log) -> None:
    begin_undo(bare_host, log, retries="1", retry_delay="4")
    bare_host.kernel.hold(on=False)
    bare_host.configure(undo_on_warning="no")
    bare_host.daemon.send_signal(signal.SIGHUP)
    time.sleep(4.5)
    assert bare_host.stage_of() == "applied"


def test_what_was_logged_before_the_daemon_ran_counts(bare_host: Host, log: Log) -> None:
    start(bare_host)
    bare_host.kill()
    log.complain()
    bare_host.start()
    wait_for(lambda: "KERNEL_WARNING" in bare_host.outcomes())


def test_log_is_left_alone_when_nothing_soaks(bare_host: Host, log: Log) -> None:
    start(bare_host, soak_time="1")
    wait_for((bare_host.store / "guard.json").exists)
    wait_for(lambda: KID in (bare_host.store / "guard.json").read_text())
    log.complain()
    time.sleep(0.5)
    assert "KERNEL_WARNING" not in bare_host.outcomes()


def test_without_the_log_all_else_works(bare_host: Host) -> None:
    bare_host.start_polkit()
    start(bare_host)
    assert bare_host.stage_of() == "applied"
    assert "the kernel's warnings are not noticed" in bare_host.log()
