# SPDX-License-Identifier: GPL-2.0-only
"""What an object exports to modules.

A patch may change that without harm: the list is read when a module is loaded, and a running
kernel's list stays as it is.  New code reaches what it needs without it.
"""

from ksplicd.elf.model import STT_SECTION, Object

_TABLES = {"___ksymtab+": "for all modules", "___ksymtab_gpl+": "for GPL modules"}
"""Beginnings of section names until Linux 6.3 (include/linux/export.h)."""
_ENTRY = "__export_symbol_"
"""Beginning of a symbol in ``.export_symbol`` since 6.4, behind which licence and namespace are."""


def compare_exports(pre: Object, post: Object) -> list[str]:
    """Return a note for each export that came, went or changed."""
    before, after = read_exports(pre), read_exports(post)
    notes = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            what = (
                "added" if name not in before else "removed" if name not in after else "changed"
            )  # fmt: skip
            notes.append(
                f"the export of {name} is {what}: modules that are loaded before the next boot"
                " still see the old list"
            )
    return notes


def read_exports(obj: Object) -> dict[str, str]:
    """Return for whom each symbol is exported."""
    exports = {}
    for section in obj.sections:
        for prefix, kind in _TABLES.items():
            if section.name.startswith(prefix):
                exports[section.name.removeprefix(prefix)] = kind
    ordered = sorted(
        (s for s in obj.symbols if s.section and s.section.name == ".export_symbol"),
        key=lambda s: s.value,
    )
    entries = [s for s in ordered if s.type != STT_SECTION and s.name.startswith(_ENTRY)]
    for i, s in enumerate(entries):
        assert s.section is not None
        end = entries[i + 1].value if i + 1 < len(entries) else s.section.size
        data = s.section.data[s.value : end]
        words = " ".join(part.decode(errors="replace") for part in data.split(b"\0")[:2] if part)
        exports[s.name.removeprefix(_ENTRY)] = words or "for all modules"
    return exports
