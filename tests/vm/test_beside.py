# SPDX-License-Identifier: GPL-2.0-only
"""Other users of the same text: tracers, probes, perf, BPF, live patches that are not ours.

Users of ftrace go on working, also on a patched function.  An update of a function whose text
another user has changed is refused, and the user is named.  The kernel's log is compared whole.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from tests.support.guest.golden import told
from tests.support.guest.hand import (
    Update,
    has_complaint,
    is_clean,
    make_bundle,
    write_patch,
)
from tests.support.guest.host import ASK, Host
from tests.support.guest.maker import FIRST, Maker
from tests.support.waiting import wait_in_guest

KID = "first001"
FUNCTION = "do_fcntl"
COMPARED = "send_sigio"
"""In the same file, and not replaced."""
TRACING = "/sys/kernel/tracing"
BEFORE, AFTER = "0\n", "16\n"
"""What a call of the function says."""
NEIGHBOUR = Path(__file__).parents[1] / "support/guest/neighbour.py"

MATCHED = "ksplice_first001: vmlinux: N functions, N bytes match, N us\n"
GOLDEN = f"""\
{MATCHED}\
livepatch: enabling patch 'ksplice_first001_new'
livepatch: 'ksplice_first001_new': starting patching transition
ksplice_first001: applied
livepatch: 'ksplice_first001_new': patching complete
livepatch: 'ksplice_first001_new': starting unpatching transition
ksplice_first001: reversed
livepatch: 'ksplice_first001_new': unpatching complete
"""
REFUSED = """\
ksplice_first001: no_match: target=vmlinux function=do_fcntl offset=N kind=bytes
"""


class Neighbour(NamedTuple):
    """Another user of the text, in lines for the shell."""

    start: str
    hits: str
    """Prints how often it was hit, or more than that."""
    stop: str


def event(kind: str, place: str = FUNCTION) -> Neighbour:
    """Return a probe of tracefs' dynamic events: ``p`` or ``r``."""
    return Neighbour(
        start=f"cd {TRACING} && echo '{kind}:test/{kind} {place}' >>dynamic_events"
        f" && echo 1 >events/test/{kind}/enable",
        hits=f"awk '$1 == \"{kind}\" {{ print $2 }}' {TRACING}/kprobe_profile",
        stop=f"cd {TRACING} && echo 0 >events/test/{kind}/enable && echo -:{kind} >>dynamic_events",
    )


def tracer(name: str, functions: str = "") -> Neighbour:
    """Return a tracer of all functions, or of some."""
    count = "/^entries|^overrun/ { n += $2 } END { print n }"
    return Neighbour(
        start=f"cd {TRACING} && echo {functions} >set_ftrace_filter && echo {name} >current_tracer",
        hits=f"cat {TRACING}/per_cpu/*/stats | awk '{count}'",
        stop=f"cd {TRACING} && echo nop >current_tracer && echo >set_ftrace_filter",
    )


def program(kind: str) -> Neighbour:
    """Return a run of neighbour.py."""
    run_it = f"/usr/bin/python3 -I -S /root/neighbour.py {kind} {FUNCTION}"
    is_up = f"systemctl -q is-active {kind} || {{ cat /run/{kind}.err >&2; exit 1; }}"
    return Neighbour(
        start=f"rm -f /run/{kind}.*;"
        f" systemd-run -q -u {kind} -p StandardError=file:/run/{kind}.err {run_it}"
        f" && until [ -e /run/{kind}.hits ]; do {is_up}; sleep 0.1; done",
        hits=f"sleep 0.3; cat /run/{kind}.hits",
        stop=f"systemctl stop {kind}",
    )


NEIGHBOURS = {
    "tracer of everything": [tracer("function")],
    "tracer of calls, kprobes, BPF": [
        tracer("function_graph", "'*schedule*' do_fcntl"), event("p"), event("r"),
        program("bpf-fexit"),
    ],
    # Not fexit too: 6.1 cannot add it to fentry on a function with any live patch (docs/beside.md).
    "perf, BPF": [
        program("perf-sample"), program("perf-kprobe"), program("bpf-kprobe"),
        program("bpf-fentry"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(
    lab_cache: Cache, kernel: KernelPackages, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> bundle.Bundle:
    patch = write_patch(tree, tmp_path_factory.mktemp("beside") / "first.patch", FIRST)
    return make_bundle(lab_cache, kernel, KID, [patch])


@pytest.fixture
def update(guest: Guest, made: bundle.Bundle) -> Iterator[Update]:
    guest.put("/root/neighbour.py", NEIGHBOUR)
    yield Update(guest, made)
    assert not has_complaint(guest.kernel_log())


@pytest.mark.parametrize("neighbours", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_works_on(guest: Guest, update: Update, neighbours: Sequence[Neighbour]) -> None:
    """Before the update and on top of it, in both directions."""

    def hits() -> list[int]:
        return [int(guest.run(n.hits).out) for n in neighbours]

    def check(wanted: str) -> None:
        before = hits()
        assert guest.run(ASK).out == wanted
        assert all(b < a for b, a in zip(before, hits(), strict=True))

    for n in neighbours:
        guest.run(n.start)
    if event("p") in neighbours:
        wait_for_mark(guest, f"{FUNCTION}+0x0", "[FTRACE]")
    check(BEFORE)
    update.apply()
    check(AFTER)
    for n in neighbours:
        guest.run(n.stop)
    assert guest.run(ASK).out == AFTER
    for n in neighbours:
        guest.run(n.start)
    check(AFTER)
    update.undo()
    check(BEFORE)
    for n in neighbours:
        guest.run(n.stop)
    assert is_clean(guest)
    assert told(guest.kernel_log()) == GOLDEN


def test_ftrace_that_is_off_is_not_another_transition(guest: Guest, update: Update) -> None:
    """Both are EBUSY to the kernel; only of the first the core tells a cause."""
    update.match()
    guest.run("sysctl -qw kernel.ftrace_enabled=0")
    assert update.insmod(update.new, check=False) != 0
    assert update.state("abort_cause") == "call_failed"
    assert "kernel.ftrace_enabled is 0" in guest.kernel_log()
    guest.run("sysctl -qw kernel.ftrace_enabled=1")
    update.rmmod(update.core)
    update.apply()
    assert guest.run(ASK).out == AFTER
    update.undo()
    assert is_clean(guest)


# --- through the daemon: who is in the way is named ---------------------------------------------


@pytest.fixture(scope="module")
def file(made: bundle.Bundle, maker: Maker) -> Path:
    return maker.sign(KID, bundle.pack(made.manifest, made.files))


@pytest.fixture
def host(installed_guest: Guest, maker: Maker) -> Iterator[Host]:
    installed_guest.put("/root/neighbour.py", NEIGHBOUR)
    yield Host(installed_guest, maker.key.public)
    assert not has_complaint(installed_guest.kernel_log())


def test_kprobe_inside_is_named(host: Host, file: Path) -> None:
    """Optimised or not, in a function that is replaced or only compared: it is found."""
    guest, refused = host.guest, ""
    inside, elsewhere = (find_optimisable(guest, f) for f in (FUNCTION, COMPARED))
    _, offset = inside.split("+")
    of_tracefs, of_bpf = "the kprobe event test/p", "a kprobe of perf, BPF or a module"
    for place, neighbour, name, is_optimised in (
        (inside, event("p", inside), of_tracefs, True),
        (inside, event("p", inside), of_tracefs, False),
        (elsewhere, event("p", elsewhere), of_tracefs, True),
        (inside, program(f"bpf-kprobe+{offset}"), of_bpf, True),
    ):
        guest.run(f"sysctl -qw debug.kprobes-optimization={is_optimised:d}")
        guest.run(neighbour.start)
        wait_for_mark(guest, place, "[OPTIMIZED]" if is_optimised else "")
        cause, message = host.apply(file)
        assert cause == "no_match"
        assert f"{name} is at {place}: remove it and apply again" in message
        assert is_clean(guest)
        refused += REFUSED.replace(FUNCTION, place.split("+")[0])
        assert told(guest.kernel_log()) == refused
        guest.run(neighbour.stop)

    at_entry = event("p", COMPARED)
    guest.run(at_entry.start)
    wait_for_mark(guest, f"{COMPARED}+0x0", "[FTRACE]")
    assert host.apply(file) == ("", "")
    guest.run(at_entry.stop)
    # On top of the update one inside is in nobody's way, but not hit: the old code does not run.
    neighbour = event("p", inside)
    guest.run(neighbour.start)
    wait_for_mark(guest, inside, "[OPTIMIZED]")
    assert guest.run(ASK).out == AFTER
    assert guest.run(neighbour.hits).out == "0\n"
    assert host.undo(KID) == ("", "")
    assert guest.run(ASK).out == BEFORE
    assert guest.run(neighbour.hits).out != "0\n"
    guest.run(neighbour.stop)
    assert told(guest.kernel_log()) == refused + GOLDEN


def find_optimisable(guest: Guest, function: str) -> str:
    """Return the first place inside a function where the kernel makes a jump of a kprobe.

    Before it nothing branches off, as far as is known: whoever calls the function comes by.
    """
    guest.run(
        f"cd {TRACING}; for i in $(seq 5 140); do echo p:find/at$i {function}+$i >>dynamic_events"
        " && echo 1 >events/find/at$i/enable; done 2>/dev/null; true"
    )
    jumps = f"grep -o '{function}+0x[0-9a-f]* .*OPTIMIZED' /sys/kernel/debug/kprobes/list"
    guest.run(f"until {jumps}; do sleep 0.2; done; sleep 2")
    found = min(
        (line.split()[0] for line in guest.run(jumps).out.splitlines()),
        key=lambda place: int(place.partition("+")[2], 16),
    )
    guest.run(f"cd {TRACING} && echo 0 >events/find/enable && echo >dynamic_events")
    return found


def wait_for_mark(guest: Guest, place: str, mark: str) -> None:
    """Wait until the list of kprobes has one at a place, with ``[OPTIMIZED]`` or the like."""

    def rows() -> list[list[str]]:
        listed = guest.read("/sys/kernel/debug/kprobes/list").splitlines()
        return [line.split()[2:] for line in listed]

    wait_in_guest(lambda: [place, *mark.split()] in rows(), rows)
