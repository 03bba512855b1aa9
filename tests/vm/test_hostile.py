# SPDX-License-Identifier: GPL-2.0-only
"""Updates that are wrong on purpose: the kernel part refuses them, without a fault, by itself.

Nobody checks a digest or a signature here: the modules of a real update are damaged and loaded.
What must become of each is told by ``tests.oracle`` from the guest's memory.  ``make fuzz-kernel``
tries many more; a seed that was wrong once says so in the failure and can be given again.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import pytest

from ksplicd import bundle
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import core_module, new_module, old_module
from tests import slice as sample
from tests.blob import Blob
from tests.mutate import edits_between, mutate_new_code, mutate_tables
from tests.oracle import Memory, Verdict, judge, read_symbols
from tests.stock import next_kernel, stock_kernel
from tests.vm.hand import Edit, Update, has_complaint, is_clean, make_bundle, write_patch
from tests.vm.test_modules import ROMFS

KID: Final = "hostile1"
TARGETS: Final = ("vmlinux", "romfs")
TSC: Final = Edit(
    "arch/x86/kernel/process.c", "val = PR_TSC_SIGSEGV;", "val = PR_TSC_SIGSEGV | 64;"
)
"""In a unit with patch sites of each kind."""
MUTATIONS: Final = int(os.environ.get("KSPLICE_MUTATIONS", "100"))
SEED: Final = os.environ.get("KSPLICE_SEED", "2011")
CHUNK: Final = 100
REPEATED: Final = 40
ROUNDS: Final = 4
FEW: Final = 2
"""Objects by which a cache may grow in each of the rounds."""
PAGE: Final = 4096
NEAR: Final = 2 * PAGE
"""Between two sections of one area; areas are further apart, or it does no harm."""
NEW_CODE: Final = 4
"""One mutation of so many is of the new code."""

CAUSES: Final = {
    Verdict.DAMAGED: {"unexpected"},
    Verdict.NO_SYMBOL: {"failed_to_find", "bad_system_map", "target_not_loaded"},
    Verdict.DIFFERENT: {"no_match"},
    Verdict.SAME: {"ok"},
    Verdict.EITHER: {"ok", "no_match"},
}

LOADER: Final = """\
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
INIT_MODULE, DELETE_MODULE, KEPT = 175, 176, sys.argv[1]
def read(path):
    with open(path, "rb") as f:
        return f.read()
good = {}
for line in sys.stdin:
    job = json.loads(line)
    name = job["module"]
    ko = bytearray(good.setdefault(name, read(f"/root/{name}.ko")))
    for at, text in job["edits"]:
        new = bytes.fromhex(text)
        ko[at : at + len(new)] = new
    del ko[job["size"] :]
    data = bytes(ko)
    failed = libc.syscall(INIT_MODULE, data, ctypes.c_ulong(len(data)), b"")
    error = ctypes.get_errno() if failed else 0
    cause = read(f"/sys/module/{KEPT}/ksplice/abort_cause").decode().strip()
    said = read(f"/sys/module/{KEPT}/ksplice/mismatch").decode().strip()
    if not failed:
        libc.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK)
    left = [n for n in os.listdir("/sys/module") if n.startswith("ksplice_") and n != KEPT]
    left += os.listdir("/sys/kernel/livepatch")
    print(json.dumps([error, cause, said, left]))
"""

DUMPER: Final = """\
import struct, sys
with open("/proc/kcore", "rb") as core, open("/root/memory", "wb") as out:
    head = core.read(64)
    (at,), (size, number) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
    core.seek(at)
    parts = [struct.unpack_from("<IIQQQQ", core.read(size)) for _ in range(number)]
    for start, length in zip(map(int, sys.argv[1::2]), map(int, sys.argv[2::2])):
        offset = next(p[2] + start - p[3] for p in parts if p[3] <= start < p[3] + p[5])
        core.seek(offset)
        out.write(core.read(length))
"""

COUNTER: Final = """\
import glob, json, time
caches = [open(path, "w") for path in glob.glob("/sys/kernel/slab/kmalloc-*/shrink")]
def count():
    for cache in caches:
        cache.write("1")
        cache.flush()
    with open("/proc/slabinfo") as f:
        rows = [line.split() for line in f if line.startswith("kmalloc-")]
    with open("/proc/vmallocinfo") as f:
        return {"vmalloc": sum(1 for line in f)} | {name: int(used) for name, used, *_ in rows}
counts = []
for _ in range(10):
    time.sleep(0.2)
    counts.append(count())
print(json.dumps({name: min(each[name] for each in counts) for name in counts[0]}))
"""
"""A processor's slabs count as given out, whatever of them is free: they are shrunk just before."""


class Damage(NamedTuple):
    """A module of the update before and after something was done to it."""

    kind: str
    module: str
    good: bytes
    bad: bytes
    tables: bytes
    """The damaged ones of old code."""


class Outcome(NamedTuple):
    """What the kernel said to one module."""

    error: int
    cause: str
    mismatch: str
    left: list[str]


@pytest.fixture(scope="module", params=[stock_kernel, next_kernel], ids=["6.1", "6.12"])
def kernel(request: pytest.FixtureRequest, lab_cache: Cache) -> KernelPackages:
    packages: KernelPackages = request.param(lab_cache)
    return packages


@pytest.fixture
def guest(lab_cache: Cache, kernel: KernelPackages) -> Iterator[Guest]:
    image = build_image(kernel)
    machine = Machine(image=image, accelerator=probe_accelerator(lab_cache, image.kernel))
    with Guest(take_snapshot(lab_cache, machine)) as running:
        yield running


@pytest.fixture(scope="module")
def made(
    lab_cache: Cache, kernel: KernelPackages, tmp_path_factory: pytest.TempPathFactory
) -> bundle.Bundle:
    fix = sample.FCNTL if kernel.version == stock_kernel(lab_cache).version else sample.DCACHE
    folder = tmp_path_factory.mktemp("hostile")
    tree = sample.source_tree(lab_cache, kernel)
    patches = [
        write_patch(tree, folder / "edits.patch", ROMFS, TSC),
        sample.cut_patch(lab_cache, fix.old, fix.new, [fix.file]),
    ]
    return make_bundle(lab_cache, kernel, KID, patches)


class Victim:
    """A guest with a core to load things beside."""

    def __init__(self, guest: Guest, made: bundle.Bundle) -> None:
        self.guest, self.update = guest, Update(guest, made)
        self.core = core_module(KID)
        guest.put("/root/loader.py", LOADER.encode())
        guest.put("/root/dumper.py", DUMPER.encode())
        guest.put("/root/counter.py", COUNTER.encode())
        guest.run("dmesg -n 1; modprobe romfs")
        self.update.insmod(self.core)
        self.kallsyms = guest.run("cat /proc/kallsyms").out

    def memory(self, target: str) -> Memory:
        """Copy what the kernel and the target run."""
        symbols, of_target = read_symbols(self.kallsyms, target)
        (start,), (end,) = symbols["_text"], symbols["_edata"]
        places = [(start, end - start), *self._areas_of("romfs")]
        words = [str(n) for place in sorted(places) for n in place]
        self.guest.run(["python3", "/root/dumper.py", *words])
        data = self.guest.get("/root/memory")
        pieces = []
        for address, size in sorted(places):
            pieces.append((address, data[:size]))
            data = data[size:]
        return Memory(symbols=symbols, target_symbols=of_target, pieces=pieces)

    def _areas_of(self, module: str) -> list[tuple[int, int]]:
        """Return where a module lies; since 6.4 code, constants and data each have an area."""
        find = f"find /sys/module/{module}/sections -type f ! -name .init* ! -name .*tab"
        words = self.guest.run(f"cat $({find})").out.split()
        areas: list[tuple[int, int]] = []
        for page in sorted({int(word, 16) // PAGE * PAGE for word in words}):
            start, size = areas[-1] if areas else (0, 0)
            if page - start - size > NEAR:
                areas.append((page, PAGE))
            else:
                areas[-1] = start, page + PAGE - start
        return areas

    def load(self, damages: Sequence[Damage]) -> list[Outcome]:
        """Load damaged modules, and unload what was taken."""
        lines = [
            json.dumps(
                {
                    "module": damage.module,
                    "edits": edits_between(damage.good, damage.bad),
                    "size": len(damage.bad),
                }
            )
            for damage in damages
        ]
        stdin = "".join(f"{line}\n" for line in lines).encode()
        said = self.guest.run(
            ["python3", "/root/loader.py", self.core], stdin=stdin, timeout=300
        ).out.splitlines()
        assert len(said) == len(damages)
        return [Outcome(*json.loads(line)) for line in said]

    def memory_in_use(self) -> Counter[str]:
        """Return how many objects each cache of kmalloc, and vmalloc, have given out."""
        return Counter(json.loads(self.guest.run("python3 /root/counter.py").out))


@pytest.fixture
def victim(guest: Guest, made: bundle.Bundle) -> Victim:
    return Victim(guest, made)


def damage_tables(victim: Victim, number: int) -> Damage:
    """Damage the tables of one of the targets."""
    name = old_module(KID, TARGETS[number % 2])
    ko = victim.update.bundle.files[f"{name}.ko"]
    tables = tables_in(ko)
    kind, damaged = mutate_tables(tables, f"{SEED}-{number}")
    return Damage(kind, name, ko, ko.replace(tables, damaged), damaged)


def damage_new_code(victim: Victim, number: int) -> Damage:
    """Damage the new code, which has no tables."""
    name, manifest = new_module(KID), victim.update.bundle.manifest
    ko = victim.update.bundle.files[f"{name}.ko"]
    functions = [f.name for target in manifest.targets for f in target.functions]
    strangers = ["do_rmdir", "do_mkdirat"]
    kind, damaged = mutate_new_code(ko, f"{SEED}-new-{number}", functions, strangers)
    return Damage(kind, name, ko, damaged, b"")


def check_old_code(victim: Victim, numbers: Sequence[int]) -> Counter[str]:
    """Damage the tables of both targets in turn; return how often each verdict was given."""
    memories = {old_module(KID, target): victim.memory(target) for target in TARGETS}
    damages = [damage_tables(victim, number) for number in numbers]
    expected = [
        judge(
            damage.tables, tables_in(damage.good), memories[damage.module],
            is_module=damage.module != old_module(KID, "vmlinux"),
        )
        for damage in damages
    ]  # fmt: skip
    wrong = [
        f"{number} ({damage.kind} in {damage.module}): should {verdict}, is {outcome}"
        for number, damage, verdict, outcome in zip(
            numbers, damages, expected, victim.load(damages), strict=True
        )
        if outcome.cause not in CAUSES[verdict]
        or (outcome.error == 0) is not (outcome.cause == "ok")
        or outcome.left
    ]
    assert not wrong, "\n".join(wrong)
    return Counter(expected)


def check_new_code(victim: Victim, numbers: Sequence[int]) -> Counter[str]:
    """Damage the new code; return how often each kind of damage was done."""
    damages = [damage_new_code(victim, number) for number in numbers]
    wrong = [
        f"new code {number} ({damage.kind}): {outcome}"
        for number, damage, outcome in zip(numbers, damages, victim.load(damages), strict=True)
        if not outcome.error or outcome.left
    ]
    assert not wrong, "\n".join(wrong)
    return Counter(damage.kind for damage in damages)


def tables_in(ko: bytes) -> bytes:
    start = ko.index(b"KOLD")
    return ko[start : start + Blob(ko[start:]).size]


def test_damage_is_refused_and_nothing_stays(victim: Victim) -> None:
    guest, counts = victim.guest, Counter[str]()
    files = victim.update.bundle.files
    names = [old_module(KID, target) for target in TARGETS]
    good = [(name, files[f"{name}.ko"]) for name in names]
    undamaged = [Damage("none", name, ko, ko, b"") for name, ko in good]
    for first in range(0, MUTATIONS, CHUNK):
        numbers = range(first, min(first + CHUNK, MUTATIONS))
        counts += check_old_code(victim, [n for n in numbers if n % NEW_CODE])
        for outcome in victim.load(undamaged):
            assert (outcome.error, outcome.cause) == (0, "ok"), "undamaged, it still matches"
        counts += check_new_code(victim, [n for n in numbers if not n % NEW_CODE])
        log = guest.run("dmesg --notime --read-clear").out
        assert not has_complaint(log), log
    sys.stdout.write(f"{MUTATIONS} mutations: {dict(counts)}\n")

    victim.update.rmmod(victim.core)
    assert is_clean(guest)
    victim.update.apply()
    victim.update.undo()
    assert is_clean(guest)
    assert not has_complaint(guest.kernel_log())


def test_refusals_leave_no_memory(victim: Victim) -> None:
    """The same modules again and again: what each time leaves, however little, shows."""
    damages = [
        (damage_tables if number % NEW_CODE else damage_new_code)(victim, number)
        for number in range(REPEATED)
    ]
    counts = []
    for _ in range(1 + ROUNDS):
        victim.load(damages)
        counts.append(victim.memory_in_use())
    growth = {
        name: [after[name] - before[name] for before, after in pairwise(counts)]
        for name in counts[0]
    }
    assert not {name: rounds for name, rounds in growth.items() if min(rounds) > FEW}
