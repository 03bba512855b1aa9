# SPDX-License-Identifier: GPL-2.0-only
"""The oracle of hostile tables, tested on a made-up kernel of two functions."""

import struct

import pytest

from ksplicd.create.old_code.sites import SiteKind
from ksplicd.create.old_code.tables import FUNC, HEADER, MAGIC, RELOC, SITE, SYM, VERSION
from tests.support.old_code.mutate import mutate_tables
from tests.support.old_code.oracle import Memory, Verdict, judge, read_symbols

CALLER, CALLEE = 0xFFFFFFFF81000000, 0xFFFFFFFF81000100
PC32 = 2
FENTRY = b"\x0f\x1f\x44\x00\x00"
CODE = FENTRY + b"\xe8\x00\x00\x00\x00\xc3"
KALLSYMS = f"""\
{CALLER:x} T caller
{CALLEE:x} T callee
ffffffffc0000000 t callee	[romfs]
ffffffffc0000100 t other	[vfat]
"""
RUN = FENTRY + b"\xe8" + struct.pack("<i", CALLEE - CALLER - 10) + b"\xc3"
SYMBOLS, OF_TARGET = read_symbols(KALLSYMS, "romfs")
MEMORY = Memory(symbols=SYMBOLS, target_symbols=OF_TARGET, pieces=[(CALLER, RUN)])

SYMS_AT = HEADER.size
FUNCS_AT = SYMS_AT + 2 * SYM.size
RELOCS_AT = FUNCS_AT + FUNC.size
SITES_AT = RELOCS_AT + RELOC.size
POOL_AT = SITES_AT + SITE.size
NAMES = b"callee\0caller\0vmlinux\0"


def tables() -> bytes:
    size = POOL_AT + len(NAMES) + len(CODE) + 1
    head = HEADER.pack(
        MAGIC, VERSION, size, POOL_AT + 14, 0, 0,
        SYMS_AT, 2, FUNCS_AT, 1, RELOCS_AT, 1, SITES_AT, 1,
    )  # fmt: skip
    return (
        head
        + SYM.pack(POOL_AT, 0)
        + SYM.pack(POOL_AT + 7, 0)
        + FUNC.pack(POOL_AT + 7, 1, POOL_AT + len(NAMES), len(CODE), 0, 1, 0, 1)
        + RELOC.pack(6, 0, -4, PC32, 0, 0, 0)
        + SITE.pack(0, SiteKind.FENTRY, 5, 0, 0, 0, 0, 0xFFFFFFFF, 0, 0)
        + NAMES
        + CODE
        + b"\0"
    )


def change(at: int, byte: int) -> bytes:
    data = bytearray(tables())
    assert data[at] != byte
    data[at] = byte
    return bytes(data)


@pytest.mark.parametrize(
    ("altered", "verdict"),
    [
        (tables(), Verdict.SAME),
        (change(POOL_AT + len(NAMES) + 10, 0xCC), Verdict.DIFFERENT),
        (change(RELOCS_AT + 8, 0xFB), Verdict.DIFFERENT),
        (change(POOL_AT + 5, ord("d")), Verdict.NO_SYMBOL),
        (change(SYMS_AT + 4, 2), Verdict.NO_SYMBOL),
        (change(SITES_AT + 4, SiteKind.RETURN), Verdict.EITHER),
        (change(FUNCS_AT + 12, len(CODE) - 1), Verdict.SAME),
        (change(FUNCS_AT + 20, 0), Verdict.DAMAGED),
        (change(SITES_AT, 8), Verdict.DAMAGED),
        (change(8, 0), Verdict.DAMAGED),
        (change(POOL_AT + 14, ord("w")), Verdict.DAMAGED),
    ],
)
def test_verdict(altered: bytes, verdict: Verdict) -> None:
    assert judge(altered, tables(), MEMORY, is_module=False) == verdict


def test_mutations_come_from_their_seed_and_change_something() -> None:
    for seed in map(str, range(300)):
        mutation = mutate_tables(tables(), seed)
        assert mutation == mutate_tables(tables(), seed)
        assert mutation.data != tables()
        assert len(mutation.data) == len(tables())
        judge(mutation.data, tables(), MEMORY, is_module=False)
