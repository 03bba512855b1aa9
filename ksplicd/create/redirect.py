# SPDX-License-Identifier: GPL-2.0-only
"""Which functions of a unit are replaced, and which only come along.

livepatch redirects functions that start with a call of fentry.  A changed function without one
(``static inline`` that was not inlined, notrace code) is carried instead: its callers are replaced,
unchanged as they are, and call the new one.
"""

from collections.abc import Container
from dataclasses import dataclass, field

from ksplicd.create.correlate import code_section_of
from ksplicd.create.diff import Difference, Refusal
from ksplicd.create.names import is_cold_part, main_name
from ksplicd.create.special import is_special_section
from ksplicd.elf import Section, Symbol
from ksplicd.elf.model import STB_LOCAL


@dataclass(slots=True, kw_only=True)
class Plan:
    """What happens to the functions of one unit.  Symbols are those of the post object."""

    replaced: dict[Symbol, str] = field(default_factory=dict)
    """Redirected by livepatch, with the reason."""
    carried: dict[Symbol, str] = field(default_factory=dict)
    """Called by new code only, with the reason."""
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _User:
    """One reference to a function."""

    owner: Section
    function: Symbol | None
    """The function that refers to it, None for data."""
    is_call: bool


def plan(difference: Difference, traceable: frozenset[str], taken_in: Container[str] = ()) -> Plan:
    """Decide for every changed function.

    ``traceable``: the functions of the running kernel's unit that start with fentry, by name.
    ``taken_in``: global functions whose callers in other files are replaced too.
    """
    result = Plan()
    todo = dict(difference.changed)
    while todo:
        s, why = todo.popitem()
        if s in result.replaced or s in result.carried:
            continue
        if difference.twins.pre_of[s].name in traceable:
            result.replaced[s] = why
        else:
            result.carried[s] = why
            for caller in _callers(difference, s, result, taken_in):
                todo.setdefault(caller, f"calls {s.name}, which livepatch cannot redirect")
    # In the order of the object, whatever order they were found in: the same bytes every time.
    order = {s: i for i, s in enumerate(difference.post.obj.symbols)}
    result.replaced = dict(sorted(result.replaced.items(), key=lambda item: order[item[0]]))
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
    difference: Difference, s: Symbol, result: Plan, taken_in: Container[str]
) -> list[Symbol]:
    """Return the functions to be replaced because they call ``s``, which is carried.

    What else refers to ``s`` is refused: it would go on using the old function.
    """
    if s.bind != STB_LOCAL and s.name not in taken_in:
        _refuse(
            result, s, "a function without fentry cannot be redirected, and other files call it",
            "change its callers instead, or give them a changed copy under another name",
        )  # fmt: skip
        return []
    callers: dict[Symbol, None] = {}
    for user in _users(difference, s):
        if user.function is None or not user.is_call:
            _refuse(
                result, s, f"it cannot be redirected, and its address is kept in {user.owner.name}",
                "change its callers instead",
            )  # fmt: skip
        elif user.function in difference.twins.pre_of:
            callers[user.function] = None
    return list(callers)


def _users(difference: Difference, s: Symbol) -> list[_User]:
    """Return the references to ``s`` from other functions and from data."""
    post = difference.post
    mains = {f.name: f for f in post.obj.functions() if not is_cold_part(f.name)}
    users = []
    for owner in post.obj.sections:
        if not owner.is_alloc or is_special_section(owner) or owner is s.section:
            continue
        for r in owner.relocations:
            place = post.locate(owner, r)
            if place.symbol is not s or place.offset:
                continue
            function = post.symbol_at(owner, r.offset) if owner.is_text else None
            if function is not None and is_cold_part(function.name):
                if main_name(function.name) == s.name:
                    continue
                function = mains.get(main_name(function.name), function)
            users.append(_User(owner, function, post.is_branch(owner, r)))
    return users


def _refuse(result: Plan, s: Symbol, reason: str, hint: str) -> None:
    section = code_section_of(s).name
    refusal = Refusal(symbol=s.name, section=section, reason=reason, hint=hint)
    if refusal not in result.refusals:
        result.refusals.append(refusal)
