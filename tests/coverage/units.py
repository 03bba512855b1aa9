# SPDX-License-Identifier: GPL-2.0-only
"""Which source files a configuration compiles into the kernel and its modules.

kbuild itself is asked: ``make -n`` in a prepared tree in which nothing is compiled yet prints every
compile command.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Final

from ksplicd.create.config import ConfigDir
from ksplicd.create.kbuild import Kbuild
from ksplicd.create.source import SourceTree
from ksplicd.lab.cache import Cache, digest_of
from ksplicd.run import run_any

_VERSION: Final = 2
"""To be raised when this module makes something else of the same parts."""

_COMPILES: Final = re.compile(
    r" -c -o (?P<object>\S+\.o) (?P<source>\S+\.c)(?=$|[ ;])", re.MULTILINE
)
_LIST: Final = "units"

# Programs of their own that are linked with the kernel's compiler, but not into the kernel.
_OTHER_PROGRAMS: Final = (
    "arch/x86/boot/",
    "arch/x86/entry/vdso/",
    "arch/x86/purgatory/",
    "arch/x86/realmode/",
    "drivers/firmware/efi/libstub/",
    "scripts/",
    "tools/",
    "usr/",
)


def compiled_files(cache: Cache, config: ConfigDir, source: SourceTree) -> frozenset[str]:
    """Return the paths of the .c files that become objects of vmlinux or of a module.

    Takes half a minute on first use.  Raises ``CreateError`` when the tree cannot be prepared.
    """

    def make(folder: Path) -> None:
        cache.progress("asking kbuild which files the configuration compiles (half a minute)")
        kbuild = Kbuild(source, config, folder, jobs=2)
        with kbuild.prepared():
            printed = dry_run(kbuild)
        # A tree in which something was compiled would keep silent about that.
        shutil.rmtree(folder / "kbuild")
        found = parse_commands(printed, source.root)
        (folder / _LIST).write_text("".join(f"{path}\n" for path in sorted(found)))

    digest = digest_of(_VERSION, source.version(), str(source.root), config.text, config.release)
    return frozenset((cache.entry("coverage-units", digest, make) / _LIST).read_text().split())


def dry_run(kbuild: Kbuild) -> str:
    """Return what ``make -n`` prints in a prepared tree.

    It ends with an error, because it cannot make the files that its last steps read.
    """
    config = kbuild.config
    argv: list[str | Path] = [
        "make", "-n", "-k", "-C", kbuild.source.root, f"O={kbuild.output}", "ARCH=x86", "V=1",
        f"CC={config.compiler}", f"KERNELRELEASE={config.release}", "LOCALVERSION=",
        *config.flags, "vmlinux", "modules",
    ]  # fmt: skip
    _, out, _ = run_any(argv)
    return out.decode(errors="replace")


def parse_commands(printed: str, root: Path) -> set[str]:
    """Return the sources of all compile commands, as paths in the tree at ``root``."""
    found = set()
    for m in _COMPILES.finditer(printed):
        path = Path(os.path.normpath(m["source"]))  # arch/x86/kvm/../../../virt/kvm/eventfd.c
        if path.is_absolute():
            if not path.is_relative_to(root):
                continue
            path = path.relative_to(root)
        name = str(path)
        # not objects under another name than their source's
        made = Path(os.path.normpath(m["object"]))
        if made.with_suffix(".c") == path and not name.startswith(_OTHER_PROGRAMS):
            found.add(name)
    return found
