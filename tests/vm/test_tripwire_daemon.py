# SPDX-License-Identifier: GPL-2.0-only
"""Tripwires through the daemon, to journal and bus (tmpfile.py has the sample)."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.host.report.journal import Outcome
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import has_complaint, write_patch
from tests.support.guest.host import Host
from tests.support.guest.installed import MANAGER, Signed
from tests.support.guest.journal import read_journal
from tests.support.guest.tmpfile import (
    CVE,
    EXPLOIT,
    KID,
    PLACE,
    exploit,
    prepare,
    tmpfile_edits,
)
from tests.support.host import netlink
from tests.support.kernels import slice as sample

NETLINK_GENERIC: Final = 16

SIGNALS: Final = f"""\
import sys
from gi.repository import Gio, GLib
bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)
bus.signal_subscribe(None, "{MANAGER.split()[2]}", None, None, None, Gio.DBusSignalFlags.NONE,
                     lambda *args: print(args[4], args[5].print_(False), flush=True))
bus.call_sync("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
              "GetId", None, None, Gio.DBusCallFlags.NONE, -1, None)  # the bus has heard of it
print("listening", flush=True)
GLib.MainLoop().run()
"""

# A process of the daemon's network namespace with CAP_NET_ADMIN says what a core would say.
FORGE: Final = """\
import socket, sys
NETLINK_GENERIC = 16
sys.path.insert(0, "/root/lib")
from ksplicd.host.kernel.tripwire import open_listener
sys.path.insert(0, "/root")
import netlink
family = open_listener(sys.argv[1]).family_id
ports = [int(line.split()[2]) for line in open("/proc/net/netlink")
         if line.split()[1] == str(NETLINK_GENERIC)]
forged = [netlink.message(netlink.THE_HIT, kind=family), bytes(40), b"x" * 3000]
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
s.bind((0, 0))
sent = 0
for port in ports:
    for data in forged:
        try:
            sent += port > 0 and s.sendto(data, (port, 0)) > 0
        except ConnectionRefusedError:
            pass
print(sent)
"""


@pytest.fixture(scope="module")
def signed(
    lab_cache: Cache,
    kernel: KernelPackages,
    tree: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Signed:
    """The fix with its tripwire, as a bundle for the host."""
    folder = tmp_path_factory.mktemp("signed")
    key = sample.throwaway_key(folder)
    patch = write_patch(tree, folder / "fix.patch", *tmpfile_edits(lab_cache, tree))
    file = sample.make_update(lab_cache, kernel, patch, key.secret, out=folder, kid=KID)
    return Signed(file=file, public_key=key.public)


@pytest.fixture
def host(installed_guest: Guest, signed: Signed) -> Iterator[Host]:
    """A host with the update applied."""
    prepare(installed_guest)
    host = Host(installed_guest, signed.public_key, signed.file)
    host.ksplice(f"apply /root/{signed.file.name}")
    yield host
    assert not has_complaint(host.guest.kernel_log())


def entries(host: Host) -> list[dict[str, str]]:
    """Return what the journal has of hits."""
    out = read_journal(host.guest, f"-o json MESSAGE_ID={Outcome.TRIPWIRE.value}")
    return [json.loads(line) for line in out.splitlines()]


def hits(host: Host) -> int:
    return sum(int(entry.get("KSPLICE_SUPPRESSED", "1")) for entry in entries(host))


def netlink_sockets(host: Host) -> int:
    """Return how many generic netlink sockets the daemon's network namespace has."""
    table = host.out(f"cat /proc/{host.pid()}/net/netlink").splitlines()[1:]
    return sum(int(row.split()[1]) == NETLINK_GENERIC and row.split()[2] != "0" for row in table)


def test_from_the_exploit_to_journal_and_bus(host: Host) -> None:
    host.wait_for(lambda: netlink_sockets(host) == 1)
    host.guest.put("/tmp/signals.py", SIGNALS.encode(), mode=0o644)
    for user in ("root", "nobody"):
        start_signals(host, user)
    staying = EXPLOIT.replace("os._exit(0)", "import time; time.sleep(100)")
    host.guest.put("/root/staying.py", staying.encode())
    host.run("systemd-run -q -u intruder /usr/bin/python3 /root/staying.py 1")
    host.wait_for(lambda: len(entries(host)) == 1)
    (entry,) = entries(host)
    assert {k: v for k, v in entry.items() if k.startswith("KSPLICE_")} == {
        "KSPLICE_KID": KID,
        "KSPLICE_CVE": CVE,
        "KSPLICE_PLACE": PLACE,
        "KSPLICE_PID": entry["KSPLICE_PID"],
        "KSPLICE_TGID": entry["KSPLICE_PID"],
        "KSPLICE_UID": "1000",
        "KSPLICE_COMMAND": "python3",
        "KSPLICE_CONTEXT": "task",
        "KSPLICE_TIME": entry["KSPLICE_TIME"],
    }
    assert abs(int(entry["KSPLICE_TIME"]) - int(entry["__REALTIME_TIMESTAMP"])) < 10**7
    said = f"{CVE} was tried and stopped ({PLACE}) by python3[{entry['KSPLICE_PID']}], user 1000"
    assert entry["MESSAGE"] == said
    assert entry["OBJECT_SYSTEMD_UNIT"] == "intruder.service"
    assert said in read_journal(host.guest, "-u intruder"), "beside what the service says itself"
    explained = read_journal(host.guest, f"-x MESSAGE_ID={Outcome.TRIPWIRE.value}")
    assert f"Somebody tried to exploit {CVE}" in explained

    host.wait_for(lambda: "TripwireHit" in signals(host, "root"))
    (line,) = re.findall(r"TripwireHit (.*)", signals(host, "root"))
    assert f"('{KID}', '{CVE}', '{PLACE}', {{" in line
    assert "'Uid': <uint32 1000>" in line
    assert "'Context': <'task'>" in line
    host.ksplice(f"undo {KID}")
    host.wait_for(lambda: "JobRemoved" in signals(host, "nobody"))
    assert "TripwireHit" not in signals(host, "nobody"), "it is for root alone"
    host.wait_for(lambda: netlink_sockets(host) == 0)
    assert host.is_clean()
    assert exploit(host.guest) == "made 1"


def start_signals(host: Host, user: str) -> None:
    """Let the signals that a user gets be noted."""
    file = f"-p StandardOutput=file:/root/signals-{user} -p User={user}"
    host.run(f"systemd-run -q -u signals-{user} {file} /usr/bin/python3 /tmp/signals.py")
    host.wait_for(lambda: "listening" in signals(host, user))


def signals(host: Host, user: str) -> str:
    return host.run(f"cat /root/signals-{user}", check=False).out


def test_hits_while_the_daemon_is_away_and_forged_ones(host: Host) -> None:
    host.run("systemctl stop ksplicd")
    assert exploit(host.guest, times=20) == "refused 20"
    host.run("systemctl start ksplicd")
    host.wait_for(lambda: hits(host) == 20)

    host.guest.put("/root/netlink.py", Path(netlink.__file__))
    host.guest.put("/root/forge.py", FORGE.encode())
    assert int(host.out(f"nsenter -t {host.pid()} -n python3 /root/forge.py kspl_{KID}")) >= 3
    exploit(host.guest)
    host.wait_for(lambda: hits(host) == 21)
    log = read_journal(host.guest, "-u ksplicd -o cat")
    assert log.count("messages that no tripwire sends are ignored") == 1
    assert "4711" not in log
