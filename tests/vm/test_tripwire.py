# SPDX-License-Identifier: GPL-2.0-only
"""Tripwires on stock kernels: what their modules do and report (tmpfile.py has the sample)."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import Edit, Update, is_clean, make_bundle, write_patch
from tests.support.guest.tmpfile import CVE, INCLUDE, KID, PLACE, exploit, prepare, tmpfile_edits
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")

WINDOW: Final = 5.0
Bundles = Mapping[str, bundle.Bundle]
"""By the ids of their updates."""
SLOTS: Final = 8
"""As kmodsrc/tripwire.c has them."""

# One echo request to ourselves (RFC 792), with its checksum.
PING: Final = """\
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FE, 0, 1), ("127.0.0.1", 0))
"""


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


BOTH: Final = pytest.mark.kernels("6.1", "6.12")


@pytest.fixture(scope="module")
def bundles(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundles:
    folder = tmp_path_factory.mktemp("tripwire")
    edits = {KID: tmpfile_edits(lab_cache, tree), "context1": context_edits()}
    return {
        kid: make_bundle(lab_cache, kernel, kid, [write_patch(tree, folder / kid, *edits[kid])])
        for kid in edits
    }


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    prepare(shared_guest)
    return shared_guest


def start_listener(guest: Guest, update: Update) -> None:
    """Let what a core says be noted."""
    file = f"-p StandardOutput=file:/root/heard-{update.kid} -u listen-{update.kid}"
    family = update.state("tripwire_family")
    guest.run(f"rm -f /root/heard-{update.kid}")
    guest.run(f"systemd-run -q {file} /usr/bin/python3 /root/listen.py {family}")
    wait_in_guest(lambda: "{}" in guest.read(f"/root/heard-{update.kid}", if_there=True))


def heard(guest: Guest, update: Update) -> list[dict[str, Any]]:
    """Return what the listener has noted."""
    lines = guest.read(f"/root/heard-{update.kid}").splitlines()
    return [json.loads(line) for line in lines[1:]]


@BOTH
def test_hit_is_told_and_undo_leaves_nothing(
    guest: Guest, bundles: Bundles, kernel: KernelPackages
) -> None:
    update = Update(guest, bundles[KID])
    if kernel.release.startswith("6.1."):
        assert exploit(guest) == "made 1"
    update.apply()
    start_listener(guest, update)
    assert exploit(guest) == "refused 1"
    wait_in_guest(lambda: bool(heard(guest, update)))
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


def test_hits_are_kept_until_they_are_heard_and_a_flood_is_counted(
    guest: Guest, bundles: Bundles
) -> None:
    update = Update(guest, bundles[KID])
    update.apply()
    assert exploit(guest, times=100) == "refused 100"
    start_listener(guest, update)
    wait_in_guest(lambda: total(heard(guest, update)) == 100)
    assert len(heard(guest, update)) == SLOTS + 1
    begin = time.monotonic()
    for _ in range(2):
        assert exploit(guest, times=3000) == "refused 3000"
    wait_in_guest(lambda: total(heard(guest, update)) == 6100)
    windows = (time.monotonic() - begin) / WINDOW + 2
    assert len(heard(guest, update)) <= (SLOTS + 1) * windows
    exploit(guest, times=50)
    update.undo()  # with hits that are still to be told
    assert is_clean(guest)


@BOTH
def test_any_context_and_two_updates_at_once(guest: Guest, bundles: Bundles) -> None:
    first, second = (Update(guest, bundles[kid]) for kid in (KID, "context1"))
    for update in (first, second):
        update.apply()
        start_listener(guest, update)
    guest.put("/root/ping.py", PING.encode())
    guest.run("python3 /root/ping.py")
    for _ in range(3):
        guest._qemu.qmp.command("inject-nmi")
        time.sleep(0.2)
    wait_in_guest(lambda: {hit["place"] for hit in heard(guest, second)} == {"an NMI", "a packet"})
    assert not any(hit["who"]["in_task"] for hit in heard(guest, second))
    exploit(guest)
    wait_in_guest(lambda: bool(heard(guest, first)))
    first.undo()
    before = len(heard(guest, second))
    guest.run("python3 /root/ping.py")
    wait_in_guest(lambda: len(heard(guest, second)) > before)
    second.undo()
    assert is_clean(guest)


def test_updates_without_tripwires_do_not_pay(
    bundles: Bundles, lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path: Path
) -> None:
    edit = Edit("fs/fcntl.c", "(fd) ? FD_CLOEXEC : 0;", "(fd) ? FD_CLOEXEC : 4;")
    patch = write_patch(tree, tmp_path / "plain.patch", edit)
    plain = make_bundle(lab_cache, kernel, "nowires1", [patch])
    modules = {n: d for n, d in plain.files.items() if n.endswith(".ko")}
    assert [n for n, d in modules.items() if b"tripwire" in d or b"genl" in d] == []
    wired = bundles[KID]
    assert b"genl_register_family" in wired.files[wired.manifest.core_file]
