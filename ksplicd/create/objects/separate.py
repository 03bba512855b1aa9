# SPDX-License-Identifier: GPL-2.0-only
"""One function or datum a section, also where the source asks for an explicit one.

``-ffunction-sections -fdata-sections`` leave together what has a section attribute
(``.sched.text``, ``__dyndbg``, ``.data..read_mostly``), and the pieces of functions that inline
assembly puts aside (``.altinstr_aux``).  Taken apart, each can be paired, compared and cut out
alone.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ksplicd.create.objects.index import AsCompiled, ObjectIndex, Referent
from ksplicd.create.objects.meant import Datum, MeantData
from ksplicd.create.objects.names import is_boot_section, is_code_fragment, is_prefix
from ksplicd.create.objects.special import REPLACEMENTS, EntrySizes, is_special_section
from ksplicd.elf.debug_line import line_places
from ksplicd.elf.instructions import (
    Field,
    Role,
    UndecodableError,
    read_fields,
    read_instructions,
)
from ksplicd.elf.model import (
    SHT_GROUP,
    SHT_NOBITS,
    STB_LOCAL,
    STT_FILE,
    STT_FUNC,
    STT_NOTYPE,
    STT_OBJECT,
    STT_SECTION,
    Object,
    Relocation,
    Section,
    Symbol,
)
from ksplicd.elf.x86_64 import R_X86_64_PLT32


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a section that gets one of its own."""

    start: int
    end: int


def index_separated(obj: Object, sizes: EntrySizes) -> ObjectIndex:
    """Take an object apart and return its index; ``sizes``: bytes an entry, by special section.

    What assembly names without a size gets one.
    """
    size_labels(obj)
    return ObjectIndex(obj, sizes, separate(ObjectIndex(obj, sizes)))


def size_labels(obj: Object) -> None:
    """Give what has a name and no size (``magic: .long 5``) all up to the next name.

    In data every label, in code those with ``.type``; not a label inside a sized symbol, nor one
    where such begins, as ``BTF_ID_LIST`` makes them.
    """
    by_section: dict[Section, list[Symbol]] = defaultdict(list)
    for s in obj.symbols:
        if s.section is not None and s.name and s.type not in (STT_SECTION, STT_FILE):
            by_section[s.section].append(s)
    for section, symbols in by_section.items():
        if not is_separable_data(section) and not is_separable_code(section):
            continue
        ends = sorted({s.value for s in symbols} | {section.size})
        sized = [s for s in symbols if s.size]
        for s in symbols:
            if s.size or (section.is_text and s.type != STT_FUNC) or s.name.startswith(".L"):
                continue
            if not any(other.value <= s.value < other.value + other.size for other in sized):
                s.size = next((e for e in ends if e > s.value), s.value) - s.value


def separate(index: ObjectIndex) -> AsCompiled:
    """Give every function, datum and fragment a section of its own, of the same name.

    Afterwards ``index`` no longer holds.  Returns what it alone could tell.
    """
    cuts: dict[Section, list[_Part]] = {}
    data: dict[Section, list[Datum]] = {}
    targets = _fragment_targets(index)
    for section in index.obj.sections:
        parts: list[_Part] = []
        if is_separable_data(section):
            if found := _data_in(index, section):
                data[section] = found
                parts = [_Part(d.start, d.end) for d in found]
        elif is_code_fragment(section):
            parts = _parts_from(targets.get(section, set()), section.size)
        elif is_separable_code(section):
            parts = _code_parts(index, section)
        if parts:
            cuts[section] = parts
    places = {
        s: (section, s.value)
        for section, parts in cuts.items()
        for s in index.symbols_in(section)
        if _index_at(parts, s.value) is not None
    }
    lines = line_places(index.obj)
    separator = _Separator(index, cuts, MeantData(index, data))
    if cuts:
        separator.cut()
    nameless = _nameless_code(index.obj, cuts.keys())
    return AsCompiled(
        nameless_code=nameless, places=places, line_places=lines, unclear=separator.unclear
    )


def is_separable_data(section: Section) -> bool:
    """Tell whether a section is data that may be taken apart, such as ``.data..read_mostly``."""
    if not section.is_alloc or section.is_text or section.type == SHT_GROUP:
        return False
    if is_special_section(section) or section.is_strings or section.is_merged_constants:
        return False
    return not section.name.startswith(("__ksymtab", "___ksymtab", ".init", ".exit", ".discard"))


def is_separable_code(section: Section) -> bool:
    """Tell whether a section is code that may be taken apart, such as ``.sched.text``."""
    return section.is_text and section.name != REPLACEMENTS


def _nameless_code(obj: Object, cut: Collection[Section]) -> dict[str, list[Section]]:
    """Return the sections of code that have no function, by name, but not pieces of functions.

    ``cut``: sections that were taken apart, of which no code is left.
    """
    with_function = {s.section for s in obj.functions()}
    found: dict[str, list[Section]] = defaultdict(list)
    for s in obj.sections:
        if not s.is_text or not s.size or s in with_function or s in cut or is_boot_section(s):
            continue
        if not is_code_fragment(s) and s.name != REPLACEMENTS:
            found[s.name].append(s)
    return found


# --- where to cut -------------------------------------------------------------------------------


def _data_in(index: ObjectIndex, section: Section) -> list[Datum]:
    """Return the data of a section in order, empty when there are not two or they overlap."""
    data: list[Datum] = []
    for s in index.symbols_in(section):
        if s.size and s.type in (STT_OBJECT, STT_NOTYPE):
            datum = Datum(s.value, s.value + s.size, s)
            if data and (datum.start, datum.end) == (data[-1].start, data[-1].end):
                if data[-1].symbol.bind != STB_LOCAL:
                    data[-1] = datum  # an alias; a section may mean the local name alone
                continue
            if data and s.value < data[-1].end:
                return []
            data.append(datum)
    return data if len(data) > 1 else []


def _parts_from(starts: Iterable[int], end: int) -> list[_Part]:
    """Return the parts that begin at ``starts``, each as long as it goes."""
    ordered = sorted(starts)
    return [_Part(a, b) for a, b in zip(ordered, [*ordered[1:], end], strict=True)]


def _fragment_targets(index: ObjectIndex) -> dict[Section, set[int]]:
    """Return the offsets at which code fragments are entered: each piece is a fragment."""
    found: dict[Section, set[int]] = {}
    for owner in index.obj.sections:
        for r in owner.relocations:
            section = r.symbol.section
            if section is not None and is_code_fragment(section) and owner is not section:
                offset = r.symbol.value + r.addend + index.bias(owner, r)
                if 0 <= offset < section.size and _is_entry(owner):
                    found.setdefault(section, set()).add(offset)
    return found


def _is_entry(owner: Section) -> bool:
    """Tell whether a section refers to fragments by their beginning, not about their inside.

    Code does, and the repair address of an exception.
    """
    return owner.is_text or owner.name == "__ex_table"


def _code_parts(index: ObjectIndex, section: Section) -> list[_Part]:
    """Return the functions of a section, empty when there are not two that can be separated.

    Code between them that is of no function is a part, too.
    """
    functions = [s for s in index.symbols_in(section) if s.is_function and s.size]
    if not functions:
        return []
    before = {s.value + s.size: s.value for s in functions if is_prefix(s)}
    starts = {before.get(s.value, s.value) for s in functions if not is_prefix(s)}
    starts |= _nameless_starts(section, functions)
    if len(starts) < 2:
        return []
    parts = _parts_from(starts, section.size)
    try:
        branches = _local_branches(section, functions)
    except UndecodableError:
        return []
    # A short jump into the next function has no room for a relocation: the two stay together.
    for at, field, target in branches:
        if field.size == 1:
            parts = _joined(parts, at, target)
    return parts if len(parts) > 1 else []


def _nameless_starts(section: Section, functions: Sequence[Symbol]) -> set[int]:
    """Return where code of no function begins, behind functions and at the section's start."""
    starts: set[int] = set()
    end = 0
    for s in [*sorted(functions, key=lambda s: s.value), None]:
        start = section.size if s is None else s.value
        if end < start and not _is_padding(section.data, end, start):
            starts.add(end)
        end = end if s is None else max(end, s.value + s.size)
    return starts


def _is_padding(data: bytes, start: int, end: int) -> bool:
    """Tell whether code is never run: nops, int3, or zeros."""
    if not any(data[start:end]):
        return True
    try:
        code = read_instructions(data, start, end)
    except UndecodableError:
        return False
    return all((x.number, x.opcode) in ((0, 0x90), (0, 0xCC), (1, 0x1F)) for x in code)


def _joined(parts: Sequence[_Part], a: int, b: int) -> list[_Part]:
    """Return the parts with those from ``a`` to ``b`` made one."""
    i, j = sorted((_index_at(parts, a) or 0, _index_at(parts, b) or 0))
    return [*parts[:i], _Part(parts[i].start, parts[j].end), *parts[j + 1 :]]


def _local_branches(section: Section, functions: Sequence[Symbol]) -> list[tuple[int, Field, int]]:
    """Return (offset, field, target) of the branches that the assembler has resolved.

    Raises ``UndecodableError``.
    """
    relocated = {r.offset for r in section.relocations}
    found = []
    for s in {s.value: s for s in functions if not is_prefix(s)}.values():
        fields = read_fields(section.data, s.value, s.value + s.size)
        for at, field in fields.items():
            if field.role is Role.BRANCH and at not in relocated:
                raw = section.data[at : at + field.size]
                target = at + field.tail + int.from_bytes(raw, "little", signed=True)
                found.append((at, field, target))
    return found


def _index_at(parts: Sequence[_Part], offset: int) -> int | None:
    """Return the index of the part that has ``offset``."""
    i = bisect_right(parts, offset, key=lambda part: part.start) - 1
    return i if i >= 0 and offset < parts[i].end else None


# --- cutting ------------------------------------------------------------------------------------


class _Separator:
    """Moves the parts of sections into sections of their own."""

    def __init__(
        self, index: ObjectIndex, cuts: dict[Section, list[_Part]], meant: MeantData
    ) -> None:
        self.index, self.obj, self.cuts, self.meant = index, index.obj, cuts, meant
        self.unclear: dict[Relocation, tuple[Symbol, Symbol]] = {}
        self.made: dict[Section, list[Section]] = {}
        self.section_symbols: dict[Section, Symbol] = {}

    def cut(self) -> None:
        # What a reference means is asked before anything moves.
        located = [
            (r, self.locate(owner, r))
            for owner in self.obj.sections
            for r in owner.relocations
            if r.symbol.section in self.cuts and r.symbol.type == STT_SECTION
        ]
        for section in self.cuts:
            if section.is_text:
                located += self.relocate_local_branches(section)
        targets = [(r, *self.find_target(r, referent)) for r, referent in located]
        for section, parts in self.cuts.items():
            self.made[section] = [self.make(section, part) for part in parts]
        for section, parts in self.cuts.items():
            self.move_contents(section, parts)
        for r, section, i in targets:
            if i is not None:
                r.symbol = self.section_symbol(self.made[section][i])
                r.addend -= self.cuts[section][i].start
        self.obj.symbols[:0] = self.section_symbols.values()
        self.obj.sections = [x for s in self.obj.sections for x in (s, *self.made.get(s, []))]

    def locate(self, owner: Section, r: Relocation) -> Referent:
        """Return what a reference by a section means; what it leaves open stays together."""
        section = r.symbol.section
        if section is None or section not in self.meant.data or not owner.is_alloc:
            return self.index.locate(owner, r)
        found = self.meant.find(owner, r)
        if found.datum is None:
            return self.index.locate(owner, r)
        if found.other is not None:
            self.unclear[r] = found.datum.symbol, found.other.symbol
            parts = self.cuts[section]
            self.cuts[section] = _joined(parts, found.datum.start, found.other.start)
        offset = r.addend + self.index.bias(owner, r)
        return Referent(found.datum.symbol, section, offset - found.datum.start)

    def find_target(self, r: Relocation, referent: Referent) -> tuple[Section, int | None]:
        """Return the section that ``r`` refers to and the index of the part that it means."""
        section = r.symbol.section
        assert section is not None
        # The offset may lie outside the symbol that is meant.
        offset = referent.symbol.value if referent.symbol is not None else referent.offset
        return section, _index_at(self.cuts[section], offset)

    def relocate_local_branches(self, section: Section) -> list[tuple[Relocation, Referent]]:
        """Add relocations to the branches from one part of a code section to another."""
        functions = [s for s in self.index.symbols_in(section) if s.is_function and s.size]
        if is_code_fragment(section):
            return []
        parts, symbol = self.cuts[section], self.obj.section_symbol(section)
        new = []
        for at, field, target in _local_branches(section, functions):
            if field.size == 4 and _index_at(parts, at) != _index_at(parts, target):
                r = Relocation(at, R_X86_64_PLT32, symbol, target - field.tail)
                section.relocations.append(r)
                section.data = section.data[:at] + bytes(4) + section.data[at + 4 :]
                new.append((r, self.index.locate(section, r)))
        return new

    @staticmethod
    def make(section: Section, part: _Part) -> Section:
        is_nobits = section.type == SHT_NOBITS
        return Section(
            section.name, section.type, section.flags,
            b"" if is_nobits else section.data[part.start : part.end],
            _alignment(section.align, part.start), section.entsize,
            nobits_size=part.end - part.start if is_nobits else 0,
        )  # fmt: skip

    def move_contents(self, section: Section, parts: Sequence[_Part]) -> None:
        """Move the relocations and the symbols of a section into the parts they lie in."""
        made = self.made[section]
        kept: list[Relocation] = []
        for r in section.relocations:
            i = _index_at(parts, r.offset)
            if i is None:
                kept.append(r)
            else:
                r.offset -= parts[i].start
                made[i].relocations.append(r)
        section.relocations = kept
        for s in self.index.symbols_in(section):
            i = _index_at(parts, s.value)
            if i is not None:
                s.section, s.value = made[i], s.value - parts[i].start

    def section_symbol(self, section: Section) -> Symbol:
        if section not in self.section_symbols:
            self.section_symbols[section] = Symbol("", type=STT_SECTION, section=section)
        return self.section_symbols[section]


def _alignment(section_align: int, offset: int) -> int:
    """Return the alignment that an offset in an aligned section has."""
    lowest = offset & -offset
    return section_align if not lowest else min(section_align, lowest)
