# SPDX-License-Identifier: GPL-2.0-only
"""A real fix that adds a field to a structure in use, by shadow variables (docs/hooks.md)."""

import re
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.coverage.changes import split_hunks
from tests.support.guest.hand import Edit, Update, is_clean, make_bundle, write_patch
from tests.support.guest.shadows import count_shadows
from tests.support.kernels import slice as sample
from tests.support.waiting import wait_in_guest

pytestmark = pytest.mark.usefixtures("golden_log")

KID = "shadow01"
EXAMPLE = Path(__file__).parents[2] / "docs/examples/qdisc-depth.c"
API, GENERIC = "net/sched/sch_api.c", "net/sched/sch_generic.c"
LAST_INCLUDE = {API: "#include <trace/events/qdisc.h>\n", GENERIC: "#include <net/xfrm.h>\n"}
FREE = "void qdisc_free(struct Qdisc *qdisc)\n{\n"
OURS = (
    Edit(API, LAST_INCLUDE[API], LAST_INCLUDE[API] + EXAMPLE.read_text()),
    Edit(GENERIC, LAST_INCLUDE[GENERIC], LAST_INCLUDE[GENERIC] + "#include <ksplice-patch.h>\n"),
    Edit(GENERIC, FREE, FREE + "\tksplice_shadow_free(qdisc, ksplice_shadow_id(1));\n"),
)

# Each argument is a process in whose network namespace qdiscs are nested on lo, in what is there,
# until there are as many or one is refused.  A negative number deletes them afterwards.
NEST = """\
import ctypes, os, sys
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
ROOT, CLONE_NEWNET = 0xFFFFFFFF, 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
def nest(number):
    with IPRoute() as ip:
        there = sum(q["handle"] != 0 for q in ip.get_qdiscs(index=1))
        try:
            for n in range(there + 1, abs(number) + 1):
                parent = n - 1 << 16 | 1 if n > 1 else ROOT
                ip.tc("add", "tbf", 1, n << 16, parent=parent, rate="1mbit", burst=5000, limit=9000)
            print(n, flush=True)
        except NetlinkError as e:
            print(n - 1, os.strerror(e.code), flush=True)
        if number < 0:
            ip.tc("del", "tbf", 1, 1 << 16, parent=ROOT)
for argument in sys.argv[1:]:
    pid, number = map(int, argument.split(":"))
    child = os.fork()
    if not child:
        with open(f"/proc/{pid}/ns/net") as f:
            assert libc.setns(f.fileno(), CLONE_NEWNET) == 0
        nest(number)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
REFUSED = "Argument list too long"
"""E2BIG."""


@pytest.fixture(scope="module")
def made(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> bundle.Bundle:
    """The hunks of the fix, each access to its new member a shadow variable's, and what is ours."""
    folder = tmp_path_factory.mktemp("shadow")
    whole = sample.cut_patch(lab_cache, kernel.version, sample.NEWER, [API]).read_bytes()
    head, hunks = split_hunks(whole)
    text = head + b"".join(hunk.text for hunk in hunks if b"depth" in hunk.added)
    text, uses = re.subn(rb"\b(\w+)->depth\b", rb"qdisc_depth(\1)", text)
    assert uses == 4, "set twice, asked for twice"
    fix = folder / "fix.patch"
    fix.write_bytes(text)
    ours = write_patch(tree, folder / "ours.patch", *OURS)
    return make_bundle(lab_cache, kernel, KID, [fix, ours])


HERE = 1
"""A process of the namespace that all services are in."""


def nest(guest: Guest, *steps: tuple[int, int]) -> list[str]:
    """Nest qdiscs, with the pid and the number of each step as ``NEST`` takes them.

    Return how many there are after each, and why not more.
    """
    words = " ".join(f"{pid}:{number}" for pid, number in steps)
    return guest.run(f"python3 /root/nest.py {words}").out.splitlines()


def namespace(guest: Guest, name: str) -> int:
    """Make a network namespace; return the id of a process in it."""
    guest.run(f"systemd-run -u {name} -q unshare -n sleep 1000; sleep 1")
    return int(guest.run(f"systemctl show --value -p MainPID {name}").out)


def wait_for_shadows(guest: Guest, number: int) -> None:
    """Wait until there are no more: qdiscs are freed after a grace period."""
    wait_in_guest(lambda: count_shadows(guest) == number, lambda: count_shadows(guest))


def test_real_fix_that_adds_a_field(guest: Guest, made: bundle.Bundle) -> None:
    update = Update(guest, made)
    guest.put("/root/nest.py", NEST.encode())
    deep, flat = namespace(guest, "deep"), namespace(guest, "flat")
    the_fault, *depths = nest(guest, (HERE, -10), (deep, 9), (flat, 5))
    assert the_fault == "10"
    assert depths == ["9", "5"]
    assert count_shadows(guest) == 0

    update.apply()
    too_deep_before, partly_before = nest(guest, (deep, 10), (flat, 10))
    assert too_deep_before == f"9 {REFUSED}"
    assert partly_before == f"8 {REFUSED}", "five are from before"
    before = count_shadows(guest)
    assert before > 0
    assert nest(guest, (HERE, -10)) == [f"8 {REFUSED}"], "a new one"
    wait_for_shadows(guest, before)

    update.undo()
    assert count_shadows(guest) == 0
    assert nest(guest, (deep, 10), (flat, 10), (HERE, -10)) == ["10", "10", "10"]
    assert is_clean(guest)

    guest.run("systemctl stop flat")
    update.apply()
    assert nest(guest, (deep, 11)) == [f"10 {REFUSED}"]
    guest.run("systemctl stop deep")
    wait_for_shadows(guest, 0)
    update.undo()
    assert is_clean(guest)
