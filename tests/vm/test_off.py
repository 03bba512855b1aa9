# SPDX-License-Identifier: GPL-2.0-only
"""Ways to turn the service off, at a boot with a real systemd: a file, and masked units.

``test_lockdown`` tests the kernel's argument.
"""

from collections.abc import Iterator

import pytest

from ksplicd.host.report.journal import Outcome
from ksplicd.lab.guest import Guest
from tests.support.guest.host import Host
from tests.support.guest.installed import KID, MANAGER, NAME, Signed
from tests.support.guest.journal import read_journal

WAITING = f"-b -o cat MESSAGE_ID={Outcome.WAITING.value}"


@pytest.fixture
def host(installed_guest: Guest, signed: Signed) -> Host:
    host = Host(installed_guest, signed.public_key, signed.file)
    host.configure("soak-time = 1")
    host.run(f"ksplice apply /root/{NAME}")
    host.wait_for(lambda: KID in host.guest.read("/var/lib/ksplice/guard.json", if_there=True))
    return host


@pytest.fixture(autouse=True)
def quiet(host: Host) -> Iterator[None]:
    yield
    assert "WARNING:" not in host.guest.kernel_log()


def test_off_by_file(host: Host) -> None:
    host.run("touch /etc/ksplicd/disable")
    host.guest.reboot()
    host.run("systemctl start ksplicd")
    assert (host.stage(KID), host.is_clean()) == ("staged", True)
    why = "there is a file /etc/ksplicd/disable"
    told = read_journal(host.guest, WAITING)
    assert f"now waits: {why}; `ksplice apply {KID}` applies it by hand" in told
    assert why in host.out("ksplice status")
    assert host.run(f"ksplice apply {KID}").status == 0  # who asks for it still can

    host.run("rm /etc/ksplicd/disable")
    host.guest.reboot()
    host.wait_for(lambda: host.stage(KID) == "applied")


def test_off_by_unit(host: Host) -> None:
    host.run("systemctl mask ksplicd-boot ksplicd")
    host.guest.reboot()
    states = host.run("systemctl is-active ksplicd-boot ksplicd", check=False).out.split()
    assert states == ["inactive", "inactive"]
    assert host.is_clean()
    refused = host.run(f"busctl call {MANAGER} ListUpdates t 0", check=False)
    assert refused.status != 0, "a call does not start it either"
    assert host.is_clean()

    # the daemon alone applies nothing, and says so
    host.run("systemctl unmask ksplicd && systemctl start ksplicd")
    assert (host.stage(KID), host.is_clean()) == ("staged", True)
    said = "ksplicd-boot.service has not applied it"
    host.wait_for(lambda: said in read_journal(host.guest, WAITING))

    host.run("systemctl stop ksplicd && systemctl unmask ksplicd-boot")
    host.run("systemctl start ksplicd-boot ksplicd")
    assert host.stage(KID) == "applied"
