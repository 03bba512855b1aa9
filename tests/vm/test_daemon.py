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
from tests.support.guest.blocker import start_blocker
from tests.support.guest.host import Host
from tests.support.guest.installed import BUS, KID, MANAGER, NAME, Signed
from tests.support.guest.journal import read_journal
from tests.support.guest.keep import stay_if_failed

LISTENER: Final = f"""\
import select, time
with open("/sys/module/ksplice_{KID}/ksplice/stage") as f:
    f.read()
    poll = select.poll()
    poll.register(f, select.POLLPRI)
    print("listening", flush=True)
    print("heard" if poll.poll(30000) else "nothing", flush=True)
"""

STAGE: Final = f"""\
import os, sys
from gi.repository import Gio, GLib
fds = Gio.UnixFDList.new()
fd = os.open(sys.argv[1], os.O_RDONLY)
signature = open(sys.argv[1] + ".minisig", "rb").read()
args = GLib.Variant("(ha{{sv}})", (fds.append(fd), {{"signature": GLib.Variant("ay", signature)}}))
answer, _ = Gio.bus_get_sync(Gio.BusType.SYSTEM).call_with_unix_fd_list_sync(
    "{BUS}", "/org/ksplice/Ksplicd1", "{BUS}.Manager", "Stage", args, None, 0, -1, fds)
print(answer[0])
"""
THREADS: Final = 7
"""As units/ksplicd.service has it."""


@pytest.fixture
def host(installed_guest: Guest, signed: Signed) -> Iterator[Host]:
    host = Host(installed_guest, signed.public_key, signed.file)
    yield host
    assert "WARNING:" not in host.guest.kernel_log()


@pytest.mark.suites("bookworm", "trixie")
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
    start_blocker(host.guest)
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


def test_first_call_starts_the_daemon_and_its_watchdog_another(host: Host) -> None:
    host.guest.put(
        "/run/systemd/system/ksplicd.service.d/watchdog.conf", b"[Service]\nWatchdogSec=3\n"
    )
    host.run("systemctl daemon-reload; systemctl stop ksplicd")
    assert host.out(f"busctl call {MANAGER} ListUpdates t 0") == "a(sso) 0"
    assert host.out("systemctl is-active ksplicd") == "active"
    before = host.pid()
    time.sleep(4)
    assert host.pid() == before
    host.run(f"kill -STOP {before}")
    host.wait_for(lambda: host.pid() not in {0, before})
    assert "watchdog" in read_journal(host.guest, "-u ksplicd").lower()


# --- on one host, whose update each test may undo ------------------------------------------------


@pytest.fixture(scope="module")
def module_host(module_installed_guest: Guest, signed: Signed) -> Host:
    return Host(module_installed_guest, signed.public_key, signed.file)


@pytest.fixture
def applied(module_host: Host, request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host on which the update is applied, the same one for each of these tests."""
    host = module_host
    if host.stage(KID) != "applied":
        host.ksplice(f"apply /root/{NAME}")
    yield host
    stay_if_failed(request, host.guest)
    assert "WARNING:" not in host.guest.kernel_log()


def test_idle_daemon_sleeps_and_is_small(applied: Host, suite: str) -> None:
    def read(key: str) -> int:
        files = f"/proc/{applied.pid()}/task/*/status"
        return sum(int(n) for n in re.findall(rf"{key}:\s+(\d+)", applied.out(f"cat {files}")))

    time.sleep(3)
    before = read("voluntary_ctxt_switches")
    time.sleep(15)
    assert read("voluntary_ctxt_switches") - before <= 2  # a watchdog ping may fall in between
    status = applied.out(f"cat /proc/{applied.pid()}/status")
    # since 3.50 (Debian 13), PyGObject imports all of asyncio
    most = 36 if suite == "bookworm" else 40
    assert int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) < most << 10
    assert int(re.findall(r"Threads:\s+(\d+)", status)[0]) <= THREADS


def test_a_file_of_the_hosts_disk_is_staged(applied: Host) -> None:
    """The service sees which file system a descriptor is on, out of its own mounts."""
    applied.guest.put("/root/stage.py", STAGE.encode())
    assert applied.out(f"python3 /root/stage.py /root/{NAME}").strip() == KID
    applied.run("mkdir -p /root/low /root/up /root/work /root/over")
    options = "lowerdir=/root/low,upperdir=/root/up,workdir=/root/work"
    applied.run(f"modprobe overlay && mount -t overlay -o {options} overlay /root/over")
    applied.run(f"cp /root/{NAME} /root/{NAME}.minisig /root/over/")
    refused = applied.run(f"python3 /root/stage.py /root/over/{NAME}", check=False)
    applied.run("umount /root/over")
    assert "is no regular file of a local file system" in refused.err
    assert "it is on overlay" in refused.err


@pytest.mark.suites("bookworm", "trixie")
def test_anyone_may_look_and_root_alone_may_act(applied: Host) -> None:
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    assert KID in applied.out(f"{as_nobody} busctl call {MANAGER} ListUpdates t 0")
    refused = applied.run(f"{as_nobody} busctl call {MANAGER} Undo st {KID} 0", check=False)
    assert refused.status == 1
    assert "org.ksplice.ksplicd1.undo is refused" in refused.err
    named = applied.run(
        f"{as_nobody} dbus-send --system --print-reply --dest={BUS} "
        f"/org/ksplice/Ksplicd1 {BUS}.Manager.Undo string:{KID} uint64:0",
        check=False,
    )
    assert f"{BUS}.Error.PermissionDenied" in named.err
    owned = applied.run(
        f"{as_nobody} busctl call {BUS} / org.freedesktop.DBus.Peer Ping; "
        f"{as_nobody} dbus-send --system --print-reply "
        "--dest=org.freedesktop.DBus / org.freedesktop.DBus.RequestName "
        "string:org.ksplice.Ksplicd1.Mine uint32:0",
        check=False,
    )
    assert "AccessDenied" in owned.err
    assert applied.stage(KID) == "applied"


def test_little_is_permitted(applied: Host) -> None:
    """systemd's own measure of a service's exposure, from 0 to 10."""
    for unit in ("ksplicd", "ksplicd-boot", "ksplicd-shutdown"):
        said = applied.out(f"systemd-analyze --no-pager security {unit}.service")
        found = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
        assert float(found[0]) <= 2.5, said


def test_service_hears_of_modules(applied: Host) -> None:
    """Out of its own network namespace."""
    said = f"journalctl -u ksplicd -o cat MESSAGE_ID={Outcome.REVERSED.value} KSPLICE_KID={KID}"
    before = len(applied.run(said, check=False).out.splitlines())
    applied.run(f"echo 0 > /sys/kernel/livepatch/ksplice_{KID}_new/enabled")
    applied.wait_for(lambda: applied.run(f"rmmod ksplice_{KID}_new", check=False).status == 0)
    applied.wait_for(lambda: len(applied.run(said, check=False).out.splitlines()) > before)


def test_kernel_notifies_the_stage(applied: Host) -> None:
    applied.guest.put("/root/listener.py", LISTENER.encode())
    to_file = "-p StandardOutput=file:/root/heard"
    applied.run(f"systemd-run -u listener -q {to_file} /usr/bin/python3 -I -S /root/listener.py")
    applied.wait_for(lambda: "listening" in applied.guest.read("/root/heard", if_there=True))
    applied.ksplice(f"undo {KID}")
    applied.wait_for(lambda: applied.guest.read("/root/heard") == "listening\nheard")
