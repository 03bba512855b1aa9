# SPDX-License-Identifier: GPL-2.0-only
"""A guest into which damaged modules of an update are loaded, and what happens there."""

import functools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from ksplicd import bundle
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import Update
from tests.support.old_code.mutate import edits_between
from tests.support.old_code.oracle import Memory, read_symbols

PAGE: Final = 4096
NEAR: Final = 2 * PAGE
"""Between two sections of one area; areas are further apart, or it does no harm."""

LOADER: Final = """\
import ctypes, json, os, sys
libc = ctypes.CDLL(None, use_errno=True)
INIT_MODULE, DELETE_MODULE, (CORE, *KEPT) = 175, 176, sys.argv[1:]
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
    failed = libc.syscall(INIT_MODULE, data, ctypes.c_ulong(len(data)), job["parameters"].encode())
    error = ctypes.get_errno() if failed else 0
    cause = read(f"/sys/module/{CORE}/ksplice/abort_cause").decode().strip()
    said = read(f"/sys/module/{CORE}/ksplice/mismatch").decode().strip()
    if not failed:
        libc.syscall(DELETE_MODULE, name.encode(), os.O_NONBLOCK)
    left = {n for n in os.listdir("/sys/module") if n.startswith("ksplice_")}
    left |= set(os.listdir("/sys/kernel/livepatch"))
    print(json.dumps([error, cause, said, sorted(left - {CORE, *KEPT})]))
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
    parameters: str = ""
    """Of the module."""


class Outcome(NamedTuple):
    """What the kernel said to one module."""

    error: int
    cause: str
    mismatch: str
    left: list[str]


class Victim:
    """A guest with a core to load things beside."""

    def __init__(self, guest: Guest, made: bundle.Bundle) -> None:
        self.guest, self.update = guest, Update(guest, made)
        self.core = self.update.core
        guest.put("/root/loader.py", LOADER.encode())
        guest.put("/root/dumper.py", DUMPER.encode())
        guest.put("/root/counter.py", COUNTER.encode())
        guest.run("dmesg -n 1; modprobe romfs")
        self.update.insmod(self.core)

    @functools.cached_property
    def _kallsyms(self) -> str:
        return self.guest.get("/proc/kallsyms").decode()

    def memories(self, *targets: str) -> list[Memory]:
        """Copy what the kernel and each target run."""
        found = [read_symbols(self._kallsyms, target) for target in targets]
        symbols, _ = found[0]
        (start,), (end,) = symbols["_text"], symbols["_edata"]
        places = [(start, end - start), *self._areas_of("romfs")]
        words = [str(n) for place in sorted(places) for n in place]
        self.guest.run(["python3", "/root/dumper.py", *words])
        data = self.guest.get("/root/memory")
        pieces = []
        for address, size in sorted(places):
            pieces.append((address, data[:size]))
            data = data[size:]
        return [Memory(symbols=s, target_symbols=own, pieces=pieces) for s, own in found]

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

    def load(self, damages: Sequence[Damage], *kept: str) -> list[Outcome]:
        """Load damaged modules, and unload what was taken; ``kept`` are loaded before and after."""
        lines = [
            json.dumps(
                {
                    "module": damage.module,
                    "edits": edits_between(damage.good, damage.bad),
                    "size": len(damage.bad),
                    "parameters": damage.parameters,
                }
            )
            for damage in damages
        ]
        stdin = "".join(f"{line}\n" for line in lines).encode()
        said = self.guest.run(
            ["python3", "/root/loader.py", self.core, *kept], stdin=stdin, timeout=300
        ).out.splitlines()
        assert len(said) == len(damages)
        return [Outcome(*json.loads(line)) for line in said]

    def memory_in_use(self) -> Counter[str]:
        """Return how many objects each cache of kmalloc, and vmalloc, have given out."""
        return Counter(json.loads(self.guest.run("python3 /root/counter.py").out))
