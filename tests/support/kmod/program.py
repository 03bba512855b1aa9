# SPDX-License-Identifier: GPL-2.0-only
"""Build the program, and run it on tables."""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from ksplicd.run import run, run_any
from tests.support.old_code.oracle import Memory

HERE: Final = Path(__file__).parent
KMODSRC: Final = HERE.parents[2] / "kmodsrc"
HEADERS: Final = (
    "linux/build_bug", "linux/cache", "linux/ctype", "linux/delay", "linux/elf", "linux/jump_label",
    "linux/kallsyms",
    "linux/kernel", "linux/mm", "linux/module", "linux/pgtable", "linux/printk", "linux/sched",
    "linux/slab", "linux/static_call", "linux/string", "linux/stringify", "linux/types",
    "linux/uaccess",
    "asm/extable", "asm/nops", "asm/nospec-branch", "asm/text-patching", "asm/unaligned",
)  # fmt: skip
CAUSES: Final = (
    "ok", "no_match", "failed_to_find", "bad_system_map", "target_not_loaded", "out_of_memory",
    "call_failed", "unexpected",
)  # fmt: skip
"""In the order of enum ksplice_cause."""


class Answer(NamedTuple):
    """What the program says to some tables."""

    cause: str
    kind: str
    where: str


def build(folder: Path) -> Path:
    """Compile kmodsrc's matching in ``folder``; return the program."""
    for name in HEADERS:
        path = folder / f"{name}.h"
        path.parent.mkdir(exist_ok=True)
        path.write_text('#include "stand_in.h"\n')
    program = folder / "match"
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    # a livepatch symbol's name cannot go through a PLT
    options = ["-g", "-O1", "-std=gnu11", "-fno-pic", "-no-pie", "-DKSPLICE_KID=abcdefgh"]
    options += ["-DKSPLICE_VISIT_HAS_MOD"]  # as in Linux 6.1, of which the prototypes are
    paths = [f"-I{folder}", f"-I{HERE}", f"-I{KMODSRC}"]
    sources = [HERE / "main.c", KMODSRC / "build_match.c"]
    run(["gcc", "-Wall", "-Werror", *options, *sanitize, *paths, *sources, "-o", program])
    return program


def match(
    program: Path,
    memory: Memory,
    blobs: Iterable[bytes],
    *,
    is_module: bool = False,
    pokes: Mapping[int, int] | None = None,
) -> list[Answer]:
    """Return the abort cause for each of the tables, and what differs where.

    ``pokes``: addresses, four at most, where there is an int3 until matching has slept so often.
    Raises ``AssertionError`` for a fault.
    """
    symbols = [
        struct.pack("<Q2B", address, in_target, len(name)) + name.encode()
        for in_target, table in enumerate((memory.symbols, memory.target_symbols))
        for name, addresses in table.items()
        for address in addresses
        if len(name) < 256
    ]
    pieces = [struct.pack("<QI", address, len(data)) + data for address, data in memory.pieces]
    said = [struct.pack("<I", len(symbols)), *symbols, struct.pack("<I", len(pieces)), *pieces]
    said += [struct.pack("<BI", is_module, len(blob)) + blob for blob in blobs]
    poked = [
        text for address, sleeps in (pokes or {}).items() for text in (hex(address), str(sleeps))
    ]
    status, out, err = run_any([program, *poked], stdin=b"".join(said))
    assert status == 0, err.decode(errors="replace")
    words = (line.split() for line in out.decode(errors="replace").splitlines())
    return [Answer(CAUSES[int(cause)], kind, where) for cause, kind, where in words]
