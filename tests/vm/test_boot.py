# SPDX-License-Identifier: GPL-2.0-only
"""Boots of a host with systemd: after a shutdown, a panic and a power failure, and with the service
turned off by a file, by the kernel's argument and by masked units.

A boot costs more than anything else here, so that each shows several things.  ``PROVEN`` has run
for its soak time before it, and is applied again; ``NEW`` has not, or was under way.
"""

import json
from collections.abc import Iterator
from typing import Final

import pytest

from ksplicd.host.report.journal import Outcome
from ksplicd.lab.guest import Guest
from tests.support.guest.blocker import start_blocker
from tests.support.guest.host import Host
from tests.support.guest.installed import MANAGER
from tests.support.guest.journal import read_journal
from tests.support.guest.maker import AUXV, FIRST, Maker

PROVEN: Final = "auxv0001"
NEW: Final = "first001"
WAITING: Final = f"-b -o cat MESSAGE_ID={Outcome.WAITING.value}"
QUARANTINED: Final = f"-b -o json MESSAGE_ID={Outcome.QUARANTINED.value}"


@pytest.fixture
def host(installed_guest: Guest, maker: Maker) -> Iterator[Host]:
    host = Host(installed_guest, maker.key.public)
    host.configure("soak-time = 1")
    assert host.apply(maker.make(PROVEN, AUXV)) == ("", "")
    host.wait_for(lambda: PROVEN in host.guest.read("/var/lib/ksplice/guard.json", if_there=True))
    yield host
    assert "WARNING:" not in host.guest.kernel_log()


@pytest.fixture
def new(host: Host, maker: Maker) -> str:
    """The new update's file in the guest."""
    return host.put(maker.make(NEW, FIRST))


def drop(host: Host, file: str) -> None:
    host.configure("on-drop = apply")
    host.run(f"cp {file}.minisig {file} /var/lib/ksplice/")


@pytest.mark.suites("bookworm", "trixie")
def test_panic_in_a_transition_and_off_by_file(host: Host, new: str) -> None:
    """What was under way is applied neither in the boot after the panic nor in the next one."""
    start_blocker(host.guest)
    drop(host, new)
    host.wait_for(lambda: host.stage(NEW) == "transitioning")
    # As kdump leaves it.  sync: the lab's disk has no journal that would see to it
    host.run("mkdir -p /var/crash/1; touch -d '+1 hour' /var/crash/1/dmesg.1")
    host.run("touch /etc/ksplicd/disable; sync")
    host.guest.reboot(panic=True)
    host.run("systemctl start ksplicd")
    assert (host.stage(NEW), host.stage(PROVEN)) == ("quarantined", "staged")
    assert host.is_clean()
    quarantined = json.loads(read_journal(host.guest, QUARANTINED))
    assert quarantined["PRIORITY"] == "2"
    assert "/var/crash/1/dmesg.1 is from after it was applied" in quarantined["MESSAGE"]
    why = "there is a file /etc/ksplicd/disable"
    told = read_journal(host.guest, WAITING)
    assert f"now waits: {why}; `ksplice apply {PROVEN}` applies it by hand" in told
    assert f"`ksplice apply {NEW}`" not in told, "it is not the file that holds it back"
    assert why in host.out("ksplice status")
    assert host.run(f"ksplice apply {PROVEN}").status == 0  # who asks for it still can

    host.run("rm /etc/ksplicd/disable")
    host.guest.reboot()
    host.run("systemctl start ksplicd")
    host.wait_for(lambda: host.stage(PROVEN) == "applied")
    assert host.out("ksplice history -n 1").split("  ")[3] == "uid 0 (boot)"
    early = "systemctl show --value -p ActiveEnterTimestampMonotonic"
    times = host.out(f"{early} ksplicd-boot network-pre.target ksplicd").split()
    assert times == sorted(times, key=int)
    assert host.stage(NEW) == "quarantined"
    assert host.livepatches() == [f"ksplice_{PROVEN}_new"]
    assert host.run(f"ksplice apply {NEW}", check=False).status == 8
    host.run(f"ksplice release --all && ksplice apply {NEW}")
    assert host.stage(NEW) == "applied"


def test_power_failure_and_off_by_argument(host: Host, new: str) -> None:
    """Nothing shows a crash, so that what was new waits only because of the argument."""
    host.configure()
    host.ksplice(f"apply {new}")
    host.run("sync")
    host.guest.reboot(crash=True, arguments=["ksplicd.disable"])
    host.run("systemctl start ksplicd")
    assert host.stage(NEW) == "staged", host.out("ksplice status; journalctl -b -u ksplicd*")
    assert host.stage(PROVEN) == "staged"
    assert host.is_clean()
    why = "ksplicd.disable is on the kernel's command line"
    told = read_journal(host.guest, "-b -u ksplicd-boot")
    assert f"now waits: {why}; `ksplice apply {PROVEN}`" in told
    assert f"now waits: {why}; `ksplice apply {NEW}`" in told
    assert "as nothing shows a crash, one more boot with it is allowed" in told
    host.run(f"ksplice apply {NEW}")
    assert host.stage(NEW) == "applied"

    host.run(f"ksplice undo {NEW} && ksplice remove {NEW}")
    drop(host, new)
    host.wait_for(lambda: host.stage(NEW) == "staged")
    assert f"Nothing is applied automatically: {why}" in host.out("ksplice status")
    assert host.is_clean()
    assert host.try_(f"apply {NEW}") == ("", "")  # a person may
    assert host.bits() == 16


def test_off_by_unit(host: Host) -> None:
    host.run("systemctl mask ksplicd-boot ksplicd")
    host.guest.reboot()
    states = host.run("systemctl is-active ksplicd-boot ksplicd", check=False).out.split()
    assert states == ["inactive", "inactive"]
    assert host.is_clean()
    refused = host.run(f"busctl call {MANAGER} ListUpdates t 0", check=False)
    assert refused.status != 0, "a call does not start it either"
    assert host.is_clean()

    # the daemon applies what no boot got to, and says so
    host.run("systemctl unmask ksplicd && systemctl start ksplicd")
    host.wait_for(lambda: host.stage(PROVEN) == "applied")
    said = "ksplicd-boot.service has not applied it"
    host.wait_for(lambda: said in read_journal(host.guest, WAITING))

    host.run("systemctl stop ksplicd && systemctl unmask ksplicd-boot")
    host.run("systemctl start ksplicd-boot ksplicd")
    assert host.stage(PROVEN) == "applied"
