# SPDX-License-Identifier: GPL-2.0-only
"""Data whose layout or meaning changes, of all that a unit with changed functions uses.

Objects of the old layout exist in the running kernel, and unchanged functions go on making them.
The types come from the debug information with which the kernel's objects are compiled; without it
nothing is compared.  Which function uses a type in a cast or in ``sizeof`` only is not in it.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.meaning import SHOWN, is_same_kind, refuse_types, refuse_values
from ksplicd.create.messages import names_of
from ksplicd.create.objects.names import base_name
from ksplicd.create.refusal import Refusal
from ksplicd.elf.debug_info import DebugInfo, Type

_FILLER: Final = re.compile(
    r"(?:^|[._>])_*(?:unused|reserved|rsvd|resv|pad|padding|spare|dummy|hole)\d*_*$"
)
"""Fields that only fill a hole."""


@dataclass(frozen=True, slots=True)
class _Field:
    """One field, also of an anonymous structure inside."""

    name: str
    bit: int
    size: int
    """Bits."""
    type: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layouts:
    """What became of the structures that a unit uses."""

    refusals: tuple[Refusal, ...] = ()
    """One for each that has another layout."""
    are_unseen: bool = False
    """Whether the objects lack debug information, so that nothing was compared."""


def compare_layouts(difference: Difference, allowed: Collection[str] = ()) -> Layouts:
    """Compare the structures of a unit that has changed or new functions.

    ``allowed``: names of structures whose change is meant, with or without ``struct``.  Raises
    ``ElfError`` when the debug information cannot be read.
    """
    if not difference.changed and not difference.new:
        return Layouts()
    pre, post = difference.pre.debug_info, difference.post.debug_info
    if pre is None or post is None:
        return Layouts(are_unseen=True)
    functions = {source_name(s.name) for s in (*difference.changed, *difference.new)}
    fine = {re.sub(r"^(?:struct|union|enum) ", "", name) for name in allowed}
    old, new = _by_name(pre), _by_name(post)
    refusals = []
    for name, records in new.items():
        if name not in old or name in fine:
            continue
        # Functions may have structures of one name each.
        changes = [min((_compare(pre, a, post, b) for a in old[name]), key=len) for b in records]
        if any(changes) and not _is_on_stack_only(post, name, difference, functions):
            refusals += [_refuse(name, c) for c in changes if c]
    refusals += refuse_values(pre, post, fine)
    refusals += refuse_types(pre, post, fine)
    return Layouts(refusals=tuple(dict.fromkeys(refusals)))


def unseen_layouts(names: Sequence[str]) -> str:
    """Return what the user must know of units whose layouts could not be compared."""
    return (
        f"{names_of(names)}: compiled without debug information, so that changed structure layouts"
        " are not noticed; make sure that the patch changes none"
    )


def source_name(name: str) -> str:
    """Return the name that a function has in the source: ``foo.isra.0`` → ``foo``."""
    return name.split(".", 1)[0]


def _by_name(info: DebugInfo) -> dict[str, list[Type]]:
    found: dict[str, list[Type]] = defaultdict(list)
    for name, record in info.records:
        found[name].append(record)
    return found


def _compare(pre: DebugInfo, a: Type, post: DebugInfo, b: Type) -> list[str]:
    """Return what differs between two layouts, in words."""
    before = {f.name: f for f in _fields(pre, a, "", 0)}
    after = {f.name: f for f in _fields(post, b, "", 0)}
    gone = {(f.bit, f.size): f for name, f in before.items() if name not in after}
    came = {(f.bit, f.size) for name, f in after.items() if name not in before}
    changes: list[str] = []
    for name, f in after.items():
        old = before.get(name)
        if old is None:
            changes += _why_not_renamed(pre, gone.get((f.bit, f.size)), post, f)
        elif old.bit != f.bit:
            changes.append(f"{name} moves from {_offset(old)} to {_offset(f)}")
        elif old.size != f.size:
            changes.append(f"{name} at {_offset(f)} has {f.size} bits instead of {old.size}")
        elif not is_same_kind(pre, old.type, post, f.type):
            was, is_now = pre.text_of(old.type), post.text_of(f.type)
            changes.append(f"{name} at {_offset(f)} is {is_now} instead of {was}")
    for name, f in before.items():
        if name not in after and (f.bit, f.size) not in came:
            changes.append(f"{name} is gone from {_offset(f)}")
    if a.size != b.size:
        changes.append(f"size {a.size} → {b.size}")
    return changes


def _why_not_renamed(
    pre: DebugInfo, old: _Field | None, post: DebugInfo, new: _Field
) -> Iterator[str]:
    """Yield why a field is more than another name of ``old``, which was at its place.

    What only filled a hole had no meaning: ``unused``, ``reserved2``.
    """
    if old is None:
        yield f"{new.name} is new at {_offset(new)}"
    elif _FILLER.search(old.name) or not is_same_kind(pre, old.type, post, new.type):
        yield f"{new.name} at {_offset(new)} takes the place of {old.name}"


def _fields(info: DebugInfo, record: Type, prefix: str, base: int) -> Iterator[_Field]:
    """Yield the fields of a structure; those of structures without a name by their path."""
    for i, m in enumerate(record.members):
        name = prefix + (m.name or f"<{i}>")
        inner, is_pointer = info.record_of(m.type)
        size = (info.size_of(m.type) or 0) * 8 if m.bits is None else m.bits
        if inner is not None and not inner.name:
            below = prefix if not m.name else f"{name}->" if is_pointer else f"{name}."
            yield from _fields(info, inner, below, 0 if is_pointer else base + m.offset)
            if not m.name:
                continue
        yield _Field(name, base + m.offset, size, m.type)


def _offset(f: _Field) -> str:
    return f"{f.bit // 8}" if f.bit % 8 == 0 else f"{f.bit // 8}.{f.bit % 8}"


def _is_on_stack_only(
    info: DebugInfo, record: str, difference: Difference, functions: set[str]
) -> bool:
    """Tell whether all objects of a type live in calls of functions that change together.

    Arguments in a structure are an example, such as ``struct walk_args args`` whose address one
    changed function passes to another: no field and no variable points to one, and no function that
    stays knows the type.
    """
    users: set[int] = set()
    has_automatic = False
    data = {base_name(s.name) for s in difference.post.obj.symbols if not s.is_function}
    for v in info.variables:
        found, is_pointer = info.record_of(v.type)
        if found is None or found.name != record:
            continue
        if v.name in data or (is_pointer and not v.is_parameter):
            return False
        users.add(v.node)
        has_automatic |= not is_pointer and not v.is_parameter
    for t in info.types.values():
        for m in t.members:
            found, _ = info.record_of(m.type)
            if found is not None and found.name == record:
                return False
    names = {node: name for name, nodes in info.functions.items() for node in nodes}
    out_of_line = {source_name(s.name) for s in difference.post.obj.functions()}
    return has_automatic and all(
        names.get(node) in functions or names.get(node) not in out_of_line for node in users
    )


def _refuse(record: str, changes: list[str]) -> Refusal:
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return Refusal(
        symbol=record,
        section=".debug_info",
        reason=f"the layout of this structure changes: {', '.join(changes[:SHOWN])}{more}",
        hint="the kernel has objects of the old layout; keep what is new in shadow variables, or"
        f" say --allow-layout {record} when no object outlives the change",
    )
