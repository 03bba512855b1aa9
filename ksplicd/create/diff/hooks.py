# SPDX-License-Identifier: GPL-2.0-only
"""Hooks: functions of the patch that are called when an update is applied or undone.

The macros of kmodsrc/ksplice-patch.h leave a pointer to each in a section ``.ksplice_call_KIND``.
The pointers are for us; the new-code module gets a list of its own (``update.h``).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ksplicd.create.diff.twins import Twins
from ksplicd.create.objects.index import code_section_of, relocations_in
from ksplicd.create.objects.names import is_boot_section
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Section, Symbol

KINDS: Final = (
    "pre_apply", "check_apply", "apply", "post_apply", "fail_apply",
    "pre_reverse", "check_reverse", "reverse", "post_reverse", "fail_reverse",
    "pre_patch", "post_patch", "pre_unpatch", "post_unpatch",
)  # fmt: skip
"""As enum hook_kind of kmodsrc/new_code.c has them."""

CHECKS: Final = ("pre_apply", "check_apply", "pre_reverse", "check_reverse", "pre_patch")
"""Those that return an error or 0."""

CALLBACKS: Final = ("pre_patch", "post_patch", "pre_unpatch", "post_unpatch")
"""Livepatch's own: they are handed their target, which has one of a kind."""

_AROUND: Final = (
    (("pre_apply", "check_apply", "pre_patch", "apply"), ("post_apply", "post_patch")),
    (("pre_reverse", "check_reverse", "pre_unpatch"), ("reverse", "post_reverse", "post_unpatch")),
)
"""What is called before the first task switches, and what when every one has."""

_OPPOSITES: Final = (
    ("unregister", "register"), ("remove", "add"), ("del", "add"), ("detach", "attach"),
    ("disable", "enable"), ("unhook", "hook"), ("unlink", "link"), ("stop", "start"),
    ("down", "up"), ("cancel", "schedule"), ("free", "request"), ("off", "on"),
)  # fmt: skip
"""Words in the names of functions that take something out, and of those that put it in."""

SECTION: Final = ".ksplice_call_"
"""Beginning of the names of the sections; the kind follows."""
_KLP_SECTION: Final = ".discard.klp_callback_ptrs"
_KLP_POINTER: Final = re.compile(r"__klp_(\w+?)_callback_")
"""What linux/livepatch_helpers.h has in their place (include/linux/livepatch_external.h, 6.19)."""


@dataclass(frozen=True, slots=True)
class Hook:
    """One function of the post object, and when it is called."""

    kind: str
    function: Symbol


def read_hooks(twins: Twins) -> tuple[tuple[Hook, ...], list[Refusal]]:
    """Return the hooks that the patch brings, in the order of the source, and what is wrong.

    Hooks that the pre object has too are those of an earlier update: they were called then.
    """
    hooks: list[Hook] = []
    refusals: list[Refusal] = []
    post = twins.post
    for section in post.obj.sections:
        if not section.name.startswith((SECTION, _KLP_SECTION)):
            continue
        for r in sorted(section.relocations, key=lambda r: r.offset):
            pointer, function = post.symbol_at(section, r.offset), post.locate(section, r).symbol
            if pointer is None or pointer in twins.pre_of:
                continue
            kind = _kind_of(section, pointer)
            if kind not in KINDS:
                continue
            if function is None or function.section is None or function in twins.pre_of:
                why = f"the hook {kind} is a function that the patch does not bring"
                refusals.append(refuse(pointer, why, "write a new function that calls it"))
            elif is_boot_section(function.section):
                why = "the hook is boot code"
                refusals.append(refuse(function, why, "take __init and __exit away from it"))
            else:
                hooks.append(Hook(kind, function))
    return tuple(hooks), refusals


def _kind_of(section: Section, pointer: Symbol) -> str:
    """Return when the function is called to which a pointer leads; a kind, or another word."""
    if section.name != _KLP_SECTION:
        return section.name.removeprefix(SECTION)
    found = _KLP_POINTER.match(pointer.name)
    return found[1] if found else ""


def note_pauses(twins: Twins, hooks: Iterable[Hook]) -> Iterator[str]:
    """Yield a sentence for each thing that is taken out before the switch and put back after it.

    Such as ``nf_unregister_net_hook`` in an ``apply`` hook and ``nf_register_net_hook`` in a
    ``post_apply`` hook: a transition may stall for hours, and it is out for as long.
    """
    called: dict[str, dict[str, Hook]] = {}
    for hook in hooks:
        for name in _called_by(twins, hook.function):
            called.setdefault(hook.kind, {}).setdefault(name, hook)
    for early, late in _AROUND:
        first = {n: h for kind in early for n, h in called.get(kind, {}).items()}
        last = {n: h for kind in late for n, h in called.get(kind, {}).items()}
        for name, hook in first.items():
            for back in filter(last.__contains__, _put_back(name)):
                yield (
                    f"{name}() in {hook.function.name} ({hook.kind}) and {back}() in"
                    f" {last[back].function.name} ({last[back].kind}): what it takes out is missing"
                    " until every task has switched, which can take hours; docs/hooks.md has"
                    " another way"
                )


def _called_by(twins: Twins, function: Symbol) -> set[str]:
    """Return the names of what a hook calls, by itself or by other functions of the patch."""
    names: set[str] = set()
    todo, seen = [function], {function}
    while todo:
        f = todo.pop()
        for r in relocations_in(f):
            target = twins.post.locate(code_section_of(f), r).symbol
            if target is None or target in seen or not (target.is_function or target.is_undefined):
                continue
            seen.add(target)
            names.add(target.name)
            if target.is_function and target.section is not None and target not in twins.pre_of:
                todo.append(target)
    return names


def _put_back(name: str) -> Iterator[str]:
    """Yield the names that a function may have which undoes what ``name`` does."""
    for out, back in _OPPOSITES:
        changed = re.sub(rf"(?<![a-z]){out}(?![a-z])", back, name)
        if changed != name:
            yield changed
