# SPDX-License-Identifier: GPL-2.0-only
"""Hooks: functions of the patch that are called when an update is applied or undone.

The macros of kmodsrc/ksplice-patch.h leave a pointer to each in a section ``.ksplice_call_KIND``.
The pointers are for us; the new-code module gets a list of its own (``update.h``).
"""

from dataclasses import dataclass
from typing import Final

from ksplicd.create.diff.twins import Twins
from ksplicd.create.objects.names import is_boot_section
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Symbol

KINDS: Final = (
    "pre_apply", "check_apply", "apply", "post_apply", "fail_apply",
    "pre_reverse", "check_reverse", "reverse", "post_reverse", "fail_reverse",
)  # fmt: skip
"""As enum hook_kind of kmodsrc/new_code.c has them."""

CHECKS: Final = ("pre_apply", "check_apply", "pre_reverse", "check_reverse")
"""Those that return an error or 0."""

SECTION: Final = ".ksplice_call_"
"""Beginning of the names of the sections; the kind follows."""


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
        kind = section.name.removeprefix(SECTION)
        if not section.name.startswith(SECTION) or kind not in KINDS:
            continue
        for r in sorted(section.relocations, key=lambda r: r.offset):
            pointer, function = post.symbol_at(section, r.offset), post.locate(section, r).symbol
            if pointer is None or pointer in twins.pre_of:
                continue
            if function is None or function.section is None or function in twins.pre_of:
                why = f"ksplice_{kind}() names a function that the patch does not bring"
                refusals.append(refuse(pointer, why, "write a new function that calls it"))
            elif is_boot_section(function.section):
                why = "the hook is boot code"
                refusals.append(refuse(function, why, "take __init and __exit away from it"))
            else:
                hooks.append(Hook(kind, function))
    return tuple(hooks), refusals
