# SPDX-License-Identifier: GPL-2.0-only
"""Which functions of a unit are replaced, and which only come along.

livepatch redirects functions that start with a call of fentry.  A changed function without one
(``static inline`` that was not inlined, notrace code) is carried instead: its callers are replaced,
unchanged as they are, and call the new one.  Where that cannot be done, because its address is kept
or too many call it, a kprobe redirects it (kmodsrc/redirect.c).
"""

from collections.abc import Container
from dataclasses import dataclass, field
from enum import Enum

from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.unit import exit_function
from ksplicd.create.objects.index import code_section_of
from ksplicd.create.objects.names import is_exit_section, is_init_section
from ksplicd.create.objects.special import is_special_section
from ksplicd.create.refusal import Refusal
from ksplicd.elf import Section, Symbol
from ksplicd.elf.model import STB_LOCAL


class RedirectKind(Enum):
    """How the kernel part leads to new code without livepatch (kmodsrc/redirect.c)."""

    PROBE = "kprobe"
    POINTER = "pointer"
    EXIT = "exit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """One place, besides livepatch's functions, that leads to new code."""

    kind: RedirectKind
    name: str
    """The function, or the table that the pointer is in."""
    sympos: int
    place: str
    """Symbol of the old function or of the table; empty for a module's exit function."""
    new: str
    """Symbol of the new function."""
    reason: str
    """Why it is in."""
    offset: int = 0
    """Of the pointer in the table."""
    old: str = ""
    """Symbol of what the pointer holds before; empty: nothing."""


@dataclass(slots=True, kw_only=True)
class Plan:
    """What happens to the functions of one unit.  Symbols are those of the post object."""

    replaced: dict[Symbol, str] = field(default_factory=dict)
    """Redirected by livepatch, with the reason."""
    carried: dict[Symbol, str] = field(default_factory=dict)
    """Called by new code only, with the reason."""
    probed: dict[Symbol, str] = field(default_factory=dict)
    """Redirected by a kprobe, with the reason."""
    unload: Symbol | None = None
    """The module's exit function, to be exchanged."""
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _User:
    """One reference to a function."""

    owner: Section
    function: Symbol | None
    """The function that refers to it, None for data."""
    is_call: bool


def plan(
    difference: Difference,
    traceable: frozenset[str],
    taken_in: Container[str] = (),
    probeable: frozenset[str] = frozenset(),
) -> Plan:
    """Decide for every changed function.

    ``traceable``: the functions of the running kernel's unit that start with fentry, by name.
    ``taken_in``: global functions whose callers in other files are replaced too.
    ``probeable``: functions without fentry that a kprobe may redirect.
    """
    result = Plan(unload=difference.unload)
    todo = dict(difference.changed)
    while todo:
        s, why = todo.popitem()
        if s in result.replaced or s in result.carried or s in result.probed:
            continue
        name = difference.twins.pre_of[s].name
        if name in traceable:
            result.replaced[s] = why
            continue
        callers, refusals = _callers(difference, s, taken_in)
        if refusals and name in probeable:
            result.probed[s] = why
            continue
        result.carried[s] = why
        result.refusals += [r for r in refusals if r not in result.refusals]
        for caller in callers:
            if is_exit_section(code_section_of(caller)):
                result.unload = exit_function(difference.post)
                continue
            todo.setdefault(caller, f"calls {s.name}, which livepatch cannot redirect")
    # In the order of the object, whatever order they were found in: the same bytes every time.
    order = {s: i for i, s in enumerate(difference.post.obj.symbols)}
    for found in (result.replaced, result.carried, result.probed):
        items = sorted(found.items(), key=lambda item: order[item[0]])
        found.clear()
        found.update(items)
    return result


def must_be_carried(difference: Difference, traceable: frozenset[str]) -> list[Symbol]:
    """Return the changed global functions that cannot be redirected."""
    carried = plan(difference, traceable, _Everything()).carried
    return [s for s in carried if s.bind != STB_LOCAL]


class _Everything:
    """A container of all there is."""

    def __contains__(self, _: object) -> bool:
        return True


def _callers(
    difference: Difference, s: Symbol, taken_in: Container[str]
) -> tuple[list[Symbol], list[Refusal]]:
    """Return the functions to be replaced because they call ``s``, which is carried.

    What else refers to ``s`` is refused: it would go on using the old function.
    """
    section = code_section_of(s).name
    if s.bind != STB_LOCAL and s.name not in taken_in:
        why = "a function without fentry cannot be redirected, and other files call it"
        hint = "change its callers instead, or give them a changed copy under another name"
        return [], [Refusal(symbol=s.name, section=section, reason=why, hint=hint)]
    callers: dict[Symbol, None] = {}
    refusals = []
    for user in _users(difference, s):
        if user.function is None or not user.is_call:
            why = f"it cannot be redirected, and its address is kept in {user.owner.name}"
            hint = "change its callers instead"
            refusals.append(Refusal(symbol=s.name, section=section, reason=why, hint=hint))
        elif user.function in difference.twins.pre_of:
            callers[user.function] = None
    return list(callers), refusals


def _users(difference: Difference, s: Symbol) -> list[_User]:
    """Return the references to ``s`` from other functions and from data."""
    post = difference.post
    users = []
    for owner in post.obj.sections:
        if not owner.is_alloc or is_special_section(owner) or owner is s.section:
            continue
        if is_init_section(owner) or owner.name.startswith(".exitcall"):  # has run, or never will
            continue
        for r in owner.relocations:
            place = post.locate(owner, r)
            if place.symbol is not s or place.offset:
                continue
            function = post.symbol_at(owner, r.offset) if owner.is_text else None
            if function is not None:
                function = post.main_of(function)
                if (function.section, function.value) == (s.section, s.value):
                    continue
            users.append(_User(owner, function, post.is_branch(owner, r)))
    return users
