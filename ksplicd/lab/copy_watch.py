# SPDX-License-Identifier: GPL-2.0-only
"""Look for copies of the tables that an update exchanges, in the memory of the guest it runs in.

```
the tables' content ─apply▸ what has changed: the entries, and copies of them ─undo▸ copies of them
```

A copy keeps the old content when the update is applied, and one that is made meanwhile keeps the
new one after undo.  What tells a copy is in ``table_copies.py``.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ksplicd.lab.copy_search import (
    Hit,
    find_hits,
    is_in_linked_kernel,
    is_in_linked_module,
    make_entry,
)
from ksplicd.lab.guest_memory import GuestMemory, Span
from ksplicd.lab.linked_data import LinkedData
from ksplicd.lab.running_guest import Result
from ksplicd.lab.table_copies import Entry, Place, place_in
from ksplicd.lab.whereabouts import KernelSymbols, Reports, Whereabouts
from ksplicd.model import VMLINUX, Manifest

_FLAGS: Final = "/run/ksplice-kpageflags"
# kpageflags takes only reads of whole words (fs/proc/page.c); vmallocinfo has true addresses for
# root when kptr_restrict is 1 (Documentation/admin-guide/sysctl/kernel.rst).
_READ_FLAGS: Final = f"dd if=/proc/kpageflags of={_FLAGS} bs=1M status=none"
_KPTR: Final = "/proc/sys/kernel/kptr_restrict"
_SECTIONS: Final = """\
for m in {}; do
    for f in /sys/module/$m/sections/.[!.]* /sys/module/$m/sections/*; do
        if [ -f $f ]; then read -r address <$f; echo $m ${{f##*/}} $address; fi
    done
done
"""
_SECTION: Final = re.compile(r"^(\S+) (\S+) 0x([0-9a-f]{1,16})$", re.MULTILINE)
_MOST_NAMED: Final = 8
"""Copies of one entry that are named; the others are counted."""
_NUMBER: Final = re.compile(r"\.\d+$")
"""What the compiler adds to the name of a function's static variable; another build counts anew."""


class When(StrEnum):
    """When a copy was found."""

    APPLIED = "with the update"
    UNDONE = "after undo"


def sentence_of(when: When, hit: Hit) -> str:
    """Return what is wrong with a copy."""
    copy = f"{when} a copy of {hit.entry.place.name} is in {hit.where}"
    match when, hit.is_new:
        case When.APPLIED, False:
            return f"{copy}, with the old content: the update has no effect there"
        case When.APPLIED, True:
            return f"{copy}, with the new content, which undo does not take back"
        case _, False:
            return f"{copy}: it was made meanwhile, and the update would have no effect there"
        case _:
            return f"{copy}, with what the update has brought: its code may still run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A place that the manifest says is exchanged."""

    target: str
    name: str
    offset: int

    def __str__(self) -> str:
        """Return it for people."""
        module = "" if self.target == VMLINUX else f" [{self.target}]"
        return f"{self.name}+{self.offset:#x}{module}"


def tables_of(manifest: Manifest) -> tuple[Table, ...]:
    """Return what an update exchanges in tables, each once."""
    return tuple(
        dict.fromkeys(
            Table(target=t.name, name=p.table, offset=p.offset)
            for t in manifest.targets
            for p in t.pointers
        )
    )


class Readable(Protocol):
    """What is asked of a guest, which is one whose memory can be read."""

    def read(self, path: str, *, if_there: bool = False) -> str:
        """Return the text of a file."""
        ...

    def get(self, path: str) -> bytes:
        """Return the contents of a file."""
        ...

    def run(self, command: str) -> Result:
        """Run a line of the shell."""
        ...

    def stopped(self) -> contextlib.AbstractContextManager[GuestMemory]:
        """Stop it for as long as the context lasts."""
        ...


class InGuest(Protocol):
    """What is asked of an update in the guest."""

    core: str
    new: str
    """Names of its modules."""

    def keeps_code(self) -> bool:
        """Tell whether the new code stays loaded after undo."""
        ...


class CopyWatch:
    """Watches the tables of one update.  Every method raises ``LabError``."""

    def __init__(
        self, guest: Readable, update: InGuest, manifest: Manifest, stock: LinkedData
    ) -> None:
        """Read what the tables have before the update."""
        self._guest, self._update, self._stock = guest, update, stock
        self._tables = tables_of(manifest)
        self._before: dict[Table, dict[Place, bytes]] = {}
        self._entries: list[Entry] = []
        self._new_code: list[Span] = []
        self._seen: set[tuple[str, int]] = set()
        self.faults: list[str] = []
        """What is wrong, a sentence for each."""
        self.notes: list[str] = []
        """What could not be looked for, a sentence for each."""
        if self._tables:
            with self._stopped() as now:
                self._before = {t: _content(now, t) for t in self._tables}

    def look(self, when: When) -> None:
        """Look for copies; what is found is in ``faults`` and ``notes``."""
        if not self._tables:
            return
        modules = [self._update.core, self._update.new] if when is When.APPLIED else []
        sections, is_loaded = self._sections(modules), self._update.keeps_code()
        with self._stopped() as now:
            if when is When.APPLIED:
                self._new_code = _areas(now, sections.get(self._update.new, {}))
                ours = [span for found in sections.values() for span in _areas(now, found)]
                self._find_entries(now)
                new_code = self._new_code
            else:
                # another module may be where the new code was
                new_code = [s for s in self._new_code if is_loaded or not now.is_taken(s)]
                ours = self._new_code if is_loaded else []
                self._check_undone(now)
            hits = [
                hit for hit in find_hits(now, self._entries, new_code, ours)
                if not is_in_linked_kernel(hit, now, self._stock)
            ]  # fmt: skip
            modules = [*{m for hit in hits if (m := now.module_of(hit.address)) is not None}]
        sections = self._sections(modules)
        self._note([h for h in hits if not is_in_linked_module(h, sections, self._stock)], when)

    def _find_entries(self, now: Whereabouts) -> None:
        """Find the places that the update has changed."""
        for table, places in self._before.items():
            made = [make_entry(now, place, content) for place, content in places.items()]
            changed = [entry for entry in made if entry is not None]
            if not changed:
                self.faults.append(f"{When.APPLIED} {table} is as it was: nothing was exchanged")
            for entry in changed:
                if not entry.is_lookable:
                    self.notes.append(
                        f"{table}: copies of it were not looked for, because it has too little"
                        " around it to tell them by"
                    )
            self._entries += changed

    def _check_undone(self, now: Whereabouts) -> None:
        for entry in self._entries:
            if now.read_word(entry.place.address) == entry.new:
                self.faults.append(f"{When.UNDONE} {entry.place.name} still has the new content")

    def _note(self, hits: list[Hit], when: When) -> None:
        """Note the copies that were not there before, or that were to be gone."""
        by_entry: dict[str, list[Hit]] = {}
        for hit in hits:
            name = hit.entry.place.name
            if when is When.APPLIED or hit.is_new or (name, hit.physical) not in self._seen:
                by_entry.setdefault(name, []).append(hit)
            self._seen.add((name, hit.physical))
        for name, found in by_entry.items():
            self.faults += (sentence_of(when, hit) for hit in found[:_MOST_NAMED])
            if (more := len(found) - _MOST_NAMED) > 0:
                self.faults.append(f"{when} there are {more} more copies of {name}")

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[Whereabouts]:
        """Stop the guest, and read its memory with what its kernel says of it."""
        guest = self._guest
        symbols = KernelSymbols(guest.read("/proc/kallsyms"))
        restricted = guest.read(_KPTR)
        guest.run(f"echo 1 >{_KPTR} && {_READ_FLAGS}")
        try:
            reports = Reports(
                iomem=guest.read("/proc/iomem"),
                vmallocinfo=guest.read("/proc/vmallocinfo"),
                cpuinfo=guest.read("/proc/cpuinfo"),
                slabinfo=guest.read("/proc/slabinfo", if_there=True),
                kpageflags=guest.get(_FLAGS),
            )
        finally:
            guest.run(f"echo {restricted} >{_KPTR}")
        with guest.stopped() as memory:
            yield Whereabouts(memory, reports, symbols)

    def _sections(self, modules: list[str]) -> dict[str, dict[str, int]]:
        """Return where the sections of loaded modules are, by module and name."""
        found: dict[str, dict[str, int]] = {}
        if modules:
            said = self._guest.run(_SECTIONS.format(" ".join(sorted(modules)))).out
            for module, section, address in _SECTION.findall(said):
                found.setdefault(module, {})[section] = int(address, 16)
        return found


def _content(now: Whereabouts, table: Table) -> dict[Place, bytes]:
    """Return what is around the place in each table that has the name."""
    found = {}
    for begin in now.symbols.addresses_like(_NUMBER.sub("", table.name), table.target):
        end = now.symbols.next_address(begin)
        where = (table.target, table.name, table.offset, begin)
        place = place_in(*where, end) or place_in(*where, None)
        content = None if place is None else now.read_span(place.around)
        if place is not None and content is not None:
            found[place] = content
    return found


def _areas(now: Whereabouts, sections: Mapping[str, int]) -> list[Span]:
    """Return the areas of vmalloc's that a module's sections are in."""
    areas = {now.area_of(address) for address in sections.values()}
    return [Span(a.begin, a.end) for a in areas if a is not None]
