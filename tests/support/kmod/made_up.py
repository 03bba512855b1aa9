# SPDX-License-Identifier: GPL-2.0-only
"""A kernel that does not exist: tables with every kind of entry, and the memory that they match."""

import struct
from typing import Final, NamedTuple

from ksplicd.create.old_code.sites import SiteKind
from ksplicd.create.old_code.tables import (
    REF_BYTES,
    REF_SLOT,
    REF_SYM,
    _Func,
    _Reloc,
    _Site,
    _Writer,
)
from ksplicd.create.stock.system_map import SymbolMap

TEXT: Final = 0xFFFFFFFF81000000
DATA: Final = 0xFFFFFFFF82000000
PC32, ABS32S, ABS64 = 2, 11, 1
NOP5: Final = b"\x0f\x1f\x44\x00\x00"
NOP7: Final = b"\x0f\x1f\x80\x00\x00\x00\x00"
CONTENT: Final = b"hello, world\0"
ADDRESSES: Final = {
    "_stext": TEXT, "_etext": TEXT + 0x10000, "first": TEXT + 0x100, "second": TEXT + 0x200,
    "callee": TEXT + 0x300, "tramp": TEXT + 0x400, "thunk": TEXT + 0x500,
    "__x86_return_thunk": TEXT + 0x500, "__x86_indirect_thunk_array": TEXT + 0x600,
    "content": DATA, "variable": DATA + 0x100, "key": DATA + 0x200, "pv_ops": DATA + 0x300,
    "unnamed": DATA + 0x400, "ftrace_caller": TEXT + 0x700, "ftrace_regs_caller": TEXT + 0x800,
    "__start___jump_table": DATA + 0x500, "__stop___jump_table": DATA + 0x540,
    "__start___ex_table": DATA + 0x600, "__stop___ex_table": DATA + 0x630,
}  # fmt: skip
ORDER: Final = 0x30007
"""What is done after a fault, of asm/extable_fixup_types.h."""
VALUE: Final = struct.pack("<Q", 0x1122334455667788)


class Part(NamedTuple):
    """Bytes of a function, one after the other."""

    code: bytes
    run: bytes | None = None
    """What runs, when it is not the code with its references."""
    refs: tuple[tuple[int, int, int, str, int], ...] = ()
    """Each: offset, type, kind, name, addend."""
    site: SiteKind | None = None
    sym: str = ""
    addend: int = 0
    rows: tuple[tuple[SiteKind, int, str, int, int], ...] = ()
    """Of tables about the part's first bytes, each: kind, offset, name, addend, third word."""
    replacement: bytes = b""
    replacement_refs: tuple[tuple[int, int, int, str, int], ...] = ()


def call(name: str, opcode: bytes = b"\xe8") -> tuple[bytes, tuple[tuple[int, int, int, str, int]]]:
    return opcode + bytes(4), ((len(opcode), PC32, REF_SYM, name, -4),)


FIRST: Final = (
    Part(b"\xf3\x0f\x1e\xfa", site=SiteKind.ENDBR),
    Part(NOP5, site=SiteKind.FENTRY),
    Part(*call("callee")[:1], refs=call("callee")[1]),
    Part(b"\x48\xc7\xc7" + bytes(4), refs=((3, ABS32S, REF_BYTES, "content", 0),)),
    Part(
        b"\x66\x90",
        site=SiteKind.JUMP_LABEL,
        sym="first",
        addend=0x40,
        rows=((SiteKind.KEY, 0, "variable", 1, 0),),
    ),
    Part(b"\xf0", site=SiteKind.LOCK),
    Part(b"\x48\xff\x00", rows=((SiteKind.FIXUP, 0, "first", 0x3, ORDER),)),
    Part(*call("tramp")[:1], refs=call("tramp")[1], site=SiteKind.STATIC_CALL, sym="key"),
    Part(call("callee")[0], refs=call("callee")[1], site=SiteKind.CALL),
    Part(b"\x48\xb8" + bytes(8), refs=((2, ABS64, REF_SLOT, "unnamed", 8),)),
    Part(b"\xe9" + bytes(4), refs=call("thunk")[1], site=SiteKind.RETURN),
)
SECOND: Final = (
    Part(NOP5, run=b"\xe8\xfb\x04\x00\x00", site=SiteKind.FENTRY),  # ftrace_caller
    Part(b"\xff\x15" + bytes(4) + b"\x90", run=NOP7, refs=((2, PC32, REF_SYM, "pv_ops", 12),),
         site=SiteKind.PARAVIRT),
    Part(call("callee")[0] + b"\x90\x90", run=b"\x90\x48\x31\xc0" + b"\x0f\x1f\x00",
         refs=call("callee")[1], site=SiteKind.ALT, replacement=b"\x90\x48\x31\xc0"),
    Part(call("callee")[0], refs=call("callee")[1], site=SiteKind.ALT,
         replacement=call("tramp")[0], replacement_refs=call("tramp")[1]),
    Part(b"\x0f\x1f\x00", site=SiteKind.ALT),
    Part(b"\xe8" + bytes(4), refs=((1, PC32, REF_SYM, "__x86_indirect_thunk_array", 3 * 32 - 4),),
         run=b"\xff\xd3" + b"\x0f\x1f\x00", site=SiteKind.RETPOLINE),
    Part(b"\x48\xb8"),
    Part(bytes(8), run=VALUE, site=SiteKind.RUNTIME_PTR, sym="variable"),
    Part(b"\xc1\xe8"),
    Part(b"\x00", run=VALUE[:1], site=SiteKind.RUNTIME_SHIFT, sym="variable"),
    Part(NOP5, run=b"\xe9\x10\x00\x00\x00", site=SiteKind.JUMP_LABEL, sym="second", addend=0x42,
         rows=((SiteKind.KEY, 0, "variable", 0, 0),)),
    Part(b"\x48\xb8" + bytes(8), refs=((2, ABS64, REF_SLOT, "unnamed", 16),)),
    Part(b"\xe9" + bytes(4), refs=call("thunk")[1], run=b"\xc3\xcc\xcc\xcc\xcc",
         site=SiteKind.RETURN),
)  # fmt: skip


def end_of(parts: tuple[Part, ...]) -> int:
    """Return the offset at which ``more`` begins behind ``FIRST`` or ``SECOND``."""
    return sum(len(part.code) for part in parts)


def tables(*more: Part, first: tuple[Part, ...] = (), of_module: bool = False) -> bytes:
    """Return the old code, with ``more`` at the end of the second function.

    ``of_module``: without what the tables of a module never have.
    """
    writer = _Writer(SymbolMap([]), has_rows=True)
    for name, parts in (
        ("first", FIRST + first),
        ("second", SECOND[:1] if of_module else SECOND + more),
    ):
        first_reloc, offset = len(writer.relocs), 0
        for part in parts:
            _add_relocs(writer, part.refs, offset)
            offset += len(part.code)
        nr_relocs, first_site, offset = len(writer.relocs) - first_reloc, len(writer.sites), 0
        for part in parts:
            if part.site is not None:
                reloc = len(writer.relocs)
                _add_relocs(writer, part.replacement_refs, 0)
                sym = writer.sym(part.sym, 0) if part.sym else None
                writer.sites.append(
                    _Site(offset, part.site, len(part.code), part.replacement, reloc,
                          len(part.replacement_refs), sym, part.addend, 0)
                )  # fmt: skip
            writer.sites += [
                _Site(offset + at, kind, 1, b"", 0, 0, writer.sym(name, 0), addend, word)
                for kind, at, name, addend, word in (() if of_module else part.rows)
            ]
            offset += len(part.code)
        code = b"".join(part.code for part in parts)
        nr_sites = len(writer.sites) - first_site
        writer.funcs.append(
            _Func(name, writer.sym(name, 0), code, first_reloc, nr_relocs, first_site, nr_sites)
        )
    writer.slots = {("unnamed", None): 0}  # type: ignore[dict-item]
    return writer.blob("vmlinux")


def _add_relocs(
    writer: _Writer, refs: tuple[tuple[int, int, int, str, int], ...], start: int
) -> None:
    for offset, kind_of, kind, name, addend in refs:
        ref = writer.sym(name, 0) if kind == REF_SYM else 0
        content = CONTENT if kind == REF_BYTES else b""
        writer.relocs.append(_Reloc(start + offset, kind, ref, content, addend, kind_of))


def place_of(which: str, parts: tuple[Part, ...], kind: SiteKind) -> int:
    """Return where the first part runs about which a table has a row."""
    number = next(i for i, part in enumerate(parts) if part.rows and part.rows[0][0] == kind)
    return ADDRESSES[which] + end_of(parts[:number])


def jump_entry(at: int, code: int, key: int) -> bytes:
    """Return a ``struct jump_entry`` that lies at ``at``; ``key``: with its flags."""
    return struct.pack("<2iq", code - at, 0, key - at - 8)


def ex_entry(at: int, code: int, fixup: int, word: int) -> bytes:
    return struct.pack("<3i", code - at, fixup - at - 4, word)


def _write_rows(data: bytearray) -> None:
    """Write the tables, in the kernel's order: by key and code, and by code."""
    entries = [
        (place_of("first", FIRST, SiteKind.KEY) - 1, ADDRESSES["variable"]),
        (place_of("first", FIRST, SiteKind.KEY), ADDRESSES["variable"] | 3),
        (place_of("second", SECOND, SiteKind.KEY), ADDRESSES["variable"]),
        (place_of("first", FIRST, SiteKind.KEY), ADDRESSES["key"]),
    ]
    for i, (code, key) in enumerate(entries):
        at = ADDRESSES["__start___jump_table"] + 16 * i
        data[at - DATA : at - DATA + 16] = jump_entry(at, code, key)
    fault = place_of("first", FIRST, SiteKind.FIXUP)
    for i, (code, word) in enumerate(
        ((fault - 2, 1), (fault - 1, 1), (fault, ORDER), (fault + 1, 1))
    ):
        at = ADDRESSES["__start___ex_table"] + 12 * i
        data[at - DATA : at - DATA + 12] = ex_entry(at, code, ADDRESSES["first"] + 3, word)


def memory(
    *more: Part, first: tuple[Part, ...] = (), key: int = 0, trampoline: bytes = b""
) -> list[tuple[int, bytes]]:
    """Return what runs, as (address, bytes).

    ``key``: where the static call leads by its key; ``trampoline``: its trampoline.
    """
    text = bytearray(b"\xcc" * 0x10000)
    at = ADDRESSES["tramp"] - TEXT
    text[at : at + len(trampoline)] = trampoline
    for name, parts in (("first", FIRST + first), ("second", SECOND + more)):
        at = ADDRESSES[name] - TEXT
        for part in parts:
            run = bytearray(part.run if part.run is not None else part.code)
            for offset, kind_of, _, ref, addend in part.refs if part.run is None else ():
                value = ADDRESSES[ref] + addend
                if kind_of == ABS64:
                    struct.pack_into("<Q", run, offset, value)
                else:
                    value -= TEXT + at + offset if kind_of == PC32 else 1 << 64
                    struct.pack_into("<i", run, offset, value)
            text[at : at + len(run)] = run
            at += len(run)
    data = bytearray(0x1000)
    _write_rows(data)
    data[: len(CONTENT)] = CONTENT
    data[0x100:0x108] = VALUE
    data[0x200:0x208] = key.to_bytes(8, "little")
    return [(TEXT, bytes(text)), (DATA, bytes(data))]
