# SPDX-License-Identifier: GPL-2.0-only
"""Tells whether two results are the same, and in what they differ."""

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, Symbol

from tests.same.states import Result

_REFUSAL = re.compile(r"^  (\S.*? \([^)]*\)): ", re.MULTILINE)
"""``  symbol (section): reason; hint``."""

_UNIT_SECTION = re.compile(r"\.(?:text|rodata|data|bss)\.(?:unlikely\.)?(?!unlikely$|str)[^.]")
"""One section a function or datum, such as ``.text.unlikely.f`` and ``.rodata.table``."""


def differences(old: Result, new: Result, *, is_same_kmodsrc: bool = True) -> Iterator[str]:
    """Yield in what two results differ, but for the words of messages.

    Where ``kmodsrc`` is not the same, neither are the modules: of those of new code the kernel's
    part is compared, of the core nothing.
    """
    if old.status != new.status:
        yield f"exit status {old.status} became {new.status}: {new.complaint.strip()[:200]}"
        return
    before, after = refusals(old), refusals(new)
    if before != after:
        yield f"refused: {sorted(before)} became {sorted(after)}"
    files, others = members(old.data), members(new.data)
    for name in sorted(files.keys() | others.keys()):
        a, b = files.get(name), others.get(name)
        if a == b:
            continue
        if is_same_kmodsrc or a is None or b is None or not name.endswith(".ko"):
            yield f"{name}: {_what_differs(a, b)}"
        elif name.endswith("_new.ko"):
            code, other = code_of_units(a), code_of_units(b)
            if parts := [n for n in code | other if code.get(n) != other.get(n)]:
                yield f"{name}: {', '.join(parts[:8])}"
        elif name.endswith("_old.ko"):
            yield from _other_old_code(name, a, b)


def _other_old_code(name: str, a: bytes, b: bytes) -> Iterator[str]:
    """Yield whether the tables of an old-code module differ: its largest read-only section."""
    before, after = _sections(a), _sections(b)
    if before.get(".rodata") != after.get(".rodata"):
        yield f"{name}: {_what_differs(a, b)}"


def has_other_words(old: Result, new: Result) -> bool:
    """Tell whether only what people read differs: notes, reasons, complaints."""
    return (old.printed, old.complaint) != (new.printed, new.complaint)


def refusals(result: Result) -> set[str]:
    """Return the symbols, with their sections, that a result refuses to change."""
    found = set(_REFUSAL.findall(result.complaint))
    if result.printed.startswith("{"):
        listed = json.loads(result.printed).get("refused", [])
        found |= {f"{r['symbol']} ({r['section']})" for r in listed}
    return found


def members(data: bytes) -> dict[str, bytes]:
    """Return the files of a bundle, or the one object that ``data`` is."""
    if not data or data.startswith(b"\x7fELF"):
        return {"new code": data} if data else {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        files = {
            m.name.partition("/")[2]: file.read()
            for m in tar.getmembers()
            if (file := tar.extractfile(m)) is not None
        }
    manifest = json.loads(files.pop("manifest.json"))
    manifest.pop("files", None)  # the digests of the others
    return {**files, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def _what_differs(old: bytes | None, new: bytes | None) -> str:
    if old is None or new is None:
        return "came" if old is None else "is gone"
    try:
        before, after = _sections(old), _sections(new)
    except ELFError:
        return "other content"
    names = [n for n in before | after if before.get(n) != after.get(n)]
    return f"sections {', '.join(names[:8])}" if names else "other layout of the file"


def _sections(data: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for s in ELFFile(io.BytesIO(data)).iter_sections():
        found[s.name] = found.get(s.name, b"") + s.data()
    return found


# --- the new code of units, whatever of ours it is linked with ------------------------------------


def code_of_units(module: bytes) -> dict[str, object]:
    """Return what a new-code module has of the kernel's units: contents, and what they refer to.

    Our own C lies in ``.text``; that of units in ``.text.FUNCTION`` and the like.  Entries of
    tables (``__mcount_loc``, ``.altinstructions``) belong to the code that they are about.
    """
    elf = ELFFile(io.BytesIO(module))
    sections = list(elf.iter_sections())
    found: dict[str, object] = {s.name: s.data() for s in sections if _is_of_unit(s.name)}
    references: Counter[tuple[object, ...]] = Counter()
    for table in sections:
        if not isinstance(table, RelocationSection):
            continue
        place = sections[table["sh_info"]]
        symbols = elf.get_section(table["sh_link"])
        for r in table.iter_relocations():
            target = _target(sections, symbols.get_symbol(r["r_info_sym"]), r["r_addend"])
            kind = r["r_info_type"]
            if _is_of_unit(place.name):
                references[place.name, r["r_offset"], kind, target] += 1
            elif _is_of_unit(str(target[0])):
                references[place.name, kind, target] += 1
    found["references"] = references
    return found


def _is_of_unit(section: str) -> bool:
    return _UNIT_SECTION.match(section) is not None


def _target(sections: list[Section], symbol: Symbol, addend: int) -> tuple[object, ...]:
    """Return what a relocation means: a name, a string, or a place in a section."""
    index = symbol["st_shndx"]
    if not isinstance(index, int) or index >= len(sections):  # undefined, or livepatch's
        return symbol.name, addend
    section = sections[index]
    at = symbol["st_value"] + addend
    if ".str" in section.name and 0 <= at < section["sh_size"]:
        return section.name, section.data()[at:].partition(b"\0")[0]
    return section.name, at
