# SPDX-License-Identifier: GPL-2.0-only
"""What differs between the pre and the post object of one unit, and why.

Both are compiled with one section a function and one a datum.  A function is changed when its
bytes differ, when a relocation means another thing, or when an entry of a special section that
belongs to it does.  ``diff(x, x)`` is empty.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.data import compare_data, has_state, is_compared, needs_boot_code
from ksplicd.create.diff.exports import compare_exports
from ksplicd.create.diff.hooks import Hook, read_hooks
from ksplicd.create.diff.pointers import PointerChange
from ksplicd.create.diff.twins import Twins, correlate
from ksplicd.create.objects.index import ObjectIndex, relocations_in
from ksplicd.create.objects.names import (
    is_boot_section,
    is_code_fragment,
    is_cold_part,
    is_exit_section,
    is_per_cpu,
    is_prefix,
    is_static_call,
)
from ksplicd.create.objects.separate import separate
from ksplicd.create.objects.special import REPLACEMENTS, EntrySizes
from ksplicd.create.refusal import Refusal as Refusal
from ksplicd.create.refusal import refuse
from ksplicd.elf import Object, Section, Symbol
from ksplicd.elf.model import STB_LOCAL
from ksplicd.model import VMLINUX


@dataclass(slots=True, kw_only=True)
class Difference:
    """The outcome for one unit."""

    pre: ObjectIndex
    post: ObjectIndex
    twins: Twins
    target: str = VMLINUX
    """What the unit is part of: ``vmlinux`` or a module."""
    changed: dict[Symbol, str] = field(default_factory=dict)
    """Post functions that have a twin and differ from it, with the reason."""
    new: list[Symbol] = field(default_factory=list)
    """Post functions without a twin."""
    removed: list[Symbol] = field(default_factory=list)
    """Pre functions without a twin."""
    copied_constants: list[Symbol] = field(default_factory=list)
    """Post constants that differ from their twins, of which new code brings its own copy."""
    pointers: list[PointerChange] = field(default_factory=list)
    """Function pointers that the running kernel's tables get."""
    hooks: list[Hook] = field(default_factory=list)
    """What is called when the update is applied or undone."""
    boot: dict[Symbol, str] = field(default_factory=dict)
    """Post functions that differ or are new, but run only at boot or at unload."""
    shared: list[Symbol] = field(default_factory=list)
    """New global functions and data that the new code of other units refers to (shared.py)."""
    borrowed: dict[str, Symbol] = field(default_factory=dict)
    """By name, what the new code here refers to of that of other units."""
    unload: Symbol | None = None
    """The post object's exit function, when it or what it alone calls differs; in modules only."""
    has_unseen_layouts: bool = False
    """Whether changed structure layouts would go unnoticed (layout.py)."""
    notes: list[str] = field(default_factory=list)
    """What is left out, because a running kernel does not need it."""
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Tell whether the patch changes nothing here that a kernel uses."""
        return not self.is_needed and not self.boot

    @property
    def is_boot_only(self) -> bool:
        """Tell whether all that changes has run already, or runs at unload."""
        return bool(self.boot) and not self.is_needed

    @property
    def is_needed(self) -> bool:
        """Tell whether there is something to do in a running kernel, or to refuse."""
        return bool(
            self.changed or self.hooks or self.refusals or self.unload or self.pointers
            or self.shared
        )  # fmt: skip

    def new_globals(self) -> list[Symbol]:
        """Return the new functions and data to which other units can refer."""
        functions = [s for s in self.new if s.bind != STB_LOCAL]
        return functions + [s for s in self.new_data() if s.bind != STB_LOCAL]

    def new_data(self) -> list[Symbol]:
        """Return the post data that have a content and no twin."""
        return [s for s in self.post.obj.symbols if is_compared(s) and s not in self.twins.pre_of]

    def refuse_boot_code(self) -> list[Refusal]:
        """Return why a patch that changes nothing else than boot code here is of no use."""
        why = "the function runs only at boot or at unload"
        hint = "leave it out of the patch; it has no effect on a running kernel"
        return [refuse(s, why, hint) for s in self.boot]


def diff(pre: Object, post: Object, sizes: EntrySizes) -> Difference:
    """Compare the two objects of a unit, which are taken apart.  Raises ``ElfError``."""
    return _Differ(pre, post, sizes).run()


class _Differ:
    def __init__(self, pre: Object, post: Object, sizes: EntrySizes) -> None:
        self.nameless = _nameless_code(ObjectIndex(pre)), _nameless_code(ObjectIndex(post))
        separate(pre)
        separate(post)
        self.pre, self.post = ObjectIndex(pre), ObjectIndex(post)
        self.twins = correlate(self.pre, self.post)
        self.comparison = Comparison(self.pre, self.post, self.twins, sizes)
        self.out = Difference(pre=self.pre, post=self.post, twins=self.twins)

    def run(self) -> Difference:
        self.compare_functions()
        refused = self.refuse_static_calls()
        self.compare_cold_parts()
        one_place = self.check_aliases()
        data = compare_data(self.comparison)
        self.out.copied_constants, self.out.refusals = data.copied_constants, data.refusals
        self.out.pointers = data.pointers
        for s, why in data.users.items():
            if s in self.twins.pre_of:
                self.out.changed.setdefault(s, why)
        self.out.hooks, refusals = read_hooks(self.post, self.twins)
        self.out.refusals += [*refused, *refusals, *one_place, *self.check_nameless_code()]
        self.take_in_exit()
        if self.out.is_needed:
            self.out.refusals += refuse_new_data(self.out)
        self.out.notes = [
            f"{s.name} runs only at boot or at unload: its change is left out"
            for s in self.out.boot
            if not (self.out.unload and _is_exit_code(s))
        ]
        self.out.notes += data.notes
        self.out.notes += compare_exports(self.pre.obj, self.post.obj)
        return self.out

    def compare_functions(self) -> None:
        seen: set[tuple[object, int]] = set()
        for s in _functions(self.post):
            assert s.section is not None
            twin = self.twins.pre_of.get(s)
            why = "it is new" if twin is None else self.comparison.why_differs(twin, s)
            if not why:
                continue
            if is_boot_section(s.section):
                self.out.boot[s] = why
            elif twin is None:
                self.out.new.append(s)
            elif (s.section, s.value) not in seen:  # the others are aliases
                self.out.changed[s] = why
                seen.add((s.section, s.value))
        self.out.removed = [s for s in _functions(self.pre) if s not in self.twins.post_of]

    def refuse_static_calls(self) -> list[Refusal]:
        """Refuse other defaults of static calls: the calls have been rewritten to the old ones."""
        why = "the function that a static call begins with changes"
        hint = "call static_call_update() from a hook"
        found = [s for s in self.out.changed if is_static_call(s)]
        for s in found:
            del self.out.changed[s]
        return [refuse(s, why, hint) for s in found]

    def take_in_exit(self) -> None:
        """Have a module's exit function replaced when code changes that runs at unload."""
        function = exit_function(self.post)
        if function in self.twins.pre_of and any(map(_is_exit_code, self.out.boot)):
            self.out.unload = function

    def check_aliases(self) -> list[Refusal]:
        """Refuse to change one of two names for a function in the kernel, and not the other.

        Where ``long b(void) __alias(a);`` becomes a function, what leads to it is that of both.
        """
        old = defaultdict(list)
        for s in _functions(self.pre):
            old[s.section, s.value].append(s)
        refusals = []
        for s in self.out.changed:
            twin = self.twins.pre_of[s]
            for other in old[twin.section, twin.value]:
                new = self.twins.post_of.get(other)
                if new is not None and (new.section, new.value) != (s.section, s.value):
                    why = f"in the kernel {other.name} is the same function; the patch parts them"
                    hint = f"give both the same code, or change the callers of {s.name} instead"
                    refusals.append(refuse(s, why, hint))
        return refusals

    def check_nameless_code(self) -> list[Refusal]:
        """Refuse changed code that is in no function: assembly without ``.type`` and ``.size``."""
        before, after = self.nameless
        return [
            Refusal(
                symbol=name, section=name, reason="code that belongs to no function changes",
                hint="leave it out of the patch; only functions can be replaced",
            )
            for name in before | after
            if not self.comparison.same_code(before.get(name, []), after.get(name, []))
        ]  # fmt: skip

    def compare_cold_parts(self) -> None:
        """Take in the function whose cold part changed, came or went: they are one body."""
        for part in [s for s in self.out.changed if is_cold_part(s.name)]:
            main = self.post.main_of(part)
            if main is part:
                continue
            why = self.out.changed.pop(part)
            if main in self.twins.pre_of:
                self.out.changed.setdefault(main, f"its cold part: {why}")


def refuse_new_data(d: Difference) -> list[Refusal]:
    """Refuse new data that cannot begin as the patch means it."""
    new = d.new_data()
    running = [*d.changed, *d.new]
    refusals = needs_boot_code(d.post, new, running, d.shared)
    used = {
        d.post.locate(s.section, r).symbol
        for s in (*running, *new) if s.section is not None
        for r in relocations_in(s)
    }  # fmt: skip
    before = {s.name: s for s in d.pre.obj.symbols if is_compared(s)}
    for s in new:
        old = before.get(s.name)
        if old and old.section and s.section and is_per_cpu(old.section) != is_per_cpu(s.section):
            why = "it becomes per-CPU data or ceases to be, and the kernel goes on using the old"
            refusals.append(refuse(s, why, "give what is new a name of its own"))
    why = "several static variables have this name, and it is not clear which one this is"
    hint = "give those of the changed functions names of their own"
    refusals += [
        refuse(s, why, hint) for s in new if s in d.twins.ambiguous and s in used and has_state(s)
    ]
    return refusals


def _is_exit_code(s: Symbol) -> bool:
    return s.section is not None and is_exit_section(s.section)


def exit_function(index: ObjectIndex) -> Symbol | None:
    """Return what ``module_exit()`` names, by its alias (include/linux/module.h)."""
    return next((s for s in index.obj.functions() if s.name == "cleanup_module"), None)


def _nameless_code(index: ObjectIndex) -> dict[str, list[Section]]:
    """Return the sections of code that have no function, by name, but not pieces of functions."""
    found: dict[str, list[Section]] = defaultdict(list)
    for s in index.obj.sections:
        if not s.is_text or not s.size or index.functions_in(s) or is_boot_section(s):
            continue
        if not is_code_fragment(s) and s.name != REPLACEMENTS:
            found[s.name].append(s)
    return found


def _functions(index: ObjectIndex) -> list[Symbol]:
    return [s for s in index.obj.functions() if not is_prefix(s)]
