# SPDX-License-Identifier: GPL-2.0-only
"""What data mean under the same bytes: kinds of types, values of enumerations, types of variables.

The running kernel's data were written by code that took ``state == 2`` for one thing, or a word for
a number.  New code that takes it for another one reads them wrong, and no byte of the object tells.
A change of sign alone, a qualifier, ``int`` for an enumeration and another type of the same fields
(``refcount_t`` for ``atomic_t``) mean the same.  What an integer counts is not known here, unless a
typedef says so (``ktime_t``).
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from ksplicd.create.refusal import Refusal
from ksplicd.elf.debug_info import DebugInfo, Variable

SHOWN: Final = 4
"""Differences that a message names."""

_COUNT: Final = re.compile(
    r"^__|(?:^|_)(?:MAX|LAST|END|NUM|NR|COUNT|CNT|SIZE|TOTAL|N)(?:_|$)|^N[A-Z]*S$", re.IGNORECASE
)
"""Names of enumerators that only count the others, such as ``__TCA_MAX``, ``NR_LRU_LISTS``."""

_PLAIN: Final = re.compile(
    r"(?:__)?[us](?:8|16|32|64)|u?int(?:8|16|32|64)_t|u_int\d+_t|u_?(?:int|long|short|char)"
    r"|s?size_t|bool"
)
"""Typedefs that say no more than sign and size."""

_Leaves = list[tuple[int, int | None, str]]
"""(bit, bytes, kind) of what is in a type."""


def is_same_kind(pre: DebugInfo, a: int, post: DebugInfo, b: int) -> bool:
    """Tell whether two types of one size are read in the same way."""
    ta, tb = pre.stripped(a), post.stripped(b)
    if ta is None or tb is None:
        return ta is tb
    if ta.is_pointer and tb.is_pointer:
        return _same_target(pre, ta.type, post, tb.type)
    if ta.is_record and tb.is_record and ta.name and ta.name == tb.name:
        return True  # compared on its own
    if ta.is_array and tb.is_array and ta.count == tb.count:
        return is_same_kind(pre, ta.type, post, tb.type)
    if ta.enumerators and tb.enumerators:
        return bool({n for n, _ in ta.enumerators} & {n for n, _ in tb.enumerators})
    return sorted(_leaves(pre, a, 0)) == sorted(_leaves(post, b, 0))


def _same_target(pre: DebugInfo, a: int, post: DebugInfo, b: int) -> bool:
    """Tell whether pointers lead to the same: a structure, also by a new name, or what has none."""
    old, new = pre.record_name(a), post.record_name(b)
    if not old or not new or old == new:
        return True
    ta, tb = pre.stripped(a), post.stripped(b)
    if ta is None or tb is None or ta.size != tb.size:
        return False
    fields = [[(m.name, m.offset) for m in t.members] for t in (ta, tb)]
    return fields[0] == fields[1]


def _leaves(info: DebugInfo, key: int, base: int) -> _Leaves:
    """Return what is in a type; structures and arrays of one element are what is in them."""
    t = info.stripped(key)
    if t is None:
        return [(base, None, "")]
    if t.is_pointer:
        return [(base, 8, f"pointer {info.record_name(t.type)}")]
    if t.is_record:
        found: _Leaves = []
        for m in t.members:
            if m.bits is not None:
                found.append((base + m.offset, m.bits, "bits"))
            else:
                found += _leaves(info, m.type, base + m.offset)
        return found
    if t.is_array:
        inside = _leaves(info, t.type, base)
        return inside if t.count == 1 else [(base, info.size_of(key), f"{t.count} of {inside}")]
    return [(base, t.size, "integer")]


# --- enumerations -------------------------------------------------------------------------------


def refuse_values(pre: DebugInfo, post: DebugInfo, allowed: Collection[str]) -> Iterator[Refusal]:
    """Yield a refusal for each enumeration of which a name gets another value.

    Of one without a name, when the old value has another name now: else it is a set of constants.
    """
    before, after = _enumerations(pre), _enumerations(post)
    for key, new in after.items():
        old = before.get(key)
        name, first = key
        if old is None or (name or first) in allowed:
            continue
        changes = [
            f"{n} goes from {old[n]} to {value}"
            for n, value in new.items()
            if n in old and old[n] != value and not _is_count(n, old, new)
            and (name or old[n] in new.values() or value in old.values())
        ]  # fmt: skip
        if changes:
            yield _refuse_values(name or first, changes)


def _enumerations(info: DebugInfo) -> dict[tuple[str, str], Mapping[str, int]]:
    """Return the values of each enumeration by its name, or by its first enumerator's."""
    found: dict[tuple[str, str], Mapping[str, int]] = {}
    for name, t in info.enumerations:
        if t.enumerators:
            found[name, "" if name else t.enumerators[0][0]] = dict(t.enumerators)
    return found


def _is_count(name: str, old: Mapping[str, int], new: Mapping[str, int]) -> bool:
    """Tell whether an enumerator is only there to count the others: the last one, by its name."""
    is_last = old[name] >= max(old.values()) - 1 and new[name] >= max(new.values()) - 1
    return is_last and _COUNT.search(name) is not None


def _refuse_values(name: str, changes: list[str]) -> Refusal:
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return Refusal(
        symbol=name,
        section=".debug_info",
        reason=f"the values of this enumeration change: {', '.join(changes[:SHOWN])}{more}",
        hint="the kernel has objects with the old ones; add what is new at the end, or say"
        f" --allow-layout {name} when no object outlives the change",
    )


# --- variables ----------------------------------------------------------------------------------


def refuse_types(pre: DebugInfo, post: DebugInfo, allowed: Collection[str]) -> Iterator[Refusal]:
    """Yield a refusal for each variable of the kernel whose content means another thing."""
    before = _variables(pre)
    for key, new in _variables(post).items():
        old = before.get(key)
        if old is None or new.name in allowed or post.is_const(new.type):
            continue
        was, is_now = pre.text_of(old.type), post.text_of(new.type)
        if was == is_now or pre.size_of(old.type) != post.size_of(new.type):
            continue  # another size is another content
        if not is_same_kind(pre, old.type, post, new.type) or (
            _unit_of(pre, old.type) != _unit_of(post, new.type)
        ):
            yield Refusal(
                symbol=new.name,
                section=".debug_info",
                reason=f"the type of this variable changes from {was} to {is_now}",
                hint="the kernel's has a content of the old type; give the new one a name of its"
                f" own, or say --allow-layout {new.name} when its content means the same",
            )


def _variables(info: DebugInfo) -> dict[tuple[str, str], Variable]:
    """Return what is not on the stack, by function and name; no function: it is a file's."""
    functions = {node: name for name, nodes in info.functions.items() for node in nodes}
    return {
        (functions.get(v.node, ""), v.name): v
        for v in info.variables
        if not v.is_parameter and (v.node not in functions or v.place is not None)
    }


def _unit_of(info: DebugInfo, key: int) -> str:
    """Return the typedef that says what an integer counts, empty when none does."""
    t = info.types.get(key)
    while t is not None and not t.is_typedef and info.types.get(t.type) is not None:
        if t.is_pointer or t.is_array or t.is_record:
            return ""
        t = info.types.get(t.type)
    meant = info.stripped(key)
    if t is None or not t.is_typedef or meant is None or meant.is_record or meant.enumerators:
        return ""
    return "" if _PLAIN.fullmatch(t.name) else t.name
