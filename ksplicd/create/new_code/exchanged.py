# SPDX-License-Identifier: GPL-2.0-only
"""What is done for a field of the running kernel's tables that changes.

Where nothing but tables leads to a function that they name no longer, that function is redirected
(``successions.py``).  Else the field is exchanged in place, where no unit of this kernel copies
such a table, or keeps the field of one elsewhere: a copy would go on with the old content, and one
that is made meanwhile would keep the new one after undo.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ksplicd.create.build.tree import BuildTree
from ksplicd.create.diff.difference import Succession, UnitChange
from ksplicd.create.diff.pointers import PointerChange
from ksplicd.create.new_code.successions import NoSuccessionError, Successions, by_old
from ksplicd.create.new_code.table_copies import (
    Copy,
    Field,
    declared_members,
    find_copies,
    find_writes,
)
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import is_read_only
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.debug_info import DebugInfo
from ksplicd.elf.model import STB_LOCAL, Symbol

_BITS: Final = 8
_WAY_OUT_FOR_VALUES: Final = "set it, and what was made of it, from a hook"
_WAY_OUT: Final = "change the function itself, or every copy from a hook"


def lead_tables(change: UnitChange, successions: Successions, tree: BuildTree) -> UnitChange:
    """Return the change with what its tables no longer name redirected, as far as it can be.

    Refuses what can neither be redirected nor exchanged in place; the source tree must be as it was
    found.
    """
    found: list[Succession] = []
    left = dict.fromkeys(change.difference.pointers, "")
    for old, pointers in by_old(change).items():
        try:
            found.append(successions.find(change, old, pointers))
        except NoSuccessionError as e:
            left |= dict.fromkeys(pointers, f"{old.name} cannot be redirected instead: {e}")
        else:
            left = {p: why for p, why in left.items() if p not in pointers}
    return refuse_copied(change.with_successions(found, left), tree, left)


def refuse_copied(
    change: UnitChange,
    tree: BuildTree,
    reasons: Mapping[PointerChange, str] = MappingProxyType({}),
) -> UnitChange:
    """Refuse to exchange a field of a table of a type of which this kernel copies tables.

    ``reasons``: why the function behind a pointer is not redirected.
    """
    refusals: list[Refusal] = []
    for p in change.difference.pointers:
        why = why_not_in_place(tree, change, p.datum, p.offset)
        if why is not None:
            more = reasons.get(p, "")
            refusals.append(refuse(p.datum, f"{why}; {more}" if more else why, _WAY_OUT))
    known: dict[tuple[Symbol, tuple[Field, ...]], str | None] = {}
    for v in change.difference.values:
        place = v.datum, tuple(fields_at(change.difference.post, v.datum, v.offset))
        if place not in known:
            known[place] = why_not_in_place(tree, change, v.datum, v.offset, is_value=True)
            if (why := known[place]) is not None:
                refusals.append(refuse(v.datum, why, _WAY_OUT_FOR_VALUES))
    return change.refuse(refusals)


def why_not_in_place(
    tree: BuildTree, change: UnitChange, datum: Symbol, offset: int, *, is_value: bool = False
) -> str | None:
    """Return why what a datum has at an offset may not be exchanged, None when it may.

    ``is_value``: it is no pointer to a function.
    """
    fields = fields_at(change.difference.post, datum, offset)
    if not fields:
        return f"+{offset:#x} changes, and the type of what has it there is not known"
    if is_value:
        fields[-1] = replace(fields[-1], is_pointer=False, is_value=True)
        assert datum.section is not None
        is_writable = not is_read_only(datum.section)
        writes = _find(find_writes, tree, change.unit, datum, fields[-1]) if is_writable else ()
        if (found := next(iter(writes), None)) is not None:
            return f"its .{fields[-1].member} changes, and the kernel may write it: {found}"
    for field in fields:
        found = next(_find(find_copies, tree, change.unit, datum, field), None)
        if found is not None:
            return (
                f"its .{field.member} changes, and the kernel copies it from such a"
                f" {field.type}: {found}"
            )
    return None


def fields_at(index: ObjectIndex, datum: Symbol, offset: int) -> list[Field]:
    """Return the fields that a datum has at an offset: of the outer structure, then of inner ones.

    None when the debug information does not tell.
    """
    info = index.debug_info
    name = re.sub(r"\.\d+$", "", datum.name)
    types = {} if info is None else {v.type: None for v in info.variables if v.name == name}
    for key in types:
        assert info is not None
        if info.size_of(key) == datum.size and (found := list(_path(info, key, offset))):
            return found
    return []


def _path(info: DebugInfo, key: int, offset: int, outer: str = "") -> Iterator[Field]:
    """Yield the fields that lead to an offset in a type.  Of a union all members are followed.

    ``outer``: the structure that has the fields of one without a name.
    """
    t = info.stripped(key)
    if t is None:
        return
    if t.is_array:
        size = info.size_of(t.type)
        if size:
            yield from _path(info, t.type, offset % size)
        return
    if not t.is_record:
        return
    type_name = t.name and f"struct {t.name}"
    if not type_name:
        type_name = info.record_name(key) or outer
    for m in t.members:
        size = info.size_of(m.type) or 0
        begin = m.offset // _BITS
        if begin <= offset < begin + size:
            inner = info.stripped(m.type)
            if type_name and m.name:
                is_pointer = inner is not None and inner.is_pointer
                yield Field(type=type_name, member=m.name, is_pointer=is_pointer)
            yield from _path(info, m.type, offset - begin, "" if m.name else type_name)


def _sources(tree: BuildTree, unit: str, type_name: str) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of this kernel's source files that name a type, the unit's own first."""
    paths = tree.files_naming(type_name.split()[-1])
    # the unit itself first: most tables are copied where they are defined
    units = [unit, *(p for p in paths if p in tree.listing and p != unit)]
    for path in [*units, *(p for p in paths if p.endswith(".h"))]:
        yield path, _read(tree.source.root / path)


def _find(
    find: Callable[[str, Field, str | None, dict[str, bool]], Iterator[Copy]],
    tree: BuildTree,
    unit: str,
    datum: Symbol,
    field: Field,
) -> Iterator[str]:
    """Yield the places in this kernel's source that copy a table of a type, or its field."""
    tree.progress(f"looking for copies of {field.type}")
    sources = list(_sources(tree, unit, field.type))
    members: dict[str, bool] = {}
    for path, text in sources:
        if path.endswith(".h"):
            for name, is_pointer in declared_members(text, field.type).items():
                members[name] = is_pointer and members.get(name, True)
    for path, text in sources:
        table = datum.name if path == unit or datum.bind != STB_LOCAL else None
        for copy in find(text, field, table, members):
            yield f"{path}:{copy.line}: {copy.text.rstrip(' ;,')}"


def _read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
