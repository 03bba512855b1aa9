# SPDX-License-Identifier: GPL-2.0-only
"""Run the kernel's own tools on kmodsrc/: checkpatch.pl, kernel-doc, gcc (W=1) and sparse.

checkpatch, ``--strict``, sees each file as a whole, kernel-doc every struct; the compilers see the
modules of an update that uses all of them, for both kernels under test.  Their headers are
installed; they and the source package come from this machine's apt sources.
"""

import re
import sys
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.diff.values import SIZES
from ksplicd.create.modules.build import make_command, write_sources
from ksplicd.create.new_code.model import (
    Anchored,
    HookCall,
    NewCode,
    Redirect,
    Redirected,
    RedirectKind,
)
from ksplicd.create.new_code.tripwires import name_in_core
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.distro.packages import KernelPackages
from ksplicd.distro.source import KernelSource
from ksplicd.elf.model import SHF_ALLOC, SHF_WRITE, STB_GLOBAL, Object, Relocation, Section, Symbol
from ksplicd.elf.x86_64 import R_X86_64_64
from ksplicd.errors import KspliceError
from ksplicd.run import run_any
from tests.support.kernels.slice import config_folder
from tests.support.kernels.stock import VERSION, next_kernel, stock_kernel

ROOT: Final = Path(__file__).parent.parent.parent
SCRIPTS: Final = tuple(
    f"scripts/{name}"
    for name in ("checkpatch.pl", "kernel-doc", "spelling.txt", "const_structs.checkpatch")
)
STRUCT: Final = re.compile(r"^(?:static )?struct (\w+) \{", re.MULTILINE)
KID: Final = "lint0000"
COMPLAINT: Final = re.compile(r"\b(?:error|warning|note)\b", re.IGNORECASE)
UNDEFINED: Final = re.compile(r"WARNING: modpost: (?:.* undefined!|suppressed \d+ unresolved)")
"""The sample's functions are nowhere, and livepatch symbols never are."""


def check_files(cache: Cache) -> str:
    """Return what checkpatch and kernel-doc have to say, and what has no kernel-doc."""
    sources = sorted([*ROOT.glob("kmodsrc/*.c"), *ROOT.glob("kmodsrc/**/*.h")])
    scripts = KernelSource(cache=cache, version=VERSION).files(SCRIPTS)
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in scripts.items():
            path = Path(scratch) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        options = ["--strict", "--no-tree", "--terse", "--summary-file", "--max-line-length=100"]
        script = Path(scratch) / SCRIPTS[0]
        status, out, err = run_any(["perl", script, *options, "-f", *sources])
        _, _, said = run_any(["perl", Path(scratch) / SCRIPTS[1], "-none", *sources])
    return ((out + err if status else b"") + said).decode(errors="replace") + "".join(
        f"{path.name}: struct {name} has no kernel-doc\n"
        for path in sources
        for name in STRUCT.findall(path.read_text())
        if f"/**\n * struct {name} - " not in path.read_text()
    )


def sample_update() -> list[NewCode]:
    """Return new code that makes kbuild compile every file."""
    units = []
    for i, target in enumerate(("vmlinux", "ext4")):
        called = Symbol(name_in_core(KID), bind=STB_GLOBAL)
        data = Section(".data", flags=SHF_ALLOC | SHF_WRITE, data=bytes(8), align=8)
        data.relocations = [Relocation(0, R_X86_64_64, called, 0)]
        obj = Object(f"unit{i}", sections=[data], symbols=[called])
        function = Redirected(name="f", sympos=0, alias=f"ksplice_new_{i}", reason="")
        hook = HookCall(kind="apply", alias=f"ksplice_hook_{i}")
        linked = Redirected(name="h", sympos=0, alias="g", reason="")
        redirects = [
            Redirect(kind=kind, name="g", sympos=0, place="g", new=function.alias, reason="")
            for kind in RedirectKind
            if kind is not RedirectKind.VALUE
        ]
        redirects += [
            Redirect(
                kind=RedirectKind.VALUE, name="g", sympos=0, place="g", new="", reason="",
                value=(bytes(size), bytes([1] * size)),
            )
            for size in SIZES
        ]  # fmt: skip
        units.append(
            NewCode(
                unit=obj.name,
                target=target,
                obj=obj,
                redirected=(function, linked),
                hooks=(hook,),
                redirects=tuple(redirects),
                anchors=(Anchored(function=function.name, alias=function.alias),),
                keeps_code=True,
            )
        )
    return units


def kbuild(cache: Cache, kernel: KernelPackages) -> str:
    """Return what gcc (W=1), objtool, modpost and sparse have to say."""
    config = read_config_dir(config_folder(cache, kernel))
    update = sample_update()
    old_code = {unit.target: bytes(64) for unit in update}
    with tempfile.TemporaryDirectory() as scratch:
        write_sources(Path(scratch), old_code, update)
        command = make_command(Path(scratch), KID, config, old_code, update)
        status, out, err = run_any([*command, "W=1", "C=1"])
        lines = (out + err).decode(errors="replace").replace(f"{scratch}/", "").splitlines()
    found = [x for x in lines if COMPLAINT.search(x) and not UNDEFINED.match(x)]
    if status:
        found = lines
    return "".join(f"{kernel.release}: {line}\n" for line in found)


def main() -> int:
    """Return the exit status; what is found goes to standard output."""
    cache = Cache(progress=to_stderr)
    try:
        said = check_files(cache) + kbuild(cache, stock_kernel(cache))
        said += kbuild(cache, next_kernel(cache))
    except KspliceError as e:
        sys.stderr.write(f"lint-c: {e}\n")
        return 1
    sys.stdout.write(said)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
