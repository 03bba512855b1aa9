# SPDX-License-Identifier: GPL-2.0-only
"""Whether two twins are the same: their bytes, what their relocations mean, their table entries.

What may differ without a change of meaning is decided here, by the predicates of ``names``.
"""

import json
from collections.abc import Sequence
from typing import Final

from ksplicd.create.diff.line_shift import is_line_shift
from ksplicd.create.diff.twins import Twins, is_numbered
from ksplicd.create.objects.index import Referent, relocations_in, start_of_string, string_at
from ksplicd.create.objects.names import (
    base_name,
    is_debug_descriptor,
    is_literal,
    is_once_flag,
    is_read_only,
    is_sanitizer_record,
)
from ksplicd.create.objects.special import (
    Entry,
    lengths_of,
    masked_data,
    meaning_of,
    replacement_of,
)
from ksplicd.elf.model import (
    SHF_EXECINSTR,
    SHF_WRITE,
    SHT_NOBITS,
    STB_LOCAL,
    Relocation,
    Section,
    Symbol,
)
from ksplicd.elf.x86_64 import R_X86_64_PC32, R_X86_64_PLT32, RELOCATION_TYPES

_SHOWN: Final = 40
"""Characters of a string in a message."""


class Comparison:
    """Compares symbols and referents of a pre and a post object whose twins are known."""

    def __init__(self, twins: Twins) -> None:
        """Raises ``ElfError`` when a table has not whole entries."""
        self.pre, self.post, self.twins = twins.pre, twins.post, twins
        self.comparing: set[tuple[Symbol, Symbol]] = set()
        self.pre_entries = twins.pre.entries_by_code
        self.post_entries = twins.post.entries_by_code

    def why_differs(self, a: Symbol, b: Symbol) -> str | None:
        """Return why function or datum ``b`` is not the same as ``a``, None when it is."""
        if a.section is None or b.section is None:
            return None
        if why := self.compare_content(a, b):
            return why
        return self.compare_tables(a, b)

    # --- bytes and relocations ------------------------------------------------------------------

    def compare_content(self, a: Symbol, b: Symbol) -> str | None:
        """Compare bytes and relocations alone."""
        assert a.section is not None
        assert b.section is not None
        if a.size != b.size:
            return f"size {a.size} → {b.size} bytes"
        before, after = relocations_in(a), relocations_in(b)
        if a.section.type != SHT_NOBITS or b.section.type != SHT_NOBITS:
            code_a = _masked(_bytes(a.section, a.value, a.size), before, a.value)
            code_b = _masked(_bytes(b.section, b.value, b.size), after, b.value)
            if code_a != code_b and not (
                b.is_function and is_line_shift(self.pre, a, self.post, b, code_a, code_b)
            ):
                at = next(i for i, (x, y) in enumerate(zip(code_a, code_b, strict=True)) if x != y)
                return f"bytes differ from +{at:#x}"
        return self.compare_relocations(a.section, before, a.value, b.section, after, b.value)

    def compare_relocations(
        self,
        owner_a: Section, before: Sequence[Relocation], start_a: int,
        owner_b: Section, after: Sequence[Relocation], start_b: int,
    ) -> str | None:  # fmt: skip
        """Compare what two ranges refer to; offsets count from ``start_a`` and ``start_b``."""
        if len(before) != len(after):
            return f"{len(before)} → {len(after)} relocations"
        for ra, rb in zip(before, after, strict=True):
            at = rb.offset - start_b
            if (ra.offset - start_a, _kind(ra)) != (at, _kind(rb)):
                return f"relocation at +{at:#x} moved or changed type"
            old, new = self.pre.meanings(owner_a, ra), self.post.meanings(owner_b, rb)
            is_indexed = self.post.is_indexed(owner_b, rb)
            if not any(self.same_target(a, b, is_indexed=is_indexed) for a in old for b in new):
                return f"+{at:#x} refers to {_difference(old[0], new[0])}"
        return None

    def same_target(self, a: Referent, b: Referent, *, is_indexed: bool = False) -> bool:
        """Tell whether two references mean the same thing.

        ``is_indexed``: a register is added, so that what is read may begin elsewhere.
        """
        if a.section is None or b.section is None:
            return _is_same_external(a, b)
        if a.section.is_strings and b.section.is_strings:
            before = _strings_at(a.section, a.offset, is_indexed=is_indexed)
            return before == _strings_at(b.section, b.offset, is_indexed=is_indexed)
        if is_once_flag(a.section) and is_once_flag(b.section):
            return a.offset == b.offset
        if is_sanitizer_record(a.section) and is_sanitizer_record(b.section):
            return a.offset == b.offset and self.same_record(a.section, b.section)
        if a.symbol is not None and b.symbol is not None:
            if a.offset != b.offset:
                return False
            if is_debug_descriptor(a.section) and is_debug_descriptor(b.section):
                return self.same_descriptor(a.symbol, b.symbol)
            if is_literal(a.symbol) and is_literal(b.symbol):
                return self.compare_content(a.symbol, b.symbol) is None
            return self.twins.are_twins(a.symbol, b.symbol) or self.same_constant(
                a.symbol, b.symbol
            )
        if a.symbol is not None or b.symbol is not None:
            return False
        return self.same_anonymous(a, b)

    def same_constant(self, a: Symbol, b: Symbol) -> bool:
        """Compare two constants of one name that are no twins, such as ``__compound_literal.34``.

        In read-only data the content is what the reader sees; which of two alike is meant does not
        matter.
        """
        pair = a, b
        if pair in self.comparing or not (
            a.section and b.section and is_read_only(a.section) and is_read_only(b.section)
        ):
            return False
        if not (is_numbered(a) and base_name(a.name) == base_name(b.name)):
            return False
        self.comparing.add(pair)
        try:
            return self.compare_content(a, b) is None
        finally:
            self.comparing.remove(pair)

    def same_descriptor(self, a: Symbol, b: Symbol) -> bool:
        """Compare the strings of two pr_debug().

        The line and the file's name may differ (struct _ddebug in include/linux/dynamic_debug.h:
        module, function, file name, format).
        """
        assert a.section is not None
        assert b.section is not None
        before = [r for r in relocations_in(a) if r.offset - a.value != 16]
        after = [r for r in relocations_in(b) if r.offset - b.value != 16]
        why = self.compare_relocations(a.section, before, a.value, b.section, after, b.value)
        return why is None

    def same_record(self, a: Section, b: Section) -> bool:
        """Compare two records of UBSAN; where in the source they are may differ.

        A record begins with struct source_location (lib/ubsan.h): file name, line, column; a type
        descriptor begins with kind, information and name instead, and is not relocated.
        """
        before, after = _sorted(a), _sorted(b)
        data_a, data_b = a.data, b.data
        if before and before[0].offset == 0:
            before, after = before[1:], after[1:]
            data_a, data_b = (bytes(len(x[:16])) + x[16:] for x in (data_a, data_b))
        return (
            _masked(data_a, a.relocations, 0) == _masked(data_b, b.relocations, 0)
            and self.compare_relocations(a, before, 0, b, after, 0) is None
        )

    def same_anonymous(self, a: Referent, b: Referent) -> bool:
        """Compare referents without a symbol: merged constants, jump tables, code fragments.

        The end of an anonymous constant in ``.rodata`` is not known, so the whole section has
        to be the same: one constant more makes a function too many change, never one too few.
        """
        sa, sb = a.section, b.section
        assert sa is not None
        assert sb is not None
        if sa.is_merged_constants and sb.is_merged_constants:
            n = sa.entsize
            return sa.data[a.offset : a.offset + n] == sb.data[b.offset : b.offset + n]
        kind = SHF_WRITE | SHF_EXECINSTR
        return (
            (a.offset, sa.size, sa.flags & kind) == (b.offset, sb.size, sb.flags & kind)
            and _masked(sa.data, sa.relocations, 0) == _masked(sb.data, sb.relocations, 0)
            and self.compare_relocations(sa, _sorted(sa), 0, sb, _sorted(sb), 0) is None
        )

    def same_code(self, before: Sequence[Section], after: Sequence[Section]) -> bool:
        """Compare code without functions, section by section."""
        return len(before) == len(after) and all(
            self.same_anonymous(Referent(None, a, 0), Referent(None, b, 0))
            for a, b in zip(before, after, strict=True)
        )

    # --- special sections -----------------------------------------------------------------------

    def compare_tables(self, a: Symbol, b: Symbol) -> str | None:
        """Compare the entries of special sections that belong to two functions."""
        assert a.section is not None
        assert b.section is not None
        before = _entries_of(a, self.pre_entries.get(a.section, []))
        after = _entries_of(b, self.post_entries.get(b.section, []))
        if [e.table.section for e in before] != [e.table.section for e in after]:
            return "has other entries in its special sections"
        for ea, eb in zip(before, after, strict=True):
            if not self.same_entry(ea, eb):
                return f"entry in {ea.table.section} differs"
        return None

    def same_entry(self, a: Entry, b: Entry) -> bool:
        """Compare two entries of one table, with the code that an alternative copies in."""
        if masked_data(a) != masked_data(b):
            return False
        if a.table.section == ".altinstructions" and not self.same_replacement(a, b):
            return False
        before, after = meaning_of(a), meaning_of(b)
        why = self.compare_relocations(a.section, before, a.start, b.section, after, b.start)
        return why is None

    def same_replacement(self, a: Entry, b: Entry) -> bool:
        """Compare the replacements of two alternatives of the same lengths."""
        ra, rb = replacement_of(a), replacement_of(b)
        if ra is None or rb is None:
            return ra is rb and lengths_of(a) == lengths_of(b)
        (sa, at_a, n), (sb, at_b, m) = ra, rb
        before = [r for r in _sorted(sa) if at_a <= r.offset < at_a + n]
        after = [r for r in _sorted(sb) if at_b <= r.offset < at_b + m]
        return (
            n == m
            and _masked(sa.data[at_a : at_a + n], before, at_a)
            == _masked(sb.data[at_b : at_b + m], after, at_b)
            and self.compare_relocations(sa, before, at_a, sb, after, at_b) is None
        )


def _kind(r: Relocation) -> int:
    """Return a relocation's type; a call of what becomes static or global keeps its meaning.

    The module loader and the kernel's linker calculate R_X86_64_PLT32 like R_X86_64_PC32.
    """
    return R_X86_64_PC32 if r.type == R_X86_64_PLT32 else r.type


def _difference(a: Referent, b: Referent) -> str:
    """Return what two referents that are not the same are, in words that differ."""
    before, after = (_text(p) or str(p) for p in (a, b))
    return f"{after} instead of {before}" if before != after else f"{after}, whose content differs"


def _text(referent: Referent) -> str | None:
    """Return the string that is referred to, shortened, None when there is none."""
    if referent.section is None or not referent.section.is_strings:
        return None
    text = string_at(referent.section, referent.offset)
    if text is None or referent.section.entsize > 1:
        return None
    words = text[:-1].decode(errors="replace")
    return json.dumps(words if len(words) <= _SHOWN else f"{words[:_SHOWN]}...")


def _strings_at(
    section: Section, offset: int, *, is_indexed: bool
) -> tuple[int, bytes | None, bytes | None]:
    """Return an offset in its string, that string, and the next one where it may be meant.

    A reference need not be to where its string begins: ``"-0+"[n + 1]`` is an index from inside it,
    and ``"-0+"[n - 1]`` one from the last byte of the string before.
    """
    width = max(section.entsize, 1)
    if offset < 0:  # an index into the first string
        return offset, string_at(section, 0), None
    if offset >= section.size:  # the bound of a loop over the last one
        last = start_of_string(section, section.size - width)
        return offset - section.size, None, string_at(section, last)
    start = start_of_string(section, offset)
    text = string_at(section, start)
    is_end = text is not None and offset - start == len(text) - width
    if text is None or offset == start or not (is_indexed or is_end):
        return offset - start, text, None
    return offset - start, text, string_at(section, start + len(text))


def _is_same_external(a: Referent, b: Referent) -> bool:
    """Compare referents of which at least one is in another object.

    A global that moves from or to another file of the kernel is still the one in the kernel.
    """
    if a.symbol is None or b.symbol is None:
        return False
    defined = [x.symbol for x in (a, b) if x.section is not None and x.symbol is not None]
    return (a.symbol.name, a.offset) == (b.symbol.name, b.offset) and all(
        s.bind != STB_LOCAL for s in defined
    )


def _entries_of(s: Symbol, entries: Sequence[Entry]) -> list[Entry]:
    """Return the compared entries whose code lies inside ``s``."""
    found = []
    for e in entries:
        r = e.relocations[0]
        if e.table.is_compared and s.value <= r.symbol.value + r.addend < s.value + s.size:
            found.append(e)
    return found


def _sorted(section: Section) -> list[Relocation]:
    return sorted(section.relocations, key=lambda r: r.offset)


def _bytes(section: Section, start: int, size: int) -> bytes:
    """Return bytes of a section; zeros of one without content."""
    return bytes(size) if section.type == SHT_NOBITS else section.data[start : start + size]


def _masked(data: bytes, relocations: Sequence[Relocation], start: int) -> bytes:
    """Return ``data`` with the relocated fields zero."""
    out = bytearray(data)
    for r in relocations:
        at = r.offset - start
        kind = RELOCATION_TYPES.get(r.type)
        width = kind.size if kind else 4
        out[at : at + width] = bytes(len(out[at : at + width]))
    return bytes(out)
