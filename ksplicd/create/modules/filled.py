# SPDX-License-Identifier: GPL-2.0-only
"""Which references to vmlinux a new-code module has filled in by its core (kmodsrc/fill.c).

That is done at the begin of the module's init function: too late for what the module loader reads
or rewrites before.  Plain code and data can wait; tables, and what they lead to, cannot.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ksplicd.create.objects.entry_sizes import infer_sizes
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.special import is_special_section
from ksplicd.create.old_code.sites import read_sites
from ksplicd.elf.model import Object, Relocation, Section

OBJECT: Final = "ksplice-vmlinux"
"""Stands for vmlinux in the names of the sections.  No module has a ``-`` in its name, so livepatch
never meets the object."""

_CALL: Final = re.compile(r"ksplice_[a-z0-9]+_fill")
"""What the core exports to a new-code module, where the kernel's own way is slow."""
_PLAIN: Final = re.compile(r"\.(?:text|rodata|data)(?:\.[^.].*)?")
"""``.text``, ``.rodata.names``, ``.data``; not ``.init.text``, which runs before, nor
``.data..percpu`` and ``.data..ro_after_init``, of which the loader makes copies or more."""

Spans = Mapping[Section, Sequence[tuple[int, int]]]
"""Begin and end of bytes of sections."""


def has_filled(obj: Object) -> bool:
    """Tell whether a module calls what fills it."""
    return any(s.is_undefined and _CALL.fullmatch(s.name) for s in obj.symbols)


class Filled:
    """Tells which references of one module can wait."""

    def __init__(self, obj: Object) -> None:
        """``obj``: the finished module.  Raises ``ElfError`` when its tables do not fit."""
        self.early = _spans([*_rewritten(obj), *_named_by_tables(obj)])

    def __contains__(self, place: tuple[Section, Relocation]) -> bool:
        """Tell whether a reference of a section can wait."""
        section, r = place
        return _PLAIN.fullmatch(section.name) is not None and not any(
            begin <= r.offset < end for begin, end in self.early.get(section, ())
        )


def _spans(found: Sequence[tuple[Section, int, int]]) -> Spans:
    spans: dict[Section, list[tuple[int, int]]] = defaultdict(list)
    for section, begin, end in found:
        spans[section].append((begin, end))
    return spans


def _rewritten(obj: Object) -> Iterator[tuple[Section, int, int]]:
    """Yield what the loader may rewrite: the patch sites."""
    for section, sites in read_sites(ObjectIndex(obj, infer_sizes([obj]))).items():
        for site in sites:
            yield section, site.offset, site.offset + site.size


def _named_by_tables(obj: Object) -> Iterator[tuple[Section, int, int]]:
    """Yield the data that a table about code names, such as the key of a static call."""
    for table in filter(is_special_section, obj.sections):
        for r in table.relocations:
            section, offset = r.symbol.section, r.symbol.value + r.addend
            if section is None or section.is_text or not section.is_alloc:
                continue
            for s in obj.symbols:
                if s.section is section and s.value <= offset < s.value + s.size:
                    yield section, s.value, s.value + s.size
