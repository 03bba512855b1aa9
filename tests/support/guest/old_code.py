# SPDX-License-Identifier: GPL-2.0-only
"""Old code of many functions at once, to match a stock kernel with, without new code."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of, digest_of_file
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit
from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.old_code.sites import read_sites
from ksplicd.create.old_code.tables import OldUnit, write_old_code
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.stock.config_dir import ConfigDir, read_config_dir
from ksplicd.create.stock.image import read_image
from ksplicd.create.stock.match import match_unit
from ksplicd.create.stock.system_map import SymbolMap, read_system_map
from ksplicd.distro.packages import KernelPackages
from ksplicd.elf.read import read_object
from ksplicd.run import run
from tests.support.kernels.slice import config_folder, source_tree
from tests.support.kernels.store import digest_of_code, digests_of_config, tools

KID = "match001"
CORE, OLD = f"ksplice_{KID}", f"ksplice_{KID}_vmlinux_old"
UNITS = (
    "fs/fcntl.c", "fs/fsopen.c", "fs/namei.c", "fs/read_write.c", "kernel/fork.c", "kernel/sys.c",
    "kernel/time/time.c", "mm/memory.c", "net/ipv4/tcp_input.c", "block/bio.c", "block/ioprio.c",
    "arch/x86/kernel/process.c", "arch/x86/kernel/alternative.c", "fs/dcache.c",
)  # fmt: skip
_KEPT: Final = 8
"""Kernels and states of the code whose old code is kept, 2 MB each; those used last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OldCode:
    """Core and old-code module, and the tables inside the latter."""

    core: bytes
    old: bytes
    tables: bytes

    def with_tables(self, tables: bytes) -> bytes:
        """Return the old-code module with other tables of the same size."""
        assert len(tables) == len(self.tables)
        at = self.old.index(self.tables)
        return self.old[:at] + tables + self.old[at + len(tables) :]


def make_old_code(cache: Cache, kernel: KernelPackages) -> OldCode:
    """Return the old code of ``UNITS`` in a stock kernel, compiled once for all runs."""
    config = read_config_dir(config_folder(cache, kernel))

    def make(folder: Path) -> None:
        units, symbols = _match_units(cache, kernel, config)
        tables = write_old_code("vmlinux", units, symbols)
        (folder / "tables").write_bytes(tables)
        with tempfile.TemporaryDirectory(prefix="ksplice-old-") as scratch:
            core, old = _build(Path(scratch), config.build, tables)
        (folder / "core").write_bytes(core)
        (folder / "old").write_bytes(old)

    made_by = [digest_of_file(Path(__file__)), digest_of_code(), tools(config.compiler)]
    made_of = [kernel.release, kernel.version, digests_of_config(config)]
    made = cache.entry("old-code", digest_of(made_by, made_of), make)
    cache.prune("old-code", keep=_KEPT)
    files = {name: (made / name).read_bytes() for name in ("core", "old", "tables")}
    return OldCode(**files)


def _build(folder: Path, headers: Path, tables: bytes) -> tuple[bytes, bytes]:
    """Return core and old-code module."""
    for source in kmodsrc().iterdir():
        if source.suffix in (".c", ".h") or source.name == "Kbuild":
            shutil.copy(source, folder / source.name)
    (folder / "vmlinux.old").write_bytes(tables)
    made = {"M": folder, "KSPLICE_KID": KID, "KSPLICE_TARGETS": "vmlinux"}
    made |= {"KCFLAGS": "-g0", "CONFIG_DEBUG_INFO_BTF_MODULES": ""}
    arguments = [f"{name}={value}" for name, value in made.items()]
    run(["make", "-C", headers, "KBUILD_MODPOST_WARN=1", *arguments, "modules"])
    core, old = (
        write_livepatch_module((folder / f"{name}.ko").read_bytes(), name) for name in (CORE, OLD)
    )
    return core, old


def _match_units(
    cache: Cache, kernel: KernelPackages, config: ConfigDir
) -> tuple[list[OldUnit], SymbolMap]:
    """Return units of a stock kernel and its symbols."""
    source = SourceTree(source_tree(cache, kernel))
    build_tree = BuildTree(source, config, cache.root, jobs=2, progress=cache.progress)
    kbuild = Kbuild(build_tree)
    units = [Unit(source) for source in UNITS]
    with source.lock(cache.progress), build_tree.prepared():
        paths = kbuild.compile_plain(units)
        objects = [read_object(paths[u].read_bytes(), u.object) for u in units]
        sizes = kbuild.entry_sizes(units[0])
    assert config.vmlinuz is not None
    image = read_image(config.vmlinuz.read_bytes())
    symbols = SymbolMap(read_system_map(config.system_map.read_text()))
    matched = [
        OldUnit(match=match_unit(o, image, symbols), sites=read_sites(ObjectIndex(o, sizes)))
        for o in objects
    ]
    return matched, symbols
