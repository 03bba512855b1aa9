# SPDX-License-Identifier: GPL-2.0-only
"""Lists that the linker makes of all units' sections: parameters, modinfo, exports, fixups.

A running kernel's lists were made when it was linked, or are read when a module is loaded: an entry
that comes, goes or changes does so at the next boot.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ksplicd.create.diff.exports import read_exports
from ksplicd.create.objects.names import base_name, is_boot_section
from ksplicd.create.objects.special import is_special_section
from ksplicd.elf.model import STT_SECTION, Object, Section, Symbol

_PARAMETER: Final = "__param_"
_TABLE: Final = re.compile(r"__mod_\w+?__(\w+)_device_table")
"""MODULE_DEVICE_TABLE() of include/linux/module.h; in vmlinux it makes nothing."""

_ORDINARY: Final = (
    ".data", ".rodata", ".bss", ".text", ".noinstr", ".sched", ".cpuidle", ".softirqentry",
    ".kprobes", ".entry", ".ref", ".spinlock", ".altinstr", ".discard", ".note", ".comment", ".orc",
    ".static_call", "__mcount_loc", "__patchable", ".smp_locks", ".init.text", ".exit.text",
    ".kunit", "__dyndbg", "__verbose", ".printk_index", "__jump_table", ".modinfo", "__ksymtab",
    "___ksymtab", "__kcrctab", "___kcrctab", ".export_symbol", "__param", ".ksplice", "__bug_table",
    "__ex_table", ".fixup", ".BTF", ".gnu", "__modver", "__versions", ".eh_frame", ".init_array",
)  # fmt: skip
"""Beginnings of the names of sections that are no lists, or that are looked at by name here."""

_TRACING: Final = (
    "__tracepoints", "_ftrace_events", "__syscalls_metadata", "__bpf_raw_tp_map",
    "_ftrace_eval_map",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChange:
    """One entry that the running kernel's list does not follow."""

    names: frozenset[str]
    """Identifiers of the source by which the entry is known."""
    reason: str
    matters: bool
    """Whether a running kernel could behave otherwise with it."""


def compare_lists(pre: Object, post: Object) -> Iterator[ListChange]:
    """Yield what comes, goes or changes in the lists of a unit."""
    yield from _compare_parameters(pre, post)
    yield from _compare_modinfo(pre, post)
    yield from _compare_device_tables(pre, post)
    yield from _compare_exports(pre, post)
    yield from _compare_others(pre, post)


def is_named(change: ListChange, mentions: Iterable[str]) -> bool:
    """Tell whether a text with these identifiers makes the entry."""
    return any(
        word == name or name.endswith(f"_{word}") or f"_{word}_" in name
        for name in change.names
        for word in mentions
        if len(word) > 1
    )


# --- parameters ---------------------------------------------------------------------------------


def _compare_parameters(pre: Object, post: Object) -> Iterator[ListChange]:
    """Yield the parameters that differ (``__param`` of include/linux/moduleparam.h)."""
    before, after = _parameters(pre), _parameters(post)
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            reason = (
                f"the parameter {name} does not appear in the running kernel; the code sees the"
                " value that it begins with"
            )
            yield ListChange(names=frozenset([name]), reason=reason, matters=False)
        elif name not in after:
            reason = f"the parameter {name} stays in the running kernel"
            yield ListChange(names=frozenset([name]), reason=reason, matters=True)
        elif before[name] != after[name]:
            reason = f"the parameter {name} stays as it is in the running kernel, with its mode"
            yield ListChange(names=frozenset([name]), reason=reason, matters=True)


def _parameters(obj: Object) -> dict[str, tuple[object, ...]]:
    """Return by name what describes a parameter: bytes, and the names of what it points to."""
    found: dict[str, tuple[object, ...]] = {}
    for s in obj.symbols:
        if s.section is None or s.type == STT_SECTION or not s.name.startswith(_PARAMETER):
            continue
        if s.section.name.startswith("__param"):
            found[s.name.removeprefix(_PARAMETER)] = _described(s)
    return found


def _described(s: Symbol) -> tuple[object, ...]:
    return (_bytes_of(s), *_targets_of(s))


def _bytes_of(s: Symbol) -> bytes:
    assert s.section is not None
    return s.section.data[s.value : s.value + s.size]


def _targets_of(s: Symbol) -> Iterator[tuple[int, str]]:
    """Yield where an entry refers to which symbol; to strings and constants, to no name."""
    assert s.section is not None
    for r in s.section.relocations:
        if s.value <= r.offset < s.value + s.size:
            is_numbered = r.symbol.type == STT_SECTION or r.symbol.name.startswith("__param_str")
            yield r.offset - s.value, "" if is_numbered else base_name(r.symbol.name)


# --- what modprobe and the loader read ----------------------------------------------------------


def _compare_modinfo(pre: Object, post: Object) -> Iterator[ListChange]:
    before, after = _modinfo(pre), _modinfo(post)
    for line in sorted(before ^ after):
        key, _, value = line.partition("=")
        what = "comes" if line in after else "goes"
        reason = f"the modinfo line “{line[:60]}” {what} in the module's file at the next boot"
        yield ListChange(names=_makers(key.rpartition(".")[2], value), reason=reason, matters=False)


def _makers(key: str, value: str) -> frozenset[str]:
    """Return the names of the source that make a modinfo line, such as ``MODULE_LICENSE``."""
    if key in ("parm", "parmtype"):
        return frozenset([value.partition(":")[0]])
    return frozenset(
        [f"MODULE_{key.upper()}", *(["MODULE_DEVICE_TABLE"] if key == "alias" else [])]
    )


def _modinfo(obj: Object) -> set[str]:
    found = (s.data for s in obj.sections if s.name.startswith(".modinfo"))
    lines = (line for data in found for line in data.split(b"\0") if line)
    return {line.decode(errors="replace") for line in lines}


def _compare_device_tables(pre: Object, post: Object) -> Iterator[ListChange]:
    """Yield the tables that modpost makes a module's aliases of, by their second name."""
    before, after = (
        {m[1] for s in o.symbols if (m := _TABLE.fullmatch(s.name))} for o in (pre, post)
    )
    for name in sorted(before ^ after):
        what = "come" if name in after else "go"
        reason = f"the aliases of {name} {what} in the module's file at the next boot"
        yield ListChange(names=frozenset(["MODULE_DEVICE_TABLE"]), reason=reason, matters=False)


def _compare_exports(pre: Object, post: Object) -> Iterator[ListChange]:
    before, after = read_exports(pre), read_exports(post)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            reason = (
                f"the export of {name}: modules that are loaded before the next boot see the old"
                " list"
            )
            yield ListChange(names=frozenset([name]), reason=reason, matters=False)


# --- all others ---------------------------------------------------------------------------------


def _compare_others(pre: Object, post: Object) -> Iterator[ListChange]:
    """Yield the entries that differ of lists that are known by their section alone."""
    before, after = _entries(pre), _entries(post)
    for section in sorted(before.keys() | after.keys()):
        old, new = before.get(section, {}), after.get(section, {})
        for name in sorted(old.keys() | new.keys()):
            what = "comes" if name not in old else "goes" if name not in new else "changes"
            if what == "changes" and _described(old[name]) == _described(new[name]):
                continue
            matters = not section.startswith(_TRACING)
            reason = f"{name} {what} in the list {section}, which the running kernel has as it was"
            yield ListChange(names=frozenset([name]), reason=reason, matters=matters)


def _entries(obj: Object) -> Mapping[str, Mapping[str, Symbol]]:
    found: dict[str, dict[str, Symbol]] = {}
    for s in obj.symbols:
        if s.section is not None and s.type != STT_SECTION and s.size and _is_list(s.section):
            found.setdefault(s.section.name, {})[base_name(s.name)] = s
    return found


def _is_list(section: Section) -> bool:
    """Tell whether a section is a list of the linker's, such as ``_kprobe_blacklist``."""
    return (
        section.is_alloc
        and not section.is_text
        and not section.name.startswith(_ORDINARY)
        and not is_boot_section(section)
        and not is_special_section(section)
    )
