# SPDX-License-Identifier: GPL-2.0-only
"""Mutations of a kernel's sources and headers, each against brute force.

Of a source the compiler's objects before and after are held against what create's diff says; of a
header the objects of all units that include it against which units create reaches and compares.
"""

import random
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ksplicd.create.affected.by_mention import find_affected
from ksplicd.create.affected.include_graph import read_include_graph
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.fingerprint import fingerprint
from ksplicd.create.build.units import Unit
from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.line_numbers import with_line_numbers
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError, KspliceError
from tests.mutate.brute import contents_of, name_without_number
from tests.mutate.mutations import mutate

MOST_USERS: Final = 50
"""Units that include a header that is mutated, at most."""


_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_OF_ONE: Final = re.compile(
    r"\.(?:text(?:\.(?:unlikely|hot|startup|exit))?|rodata|bss|data(?:\.rel)?(?:\.ro)?(?:\.local)?)"
    r"\.(?P<name>[A-Za-z_]\w*(?:\.[a-z]+)*)"
)
"""The name of a section with one function or one datum."""
_WITHOUT_IDENTITY: Final = re.compile(
    r"__func__|__FUNCTION__|__PRETTY_FUNCTION__|CSWTCH|switch\.table|_entry(?:_ptr)?\b|_rs$|__key$"
    r"|__already_done|__print_once|__warned|__UNIQUE_ID_|str\d|cst\d|once$|unlikely$"
)
"""What only the functions that have it can be asked for."""

EACH: Final = 4
"""Mutations of one file, whose objects before are compiled once."""


class Outcome(StrEnum):
    """What came of a mutation."""

    SAME = "same"
    """Brute force sees no difference, nor does create."""
    SEEN = "seen"
    SPURIOUS = "spurious"
    """Create sees a difference in a source where brute force sees none."""
    REFUSED = "refused"
    INVALID = "invalid"
    """It does not compile."""
    MISSED = "missed"
    """Brute force sees a difference that create does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One mutation that was tried."""

    number: int
    """Of sources and of headers, each from 0."""
    path: str
    kind: str
    outcome: Outcome
    missed: tuple[str, ...] = ()
    """The units of a header, or the sections of a source, that differ unseen."""


class Mutator:
    """Mutates one kernel's tree, which it patches for a while."""

    def __init__(self, kbuild: Kbuild, seed: int, most_users: int = MOST_USERS) -> None:
        self.kbuild, self.seed = kbuild, seed
        self.tree = kbuild.tree
        self.graph = read_include_graph(self.tree)
        sources = [s for s in sorted(self.tree.listing) if s.endswith(".c")]
        self.sources = [s for s in sources if (self.tree.source.root / s).is_file()]
        self.headers = sorted(self._small_headers(most_users))
        self.fingerprints: dict[Unit, str] = {}
        """Of units before any mutation."""

    def _small_headers(self, most_users: int) -> Iterator[str]:
        for path in self.graph.includes:
            if path.endswith(".h") and not path.startswith("/"):
                users = self.graph.dependants(path) & self.tree.listing.keys()
                if 1 < len(users) <= most_users and not any(u.endswith(".S") for u in users):
                    yield path

    def path_of(self, number: int, *, is_header: bool) -> str:
        """Return the file that the mutation of a number is made in: of four in turn one file."""
        of_file = random.Random(f"{self.seed}:{number // EACH}")
        return of_file.choice(self.headers if is_header else self.sources)

    def is_included(self, path: str) -> bool:
        """Tell whether units other than its own read a source."""
        return bool(self.graph.dependants(path))

    def try_one(self, number: int, *, is_header: bool) -> Result:
        """Make and try the mutation of a number; the same number always makes the same one."""
        path = self.path_of(number, is_header=is_header)
        rng = random.Random(f"{self.seed}:{number}:{path}")
        before = (self.tree.source.root / path).read_bytes()
        mutated = mutate(before.decode(errors="surrogateescape"), rng)
        if mutated is None:
            return Result(number=number, path=path, kind="none", outcome=Outcome.INVALID)
        kind, text = mutated
        after = text.encode(errors="surrogateescape")
        file = ChangedFile(path=Path(path), before=before, after=after)
        try:
            missed, outcome = self._header(file) if is_header else self._source(file)
        except BuildError:
            missed, outcome = (), Outcome.INVALID
        return Result(number=number, path=path, kind=kind, outcome=outcome, missed=missed)

    def _source(self, file: ChangedFile) -> tuple[tuple[str, ...], Outcome]:
        unit = Unit(str(file.path))
        with TemporaryDirectory(prefix="ksplice-mutate-") as folder:
            pre = self.kbuild.compile_split_cached([unit])[unit]
            with self.tree.source.patched([with_line_numbers(file)]):
                post = self.kbuild.compile_split([unit], Path(folder))[unit]
            sizes = self.kbuild.entry_sizes(unit)
            differ = differing(contents_of(pre, sizes), contents_of(post, sizes))
            old, new = (index_separated(read_object(p.read_bytes(), unit.object), sizes)
                        for p in (pre, post))  # fmt: skip
        try:
            found = diff(old, new)
        except KspliceError:
            return (), Outcome.REFUSED
        if missed := sorted(differ - seen_of(differ, found)):
            return tuple(missed), Outcome.MISSED
        if not found.is_empty and not differ:
            return (), Outcome.SPURIOUS
        return (), Outcome.SEEN if differ else Outcome.SAME

    def _header(self, file: ChangedFile) -> tuple[tuple[str, ...], Outcome]:
        graph = read_include_graph(self.tree)
        compiler = self.tree.config.compiler
        affected = find_affected(graph, [file], self.tree.listing, [compiler], few=0)
        units = [Unit(source) for source in sorted(affected.dependants)]
        reached = [unit for unit in units if unit.source in affected.units]
        pre = self.kbuild.compile_split_cached(units)
        for unit in reached:
            if unit not in self.fingerprints:
                self.fingerprints[unit] = fingerprint(self.kbuild, unit)
        with (
            TemporaryDirectory(prefix="ksplice-mutate-") as folder,
            self.tree.source.patched([with_line_numbers(file)]),
        ):
            seen = {u for u in reached if fingerprint(self.kbuild, u) != self.fingerprints[u]}
            rest = [unit for unit in units if unit not in seen]
            post = self.kbuild.compile_split(rest, Path(folder))
            sizes = {u: self.kbuild.entry_sizes(u) for u in rest}
            missed = [
                u.source for u in rest
                if contents_of(pre[u], sizes[u]) != contents_of(post[u], sizes[u])
            ]  # fmt: skip
        if missed:
            return tuple(missed), Outcome.MISSED
        return (), Outcome.SEEN if seen else Outcome.SAME


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the names of the sections whose contents differ.

    Data that are only gone are left out: whoever used them differs.
    """
    return {
        name for name in {*before, *after}
        if before.get(name) != after.get(name)
        and (name.startswith(".text") or _more(after.get(name, ""), before.get(name, "")))
    }  # fmt: skip


def _more(digests: str, than: str) -> Counter[str]:
    return Counter(digests.split()) - Counter(than.split())


def seen_of(differ: Collection[str], found: Difference) -> set[str]:
    """Return those of the sections that differ which a difference accounts for.

    A section of a function or a datum by the name of what is in it; any other, such as those of
    strings and of tables about code, by whatever it is that differs.
    """
    symbols = [*found.changed, *found.new, *found.removed, *found.boot, *found.copied_constants]
    symbols += found.new_data()
    said = {_source_name(s.name) for s in symbols}
    # of several names for one function the section has one
    own = (_OF_ONE.fullmatch(s.section.name) for s in symbols if s.section is not None)
    said |= {_source_name(m["name"]) for m in own if m is not None}
    said |= {_source_name(p.datum.name) for p in found.pointers}
    said |= {_source_name(v.datum.name) for v in found.fields.values}
    said |= {word for text in found.notes for word in _WORD.findall(text)}
    said |= {word for r in found.refusals for word in _WORD.findall(f"{r.symbol} {r.reason}")}
    seen = set()
    for section in differ:
        m = _OF_ONE.fullmatch(section)
        is_own = m is not None and not _WITHOUT_IDENTITY.match(m["name"])
        if (m is not None and _source_name(m["name"]) in said) if is_own else said:
            seen.add(section)
    return seen


def _source_name(name: str) -> str:
    return name_without_number(name.partition(".")[0])
