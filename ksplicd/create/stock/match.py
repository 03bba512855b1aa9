# SPDX-License-Identifier: GPL-2.0-only
"""Run-pre matching, the static half: finds a unit's plain pre object in the stock image.

Every function must be in the image byte for byte, its relocated fields aside, and each section of
the object must lie there in one piece.  That gives the address of everything the unit defines or
uses, also where kallsyms has a name more than once.  It does not know what the running kernel makes
of its code (``kmodsrc/``).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.elf.model import STB_WEAK, STT_SECTION, Object, Relocation, Section, Symbol
from ksplicd.elf.x86_64 import ADDRESS_MASK, RELOCATION_TYPES
from ksplicd.errors import ElfError, ImageMismatchError

_SHOWN: Final = 8
"""Bytes shown of a difference."""


def is_absent_after_boot(section: Section) -> bool:
    """Tell whether the kernel frees the section after boot, such as ``.init.text``."""
    return section.name.startswith((".init", ".exit", ".altinstr"))


def is_merged_reference(r: Relocation) -> bool:
    """Tell whether ``r`` is to a section that the linker takes apart, as ``.rodata.str1.8``."""
    section = r.symbol.section
    return section is not None and (section.is_strings or section.is_merged_constants)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UnitMatch:
    """Where everything of one plain pre object is in the stock image."""

    obj: Object
    bases: Mapping[Section, int]
    """Address of each section's first byte; merged and unused sections are missing."""
    functions: Mapping[Symbol, int]
    """Address of each function that runs after boot, in the object's order."""
    overridden: Sequence[Symbol]
    """Weak functions in whose place the image has another one, such as ``arch_vma_name``."""
    externals: Mapping[Symbol, int]
    """Address of each undefined or weak symbol that those functions use."""

    def address_of(self, symbol: Symbol) -> int | None:
        """Return the address of a symbol that the unit defines or uses, None when unknown."""
        if symbol.section is None or symbol in self.externals:
            return self.externals.get(symbol)
        base = self.bases.get(symbol.section)
        return None if base is None else base + symbol.value


class _Matcher:
    """Matches one object; collects what ``UnitMatch`` holds."""

    def __init__(self, obj: Object, image: KernelImage, symbols: SymbolMap) -> None:
        self.obj, self.image, self.symbols = obj, image, symbols
        self.bases: dict[Section, int] = {}
        self.functions: dict[Symbol, int] = {}
        self.overridden: list[Symbol] = []
        self.externals: dict[Symbol, int] = {}
        self.relocations: dict[Section, list[Relocation]] = {}
        self.by_section: dict[Section, list[Symbol]] = defaultdict(list)
        for f in obj.functions():
            assert f.section is not None
            if not is_absent_after_boot(f.section):
                self.by_section[f.section].append(f)
        for section in self.by_section:
            self.relocations[section] = sorted(section.relocations, key=lambda r: r.offset)

    def run(self) -> UnitMatch:
        several: dict[Section, set[int]] = {}
        for section, functions in self.by_section.items():
            match self._find_bases(functions):
                case []:
                    self.overridden += functions
                case [base]:
                    self._add_functions(section, functions, base)
                case bases:
                    several[section] = set(bases)
        for function, address in self.functions.items():
            self._add_references(function, address)
        while several:
            self._tell_apart(several)
        order = {f: i for i, f in enumerate(self.obj.symbols)}
        return UnitMatch(
            obj=self.obj,
            bases=self.bases,
            functions=dict(sorted(self.functions.items(), key=lambda item: order[item[0]])),
            overridden=self.overridden,
            externals=self.externals,
        )

    # --- functions ------------------------------------------------------------------------------

    def _find_bases(self, functions: list[Symbol]) -> list[int]:
        """Return the bases at which all functions of a section are in the image.

        None when it has nothing but weak functions, which may all be overridden.
        """
        bases: set[int] | None = None
        for f in functions:
            addresses = [] if self._is_overridden(f) else self.symbols.addresses(f.name)
            found = {a - f.value for a in addresses if self._is_at(f, a)}
            together = found if bases is None else bases & found
            if together:
                bases = together
            elif f.bind != STB_WEAK and addresses:
                raise self._mismatch(f)
        if bases is None:
            if all(f.bind == STB_WEAK for f in functions):
                return []
            raise self._mismatch(functions[0])
        return sorted(bases)

    def _tell_apart(self, several: dict[Section, set[int]]) -> None:
        """Add one of the sections whose bytes are in the image several times.

        Such as ``.text.unlikely`` with a static function that a header has: what refers to it, and
        what it refers to, are in the image once.
        """
        for section, bases in several.items():
            functions = self.by_section[section]
            known = self.bases.get(section)
            left = {b for b in bases if known is None or b == known}
            if len(left) > 1:
                left = {b for b in left if self._fits(functions, b)}
            if len(left) == 1:
                del several[section]
                self._add_functions(section, functions, left.pop())
                for f in functions:
                    if f in self.functions:
                        self._add_references(f, self.functions[f])
                return
        section, bases = next(iter(several.items()))
        names = ", ".join(f.name for f in self.by_section[section][:3])
        raise ImageMismatchError(
            f"{self.obj.name}: {section.name} ({names}) is in the image {len(bases)} times;"
            " which one it is cannot be told"
        )

    def _fits(self, functions: list[Symbol], base: int) -> bool:
        """Tell whether what functions refer to at a base is where it is known to be."""
        known = dict(self.bases), dict(self.externals)
        try:
            for f in functions:
                self._add_references(f, base + f.value)
        except ImageMismatchError:
            return False
        finally:
            self.bases, self.externals = known
        return True

    def _add_functions(self, section: Section, functions: list[Symbol], base: int) -> None:
        """Add a section that is at ``base``, and its functions."""
        self.bases[section] = base
        for f in functions:
            address = base + f.value
            # The linker leaves an overridden body where it is; only the name goes elsewhere.
            if self._is_overridden(f) or (
                f.bind == STB_WEAK and address not in self.symbols.addresses(f.name)
            ):
                self.overridden.append(f)
            elif self._is_at(f, address):
                self.functions[f] = address
            else:
                raise self._mismatch(f, address)

    def _is_overridden(self, f: Symbol) -> bool:
        """Tell whether the image has a strong function instead, which may have the same bytes."""
        return f.bind == STB_WEAK and self.symbols.is_strong(f.name)

    def _fields(self, f: Symbol) -> list[tuple[int, int]]:
        """Return (offset, size) of the relocated fields of a function."""
        assert f.section is not None
        found = []
        for r in self.relocations[f.section]:
            if r.offset >= f.value + f.size:
                break
            if r.offset >= f.value:
                kind = RELOCATION_TYPES.get(r.type)
                if kind is None:
                    raise ElfError(f"{self.obj.name}: {f.name}: relocation of type {r.type}")
                found.append((r.offset - f.value, kind.size))
        return found

    def _masked(self, f: Symbol, address: int) -> tuple[bytes, bytes] | None:
        """Return the function's bytes in object and image with relocated fields zero."""
        assert f.section is not None
        found = self.image.read(address, f.size)
        if found is None:
            return None
        have, want = bytearray(found), bytearray(f.section.data[f.value : f.value + f.size])
        for offset, size in self._fields(f):
            have[offset : offset + size] = want[offset : offset + size] = bytes(size)
        return bytes(want), bytes(have)

    def _is_at(self, f: Symbol, address: int) -> bool:
        pair = self._masked(f, address)
        return pair is not None and pair[0] == pair[1]

    def _mismatch(self, f: Symbol, address: int | None = None) -> ImageMismatchError:
        """Return the error for a function that is not where it should be."""
        candidates = [address] if address is not None else self.symbols.addresses(f.name)
        where = f"{self.obj.name}: {f.name}"
        if not candidates:
            return ImageMismatchError(f"{where}: the image has no symbol of this name")
        shown = ""
        for candidate in candidates:
            pair = self._masked(f, candidate)
            if pair is None:
                shown = f"{where}: {candidate:#x} is outside the image"
            elif pair[0] != pair[1]:
                at = next(i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b)
                expected, found = (p[at : at + _SHOWN].hex() for p in pair)
                shown = f"{where}+{at:#x}: expected {expected}, the image has {found}"
        shown = shown or f"{where}: not in one piece with the rest of its section"
        return ImageMismatchError(
            f"{shown}; use the source, configuration and compiler that the image was built from"
        )

    # --- what the functions refer to --------------------------------------------------------------

    def _add_references(self, f: Symbol, address: int) -> None:
        """Add what the relocated fields of a matched function refer to, and check them."""
        assert f.section is not None
        code = self.image.read(address, f.size)
        assert code is not None
        for r in self.relocations[f.section]:
            if r.offset >= f.value + f.size:
                break
            if r.offset < f.value or not RELOCATION_TYPES[r.type].size:
                continue
            at = r.offset - f.value
            value = field_value(code, at, r.type, address + at)
            base = value - r.addend & ADDRESS_MASK
            if (fault := self._fault(r, value, base)) is not None:
                kind = RELOCATION_TYPES[r.type]
                raise ImageMismatchError(
                    f"{self.obj.name}: {f.name}+{at:#x}: {fault}; the image has"
                    f" {code[at : at + kind.size].hex()} there"
                )

    def _fault(self, r: Relocation, value: int, base: int) -> str | None:
        """Return what is wrong with a field that means ``base`` plus addend, None when nothing."""
        symbol, section = r.symbol, r.symbol.section
        if section is None or symbol.bind == STB_WEAK:
            addresses = self.symbols.addresses(symbol.name)
            if addresses and base not in addresses:
                return f"expected the address of {symbol.name}"
            known = self.externals.setdefault(symbol, base)
        elif is_merged_reference(r):
            content, start = merged_content(r)
            address = value - start & ADDRESS_MASK
            if content is not None and self.image.read(address, len(content)) != content:
                return f"expected a reference to {content[:40]!r}"
            return None
        else:
            base = base - symbol.value
            known = self.bases.setdefault(section, base)
        if known != base:
            return f"expected {symbol.name or (section.name if section else '')} at {known:#x}"
        return None


def match_unit(obj: Object, image: KernelImage, symbols: SymbolMap) -> UnitMatch:
    """Find the plain pre object ``obj`` in the stock image.

    Raises ``ImageMismatchError`` naming function, offset, expected and found bytes, ``ElfError``
    for a relocation type that kernels do not use.
    """
    return _Matcher(obj, image, symbols).run()


def field_value(code: bytes, at: int, kind: int, address: int) -> int:
    """Return the value that the relocated field ``at`` bytes into ``code`` has.

    ``address`` is the field's own.  The value is symbol plus addend: content, sign-extended, plus
    the field's address for PC-relative types.
    """
    how = RELOCATION_TYPES[kind]
    value = int.from_bytes(code[at : at + how.size], "little", signed=how.is_signed)
    return (value + address if how.is_pc_relative else value) & ADDRESS_MASK


def merged_content(r: Relocation) -> tuple[bytes | None, int]:
    """Return what a reference into a merged section is to, and how far behind its start it points.

    The assembler keeps a ``.LC`` symbol for each PC-relative reference, so that the linker moves
    the symbol and leaves the addend alone; other references name the section and the exact offset.
    (None, 0) when the reference has neither form.
    """
    section = r.symbol.section
    assert section is not None
    if r.symbol.type != STT_SECTION:
        offset, start = r.symbol.value, r.addend
    elif not RELOCATION_TYPES[r.type].is_pc_relative:
        offset, start = r.addend, 0
    else:
        return None, 0
    if not 0 <= offset < section.size:
        return None, 0
    if section.is_strings:
        end = section.data.find(b"\0", offset) + 1 or section.size
        # Wide strings end in a wide NUL; their first character is enough to tell them apart.
        return section.data[offset:end], start
    return section.data[offset : offset + max(section.entsize, 1)], start
