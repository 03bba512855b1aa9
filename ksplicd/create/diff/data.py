# SPDX-License-Identifier: GPL-2.0-only
"""What a change of data means for a kernel that runs already.

Its data have their own content by now, so that a change of what they begin with is refused.  Not
so for constants that only functions of the unit read: there the content is part of the functions,
which are replaced and bring a new copy.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.pointers import FieldChanges, field_changes
from ksplicd.create.diff.twins import place_of
from ksplicd.create.objects.address_use import AddressUse, address_use
from ksplicd.create.objects.index import (
    ObjectIndex,
    Referent,
    code_section_of,
    relocations_in,
)
from ksplicd.create.objects.names import (
    has_no_identity,
    is_boot_section,
    is_bound_at_boot,
    is_content_alone,
    is_debug_descriptor,
    is_expendable,
    is_init_section,
    is_literal,
    is_per_cpu,
    is_read_only,
    is_static_call,
    is_tracepoint,
)
from ksplicd.create.objects.special import is_special_section
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import STB_LOCAL, Relocation, Section, Symbol
from ksplicd.elf.x86_64 import R_X86_64_64

_NOT_DATA = (
    "__ksymtab", "___ksymtab", "__kcrctab", "___kcrctab", ".export_symbol", ".discard", ".modinfo",
    ".altinstr", "__dyndbg", "__verbose", ".printk_index", "__tracepoints_ptrs",
    "__bpf_raw_tp_map", "__syscalls_metadata", "_ftrace_events", ".orc_header",
    ".static_call_tramp", ".ksplice_",
)  # fmt: skip
"""Beginnings of the names of sections that only the build, the boot or a loader reads."""

_TABLES_OF_BOOT = (".init.data", ".init.rodata")
"""Of lists such as ``.initcall6.init`` and ``.init.setup`` the kernel keeps nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChanges:
    """What became of the data that differ."""

    copied_constants: tuple[Symbol, ...]
    """Constants of which new code brings its own copy."""
    users: Mapping[Symbol, str]
    """The functions that use those, with the reason why they change."""
    fields: FieldChanges
    """What the running kernel's data get."""
    notes: tuple[str, ...]
    """What is left out, because a running kernel has read it already."""
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, slots=True)
class Use:
    """One reference to a datum."""

    owner: Section
    relocation: Relocation
    user: Symbol | None
    """The function or datum that refers to it."""


def is_plain_data(section: Section) -> bool:
    """Tell whether a section holds data that the running kernel uses, such as ``.data.jiffies``.

    Not tables about code, not what only the build or the boot reads, not what has no identity.
    """
    if not section.is_alloc or section.is_text or section.is_strings:
        return False
    if is_special_section(section) or is_boot_section(section) or has_no_identity(section):
        return False
    return not section.name.startswith(_NOT_DATA)


def compare_data(
    comparison: Comparison, misplaced: Callable[[Symbol, Symbol], str | None]
) -> DataChanges:
    """Compare all data that have twins.

    ``misplaced``: why a twin of the same content cannot be where it is, None when it can.
    """
    changed: dict[Symbol, str] = {}
    moved: set[Symbol] = set()
    for s in comparison.post.obj.symbols:
        twin = comparison.twins.pre_of.get(s)
        if twin is None or twin.section is None or not is_compared(s):
            continue
        if why := comparison.compare_content(twin, s):
            changed[s] = f"initialised data changes: {why}"
        elif is_compared(twin) and (why := misplaced(twin, s)):
            changed[s] = why
            moved.add(s)
    judge = _Judge(comparison, changed, moved)
    if changed:
        judge.judge()
    at_boot, handed_over = compare_boot_data(comparison)
    return DataChanges(
        copied_constants=tuple(judge.copied),
        users=judge.users,
        fields=FieldChanges(
            tuple(p for c in judge.changes for p in c.pointers),
            tuple(v for c in judge.changes for v in c.values),
        ),
        notes=(*judge.notes, *at_boot),
        refusals=(*judge.refusals, *handed_over),
    )


def compare_boot_data(comparison: Comparison) -> tuple[list[str], list[Refusal]]:
    """Return a note for each datum of boot code that changes, and what cannot be left out.

    A table of KVM's operations is in ``.init.data``, and is copied when the module comes up: what
    it leads to, if that runs later, the running kernel has from there.
    """
    notes, refusals = [], []
    for s in comparison.post.obj.symbols:
        twin = comparison.twins.pre_of.get(s)
        if twin is None or not is_boot_data(s) or not comparison.compare_content(twin, s):
            continue
        before, after = _running_code(comparison.pre, twin), _running_code(comparison.post, s)
        for at in sorted(before.keys() | after.keys()):
            old, new = before.get(at), after.get(at)
            if old is None or new is None or not comparison.same_target(old, new):
                names = [r.symbol.name if r and r.symbol else "nothing" for r in (old, new)]
                why = "boot code has handed over what it leads to"
                hint = "change the function itself, or what was made of the table from a hook"
                refusals.append(refuse(s, f"{why}: {' → '.join(names)} at {at:#x}", hint))
                break
        else:
            notes.append(f"{s.name} is used only at boot: its change is left out")
    return notes, refusals


def _running_code(index: ObjectIndex, s: Symbol) -> dict[int, Referent]:
    """Return by offset the functions to which a table of boot code leads, but for boot code.

    What another file defines counts as one.
    """
    if not code_section_of(s).name.startswith(_TABLES_OF_BOOT):
        return {}
    found = {}
    for r in relocations_in(s):
        referent = index.locate(code_section_of(s), r)
        target = referent.symbol
        if target is None or (target.section is None and r.type != R_X86_64_64):
            continue
        if target.section is None or (target.is_function and not is_boot_section(target.section)):
            found[r.offset - s.value] = referent
    return found


def is_compared(s: Symbol) -> bool:
    """Tell whether a symbol is a datum with an identity and a content."""
    return (
        s.section is not None
        and bool(s.size)
        and not s.is_function
        and is_plain_data(s.section)
        and not is_content_alone(s)
    )


def is_boot_data(s: Symbol) -> bool:
    """Tell whether a symbol is a datum that boot code reads, as the tables of KVM's operations."""
    return (
        s.section is not None
        and bool(s.size)
        and not s.is_function
        and is_init_section(s.section)
        and not is_literal(s)
    )


def has_state(s: Symbol) -> bool:
    """Tell whether losing the content of a static variable would matter."""
    return s.section is not None and not is_read_only(s.section) and not is_expendable(s)


class _Judge:
    """Decides for each changed datum, whose users are looked for in the post object."""

    def __init__(
        self, comparison: Comparison, changed: dict[Symbol, str], moved: Collection[Symbol]
    ) -> None:
        """``moved``: those of ``changed`` whose content is the same."""
        self.comparison, self.changed, self.moved = comparison, changed, moved
        self.post = comparison.post
        self.uses = find_uses(self.post) if changed else {}
        self.copied: list[Symbol] = []
        self.users: dict[Symbol, str] = {}
        self.changes: list[FieldChanges] = []
        self.notes: list[str] = []
        self.refusals: list[Refusal] = []
        self.keepers: dict[Symbol, str] = {}
        """By constant, the function or datum that keeps its address, and how."""

    def judge(self) -> None:
        for s, why in self.changed.items():
            if not self.uses[s] and s.bind == STB_LOCAL:
                self.notes.append(
                    f"{s.name} changes, to which only a list can refer that the linker makes of"
                    f" {s.section.name if s.section else ''}: the running kernel's stays as it is"
                )
                continue
            if self.is_constant(s, frozenset()):
                self.copy(s)
            elif changes := self.fields(s):
                self.changes.append(changes)
            else:
                self.refusals.append(refuse(s, *self.reason(s, why)))

    def is_constant(self, s: Symbol, seen: frozenset[Symbol]) -> bool:
        """Tell whether a datum's content is all that there is to it, as for ``ftype_name_map``.

        Only functions of this unit read it, or other such data.  Where it points to functions
        (``ext4_dir_operations``), they must look into it and never pass its address on: such an
        address is stored and compared.  Nor may they store or compare that of any other.
        """
        if s.section is None or s.bind != STB_LOCAL or not is_read_only(s.section):
            return False
        points_to_code = any(
            target is not None and target.is_text
            for target in (r.symbol.section for r in s.section.relocations)
        )
        for use in self.uses[s]:
            if use.user is None:
                return False
            is_address = self.post.role(use.owner, use.relocation) is Role.ADDRESS
            if use.owner.is_text:
                if is_address and (points_to_code or is_boot_section(use.owner)):
                    return False
                if how := self.how_kept(s, use):
                    self.keepers[s] = f"{use.user.name} {how} its address"
                    return False
            elif use.user not in seen and not self.is_constant(use.user, seen | {s}):
                self.keepers.setdefault(s, f"the kernel's {use.user.name} has its address")
                return False
        return True

    def how_kept(self, s: Symbol, use: Use) -> AddressUse | None:
        """Return how a function keeps the address of a constant, None when it does not.

        A bound of a loop is compared with what the same function has made of the address.
        """
        how = address_use(self.post, use.owner, use.relocation)
        if how is AddressUse.COMPARED:
            beside = [u for u in self.uses[s] if u.owner is use.owner and u is not use]
            is_end = self.post.locate(use.owner, use.relocation).offset >= s.size
            if is_end or any(self.post.role(u.owner, u.relocation) is Role.ADDRESS for u in beside):
                return None
        return how

    def fields(self, s: Symbol) -> FieldChanges | None:
        """Return the fields in which alone a table differs that there is once."""
        assert s.section is not None
        if is_tracepoint(s) or is_per_cpu(s.section) or is_bound_at_boot(s):
            return None
        return field_changes(self.comparison, self.comparison.twins.pre_of[s], s)

    def copy(self, s: Symbol) -> None:
        """Bring a copy of ``s``, and of the constants that point to it."""
        if s in self.copied:
            return
        self.copied.append(s)
        for use in self.uses[s]:
            assert use.user is not None
            if not use.owner.is_text:
                self.copy(use.user)
            elif not is_boot_section(use.owner):
                function = self.post.main_of(use.user)
                self.users.setdefault(function, f"uses {s.name}, whose content changes")

    def reason(self, s: Symbol, why: str) -> tuple[str, str]:
        """Return the reason and the way out."""
        assert s.section is not None
        if is_tracepoint(s):
            return "a tracepoint changes", "leave the tracepoint as it is; the rest can be changed"
        if s in self.moved:
            return why, "leave its declaration as it was"
        if is_static_call(s):
            return why, "call static_call_update() from a hook"
        if is_per_cpu(s.section):
            return why, "each processor's copy has its own content by now; change them from a hook"
        if any(r.symbol.section and r.symbol.section.is_text for r in s.section.relocations):
            return why, (
                "it points to functions, and the kernel keeps its address;"
                " change the functions instead, or set it from a hook"
            )
        if s in self.keepers:
            return f"{why}, and {self.keepers[s]}", (
                "what has the address goes on with the old content; give the new content a name of"
                " its own, or set it from a hook"
            )
        return why, (
            "the running kernel's copy has its own content by now;"
            " change it from a hook, or take it out of the patch"
        )


def find_uses(index: ObjectIndex) -> dict[Symbol, list[Use]]:
    """Return the references to each symbol from code and from data that the kernel uses."""
    found: dict[Symbol, list[Use]] = defaultdict(list)
    for owner in index.obj.sections:
        if not owner.is_alloc or not (owner.is_text or _may_refer(owner)):
            continue
        for r in owner.relocations:
            target = index.locate(owner, r).symbol
            if target is not None and target.section is not None:
                user = index.symbol_at(owner, r.offset)
                found[target].append(Use(owner, r, user))
    for target in list(found):  # what uses a thing by one of its names uses it by all
        place = place_of(target)
        names = [s for s in index.symbols_in(code_section_of(target)) if place_of(s) == place]
        if place is not None and len(names) > 1:
            uses = list(dict.fromkeys(use for s in names for use in found.get(s, ())))
            found |= dict.fromkeys(names, uses)
    return found


def _may_refer(section: Section) -> bool:
    """Tell whether a data section's references count; boot data hand addresses over at boot."""
    return is_plain_data(section) or is_boot_section(section) or is_debug_descriptor(section)


def refuse_set_up_at_boot(
    post: ObjectIndex,
    new: Iterable[Symbol],
    running: Iterable[Symbol],
    shared: Collection[Symbol] = (),
) -> list[Refusal]:
    """Refuse new data that new boot code would set up, because it never runs.

    ``new``: data without a twin; ``running``: the functions that the running kernel gets;
    ``shared``: what functions of other units use.
    """
    uses = find_uses(post)
    sections = {s.section for s in running}
    refusals = []
    for s in new:
        if not is_compared(s) or not has_state(s):
            continue
        boot = [u.user for u in uses[s] if u.user is not None and is_init_section(u.owner)]
        if boot and (s in shared or any(u.owner in sections for u in uses[s])):
            why = f"{boot[0].name} sets it up, which runs only at boot"
            refusals.append(refuse(s, why, "set it up where it is defined, or from a hook"))
    return refusals
