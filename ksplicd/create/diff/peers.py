# SPDX-License-Identifier: GPL-2.0-only
"""What the macros of other live patching tools ask for, of which ksplice has something of its own.

The macros of kmodsrc/kpatch-macros.h leave pointers and texts in sections of the post object.
Callbacks are hooks (``hooks.py``).
"""

from collections.abc import Iterator
from typing import Final

from ksplicd.create.diff.twins import Twins
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Symbol

IGNORE_FUNCTION: Final = ".ksplice_ignore_function"
IGNORE_SECTION: Final = ".ksplice_ignore_section"
FORCE_UNSAFE: Final = ".ksplice_force_unsafe"
"""Names of the sections."""


def read_ignored(twins: Twins) -> tuple[frozenset[Symbol], list[Refusal]]:
    """Return the post functions that are to stay as they are, with their cold parts.

    And a refusal for each that the running kernel does not have.
    """
    found: set[Symbol] = set()
    refusals = []
    for pointer, function in _functions_in(twins, IGNORE_FUNCTION):
        if function is None or function not in twins.pre_of:
            why = "KPATCH_IGNORE_FUNCTION() names a function that the kernel's file does not have"
            hint = "name one that is there before the change, or leave the macro out"
            refusals.append(refuse(function or pointer, why, hint))
            continue
        post = twins.post
        found |= {s for s in post.obj.functions() if post.main_of(s) is function}
    return frozenset(found), refusals


def refuse_forced(twins: Twins) -> Iterator[Refusal]:
    """Yield a refusal of each KPATCH_FORCE_UNSAFE()."""
    for pointer, function in _functions_in(twins, FORCE_UNSAFE):
        why = "KPATCH_FORCE_UNSAFE(): a task is never switched while it may be in the function"
        hint = (
            "leave the macro out; `ksplice status` names the tasks that hold an update up, and"
            " docs/coming-from.md says what else can be done"
        )
        yield refuse(function or pointer, why, hint)


def note_sections(twins: Twins) -> Iterator[str]:
    """Yield a sentence for each KPATCH_IGNORE_SECTION()."""
    post = twins.post
    for section in post.obj.sections:
        for r in section.relocations if section.name == IGNORE_SECTION else ():
            place = post.locate(section, r)
            text = b"" if place.section is None else place.section.data[place.offset :]
            name = text.partition(b"\0")[0].decode("ascii", "backslashreplace")
            yield (
                f"KPATCH_IGNORE_SECTION({name}) ignores nothing: sections are compared by what"
                " they mean, and what changes has its account"
            )


def _functions_in(twins: Twins, name: str) -> Iterator[tuple[Symbol, Symbol | None]]:
    """Yield the pointers of a section that the patch brings, with the function of each."""
    post = twins.post
    for section in post.obj.sections:
        for r in section.relocations if section.name == name else ():
            pointer, function = post.symbol_at(section, r.offset), post.locate(section, r).symbol
            if pointer is not None and pointer not in twins.pre_of:
                is_here = function is not None and function.section is not None
                yield pointer, function if is_here else None
