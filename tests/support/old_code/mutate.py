# SPDX-License-Identifier: GPL-2.0-only
"""Updates that are wrong on purpose: one damage each, chosen by a seed.

Old code: the tables of ``kmodsrc/format.h``, field by field, and the bytes behind them.  New code:
the names by which livepatch finds what it replaces, and a file that ends too early.  The bytes of
the new code itself are not touched: only the signature vouches for them.
"""

import random
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from ksplicd.create.old_code.tables import FUNC, HEADER, REF_SLOT, RELOC, SITE, SYM
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from tests.support.old_code.blob import Blob, Reloc, Site

NOP: Final = 0x90

_WORDS: Final = (0, 1, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_STEPS: Final = (-64, -8, -4, -2, -1, 1, 2, 4, 8, 64)
_BLOCK: Final = 4096
"""Bytes that are compared at once, most of which are the same."""
_KLP_FUNC_SYMPOS: Final = 16
"""Offset of ``old_sympos`` in a struct klp_func (include/linux/livepatch.h)."""


class Mutation(NamedTuple):
    """What was done to which bytes."""

    kind: str
    data: bytes


def mutate_tables(tables: bytes, seed: str) -> Mutation:
    """Return the tables of some old code with the damage that ``seed`` tells."""
    choose = random.Random(seed)
    while True:  # a copy of itself, or the same number again, is no damage
        blob, change = Blob(tables), choose.choice(_TABLE_CHANGES)
        change(blob, choose)
        if blob.data != tables:
            return Mutation(change.__name__.strip("_"), bytes(blob.data))


def mutate_new_code(ko: bytes, seed: str, functions: list[str], strangers: list[str]) -> Mutation:
    """Return the new-code module with the damage that ``seed`` tells; none of it may be loaded.

    ``functions``: what it replaces.  ``strangers``: other functions of the kernel.
    """
    choose = random.Random(seed)
    obj = read_object(ko, "new.ko")
    kind = choose.choice(("stranger", "no_function", "position", "no_symbol", "no_target", "cut"))
    data = bytearray(ko)
    name = choose.choice(functions)
    match kind:
        case "stranger":  # a function that is there, and was not compared
            other = choose.choice([s for s in strangers if len(s) <= len(name)])
            _rename(data, name, other)
        case "no_function":
            _rename(data, name, _misspell(name, choose))
        case "position":
            funcs = next(s for s in obj.symbols if s.name.startswith("funcs_"))
            assert funcs.section is not None
            at = funcs.value + _KLP_FUNC_SYMPOS
            position = choose.choice((2, 3, 1 << 31, (1 << 64) - 1))
            section = bytearray(funcs.section.data)
            struct.pack_into("<Q", section, at, position)
            funcs.section.data = bytes(section)
            data = bytearray(write_object(obj))
        case "no_symbol":
            symbol = choose.choice(_livepatch_symbols(obj))
            bare = symbol.rpartition(",")[0]
            _rename(data, symbol, _misspell(bare, choose) + symbol[len(bare) :])
        case "no_target":
            _rename(data, "romfs", _misspell("romfs", choose))
        case _:
            del data[choose.randrange(len(data) - 64) :]
    return Mutation(kind, bytes(data))


def edits_between(before: bytes, after: bytes) -> list[tuple[int, str]]:
    """Return where ``after`` differs from ``before``, as (offset, bytes in hex)."""
    edits: list[tuple[int, str]] = []
    end = -1
    for start in range(0, len(after), _BLOCK):
        block = after[start : start + _BLOCK]
        if block == before[start : start + _BLOCK]:
            continue
        for i, b in enumerate(block, start):
            if i < len(before) and before[i] == b:
                continue
            if i == end:
                edits[-1] = (edits[-1][0], f"{edits[-1][1]}{b:02x}")
            else:
                edits.append((i, f"{b:02x}"))
            end = i + 1
    return edits


# --- old code -----------------------------------------------------------------------------------


Change = Callable[[Blob, random.Random], None]


def _tables(blob: Blob) -> list[tuple[int, int, int]]:
    """Return (offset, number of entries, size of one) of each table that has entries."""
    tables = (
        (blob.syms_at, blob.nr_syms, SYM.size), (blob.funcs_at, blob.nr_funcs, FUNC.size),
        (blob.relocs_at, blob.nr_relocs, RELOC.size), (blob.sites_at, blob.nr_sites, SITE.size),
    )  # fmt: skip
    return [table for table in tables if table[1]]


def _end(blob: Blob) -> int:
    return int(blob.sites_at) + int(blob.nr_sites) * SITE.size


def _set_word(blob: Blob, at: int, choose: random.Random) -> None:
    (old,) = struct.unpack_from("<I", blob.data, at)
    new = choose.choice(
        [*_WORDS, *(old + step for step in _STEPS), blob.size, choose.randrange(blob.size)]
    )
    struct.pack_into("<I", blob.data, at, new & 0xFFFFFFFF)


def _header(blob: Blob, choose: random.Random) -> None:
    _set_word(blob, 4 * choose.randrange(HEADER.size // 4), choose)


def _field(blob: Blob, choose: random.Random) -> None:
    """A word of an entry; each kind of table as often as the others."""
    at, number, size = choose.choice(_tables(blob))
    _set_word(blob, at + 4 * choose.randrange(number * size // 4), choose)


def _entry_byte(blob: Blob, choose: random.Random) -> None:
    at, number, size = choose.choice(_tables(blob))
    blob.data[at + choose.randrange(number * size)] ^= 1 << choose.randrange(8)


def _entry_copied(blob: Blob, choose: random.Random) -> None:
    """One entry twice: overlapping sites and relocations, symbols out of order."""
    at, number, size = choose.choice(_tables(blob))
    source, target = (at + choose.randrange(number) * size for _ in range(2))
    blob.data[target : target + size] = blob.data[source : source + size]


def _sites_overlap(blob: Blob, choose: random.Random) -> None:
    """A site begins inside the one before it, or reaches into the next."""
    site = blob.site(choose.randrange(blob.nr_sites))
    if choose.random() < 0.5:
        struct.pack_into("<I", blob.data, site.at, max(0, site.offset - choose.randrange(1, 16)))
    else:
        blob.data[site.at + 5] = choose.randrange(site.size, 256)


def _site_kind(blob: Blob, choose: random.Random) -> None:
    site = blob.site(choose.randrange(blob.nr_sites))
    blob.data[site.at + 4] = choose.randrange(16)


def _slot(blob: Blob, choose: random.Random) -> None:
    """A reference to a base that the kernel learns, with and without room for it."""
    struct.pack_into("<I", blob.data, 16, choose.choice((0, 1, blob.nr_relocs)))
    reloc = blob.reloc(choose.randrange(blob.nr_relocs))
    struct.pack_into("<I", blob.data, reloc.at + 4, choose.choice((0, 1, blob.nr_relocs)))
    blob.data[reloc.at + 17] = REF_SLOT


def _addend(blob: Blob, choose: random.Random) -> None:
    """A reference, jump or key elsewhere: near, or anywhere in the address space."""
    entries: list[Reloc | Site] = [blob.reloc(i) for i in range(blob.nr_relocs)]
    entries += [blob.site(i) for i in range(blob.nr_sites)]
    entry = choose.choice(entries)
    far = choose.randrange(-(1 << 63), 1 << 63)
    blob.set_addend(entry, choose.choice((entry.addend + choose.choice(_STEPS), far)))


def _code(blob: Blob, choose: random.Random) -> None:
    f = choose.choice(list(blob.functions()))
    blob.data[f.at + choose.randrange(len(f.code))] ^= 1 << choose.randrange(8)


def _content(blob: Blob, choose: random.Random) -> None:
    """A byte behind the tables: code, a name, a string, a replacement."""
    blob.data[choose.randrange(_end(blob), blob.size)] ^= 1 << choose.randrange(8)


def _replacement_of_nops(blob: Blob, choose: random.Random) -> None:
    """An alternative ends in nops where a relocation lies."""
    sites = [s for i in range(blob.nr_sites) if (s := blob.site(i)).alt_size]
    if not sites:
        return
    site = choose.choice(sites)
    first = choose.randrange(site.alt_size)
    blob.data[site.alt + first : site.alt + site.alt_size] = bytes([NOP]) * (site.alt_size - first)


def _symbol_name(blob: Blob, choose: random.Random) -> None:
    name = struct.unpack_from(
        "<I", blob.data, blob.syms_at + choose.randrange(blob.nr_syms) * SYM.size
    )[0]
    end = blob.data.index(b"\0", name)
    blob.data[choose.randrange(name, end)] = ord(choose.choice("~Zz_0 \x80"))


def _symbol_position(blob: Blob, choose: random.Random) -> None:
    at = blob.syms_at + choose.randrange(blob.nr_syms) * SYM.size + 4
    struct.pack_into("<I", blob.data, at, choose.choice((0, 2, 60000, 1 << 31, (1 << 31) + 1)))


def _size(blob: Blob, choose: random.Random) -> None:
    """A function's size or where its bytes are, by a little."""
    at = blob.funcs_at + choose.randrange(blob.nr_funcs) * FUNC.size + choose.choice((8, 12))
    (old,) = struct.unpack_from("<I", blob.data, at)
    struct.pack_into("<I", blob.data, at, max(0, old + choose.choice(_STEPS)))


def _truncated(blob: Blob, choose: random.Random) -> None:
    """The rest is missing, and the header knows it or does not."""
    cut = choose.randrange(blob.size)
    blob.data[cut:] = bytes(blob.size - cut)
    if choose.random() < 0.5:
        struct.pack_into("<I", blob.data, 8, cut)


def _noise(blob: Blob, choose: random.Random) -> None:
    end = choose.choice((HEADER.size, _end(blob), blob.size))
    for _ in range(choose.randrange(1, 40)):
        blob.data[choose.randrange(end)] = choose.randrange(256)


_TABLE_CHANGES: Final[tuple[Change, ...]] = (
    _header, _field, _field, _entry_byte, _entry_byte, _entry_copied, _sites_overlap, _site_kind,
    _slot, _addend, _code, _content, _replacement_of_nops, _symbol_name, _symbol_position, _size,
    _truncated, _noise,
)  # fmt: skip


# --- new code -----------------------------------------------------------------------------------


def _livepatch_symbols(obj: Object) -> list[str]:
    return [s.name for s in obj.symbols if s.name.startswith(".klp.sym.vmlinux.")]


def _rename(data: bytearray, old: str, new: str) -> None:
    """Change a name that stands alone, wherever it stands."""
    want = b"\0" + old.encode() + b"\0"
    assert want in data, old
    data[:] = data.replace(want, b"\0" + new.encode().ljust(len(old) + 1, b"\0"))


def _misspell(name: str, choose: random.Random) -> str:
    at = choose.randrange(len(name) - 2, len(name))
    return f"{name[:at]}~{name[at + 1 :]}"
