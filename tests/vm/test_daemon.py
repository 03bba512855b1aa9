# SPDX-License-Identifier: GPL-2.0-only
"""ksplicd as installed, with systemd, the system bus, polkit, the journal and a stock kernel."""

import json
import re
import time
from collections.abc import Iterator
from typing import Final

import pytest

from ksplicd.host.report.journal import Outcome
from ksplicd.lab.guest import Guest
from tests.support.guest.blocker import BLOCKER
from tests.support.guest.hand import wait_for_stack
from tests.support.guest.host import Host
from tests.support.guest.installed import BUS, KID, MANAGER, NAME, Signed
from tests.support.guest.journal import read_journal

LISTENER: Final = f"""\
import select, time
with open("/sys/module/ksplice_{KID}/ksplice/stage") as f:
    f.read()
    poll = select.poll()
    poll.register(f, select.POLLPRI)
    print("listening", flush=True)
    print("heard" if poll.poll(30000) else "nothing", flush=True)
"""


@pytest.fixture
def host(installed_guest: Guest, signed: Signed) -> Iterator[Host]:
    host = Host(installed_guest, signed.public_key, signed.file)
    yield host
    assert "WARNING:" not in host.guest.kernel_log()


def start_blocker(host: Host) -> None:
    """Let a task sleep in do_fcntl, which the update replaces."""
    host.guest.put("/root/blocker.py", BLOCKER.encode())
    host.run("systemd-run -u blocker -q /usr/bin/python3 /root/blocker.py")
    wait_for_stack(host.guest, "do_fcntl")


def test_drop_apply_die_undo(host: Host) -> None:
    host.configure("on-drop = apply")
    host.run(f"cp /root/{NAME}.minisig /root/{NAME} /var/lib/ksplice/")
    host.wait_for(lambda: host.stage(KID) == "applied")

    before = host.pid()
    host.run(f"kill -9 {before}")
    host.wait_for(lambda: host.pid() not in {0, before} and host.stage(KID) == "applied")
    status = "systemctl show --value -p StatusText ksplicd"
    host.wait_for(lambda: host.out(status) == "1 of 1 updates applied")

    host.run(f"busctl call {MANAGER} Undo st {KID} 0")
    host.wait_for(lambda: host.stage(KID) == "reversed")
    assert host.is_clean()
    seen = re.findall(
        r"MESSAGE_ID=(\w+)", read_journal(host.guest, f"-o verbose KSPLICE_KID={KID}")
    )
    assert [Outcome(i).name for i in seen if i != Outcome.STARTED] == [
        *("STAGED", "LOADING", "MATCHED", "TRANSITIONING", "APPLIED", "REVERSING", "REVERSED")
    ]
    explained = read_journal(host.guest, "-x -u ksplicd")
    assert f'Take it back with "ksplice undo {KID}"' in explained


def test_blocked_transition_is_turned_around(host: Host) -> None:
    host.configure("transition-limit = 4")
    start_blocker(host)
    done = host.run(f"ksplice apply --raw-errors /root/{NAME}", check=False)
    assert (done.status, done.err.splitlines()[0]) == (6, "code_busy")
    assert host.is_clean()
    assert host.stage(KID) == "failed"
    entry = json.loads(read_journal(host.guest, f"-o json MESSAGE_ID={Outcome.HELD_UP.value}"))
    assert "python3[" in entry["MESSAGE"]
    assert "do_fcntl" in entry["MESSAGE"]
    assert host.out(f"cat /proc/{entry['KSPLICE_PIDS'].split()[0]}/comm") == "python3"
    host.run("systemctl stop blocker")
    assert host.run(f"ksplice apply {KID}").status == 0
    assert host.stage(KID) == "applied"


def test_kernel_notifies_the_stage(host: Host) -> None:
    host.run(f"ksplice apply /root/{NAME}")
    host.guest.put("/root/listener.py", LISTENER.encode())
    to_file = "-p StandardOutput=file:/root/heard"
    host.run(f"systemd-run -u listener -q {to_file} /usr/bin/python3 /root/listener.py")
    host.wait_for(lambda: "listening" in host.run("cat /root/heard", check=False).out)
    host.run(f"ksplice undo {KID}")
    host.wait_for(lambda: host.out("cat /root/heard") == "listening\nheard")


def test_anyone_may_look_and_root_alone_may_act(host: Host) -> None:
    host.run(f"ksplice apply /root/{NAME}")
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    assert KID in host.out(f"{as_nobody} busctl call {MANAGER} ListUpdates t 0")
    refused = host.run(f"{as_nobody} busctl call {MANAGER} Undo st {KID} 0", check=False)
    assert refused.status == 1
    assert "org.ksplice.ksplicd1.undo is refused" in refused.err
    named = host.run(
        f"{as_nobody} dbus-send --system --print-reply --dest={BUS} "
        f"/org/ksplice/Ksplicd1 {BUS}.Manager.Undo string:{KID} uint64:0",
        check=False,
    )
    assert f"{BUS}.Error.PermissionDenied" in named.err
    owned = host.run(
        f"{as_nobody} busctl call {BUS} / org.freedesktop.DBus.Peer Ping; "
        f"{as_nobody} dbus-send --system --print-reply "
        "--dest=org.freedesktop.DBus / org.freedesktop.DBus.RequestName "
        "string:org.ksplice.Ksplicd1.Mine uint32:0",
        check=False,
    )
    assert "AccessDenied" in owned.err
    assert host.stage(KID) == "applied"


def test_first_call_starts_the_daemon(host: Host) -> None:
    host.run("systemctl stop ksplicd")
    assert host.out(f"busctl call {MANAGER} ListUpdates t 0") == "a(sso) 0"
    assert host.out("systemctl is-active ksplicd") == "active"


def test_applied_again_at_boot(host: Host) -> None:
    host.run(f"ksplice apply /root/{NAME}")
    host.guest.reboot()
    host.wait_for(lambda: host.stage(KID) == "applied")
    assert host.out("ksplice history -n 1").split("  ")[3] == "uid 0 (boot)"
    early = "systemctl show --value -p ActiveEnterTimestampMonotonic"
    times = host.out(f"{early} ksplicd-boot network-pre.target ksplicd").split()
    assert times == sorted(times, key=int)


def test_new_in_a_crash_waits_for_a_person(host: Host) -> None:
    host.run(f"ksplice apply /root/{NAME}")
    host.run("sync")
    host.guest.reboot(crash=True)
    host.run("systemctl start ksplicd")
    assert host.stage(KID) == "quarantined", host.out("ksplice status; journalctl -b -u ksplicd*")
    assert host.is_clean()
    told = json.loads(read_journal(host.guest, f"-o json MESSAGE_ID={Outcome.QUARANTINED.value}"))
    assert told["PRIORITY"] == "2"
    assert host.run(f"ksplice apply {KID}", check=False).status == 8
    host.run(f"ksplice release {KID} && ksplice apply {KID}")
    assert host.stage(KID) == "applied"


def test_little_is_permitted(host: Host) -> None:
    """systemd's own measure of a service's exposure, from 0 to 10."""
    for unit in ("ksplicd", "ksplicd-boot"):
        said = host.out(f"systemd-analyze --no-pager security {unit}.service")
        found = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert float(found[0]) <= 2.5, said


def test_service_hears_of_modules(host: Host) -> None:
    """Out of its own network namespace."""
    host.run(f"ksplice apply /root/{NAME}")
    host.run(f"echo 0 > /sys/kernel/livepatch/ksplice_{KID}_new/enabled")
    host.wait_for(lambda: host.run(f"rmmod ksplice_{KID}_new", check=False).status == 0)
    said = "journalctl -u ksplicd -o verbose MESSAGE_ID=" + Outcome.REVERSED.value
    host.wait_for(lambda: KID in host.run(said, check=False).out)


def test_what_was_under_way_in_a_panic_is_not_applied_again(host: Host) -> None:
    start_blocker(host)
    host.configure("on-drop = apply")
    host.run(f"cp /root/{NAME}.minisig /root/{NAME} /var/lib/ksplice/")
    host.wait_for(lambda: host.stage(KID) == "transitioning")
    host.run("sync")  # the lab's disk has no journal that would see to it
    for is_panic in (True, False):  # not in the boot after it, and not in the one after that
        host.guest.reboot(panic=is_panic)
        host.run("systemctl start ksplicd")
        assert host.stage(KID) == "quarantined"
        assert host.is_clean()


def test_watchdog_restarts_a_daemon_that_hangs(host: Host) -> None:
    host.guest.put(
        "/run/systemd/system/ksplicd.service.d/watchdog.conf", b"[Service]\nWatchdogSec=3\n"
    )
    host.run("systemctl daemon-reload; systemctl restart ksplicd")
    before = host.pid()
    time.sleep(4)
    assert host.pid() == before
    host.run(f"kill -STOP {before}")
    host.wait_for(lambda: host.pid() not in {0, before})
    assert "watchdog" in read_journal(host.guest, "-u ksplicd").lower()


def test_idle_daemon_sleeps_and_is_small(host: Host) -> None:
    host.run(f"ksplice apply /root/{NAME}")

    def read(key: str) -> int:
        files = f"/proc/{host.pid()}/task/*/status"
        return sum(int(n) for n in re.findall(rf"{key}:\s+(\d+)", host.out(f"cat {files}")))

    time.sleep(3)
    before = read("voluntary_ctxt_switches")
    time.sleep(15)
    assert read("voluntary_ctxt_switches") - before <= 2  # a watchdog ping may fall in between
    resident = int(re.findall(r"VmRSS:\s+(\d+)", host.out(f"cat /proc/{host.pid()}/status"))[0])
    assert resident < 36 << 10
