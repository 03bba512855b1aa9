# SPDX-License-Identifier: GPL-2.0-only
"""Loading of a large update: 500 functions, 3,000 references to 1,500 symbols.

The new functions go on in the old ones, behind the call that led to them; what follows that jump
nobody runs: it refers to further symbols of the kernel.  The floor is the same module with all its
references as livepatch's own, as it is filled in on kernels without a core of ours.
"""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.modules.build import build_modules
from ksplicd.create.modules.filled import OBJECT
from ksplicd.create.new_code.model import NewCode, Redirected
from ksplicd.create.old_code.sites import SiteKind
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.distro.packages import KernelPackages
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import VMLINUX, core_module, new_module, old_module
from ksplicd.run import run
from tests.bench.create import codes_of
from tests.bench.figures import UPSTREAM, Figure, median
from tests.bench.in_guest import LIMIT
from tests.support.kernels.slice import FCNTL, cut_patch, request_for
from tests.support.old_code.blob import Blob

_KID: Final = "benchlrg"
_FUNCTIONS: Final = 500
_SYMBOLS: Final = 1500
_REFERENCES: Final = 6
"""Of a function: to itself as it was, and to others."""
_ROUNDS: Final = 3
_UNITS: Final = (
    "fs/namei.c", "kernel/sys.c", "net/core/dev.c", "net/ipv4/tcp_input.c", "mm/memory.c",
    "fs/ext4/inode.c", "net/core/skbuff.c", "net/core/sock.c", "fs/dcache.c",
)  # fmt: skip
_PHASES: Final = {
    "looked up": "enabling patch",
    "redirected": "starting patching transition",
}
"""What livepatch says in the kernel's log when a part of its work is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeUpdate:
    """Core, old code and new code, and the new code as livepatch alone fills it in."""

    files: dict[str, bytes]
    plain: bytes


def traceable(tables: bytes) -> Iterator[tuple[str, int]]:
    """Yield functions of old code whose names are unique, and where their call of fentry ends."""
    for function in Blob(tables).functions():
        name, position = function.sym
        calls = [s.offset + s.size for s in function.sites if s.kind == SiteKind.FENTRY]
        if not position and calls and "." not in name:
            yield name, calls[0]


def names_in(system_map: str) -> list[str]:
    """Return the names that one function or variable of the kernel has."""
    found = re.findall(r"^[0-9a-f]+ [tTdDbBrR] (\w+)$", system_map, re.MULTILINE)
    counts: dict[str, int] = {}
    for name in re.findall(r" (\S+)$", system_map, re.MULTILINE):
        counts[name] = counts.get(name, 0) + 1
    return [name for name in found if counts[name] == 1 and not name.startswith("__init")]


def write_assembly(functions: list[tuple[str, int]], others: list[str]) -> str:
    """Return the new code."""
    lines = []
    for i, (name, behind) in enumerate(functions):
        calls = (others[(5 * i + n) % len(others)] for n in range(_REFERENCES - 1))
        lines += [
            f'.section .text.{name},"ax",@progbits',
            f".globl ksplice_new_{i}",
            f".type ksplice_new_{i}, @function",
            f"ksplice_new_{i}:",
            f'jmp ".klp.sym.vmlinux.{name},0"+{behind}',
            *(f'call ".klp.sym.vmlinux.{called},0"' for called in calls),
            f".size ksplice_new_{i}, .-ksplice_new_{i}",
        ]
    return "\n".join([*lines, ""])


def make_update(cache: Cache, kernel: KernelPackages) -> LargeUpdate:
    """Build the update."""
    patch = cut_patch(cache, FCNTL.old, FCNTL.new, [FCNTL.file])
    request = request_for(cache, kernel, patch, kid=_KID)
    old_code, _ = codes_of(request, _UNITS)
    config = read_config_dir(request.config)
    functions = list(traceable(old_code[VMLINUX]))[:_FUNCTIONS]
    assert len(functions) == _FUNCTIONS
    taken = {name for name, _ in functions}
    names = [name for name in names_in(config.system_map.read_text()) if name not in taken]
    count = _SYMBOLS - _FUNCTIONS
    others = names[:: len(names) // count][:count]
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as scratch:
        folder = Path(scratch)
        (folder / "large.s").write_text(write_assembly(functions, others))
        run(["gcc", "-c", "-o", folder / "large.o", folder / "large.s"])
        objtool = kernel.install_headers() / "tools/objtool/objtool"
        run([objtool, "--orc", "--module", folder / "large.o"])  # as kbuild does with what it makes
        new = NewCode(
            unit="large",
            target=VMLINUX,
            obj=read_object((folder / "large.o").read_bytes(), "large.o"),
            redirected=tuple(
                Redirected(name=name, sympos=0, alias=f"ksplice_new_{i}", reason="")
                for i, (name, _) in enumerate(functions)
            ),
        )
        (folder / "build").mkdir()
        modules = build_modules(folder / "build", _KID, config, old_code, [new])
    files = dict(modules.files)
    return LargeUpdate(files=files, plain=as_livepatch(files[modules.new]))


def as_livepatch(ko: bytes) -> bytes:
    """Return a module whose references livepatch fills in."""
    obj = read_object(ko, "the new code")
    for section in obj.livepatch:
        section.name = section.name.replace(f".{OBJECT}.", f".{VMLINUX}.", 1)
    return write_object(obj)


class Loader:
    """The update in a guest."""

    def __init__(self, guest: Guest, update: LargeUpdate) -> None:
        self.guest, self.update = guest, update
        self.core, self.old = core_module(_KID), old_module(_KID, VMLINUX)
        self.new = new_module(_KID)
        for name, content in update.files.items():
            guest.put(f"/root/{name}", content)
        guest.put(f"/root/plain/{self.new}.ko", update.plain)

    def load(self, folder: str = "/root") -> dict[str, float]:
        """Load, wait for the transition, undo, unload; return the seconds of the parts."""
        self.guest.run(f"insmod /root/{self.core}.ko && insmod /root/{self.old}.ko")
        self.guest.run("dmesg --clear")
        line = f"cat /proc/uptime; insmod {folder}/{self.new}.ko {UPSTREAM}; cat /proc/uptime"
        out = self.guest.run(line, timeout=10 * LIMIT).out.split()
        begin, end = float(out[0]), float(out[2])
        log = self.guest.run(["dmesg"]).out
        sys = f"/sys/kernel/livepatch/{self.new}"
        self.guest.run(f"until [ $(cat {sys}/transition) = 0 ]; do sleep 0.1; done")
        self.guest.run(f"echo 0 >{sys}/enabled", timeout=10 * LIMIT)
        self.guest.run(f"while [ -e {sys} ]; do sleep 0.1; done", timeout=10 * LIMIT)
        unload = f"until rmmod {self.new} {self.old} {self.core}; do sleep 1; done"
        self.guest.run(unload, timeout=10 * LIMIT)  # ftrace lets go of each function by itself
        return {"loaded": end - begin, **phases(log, begin)}


def phases(log: str, begin: float) -> dict[str, float]:
    """Return the seconds since ``begin`` after which livepatch said what."""
    found = {}
    for name, words in _PHASES.items():
        (at,) = re.findall(rf"^\[ *([0-9.]+)\].*{words}", log, re.MULTILINE)
        found[name] = float(at) - begin
    return found


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures."""
    image = build_image(kernel)
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
    snapshot = take_snapshot(cache, machine)
    update = make_update(cache, kernel)
    to_stderr(f"load: {_ROUNDS} rounds, and one of livepatch's")
    with Guest(snapshot) as guest:
        loader = Loader(guest, update)
        rounds = [loader.load() for _ in range(_ROUNDS)]
        plain = loader.load("/root/plain")
    loaded = median([r["loaded"] for r in rounds], 2)
    looked_up = median([r["looked up"] for r in rounds], 2)
    redirected = median([r["redirected"] for r in rounds], 2)
    text = "the same module with livepatch's references"
    return [
        Figure(
            name="load, 500 functions, 3,000 references", value=loaded, unit="s",
            floor=round(plain["loaded"], 2), about=f"{text}; goal: 5",
        ),
        Figure(
            name="load, until all functions are looked up", value=looked_up, unit="s",
            floor=round(plain["looked up"], 2), about=text,
        ),
        Figure(
            name="load, redirecting the functions", value=round(redirected - looked_up, 2),
            unit="s", floor=round(plain["redirected"] - plain["looked up"], 2), about=text,
        ),
    ]  # fmt: skip
