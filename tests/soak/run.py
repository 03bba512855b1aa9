# SPDX-License-Identifier: GPL-2.0-only
"""One soak: rounds of cycles under load in a guest, with what the kernel holds after each."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.running_guest import RunningGuest
from tests.support.guest.hand import Edit, Update, has_complaint, is_clean, make_bundle, write_patch
from tests.support.kernels import slice as sample

HERE: Final = Path(__file__).parent
PAUSE: Final = "/run/load-pause"
KINDS: Final = ("net", "file", "call")
WARM_UP: Final = 2
CHUNK: Final = 10
CHUNK_LIMIT: Final = 1200.0

FILES: Final = Edit(
    "fs/read_write.c",
    "\tif (!(file->f_mode & FMODE_WRITE))\n\t\treturn -EBADF;\n\tif (!(file->f_mode & FMODE_CAN",
    "\t(void)READ_ONCE(file->f_flags);\n"
    "\tif (!(file->f_mode & FMODE_WRITE))\n\t\treturn -EBADF;\n\tif (!(file->f_mode & FMODE_CAN",
)
"""vfs_write"""
PACKETS: Final = Edit(
    "net/ipv4/ip_input.c",
    "\tskb = ip_rcv_core(skb, net);\n",
    "\t(void)READ_ONCE(skb->len);\n\tskb = ip_rcv_core(skb, net);\n",
)
"""ip_rcv"""
CALLS: Final = Edit(
    "fs/fcntl.c",
    "\t\terr = get_close_on_exec(fd) ? FD_CLOEXEC : 0;\n",
    "\t\t(void)READ_ONCE(filp->f_flags);\n\t\terr = get_close_on_exec(fd) ? FD_CLOEXEC : 0;\n",
)
"""do_fcntl"""

ROMFS: Final = Edit("fs/romfs/super.c", "inval:\n\tret = -EINVAL;", "inval:\n\tret = -EUCLEAN;")


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How much more of something the kernel may hold after each round: at all, and for a cycle."""

    at_all: int
    each: float


LIMITS: Final = {
    "SUnreclaim": Growth(at_all=128, each=1),
    "Percpu": Growth(at_all=16, each=0.25),
    "VmallocUsed": Growth(at_all=64, each=0.5),
    "kmalloc objects": Growth(at_all=30, each=0.25),
    "module areas": Growth(at_all=0, each=0),
    "sysfs entries": Growth(at_all=0, each=0),
}
"""KiB, or a number.  What stays by mistake stays with each cycle: an object or more, a page or more
of vmalloc's.  Caches of the kernel move, but not upwards in every round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a soak has shown."""

    cycles: int
    seconds: float
    applies: list[float]
    undos: list[float]
    held: list[dict[str, int]]
    """What the kernel held, before the first round and after each."""
    work: dict[str, int]
    """How often each kind of load did what it does."""

    def __str__(self) -> str:
        """Return some lines of text."""
        lines = [f"{self.cycles} cycles in {self.seconds:.0f} s, no complaint of the kernel"]
        for name, row in (("apply", self.applies), ("undo", self.undos)):
            lines.append(f"{name}: median {statistics.median(row):.1f} s, longest {max(row):.1f} s")
        lines.append("load: " + ", ".join(f"{k} {n}" for k, n in self.work.items()))
        lines += [f"{name}: {self._course(name)}" for name in LIMITS]
        return "\n".join(lines)

    def grown(self) -> list[str]:
        """Return what grew by more than it may in every round."""
        found = find_grown(self.held, self.cycles)
        return [f"{name} grew in every round: {self._course(name)}" for name in found]

    def _course(self, name: str) -> str:
        return " -> ".join(str(held[name]) for held in self.held)


def find_grown(held: Sequence[Mapping[str, int]], cycles: int) -> list[str]:
    """Return what grew by more than it may in every round, of ``cycles`` in all of them."""
    each_round = cycles / (len(held) - 1)
    return [
        name for name, limit in LIMITS.items()
        if min(after[name] - before[name] for before, after in pairwise(held))
        > limit.at_all + limit.each * each_round
    ]  # fmt: skip


def make(cache: Cache, kernel: KernelPackages, folder: Path, *, has_module: bool) -> bundle.Bundle:
    """Build the update: functions that the load is in all the time, and maybe one of a module."""
    edits = [FILES, PACKETS, CALLS, *([ROMFS] if has_module else [])]
    patch = write_patch(sample.source_tree(cache, kernel), folder / "soak.patch", *edits)
    kid = "soakmod1" if has_module else "soakvml1"
    return make_bundle(cache, kernel, kid, [patch])


class Soak:
    """A guest with the update's modules and the load."""

    def __init__(
        self,
        guest: RunningGuest,
        made: bundle.Bundle,
        tell: Callable[[str], None],
        kinds: Sequence[str] = KINDS,
    ) -> None:
        self.guest, self.tell, self.kinds = guest, tell, kinds
        self._counts = [f"/run/load-{kind}" for kind in kinds]
        self._has_load = False
        self.update = Update(guest, made)
        self.targets = [target.name for target in made.manifest.targets]
        guest.put("/root/cycles.py", HERE / "cycles.py")
        guest.put("/root/load.py", HERE / "load.py")
        guest.run("dmesg -n 1; dmesg --clear")

    def run(self, cycles: int, rounds: int) -> Report:
        """Run the cycles, as many in each round.  Raises ``AssertionError`` and ``LabError``.

        What has grown in all of them is held against as many rounds again: a cache of the kernel
        that happened to grow stops, what stays with each cycle does not.
        """
        self._round(0, WARM_UP)
        held, begin = [self._figures()], time.monotonic()
        times: list[tuple[float, float]] = []
        work = dict.fromkeys(self.kinds, 0)
        while len(held) <= rounds or (len(held) <= 2 * rounds and find_grown(held, len(times))):
            spent, done = self._round(len(times), cycles // rounds)
            times += spent
            work = {kind: count + done[kind] for kind, count in work.items()}
            held.append(self._figures())
            self.tell(f"{len(times)} cycles in {time.monotonic() - begin:.0f} s")
        return Report(
            cycles=len(times), seconds=time.monotonic() - begin,
            applies=[apply for apply, _ in times], undos=[undo for _, undo in times],
            held=held, work=work,
        )  # fmt: skip

    def _round(self, first: int, count: int) -> tuple[list[tuple[float, float]], dict[str, int]]:
        """Return the seconds of each apply and undo, and what the load did meanwhile."""
        self._start_load()
        times = []
        for at in range(first, first + count, CHUNK):
            times += self._cycles(at, min(CHUNK, first + count - at))
        return times, self._pause_load()

    def _cycles(self, first: int, count: int) -> list[tuple[float, float]]:
        words = ["cycle", self.update.kid, str(first), str(count), *self.targets]
        said = self.guest.run(["python3", "/root/cycles.py", *words], timeout=CHUNK_LIMIT).out
        log = self.guest.run("dmesg --notime --read-clear").out
        assert not has_complaint(log), log
        assert is_clean(self.guest)
        return [tuple(json.loads(line)) for line in said.splitlines()]

    def _figures(self) -> dict[str, int]:
        found: dict[str, int] = json.loads(
            self.guest.run(["python3", "/root/cycles.py", "figures"]).out
        )
        return found

    def _start_load(self) -> None:
        """Start the load, or end its pause, and wait until it is under way."""
        if self._has_load:
            self.guest.run(f"rm {' '.join(self._counts)} {PAUSE}")
        else:
            for kind in self.kinds:
                unit = f"systemd-run -q -p Nice=10 -u load-{kind}"
                self.guest.run(f"{unit} python3 /root/load.py {kind}")
            self._has_load = True
        self._wait_for(self._counts)

    def _pause_load(self) -> dict[str, int]:
        """Have the load rest; return how much each kind did.

        It is not ended: each start of its Python takes seconds in a guest.
        """
        work = [int(n) for n in self.guest.run(["cat", *self._counts]).out.split()]
        self.guest.run(f"touch {PAUSE}")
        self._wait_for([f"{path}.idle" for path in self._counts])
        return dict(zip(self.kinds, work, strict=True))

    def _wait_for(self, files: Sequence[str]) -> None:
        there = " ] && [ -e ".join(files)
        self.guest.run(f"until [ -e {there} ]; do sleep 0.5; done")
