# SPDX-License-Identifier: GPL-2.0-only
"""The types and variables that an object's debug information describes.

What tells the layout and the meaning of data, and no more; dwarf.py reads it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ksplicd.elf.model import Relocation, Section

# DWARF 5, section 7.5.3: tags of types
_ARRAY, _CLASS, _ENUM, _POINTER, _STRUCT, _TYPEDEF, _UNION = (
    0x01, 0x02, 0x04, 0x0F, 0x13, 0x16, 0x17,
)  # fmt: skip
_BASE, _CONST, _VOLATILE, _RESTRICT, _ATOMIC = 0x24, 0x26, 0x35, 0x37, 0x47
_QUALIFIERS: Final = frozenset({_TYPEDEF, _CONST, _VOLATILE, _RESTRICT, _ATOMIC})
_RECORDS: Final = frozenset({_STRUCT, _UNION, _CLASS})
TYPES: Final = _RECORDS | _QUALIFIERS | {_ARRAY, _ENUM, _POINTER, _BASE}
_POINTER_SIZE: Final = 8


@dataclass(slots=True)
class Member:
    """One field of a structure."""

    name: str
    offset: int
    """Bits from the beginning of the structure."""
    bits: int | None
    """Size of a bit-field."""
    type: int
    """Key of its type, 0 when it has none."""


@dataclass(slots=True)
class Type:
    """One type.  Keys are offsets in ``.debug_info``."""

    tag: int
    name: str
    size: int | None
    type: int
    members: list[Member] = field(default_factory=list)
    count: int = 1
    """Elements of an array; 0 when it has no bound."""
    enumerators: list[tuple[str, int]] = field(default_factory=list)

    @property
    def is_pointer(self) -> bool:
        """Tell whether the type is a pointer."""
        return self.tag == _POINTER

    @property
    def is_array(self) -> bool:
        """Tell whether the type is an array."""
        return self.tag == _ARRAY

    @property
    def is_typedef(self) -> bool:
        """Tell whether the type is another one's name."""
        return self.tag == _TYPEDEF

    @property
    def is_record(self) -> bool:
        """Tell whether the type is a structure or a union."""
        return self.tag in _RECORDS


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable or a parameter."""

    name: str
    type: int
    node: int
    """The outermost entry that it is in: its function's, or its own."""
    is_parameter: bool
    relocation: Relocation | None = None
    """Of its address; None where it is on the stack, in another object, or optimised away."""
    alignment: int = 1
    """Bytes, where the source declares one."""

    @property
    def place(self) -> tuple[Section, int] | None:
        """Where it begins, None when it has no address here."""
        r = self.relocation
        if r is None or r.symbol.section is None:
            return None
        return r.symbol.section, r.symbol.value + r.addend


@dataclass(slots=True)
class DebugInfo:
    """The types, functions and variables of an object."""

    types: dict[int, Type] = field(default_factory=dict)
    functions: dict[str, list[int]] = field(default_factory=dict)
    """By name, the outermost entries of a function: the inlined and the out-of-line one."""
    nodes: list[int] = field(default_factory=list)
    """Offsets of the outermost entries, ascending."""
    variables: list["Variable"] = field(default_factory=list)
    declared: dict[int, str] = field(default_factory=dict)
    """The names of structures that are only declared."""

    def static_locals(self) -> Iterator[tuple[str, Variable]]:
        """Yield the static variables of functions that have an address, with the function's name.

        Also those of inlined functions, in the order of the source within each function.
        """
        names = {node: name for name, nodes in self.functions.items() for node in nodes}
        for v in self.variables:
            if v.place is not None and v.node in names:
                yield names[v.node], v

    def size_of(self, key: int) -> int | None:
        """Return the size of a type in bytes, None when it has none."""
        t = self.types.get(key)
        if t is None:
            return None
        if t.tag == _POINTER:
            return _POINTER_SIZE
        if t.tag in _QUALIFIERS:
            return self.size_of(t.type)
        if t.tag == _ARRAY and t.size is None:
            element = self.size_of(t.type)
            return None if element is None else element * t.count
        return t.size

    @property
    def enumerations(self) -> Iterator[tuple[str, Type]]:
        """The enumerations, by their own name, that of a typedef, or none."""
        named = {t.type: t.name for t in self.types.values() if t.tag == _TYPEDEF}
        for key, t in self.types.items():
            if t.tag == _ENUM:
                yield t.name or named.get(key, ""), t

    def is_const(self, key: int) -> bool:
        """Tell whether nobody writes what has a type; an array is const when its elements are."""
        t = self.types.get(key)
        while t is not None and (t.tag == _ARRAY or t.tag in _QUALIFIERS):
            if t.tag == _CONST:
                return True
            t = self.types.get(t.type)
        return False

    def stripped(self, key: int) -> Type | None:
        """Return a type without its typedefs and qualifiers, None for ``void`` and functions."""
        t = self.types.get(key)
        while t is not None and t.tag in _QUALIFIERS:
            t = self.types.get(t.type)
        return t

    def record_name(self, key: int) -> str:
        """Return the name of a structure, also of one that is only declared; else none."""
        t = self.types.get(key)
        alias = ""
        while t is not None and t.tag in _QUALIFIERS:
            alias = t.name if t.tag == _TYPEDEF else alias
            key, t = t.type, self.types.get(t.type)
        if t is None:
            return self.declared.get(key, "")
        return t.name or alias if t.is_record else ""

    def text_of(self, key: int) -> str:
        """Return a type as C writes it, without qualifiers; what has no name by what it is."""
        t = self.types.get(key)
        if t is None:
            return "void"
        if t.tag == _POINTER:
            target = self.text_of(t.type)
            return f"{target}*" if target.endswith("*") else f"{target} *"
        if t.tag == _ARRAY:
            return f"{self.text_of(t.type)}[{t.count or ''}]"
        if t.tag in _QUALIFIERS and t.tag != _TYPEDEF:
            return self.text_of(t.type)
        words = {_STRUCT: "struct", _UNION: "union", _ENUM: "enum"}
        return f"{words.get(t.tag, '')} {t.name or '{...}'}".strip()

    def is_array(self, key: int) -> bool:
        """Tell whether a type is an array, by whichever name."""
        t = self.types.get(key)
        while t is not None and t.tag in _QUALIFIERS:
            t = self.types.get(t.type)
        return t is not None and t.tag == _ARRAY

    @property
    def records(self) -> Iterator[tuple[str, Type]]:
        """The structures and unions that have a size, by their own name or that of a typedef."""
        for t in self.types.values():
            if t.is_record and t.name and t.size is not None:
                yield t.name, t
            elif t.tag == _TYPEDEF:
                meant = self.types.get(t.type)
                if meant is not None and meant.is_record and not meant.name and meant.size:
                    yield t.name, meant

    def record_of(self, key: int) -> tuple[Type | None, bool]:
        """Return the structure behind a type and whether pointers lead there.

        Looks through typedefs, arrays and pointers.
        """
        t, is_pointer = self.types.get(key), False
        while t is not None and (t.tag in _QUALIFIERS or t.tag in (_ARRAY, _POINTER)):
            is_pointer |= t.tag == _POINTER
            t = self.types.get(t.type)
        return (t if t is not None and t.is_record else None), is_pointer
