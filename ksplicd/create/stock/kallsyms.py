# SPDX-License-Identifier: GPL-2.0-only
"""The symbols of a kernel image, read from the kallsyms tables inside it.

The formats are those that ``scripts/kallsyms.c`` writes and ``kernel/kallsyms.c`` reads.  The image
has no names for the tables: they are found by what they hold, and believed only when all of them
agree (``_check_sequence`` and ``_check_known`` at the end).  What runs is not asked here.

Three orders of the tables are known; each table is aligned to 8 bytes, from 7.0 on to 4:

    up to 6.3    offsets, base, count, names, markers, [sequence,] tokens, index
    6.4 to 6.19  count, names, markers, tokens, index, offsets, base, sequence
    from 7.0     count, names, markers, tokens, index, offsets, sequence

``sequence`` is there since 6.2, and in later updates of 6.1.
"""

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import MapSymbol
from ksplicd.elf.linked import Segment
from ksplicd.errors import ConfigDirError

_WAY_OUT: Final = "give the System.map of the -dbg package"

_TOKENS: Final = 256
_DIGITS: Final = b"".join(b"%c\0" % c for c in b"0123456789")
"""Part of each table of tokens: the token of a character that occurs in a name is the character
itself (insert_real_symbols_in_table), and names have all digits."""

_PER_MARKER: Final = 256
"""Symbols from one marker to the next."""

_ALIGNMENTS: Final = (8, 4)

_LONGEST: Final = 128
"""More bytes for each symbol in front of the tokens are no names; kernels have some 20."""

_FEWEST: Final = 256
"""A smaller number in front of a table is no count of a kernel's symbols."""

_KERNEL_HALF: Final = 1 << 63
_ADDRESSES: Final = 1 << 64

_NAME: Final = re.compile(r"[A-Za-z?-][!-~]+")
"""The type letter of nm(1), and the name."""


class _NoTables(Exception):
    """What was found is not what it was taken for; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tokens:
    """The 256 pieces that names are made of; offsets in the segment."""

    align: int
    """Of this and all other tables, in bytes."""
    start: int
    end: int
    """Where the index behind the table ends."""
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """The names in the order of the table; offsets in the segment."""

    count_at: int
    end: int
    """Where the markers end."""
    texts: tuple[str, ...]
    """With the type letter in front."""
    by_name: list[int]
    """Their numbers, ordered by the names; equal names keep their order."""


def read_kallsyms(image: KernelImage, name: str = "vmlinuz") -> list[MapSymbol]:
    """Return all symbols of an image at their link-time addresses, in the order of its table.

    The running kernel counts equal names in that order.  Takes about a second.  Raises
    ``ConfigDirError`` when the tables are not there, or do not agree with each other and the image.
    """
    wrong: list[str] = []
    for segment in image.segments:
        for tokens in _find_tokens(segment):
            try:
                return _read_tables(image, segment, tokens)
            except _NoTables as e:
                wrong.append(str(e))
    reason = wrong[0] if wrong else "no table of tokens; is it built with CONFIG_KALLSYMS?"
    raise ConfigDirError(f"{name}: no kallsyms tables found: {reason}; {_WAY_OUT}")


def _read_tables(image: KernelImage, segment: Segment, tokens: _Tokens) -> list[MapSymbol]:
    """Return the symbols that belong to a table of tokens.  Raises ``_NoTables``."""
    at = f"{segment.address + tokens.start:#x}"
    wrong: list[str] = []
    for names in _find_names(segment, tokens):
        found: list[list[MapSymbol]] = []
        for read_addresses in _FORMS:
            try:
                symbols = read_addresses(segment, tokens, names)
                _check_known(image, symbols)
            except _NoTables as e:
                wrong.append(f"{read_addresses.__name__.removeprefix('_read_')} form: {e}")
            else:
                found.append(symbols)
        if len(found) == 1:
            return found[0]
        if found:
            wrong.append(f"{len(found)} ways to read the addresses")
    reason = "; ".join(wrong) or "no names lead up to them"
    raise _NoTables(f"tokens at {at}, but {reason}")


def _find_tokens(segment: Segment) -> Iterator[_Tokens]:
    """Yield each table of 256 strings that an index of 256 offsets behind it confirms."""
    data = bytes(segment.data)
    at = data.find(_DIGITS)
    while at >= 0:
        for align in _ALIGNMENTS:
            if (tokens := _read_tokens(segment, data, at, align)) is not None:
                yield tokens
        at = data.find(_DIGITS, at + 1)


def _read_tokens(segment: Segment, data: bytes, digits: int, align: int) -> _Tokens | None:
    """Return the table whose digits are at ``digits``, None when there is no table around them."""
    starts = [digits]
    for _ in range(ord("0"), _TOKENS):
        nul = data.find(b"\0", starts[-1])
        if nul < 0:
            return None
        starts.append(nul + 1)
    index_at = _align(segment, starts.pop(), align)
    size = 2 * _TOKENS
    if index_at + size > len(data):
        return None
    index = struct.unpack_from(f"<{_TOKENS}H", data, index_at)
    start = digits - index[ord("0")]
    if start < 0 or start != _align(segment, start, align):
        return None
    texts: list[str] = []
    for i, offset in enumerate(index):
        # each string begins behind the NUL of the one before it
        nul = data.find(b"\0", start + offset, index_at)
        if offset != (index[i - 1] + len(texts[-1]) + 1 if i else 0) or nul < 0:
            return None
        texts.append(data[start + offset : nul].decode("latin-1"))
    return _Tokens(align=align, start=start, end=index_at + size, texts=tuple(texts))


def _find_names(segment: Segment, tokens: _Tokens) -> Iterator[_Names]:
    """Yield what can be the names in front of a table of tokens, the nearest first."""
    first = -segment.address % 8
    size = max(tokens.start - first, 0) // 8 * 8
    words = segment.data[first : first + size].cast("I")
    likely = range(_FEWEST, size // 2)  # a name takes two bytes, at least
    for i in reversed([i for i, word in enumerate(words) if word in likely]):
        count_at = first + 4 * i
        if 4 * i % tokens.align or not 2 < (tokens.start - count_at) / words[i] < _LONGEST:
            continue
        for markers in _likely_markers(segment, tokens, count_at, words[i]):
            names = _read_names(segment, tokens, count_at, markers)
            if names is not None:
                yield names


def _likely_markers(
    segment: Segment, tokens: _Tokens, count_at: int, count: int
) -> Iterator[tuple[int, Sequence[int]]]:
    """Yield where the markers of ``count`` names can be, and the markers.

    They end where the tokens begin, or where the table of the order does.
    """
    number = -(-count // _PER_MARKER)
    sequence_at = tokens.start - (3 * count + tokens.align - 1) // tokens.align * tokens.align
    for end in (tokens.start, sequence_at):
        for at in range(end - 4 * number, end - 4 * number - tokens.align, -4):
            if at > count_at and at == _align(segment, at, tokens.align):
                markers = struct.unpack_from(f"<{min(number, 2)}I", segment.data, at)
                if not markers[0] and markers[-1] < tokens.start - count_at:
                    yield at, struct.unpack_from(f"<{number}I", segment.data, at)


def _read_names(
    segment: Segment, tokens: _Tokens, count_at: int, markers: tuple[int, Sequence[int]]
) -> _Names | None:
    """Return the names behind a count, None unless they lead to their markers."""
    (count,) = struct.unpack_from("<I", segment.data, count_at)
    names_at = count_at + tokens.align
    markers_at, expected = markers
    if any(segment.data[count_at + 4 : names_at]):
        return None
    data = bytes(segment.data[names_at:markers_at])
    pieces: list[bytes] = []
    at = 0
    for i in range(count):
        if i % _PER_MARKER == 0 and at != expected[i // _PER_MARKER]:
            return None
        # lengths above 127 take two bytes, the low seven bits first
        head = data[at : at + 2]
        if len(head) < 2 or not head[0]:
            return None
        length, at = head[0], at + 1
        if length & 0x80:
            length, at = length & 0x7F | head[1] << 7, at + 1
        pieces.append(data[at : at + length])
        at += length
    if _align(segment, names_at + at, tokens.align) != markers_at:
        return None
    texts = tuple("".join([tokens.texts[c] for c in piece]) for piece in pieces)
    return _Names(
        count_at=count_at,
        end=markers_at + 4 * len(expected),
        texts=texts,
        by_name=sorted(range(count), key=[text[1:] for text in texts].__getitem__),
    )


def _read_early(segment: Segment, tokens: _Tokens, names: _Names) -> list[MapSymbol]:
    """Return the symbols of kernels up to 6.3: the addresses stand in front of the names."""
    count = len(names.texts)
    base_at = names.count_at - 8
    offsets_at = base_at - (4 * count + tokens.align - 1) // tokens.align * tokens.align
    if offsets_at < 0:
        raise _NoTables("no addresses in front of the names")
    sequence_at = _align(segment, names.end, tokens.align)
    if sequence_at != tokens.start:
        _check_sequence(segment, sequence_at, names)
    return _with_base(segment, offsets_at, base_at, names)


def _read_middle(segment: Segment, tokens: _Tokens, names: _Names) -> list[MapSymbol]:
    """Return the symbols of 6.4 to 6.19: the addresses stand behind the tokens."""
    offsets_at = _align(segment, tokens.end, tokens.align)
    base_at = _align(segment, offsets_at + 4 * len(names.texts), tokens.align)
    _check_sequence(segment, base_at + 8, names)
    return _with_base(segment, offsets_at, base_at, names)


def _read_late(segment: Segment, tokens: _Tokens, names: _Names) -> list[MapSymbol]:
    """Return the symbols of kernels from 7.0: each offset counts from its own address."""
    count = len(names.texts)
    offsets_at = _align(segment, tokens.end, tokens.align)
    _check_sequence(segment, _align(segment, offsets_at + 4 * count, tokens.align), names)
    offsets = struct.unpack_from(f"<{count}i", segment.data, offsets_at)
    at = segment.address + offsets_at
    return _symbols([at + 4 * i + offset for i, offset in enumerate(offsets)], names)


_FORMS: Final[Sequence[Callable[[Segment, _Tokens, _Names], list[MapSymbol]]]] = (
    _read_early,
    _read_middle,
    _read_late,
)


def _with_base(segment: Segment, offsets_at: int, base_at: int, names: _Names) -> list[MapSymbol]:
    """Return the symbols at their offsets from a base.

    With CONFIG_KALLSYMS_ABSOLUTE_PERCPU, which went in 6.15, negative offsets count down from below
    the base, and the others are absolute.  Raises ``_NoTables``.
    """
    count = len(names.texts)
    if base_at + 8 > len(segment.data):
        raise _NoTables("no addresses behind the tokens")
    offsets = struct.unpack_from(f"<{count}i", segment.data, offsets_at)
    (base,) = struct.unpack_from("<Q", segment.data, base_at)
    if base < _KERNEL_HALF:
        raise _NoTables(f"the base of the addresses, {base:#x}, is none of the kernel's")
    if any(offset < 0 for offset in offsets):
        addresses = [offset if offset >= 0 else base - 1 - offset for offset in offsets]
    else:
        addresses = [base + offset for offset in offsets]
    return _symbols(addresses, names)


def _symbols(addresses: Sequence[int], names: _Names) -> list[MapSymbol]:
    """Return the symbols of a table.  Raises ``_NoTables`` when they are no such table."""
    for text in names.texts:
        if not _NAME.fullmatch(text):
            raise _NoTables(f"{text[:80]!r} is no type with a name")
    if any(a > b for a, b in pairwise(addresses)):
        raise _NoTables("the addresses do not ascend")
    if addresses[0] < 0 or addresses[-1] >= _ADDRESSES:
        raise _NoTables(f"addresses from {addresses[0]:#x} to {addresses[-1]:#x}")
    return [
        MapSymbol(address, text[0], text[1:])
        for address, text in zip(addresses, names.texts, strict=True)
    ]


def _check_sequence(segment: Segment, at: int, names: _Names) -> None:
    """Raise ``_NoTables`` unless the symbols' numbers stand at ``at``, ordered by the names.

    A number has three bytes, the high one first.
    """
    expected = b"".join(number.to_bytes(3) for number in names.by_name)
    if segment.data[at : at + len(expected)] != expected:
        raise _NoTables("the names have another order than the table of their order says")


def _check_known(image: KernelImage, symbols: Sequence[MapSymbol]) -> None:
    """Raise ``_NoTables`` unless symbols that each kernel has are where the image has them."""
    known = {s.name: s.address for s in symbols}
    lacking = [name for name in ("_text", "_stext", "_etext", "linux_banner") if name not in known]
    if lacking:
        raise _NoTables(f"no symbol {lacking[0]} among {len(symbols)}")
    begin = image.segments[0].address
    if known["_text"] != begin:
        raise _NoTables(f"_text at {known['_text']:#x}, and the image begins at {begin:#x}")
    if not begin <= known["_stext"] < known["_etext"]:
        raise _NoTables(f"_stext at {known['_stext']:#x}, _etext at {known['_etext']:#x}")
    banner = image.read_string(known["linux_banner"])
    if banner is None or not banner.startswith(b"Linux version "):
        raise _NoTables(f"no banner at {known['linux_banner']:#x}")


def _align(segment: Segment, offset: int, to: int) -> int:
    """Return the first offset from ``offset`` on whose address is a multiple of ``to``."""
    return offset + -(segment.address + offset) % to
