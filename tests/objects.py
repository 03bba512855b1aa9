# SPDX-License-Identifier: GPL-2.0-only
"""Every object of a kernel, read, written and compared with itself.

python -m tests.objects [FOLDER ...]

Compiles folders of the stock kernel with one section a symbol, or takes the objects below folders
that are given by an absolute path.  For each x86-64 object: ``write_object(read_object(x)) == x``,
the entry sizes read from it are those of the kernel's headers, and ``diff(x, x)`` is empty.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.build.compiler import SPLIT, Kbuild
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.entry_sizes import infer_sizes
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.patch.source_tree import SourceTree
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.errors import KspliceError
from tests.support.kernels import slice as sample
from tests.support.kernels.stock import stock_kernel

FOLDERS: Final = ("kernel", "mm", "block", "ipc", "lib", "fs", "net/core", "net/ipv4",
                  "net/netfilter", "drivers/virtio", "drivers/net", "arch/x86/kvm")  # fmt: skip
"""Some 1,800 objects, half of them of modules."""

_ELF_64: Final = b"\x7fELF\x02\x01"
_RELOCATABLE: Final = b"\x01\x00\x3e\x00"
"""e_type and e_machine behind e_ident."""


def check(path: Path, expected: EntrySizes) -> str | None:
    """Return what is wrong with an object, None when nothing is."""
    data = path.read_bytes()
    try:
        pre, post = read_object(data, str(path)), read_object(data, str(path))
        if write_object(pre) != data:
            return "is not written as it was read"
        sizes = infer_sizes([pre])
        wrong = {name: size for name, size in sizes.items() if expected.get(name, size) != size}
        if wrong:
            return f"tells entry sizes that the headers do not: {wrong}"
        d = diff(index_separated(pre, sizes), index_separated(post, sizes))
        found = [
            *d.changed,
            *d.new,
            *d.removed,
            *d.boot,
            *d.copied_constants,
            *d.refusals,
            *d.notes,
        ]
        return f"differs from itself: {found[:3]}" if found else None
    except (KspliceError, AssertionError, LookupError, ValueError, TypeError) as e:
        return f"{type(e).__name__}: {e}"


def find_objects(folder: Path) -> Iterator[Path]:
    """Yield the x86-64 relocatable objects below a folder; boot code of 32 bits is none."""
    for path in sorted(folder.rglob("*.o")):
        with path.open("rb") as f:
            head = f.read(20)
        if head[:6] == _ELF_64 and head[16:] == _RELOCATABLE:
            yield path


def compile_folders(cache: Cache, folders: Sequence[str]) -> tuple[list[Path], EntrySizes]:
    """Compile folders of the stock kernel; return them, and the sizes its headers tell."""
    kernel = stock_kernel(cache)
    request = sample.request_for(cache, kernel, Path("none"), kid="objects0")
    config = read_config_dir(request.config)
    config = replace(config, flags=(*config.flags, f"KCFLAGS={' '.join(SPLIT)}"))
    source = SourceTree(request.source)
    tree = BuildTree(source, config, request.cache, jobs=cpu_count() or 1, progress=to_stderr)
    kbuild = Kbuild(tree)
    with source.lock(), tree.prepared():
        unit = Unit("fs/fcntl.c")
        kbuild.compile_plain([unit])
        sizes = kbuild.entry_sizes(unit)
        for folder in folders:
            to_stderr(f"compiling {folder}")
            tree.make(f"{folder}/")
    return [tree.output / folder for folder in folders], sizes


def main() -> int:
    """Check all objects, print what is wrong and how many were checked."""
    begin = time.monotonic()
    words = sys.argv[1:] or FOLDERS
    folders = [Path(w) for w in words if w.startswith("/")]
    sizes: EntrySizes = {}
    try:
        if len(folders) < len(words):
            made, sizes = compile_folders(
                Cache(progress=to_stderr), [w for w in words if w[0] != "/"]
            )
            folders += made
    except KspliceError as e:
        to_stderr(f"objects: {e}")
        return 1
    paths = list(dict.fromkeys(path for folder in folders for path in find_objects(folder)))
    to_stderr(f"checking {len(paths)} objects")
    wrong = 0
    with ProcessPoolExecutor() as pool:
        results = pool.map(partial(check, expected=sizes), paths, chunksize=16)
        for path, fault in zip(paths, results, strict=True):
            if fault is not None:
                wrong += 1
                sys.stdout.write(f"{path}: {fault}\n")
    seconds = time.monotonic() - begin
    sys.stdout.write(f"objects: {len(paths) - wrong}/{len(paths)}, {seconds:.0f} s\n")
    return 1 if wrong or not paths else 0


if __name__ == "__main__":
    sys.exit(main())
