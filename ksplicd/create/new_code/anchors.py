# SPDX-License-Identifier: GPL-2.0-only
"""Parts of the new code that livepatch would not see on the stacks of tasks.

Before new code is unloaded, livepatch looks on every task's stack for the functions that its
``klp_patch`` lists (``klp_check_stack`` of kernel/livepatch/transition.c): for frames between the
start and the end of each.  It does not find a task that was stopped in the cold part of one, in a
function that one of them left for by a jump, or in one that was entered by a pointer or a kprobe.
Those are listed too, as the new form of a function of the core that nobody calls.

A task can stop in code without a call too: it is preempted there, or waits in a page fault for
memory that an inlined ``unsafe_get_user()`` reads.
"""

from collections.abc import Collection, Iterable
from typing import Final

from ksplicd.create.diff.twins import Twins
from ksplicd.create.objects.index import code_section_of
from ksplicd.create.objects.names import is_cold_part, main_name
from ksplicd.create.objects.special import is_special_section
from ksplicd.elf.model import Relocation, Section, Symbol

_CALL: Final = 0xE8


class Anchors:
    """Which kept functions and cold parts need an anchor."""

    def __init__(self, twins: Twins, kept: Collection[Section]) -> None:
        """``kept``: the sections that are cut out."""
        self.post, self.twins, self.kept = twins.post, twins, kept

    def find(self, listed: Collection[Symbol], entered: Iterable[Symbol]) -> list[Symbol]:
        """Return the symbols that need one, in the order of the object.

        ``listed``: the functions that livepatch redirects; ``entered``: those that are reached in
        another way than by a call from new code.
        """
        entered = {*entered, *self.by_address()}
        todo = [*listed, *entered]
        found = set(entered)
        seen: set[Symbol] = set()
        while todo:
            function = todo.pop()
            if function in seen:
                continue
            seen.add(function)
            parts = self.post.cold_parts_of(function)
            found.update(parts)
            for part in (function, *parts):
                jumps = [t for t in self.jump_targets(part) if main_name(t.name) != function.name]
                found.update(jumps)
                todo += jumps
        anchored = found - set(listed)
        return [s for s in self.post.obj.symbols if s in anchored]

    def by_address(self) -> set[Symbol]:
        """Return the new functions whose address new code or new data holds.

        Of a function that the kernel has, they hold that one's.
        """
        return {
            s
            for owner in self.kept
            if not is_special_section(owner)
            for r in owner.relocations
            if not self.post.is_branch(owner, r)
            and (s := self.kept_function(owner, r)) is not None
            and s not in self.twins.pre_of
            and not is_cold_part(s.name)
        }

    def jump_targets(self, function: Symbol) -> set[Symbol]:
        """Return the kept functions at whose start a jump of ``function`` ends."""
        owner = code_section_of(function)
        return {
            s
            for r in owner.relocations
            if self.post.is_branch(owner, r)
            and r.offset
            and owner.data[r.offset - 1] != _CALL
            and (s := self.kept_function(owner, r)) is not None
        }

    def kept_function(self, owner: Section, r: Relocation) -> Symbol | None:
        """Return the kept function whose start a reference means."""
        found = self.post.locate(owner, r)
        if found.symbol is None or found.offset or not found.symbol.is_function:
            return None
        return found.symbol if found.section in self.kept else None
