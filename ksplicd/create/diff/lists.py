# SPDX-License-Identifier: GPL-2.0-only
"""Lists that the linker makes of the entries of all files, and lists of BTF ids.

The running kernel has read the former, or has them elsewhere by now: parameters, PCI quirks, places
where no kprobe may be.  What comes to them or goes is left out, and a note says so.  The latter get
their numbers when the kernel is linked (tools/bpf/resolve_btfids): code that uses a list which
changes is refused, because the numbers of new code's would be 0.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from ksplicd.create.diff.compare import Comparison
from ksplicd.create.diff.data import find_uses, is_compared, is_plain_data
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import base_name, is_boot_section
from ksplicd.create.refusal import Refusal, refuse
from ksplicd.elf.model import Section, Symbol

_OWN: Final = (".data", ".bss", ".rodata")
"""Beginnings of the names of sections that hold data of files, not entries of lists."""
_BUILD: Final = (".eh_frame", ".note", ".gnu.linkonce", "__versions")
"""Beginnings of the names of what compilers and the build leave."""
_MODINFO: Final = ".modinfo"
_BTF_IDS: Final = ".BTF_ids"
_ENTRY: Final = "__BTF_ID__"
_SETS: Final = ("__BTF_ID__set__", "__BTF_ID__set8__")
"""Beginnings of the names of lists that have an entry's (include/linux/btf_ids.h)."""
_ID_SIZE: Final = 4


def compare_lists(comparison: Comparison) -> list[str]:
    """Return a note for each entry that came, went or changed where nobody refers to it by name."""
    pre, post = comparison.pre, comparison.post
    notes = []
    for index, twins, what in (
        (post, comparison.twins.pre_of, "is new"), (pre, comparison.twins.post_of, "is gone")
    ):  # fmt: skip
        notes += [
            f"{s.name} {what} in {s.section.name}: the running kernel's list stays as it is"
            for s in _entries(index)
            if s not in twins and s.section is not None
        ]
    notes += [
        f"the list {name} changes: the running kernel's stays as it is"
        for name in _changed_lists(comparison)
    ]
    lists, others = _id_lists(pre), _id_lists(post)
    notes += [
        f"{name} ({_BTF_IDS}) changes: the running kernel's list stays as it is"
        for name in {**lists, **others}
        if _content(lists.get(name)) != _content(others.get(name))
    ]
    before, after = _modinfo(pre), _modinfo(post)
    notes += [f"{x}: new, and left out: modules tell it when they are loaded"
              for x in after if x not in before]  # fmt: skip
    return notes + [f"{x}: gone, but the loaded module goes on telling it"
                    for x in before if x not in after]  # fmt: skip


def _entries(index: ObjectIndex) -> Iterator[Symbol]:
    """Yield the entries of lists that have names, and to which nobody refers."""
    uses = find_uses(index)
    for s in index.obj.symbols:
        if is_compared(s) and s.section and _is_list(s.section) and not uses[s]:
            yield s


def _is_list(section: Section) -> bool:
    names = *_OWN, *_BUILD, _BTF_IDS
    return is_plain_data(section) and not section.name.startswith(names)


def _changed_lists(comparison: Comparison) -> list[str]:
    """Return the names of lists whose entries have no names, and which differ."""
    before, after = _nameless_lists(comparison.pre), _nameless_lists(comparison.post)
    return [
        name for name in {**before, **after}
        if not comparison.same_code(before.get(name, []), after.get(name, []))
    ]  # fmt: skip


def _nameless_lists(index: ObjectIndex) -> dict[str, list[Section]]:
    """Return the sections of lists whose entries have no names, by name."""
    cut = {section for section, _ in index.as_compiled.places.values()}
    found: dict[str, list[Section]] = defaultdict(list)
    for s in index.obj.sections:
        if s.size and _is_list(s) and not index.symbols_in(s) and s not in cut:
            found[s.name].append(s)
    return found


def _modinfo(index: ObjectIndex) -> list[str]:
    """Return what a module tells of itself (``alias=…``, ``parm=…``), but its version."""
    found: list[str] = []
    for section in index.obj.sections:
        if section.name == _MODINFO:
            words = (x.decode(errors="replace") for x in section.data.split(b"\0") if x)
            found += [x for x in words if not x.startswith(("srcversion=", "vermagic="))]
    return found


# --- BTF ids ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _IdList:
    """One list of BTF ids."""

    label: Symbol
    symbols: tuple[Symbol, ...]
    content: tuple[tuple[str, bytes], ...]
    """Of each entry what it is the id of, and its flags."""


def refuse_btf_ids(comparison: Comparison) -> list[Refusal]:
    """Refuse lists of BTF ids that differ, where code that runs uses them."""
    before, after = _id_lists(comparison.pre), _id_lists(comparison.post)
    uses = find_uses(comparison.post) if after else {}
    why = "the list of BTF ids changes, and only the kernel's own link gives ids their numbers"
    hint = "leave the list as it is, and what uses the new ids out of the patch"
    return [
        refuse(new.label, why, hint)
        for name, new in after.items()
        if new.content != _content(before.get(name))
        and any(not is_boot_section(u.owner) for s in new.symbols for u in uses.get(s, ()))
    ]


def _id_lists(index: ObjectIndex) -> Mapping[str, _IdList]:
    """Return the lists by name, as the object had them before it was taken apart."""
    placed = []
    for s in index.obj.symbols:
        if s.section is not None and s.section.name == _BTF_IDS and s.name:
            section, at = index.as_compiled.places.get(s, (s.section, s.value))
            placed.append((at, _is_entry(s), s, section))
    placed.sort(key=lambda x: x[:2])

    def behind(i: int) -> int | None:
        return placed[i + 1][0] if i + 1 < len(placed) else None

    starts = [i for i, (_, is_entry, _, _) in enumerate(placed) if not is_entry]
    found = {}
    for i, end in pairwise([*starts, len(placed)]):
        inside = placed[i:end]
        content = tuple(
            (base_name(s.name), section.data[at + _ID_SIZE : behind(i + n)])
            for n, (at, is_entry, s, section) in enumerate(inside)
            if is_entry
        )
        found[placed[i][2].name] = _IdList(placed[i][2], tuple(x[2] for x in inside), content)
    return found


def _content(found: _IdList | None) -> tuple[tuple[str, bytes], ...] | None:
    return None if found is None else found.content


def _is_entry(s: Symbol) -> bool:
    return s.name.startswith(_ENTRY) and not s.name.startswith(_SETS)
