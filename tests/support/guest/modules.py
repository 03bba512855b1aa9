# SPDX-License-Identifier: GPL-2.0-only
"""An update of two modules and of vmlinux, and checks of whether it is applied."""

import struct
from pathlib import Path

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.create.stock.module import find_stock_module
from ksplicd.distro.packages import KernelPackages
from ksplicd.elf.read import read_object
from ksplicd.lab.guest import Guest
from tests.support.guest.hand import (
    Edit,
    make_bundle,
    write_patch,
)
from tests.support.kernels import slice as sample

KID = "modules1"
ROMFS_KID = "romfs001"
"""Of the update of ROMFS alone."""
ROMFS = Edit("fs/romfs/super.c", "inval:\n\tret = -EINVAL;", "inval:\n\tret = -EUCLEAN;")
VFAT = tuple(
    Edit("fs/fat/namei_vfat.c", f"return {call};", f"return {call} ? -EUCLEAN : 0;")
    for call in ("fat_fill_super(sb, data, silent, 1, setup)", "fat_fill_super(sb, fc, setup)")
)
"""The same on 6.1 and on 6.12."""
OLD, NEW = "Invalid argument", "Structure needs cleaning"
MOUNT = "busybox mount -r -t {} /dev/loop0 /mnt"
"""Says what mount(2) has returned, which mount(8) of util-linux puts in other words."""


def make_modules_bundle(
    cache: Cache, kernel: KernelPackages, fix: sample.Fix, folder: Path
) -> bundle.Bundle:
    """Make the update of ROMFS, VFAT and a fix of vmlinux."""
    tree = sample.source_tree(cache, kernel)
    edits = ROMFS, next(e for e in VFAT if e.old in sample.read_source(tree, e.path))
    patches = [
        write_patch(tree, folder / "modules.patch", *edits),
        sample.cut_patch(cache, fix.old, fix.new, [fix.file]),
    ]
    return make_bundle(cache, kernel, KID, patches)


def prepare_mounts(guest: Guest) -> None:
    """Let ``mount`` be called."""
    guest.run(
        "[ -e /root/rubbish ] || { truncate -s 64k /root/rubbish; modprobe loop;"
        " losetup /dev/loop0 /root/rubbish; }"
    )


def mount(guest: Guest, *names: str) -> list[str]:
    """Try to mount rubbish; return what the kernel says, which loads the file systems."""
    done = guest.run("; ".join(MOUNT.format(name) for name in names), check=False)
    said = [line.rpartition(" failed: ")[2] for line in done.err.splitlines()]
    assert len(said) == len(names), done.err
    return said


def insmod(guest: Guest, ko: bytes) -> bool:
    """Load a module in one try; tell whether the kernel took it."""
    guest.put("/root/altered.ko", ko)
    return guest.run("insmod /root/altered.ko", check=False).status == 0


def altered_romfs(kernel: KernelPackages) -> bytes:
    """Return romfs with another magic number in a function that the update leaves alone."""
    data = find_stock_module(kernel.modules(), "romfs")
    functions = read_object(data, "romfs.ko").functions()
    statfs = next(s for s in functions if s.name == "romfs_statfs")
    assert statfs.section is not None
    code = bytes(statfs.section.data[statfs.value : statfs.value + statfs.size])
    magic = struct.pack("<I", 0x7275)  # ROMFS_MAGIC, include/uapi/linux/magic.h
    assert (data.count(code), code.count(magic)) == (1, 1)
    # struct module_signature and the words behind it; without a signature the module is taken
    (size,) = struct.unpack(">I", data[-32:-28])
    data = data[: -40 - size]
    return data.replace(code, code.replace(magic, struct.pack("<I", 0x7276)))
