# SPDX-License-Identifier: GPL-2.0-only
"""Which functions of a unit are replaced, and which only come along.

livepatch redirects functions that start with a call of fentry.  A changed function without one
(``static inline`` that was not inlined, notrace code) is only called: its callers are replaced,
unchanged as they are, and call the new one.  Where that cannot be done, because its address is kept
or too many call it, a kprobe redirects it (kmodsrc/redirect.c).
"""

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass

from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.unit import exit_function
from ksplicd.create.objects.index import code_section_of
from ksplicd.create.objects.names import is_exit_section, is_init_section
from ksplicd.create.objects.special import is_special_section
from ksplicd.create.refusal import Refusal
from ksplicd.elf.model import STB_LOCAL, Section, Symbol


@dataclass(frozen=True, slots=True, kw_only=True)
class RedirectPlan:
    """What happens to the functions of one unit.

    Symbols are those of the post object, in its order; with each goes the reason.
    """

    redirected: Mapping[Symbol, str]
    """By livepatch."""
    called_only: Mapping[Symbol, str]
    """Called by new code only."""
    probed: Mapping[Symbol, str]
    """Redirected by a kprobe."""
    unload: Symbol | None
    """The module's exit function, to be exchanged."""
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class _User:
    """One reference to a function."""

    owner: Section
    function: Symbol | None
    """The function that refers to it, None for data."""
    is_call: bool


def plan_redirects(
    difference: Difference,
    traceable: frozenset[str],
    called_elsewhere: Container[str] = (),
    probeable: frozenset[str] = frozenset(),
) -> RedirectPlan:
    """Decide for every changed function.

    ``traceable``: the functions of the running kernel's unit that start with fentry, by name.
    ``called_elsewhere``: global functions whose callers in other files are replaced too.
    ``probeable``: functions without fentry that a kprobe may redirect.
    """
    redirected, called_only, probed = dict[Symbol, str](), dict[Symbol, str](), dict[Symbol, str]()
    unload = difference.unload
    refused: list[Refusal] = []
    todo = dict(difference.changed)
    while todo:
        s, why = todo.popitem()
        if s in redirected or s in called_only or s in probed:
            continue
        name = difference.twins.pre_of[s].name
        if name in traceable:
            redirected[s] = why
            continue
        callers, refusals = _callers(difference, s, called_elsewhere)
        if refusals and name in probeable:
            probed[s] = why
            continue
        called_only[s] = why
        refused += [r for r in refusals if r not in refused]
        for caller in callers:
            if is_exit_section(code_section_of(caller)):
                unload = exit_function(difference.post)
                continue
            todo.setdefault(caller, f"calls {s.name}, which livepatch cannot redirect")
    # In the order of the object, whatever order they were found in: the same bytes every time.
    order = {s: i for i, s in enumerate(difference.post.obj.symbols)}

    def in_order(found: dict[Symbol, str]) -> dict[Symbol, str]:
        return dict(sorted(found.items(), key=lambda item: order[item[0]]))

    return RedirectPlan(
        redirected=in_order(redirected), called_only=in_order(called_only),
        probed=in_order(probed), unload=unload, refusals=tuple(refused),
    )  # fmt: skip


def find_called_only(
    difference: Difference,
    traceable: frozenset[str],
    probeable: frozenset[str],
    left: Collection[str],
) -> list[Symbol]:
    """Return the changed global functions that cannot be redirected.

    ``left``: those of which not all callers are found, so that only a kprobe may do it.
    """
    plan = plan_redirects(difference, traceable, _AllBut(left), probeable)
    return [s for s in plan.called_only if s.bind != STB_LOCAL]


@dataclass(frozen=True, slots=True)
class _AllBut:
    """A container of all there is but for a few names."""

    left: Collection[str]

    def __contains__(self, name: object) -> bool:
        return name not in self.left


def _callers(
    difference: Difference, s: Symbol, called_elsewhere: Container[str]
) -> tuple[list[Symbol], list[Refusal]]:
    """Return the functions to be replaced because they call ``s``, which cannot be redirected.

    What else refers to ``s`` is refused: it would go on using the old function.
    """
    section = code_section_of(s).name
    if s.bind != STB_LOCAL and s.name not in called_elsewhere:
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
            referent = post.locate(owner, r)
            if referent.symbol is not s or referent.offset:
                continue
            function = post.symbol_at(owner, r.offset) if owner.is_text else None
            if function is not None:
                function = post.main_of(function)
                if (function.section, function.value) == (s.section, s.value):
                    continue
            users.append(_User(owner, function, post.is_branch(owner, r)))
    return users
