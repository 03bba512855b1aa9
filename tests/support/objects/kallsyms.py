# SPDX-License-Identifier: GPL-2.0-only
"""The kallsyms tables of made-up symbols, as the kernel's scripts/kallsyms.c would write them."""

import struct
from collections.abc import Sequence
from enum import StrEnum

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import MapSymbol
from ksplicd.elf.linked import Segment
from tests.support.objects.link import TEXT

BANNER = b"Linux version 6.1.176 (x)\0"
TABLES = 0x4000
"""Offset of the tables in an image."""


class Form(StrEnum):
    """Which kernels write it."""

    EARLY = "6.1"
    SEQUENCE = "6.2"
    MIDDLE = "6.4"
    NO_PERCPU = "6.15"
    LATE = "7.0"


def some_symbols(count: int = 600) -> list[MapSymbol]:
    """Return symbols at rising addresses, and what each kernel has; some names occur twice."""
    made = [MapSymbol(TEXT + 0x100 + 8 * i, "t", f"made_up_{i % 500}") for i in range(count)]
    return [
        MapSymbol(TEXT, "T", "_text"),
        MapSymbol(TEXT, "T", "_stext"),
        *made[: count // 2],
        MapSymbol(TEXT + 0x100 + 8 * (count // 2), "t", "long_" + "x" * 200),
        *(s._replace(address=s.address + 8) for s in made[count // 2 :]),
        MapSymbol(TEXT + 0x2000, "T", "_etext"),
        MapSymbol(TEXT + 0x3000, "D", "linux_banner"),
        MapSymbol(TEXT + 0x7000000, "B", "_end"),
    ]


def percpu_symbols() -> list[MapSymbol]:
    """Return the symbols whose addresses are no addresses, up to 6.14."""
    return [MapSymbol(0, "A", "fixed_percpu_data"), MapSymbol(0x6000, "A", "cpu_tss_rw")]


def image_of(symbols: Sequence[MapSymbol], form: Form) -> KernelImage:
    """Return an image with a banner and the tables of ``symbols``, and other data around them."""
    data = bytearray(TABLES)
    data[0x3000 : 0x3000 + len(BANNER)] = BANNER
    data[0x3800:0x3814] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0"  # no table around
    data += write_tables(symbols, form, TEXT + TABLES) + bytes(64)
    return image_with(bytes(data))


def image_with(data: bytes) -> KernelImage:
    """Return an image of one segment."""
    return KernelImage(data, (Segment(TEXT, memoryview(data)),), "00")


def write_tables(symbols: Sequence[MapSymbol], form: Form, address: int) -> bytes:
    """Return the tables, to lie at ``address``, a multiple of 8."""
    texts = [s.type + s.name for s in symbols]
    tokens = _choose_tokens(texts)
    names, markers = _write_names(texts, tokens)
    table = b"".join(token.encode() + b"\0" for token in tokens)
    starts = [sum(len(t) + 1 for t in tokens[:i]) for i in range(len(tokens))]
    numbers = sorted(range(len(symbols)), key=lambda i: symbols[i].name)
    sequence = b"".join(i.to_bytes(3) for i in numbers)
    middle = [struct.pack("<I", len(symbols)), names, struct.pack(f"<{len(markers)}I", *markers)]
    index = [table, struct.pack("<256H", *starts)]
    base = min(s.address for s in symbols if s.address >= TEXT)
    based = [_write_offsets(symbols, base, form), struct.pack("<Q", base)]
    match form:
        case Form.EARLY:
            return _join([*based, *middle, *index])
        case Form.SEQUENCE:
            return _join([*based, *middle, sequence, *index])
        case Form.MIDDLE | Form.NO_PERCPU:
            return _join([*middle, *index, *based, sequence])
        case Form.LATE:
            at = address + len(_join([*middle, *index], 4))
            offsets = struct.pack(
                f"<{len(symbols)}i", *(s.address - at - 4 * i for i, s in enumerate(symbols))
            )
            return _join([*middle, *index, offsets, sequence], 4)


def _write_offsets(symbols: Sequence[MapSymbol], base: int, form: Form) -> bytes:
    if form is Form.NO_PERCPU:
        return struct.pack(f"<{len(symbols)}I", *(s.address - base for s in symbols))
    return struct.pack(
        f"<{len(symbols)}i",
        *(base - s.address - 1 if s.address >= base else s.address for s in symbols),
    )


def _choose_tokens(texts: Sequence[str]) -> list[str]:
    """Return 256 tokens: each character that occurs stands for itself, the others for words."""
    used = set("".join(texts)) | set("0123456789")
    words = iter(["made_up_", "_text", "xxxx"])
    return [chr(i) if chr(i) in used else next(words, "") for i in range(256)]


def _write_names(texts: Sequence[str], tokens: Sequence[str]) -> tuple[bytes, list[int]]:
    numbers = {token: i for i, token in enumerate(tokens) if token}
    by_length = sorted(numbers, key=len, reverse=True)
    out, markers = bytearray(), []
    for i, text in enumerate(texts):
        if i % 256 == 0:
            markers.append(len(out))
        packed, at = bytearray(), 0
        while at < len(text):
            token = next(t for t in by_length if text.startswith(t, at))
            packed.append(numbers[token])
            at += len(token)
        size = len(packed)
        out += bytes([size] if size < 128 else [size & 0x7F | 0x80, size >> 7]) + packed
    return bytes(out), markers


def _join(tables: Sequence[bytes], align: int = 8) -> bytes:
    return b"".join(table + bytes(-len(table) % align) for table in tables)
