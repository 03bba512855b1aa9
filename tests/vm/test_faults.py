# SPDX-License-Identifier: GPL-2.0-only
"""ksplicd killed, and its disk full, at the steps of an apply and an undo in a real kernel.

Whatever is left, the next start knows where the update is, and can finish or undo it.
``tests.faults`` does the same at every system call, with a simulated kernel.  These tests take a
few steps; ``make fault-steps`` takes every one.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from ksplicd.lab.guest import Guest
from ksplicd.run import run
from tests.support.guest.hand import has_complaint
from tests.support.guest.host import Host
from tests.support.guest.installed import KID, NAME, Signed
from tests.support.guest.journal import read_journal
from tests.support.kernels import slice as sample

SHIM: Final = Path(__file__).parents[1] / "support/guest/shim.c"
CONTROL: Final = "/etc/ksplicd/fault"
DROP_IN: Final = "/run/systemd/system/ksplicd.service.d/fault.conf"
PRELOAD: Final = b"[Service]\nEnvironment=LD_PRELOAD=/usr/lib/shim.so\nRestart=no\n"
BOOT_DROP_IN: Final = "ksplicd-boot.service.d/fault.conf"
BOOT_PRELOAD: Final = (
    b"[Service]\nEnvironment=LD_PRELOAD=/usr/lib/shim.so\nSuccessExitStatus=KILL\n"
)
ALL: Final = "KSPLICE_ALL_STEPS" in os.environ
SETTLED: Final = {"applied", "staged", "failed", "reversed", ""}
LIVEPATCH: Final = f"/sys/kernel/livepatch/ksplice_{KID}_new"


class Victim(Host):
    """A host whose daemon meets a fault."""

    def __init__(self, guest: Guest, signed: Signed, shim: Path) -> None:
        guest.put("/usr/lib/shim.so", shim)
        guest.put(DROP_IN, PRELOAD)
        guest.put("/root/reproducer.py", sample.FCNTL.reproducer.encode())
        guest.run("systemctl daemon-reload; systemctl restart ksplicd")
        self.armed = 0
        super().__init__(guest, signed.public_key, signed.file)

    def arm(self, deed: str, step: int, kind: str = "any") -> None:
        """Let the deed happen at a step, or at one of a kind, from now on."""
        self.armed += 1
        self.guest.put(CONTROL, f"{deed} {step} {kind} {self.armed}".encode(), mode=0o644)

    def recover(self) -> str:
        """Start what was killed; return the stage that it settles in."""
        self.run(f"rm -f {CONTROL}; systemctl reset-failed ksplicd; systemctl start ksplicd")
        return self.settled()

    def settled(self) -> str:
        """Wait until nothing is under way; return the stage."""
        found = ""

        def is_settled() -> bool:
            nonlocal found
            found = self.stage(KID)
            return found in SETTLED

        self.wait_for(is_settled)
        return found

    def command(self, verb: str) -> str:
        """Run ``ksplice apply`` with the file, or ``undo``; return its complaint, or nothing."""
        line = f"apply /root/{NAME}" if verb == "apply" else f"undo {KID}"
        done = self.ksplice(line, check=False)
        return f"{done.status}: {done.err}" if done.status else ""

    def forget(self) -> None:
        self.ksplice(f"remove {KID}")

    def steps(self, verb: str) -> list[str]:
        """Run a command that nothing happens to; return the steps that it took."""
        self.arm("none", 0)
        assert self.command(verb) == ""
        self.run(f"rm {CONTROL}")
        said = read_journal(self.guest, "-u ksplicd -o cat")
        found = re.findall(r"^step (\d+): (\w+)$", said, re.MULTILINE)
        last = max(i for i, (number, _) in enumerate(found) if number == "1")
        return [what for _, what in found[last:]]

    def assert_whole(self, stage: str) -> None:
        """The kernel is what the stage says: all of the update is in force, or nothing is left."""
        shown = f"cat {LIVEPATCH}/enabled {LIVEPATCH}/transition; lsmod | grep -o '^ksplice_[^ ]*'"
        there = "ls -d /sys/module/ksplice_* /sys/kernel/livepatch/*"
        said = self.out(f"python3 -I -S /root/reproducer.py; {there}; {shown}; true").splitlines()
        answer, found = said[0], said[1:]
        if stage == "applied":
            mine = [f"ksplice_{KID}", f"ksplice_{KID}_new"]
            assert found[3:5] == ["1", "0"]
            assert sorted(found[5:]) == mine
            assert found[:3] == [LIVEPATCH, *(f"/sys/module/{name}" for name in mine)]
        else:
            assert not found
        assert answer.startswith(sample.FCNTL.after) is (stage == "applied")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shim") / "shim.so"
    run(["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O2", "-o", file, SHIM])
    return file


@pytest.fixture
def victim(installed_guest: Guest, signed: Signed, shim: Path) -> Iterator[Victim]:
    yield Victim(installed_guest, signed, shim)
    assert not has_complaint(installed_guest.kernel_log())


def chosen(steps: Sequence[str], few: Sequence[tuple[str, int]]) -> list[int]:
    """Return the numbers of all steps, or of the ``few``: (what, which of that kind)."""
    if ALL:
        return list(range(1, len(steps) + 1))
    return [[i for i, what in enumerate(steps, 1) if what == kind][nth] for kind, nth in few]


APPLY: Final = ("rename", 0), ("finit_module", 1), ("write", -1)
MODULES: Final = (1, 2, 3)
"""The core, the old code, the new code."""
UNDO: Final = ("write", 0), ("write", 1), ("delete_module", -1)


def learn(victim: Victim) -> tuple[list[int], list[int]]:
    """Return the steps of an apply and of an undo to try."""
    # what is written to a history for the first time needs a step more
    for verb in ("apply", "undo"):
        assert victim.command(verb) == ""
    victim.forget()
    applying = victim.steps("apply")
    undoing = victim.steps("undo")
    victim.forget()
    sys.stdout.write(f"apply: {' '.join(applying)}\nundo: {' '.join(undoing)}\n")
    return chosen(applying, APPLY), chosen(undoing, UNDO)


def test_killed_and_disk_full_at_a_step(victim: Victim) -> None:
    """On a disk of half a megabyte."""
    victim.run("systemctl stop ksplicd; mount -t tmpfs -o size=512k,mode=700 full /var/lib/ksplice")
    victim.run("systemctl start ksplicd")
    applying, undoing = learn(victim)
    fill(victim, applying, list(undoing))
    kill(victim, applying, list(undoing))
    victim.run("systemctl stop ksplicd; umount /var/lib/ksplice")


def kill(victim: Victim, applying: Sequence[int], undoing: list[int]) -> None:
    """Kill it at each step of an apply and of an undo, and in the kernel."""
    modules = MODULES if ALL else MODULES[1:2]
    deaths = [("kill", step, "any") for step in applying]
    deaths += [("inside", module, "finit_module") for module in modules]
    for death in deaths:
        victim.arm(*death)
        victim.command("apply")
        victim.wait_for(lambda: victim.pid() == 0)
        stage = victim.recover()
        victim.assert_whole(stage)
        if stage != "applied":
            assert victim.command("apply") == ""
            victim.assert_whole(stage := "applied")
        if undoing:
            victim.arm("kill", undoing.pop())
            victim.command("undo")
            victim.wait_for(lambda: victim.pid() == 0)
            stage = victim.recover()
            victim.assert_whole(stage)
        if stage == "applied":
            assert victim.command("undo") == ""
            victim.assert_whole("reversed")
        victim.forget()
    assert "too short" not in read_journal(victim.guest, "-u ksplicd -o cat")


def fill(victim: Victim, applying: Sequence[int], undoing: list[int]) -> None:
    """Fill its disk before each step of an apply and of an undo."""
    pid = victim.pid()
    for step in applying:
        victim.arm("fill", step)
        victim.command("apply")
        victim.run(f"rm {CONTROL}")
        victim.assert_whole(stage := victim.settled())
        if stage != "applied":
            assert victim.command("apply") == ""
            victim.assert_whole(stage := "applied")
        if undoing:
            victim.arm("fill", undoing.pop())
            victim.command("undo")
            victim.run(f"rm {CONTROL}")
            victim.assert_whole(stage := victim.settled())
        if stage == "applied":
            assert victim.command("undo") == ""
            victim.assert_whole("reversed")
        victim.forget()
    assert victim.pid() == pid, "it lived through all of it"


@pytest.mark.skipif(not ALL, reason="takes two minutes; make fault-steps does it")
@pytest.mark.parametrize("module", MODULES)
def test_killed_at_boot(victim: Victim, module: int) -> None:
    """Before it loads one of them."""
    victim.guest.put(f"/etc/systemd/system/{BOOT_DROP_IN}", BOOT_PRELOAD)
    assert victim.command("apply") == ""
    victim.arm("kill", module, "finit_module")
    victim.guest.reboot()
    victim.run(f"rm {CONTROL}")
    said = read_journal(victim.guest, "-b -u ksplicd-boot -o cat")
    assert said.count(": finit_module") == module, said
    victim.wait_for(lambda: victim.stage(KID) in SETTLED)
    victim.assert_whole(victim.stage(KID))
    if victim.stage(KID) != "applied":
        assert victim.command("apply") == ""
        victim.assert_whole("applied")
    assert victim.command("undo") == ""
    victim.assert_whole("reversed")
