# SPDX-License-Identifier: GPL-2.0-only
"""What the objects of one unit tell of lines and names, and what became of whoever has them.

Line tables say from which lines of which files each function's code is, before and after the
change.  The difference says which functions and data are other than before, the new code what leads
to them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.ledger.fates import Fate, fates_of_data
from ksplicd.create.ledger.lists import ListChange, compare_lists
from ksplicd.create.new_code.model import FIELDS, NewCode
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import base_name, is_boot_section, is_prefix
from ksplicd.elf.line_table import read_line_table
from ksplicd.elf.model import STT_SECTION, Section, Symbol

HOOK: Final = "hook "
"""How a call of a hook begins among the redirects."""

Lines = Mapping[str, Mapping[str, frozenset[int]]]
"""By file, and function as the object names it, the lines of its code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEvidence:
    """What the objects of one unit tell."""

    unit: str
    """Its source file."""
    target: str
    pre: Lines
    post: Lines
    """With the numbers that ``patch/line_numbers.py`` gives."""
    functions: Mapping[str, Fate]
    """By name, as the objects have it; of several names the one that the difference has."""
    aliases: Mapping[str, str]
    """By every name of a function, that one."""
    data: Mapping[str, frozenset[Fate]]
    """By name without the compiler's numbers; there may be several of a name."""
    redirects: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By name of what is in the new code, the redirects that lead there."""
    lists: tuple[ListChange, ...] = ()
    """What comes, goes or changes in lists that the linker makes."""

    def compiles(self, file: str) -> bool:
        """Tell whether code of the unit is from a file, or the file is its source."""
        return file == self.unit or file in self.pre or file in self.post

    @property
    def changed(self) -> list[str]:
        """The functions whose code changes in the running kernel."""
        return [name for name, fate in self.functions.items() if fate is Fate.CHANGED]


def read_evidence(
    unit: str,
    target: str,
    pre: ObjectIndex,
    post: ObjectIndex,
    change: UnitChange | None,
    redirects: Mapping[str, tuple[str, ...]],
    files: Collection[str],
    called_only: Collection[str] = (),
) -> UnitEvidence:
    """Return what the split objects of a unit tell of ``files``; ``change``: None where nothing is.

    ``called_only``: as ``NewCode`` has it.  Those to which nothing leads only boot code calls.
    Raises ``ElfError``.
    """
    names = FunctionNames(pre, post, change)
    functions = fates_of_functions(pre, post, names, change)
    functions |= {name: Fate.BOOT for name in called_only if name not in redirects}
    return UnitEvidence(
        unit=unit,
        target=target,
        pre=read_lines(pre, names, files, is_post=False),
        post=read_lines(post, names, files, is_post=True),
        functions=functions,
        aliases=names.by_alias,
        data=fates_of_data(pre, post, change),
        redirects=redirects,
        lists=tuple(compare_lists(pre.obj, post.obj)),
    )


class FunctionNames:
    """The one name by which each function of a unit is known here, before and after the change.

    A function may have several names; the one that the difference has is meant.
    """

    def __init__(self, pre: ObjectIndex, post: ObjectIndex, change: UnitChange | None) -> None:
        d = change.difference if change is not None else None
        known: set[Symbol] = {*d.changed, *d.new, *d.boot, *d.removed} if d is not None else set()
        self._post = _names_by_place(post, known)
        self._pre = _names_by_place(pre, known)
        for s in pre.obj.functions() if d is not None else ():
            twin = d.twins.post_of.get(s) if d is not None else None
            if twin is not None and (name := self._post.get((twin.section, twin.value))):
                self._pre[s.section, s.value] = name
        self.by_alias = {
            s.name: names[s.section, s.value]
            for index, names in ((pre, self._pre), (post, self._post))
            for s in _functions(index)
        }
        """By every name, the one that is meant."""

    def of(self, index: ObjectIndex, s: Symbol, *, is_post: bool) -> str:
        """Return the name of a function; a cold part has its function's."""
        main = index.main_of(s)
        names = self._post if is_post else self._pre
        return names.get((main.section, main.value), main.name)


def _functions(index: ObjectIndex) -> Iterable[Symbol]:
    return (s for s in index.obj.functions() if not is_prefix(s))


def _names_by_place(
    index: ObjectIndex, preferred: Collection[Symbol]
) -> dict[tuple[Section | None, int], str]:
    """Return by section and offset one name: a preferred one, else the first of the alphabet."""
    ranked = sorted(_functions(index), key=lambda s: (s not in preferred, s.name), reverse=True)
    return {(s.section, s.value): s.name for s in ranked}


def read_lines(
    index: ObjectIndex, names: FunctionNames, files: Collection[str], *, is_post: bool
) -> Lines:
    """Return the lines of ``files`` that functions have code from; none without a line table."""
    found: dict[str, dict[str, frozenset[int]]] = defaultdict(dict)
    known: dict[str, str] = {}
    for section, by_file in (read_line_table(index.obj) or {}).items():
        here = [names.of(index, s, is_post=is_post) for s in index.functions_in(section)]
        for path, lines in by_file.items():
            if path not in known:
                known[path] = next((f for f in files if path == f or path.endswith(f"/{f}")), "")
            for name in here if known[path] else ():
                of_file = found[known[path]]
                of_file[name] = of_file.get(name, frozenset()) | lines
    return found


def fates_of_functions(
    pre: ObjectIndex, post: ObjectIndex, names: FunctionNames, change: UnitChange | None
) -> dict[str, Fate]:
    """Return what became of each function."""
    found: dict[str, Fate] = {}
    for index, is_post in ((pre, False), (post, True)):
        for s in _functions(index):
            if s.section is not None:
                is_boot = is_boot_section(s.section)
                fate = Fate.BOOT_SAME if is_boot else Fate.SAME
                found[names.of(index, s, is_post=is_post)] = fate
    if change is None:
        return found
    d = change.difference
    groups: tuple[tuple[Fate, Iterable[Symbol]], ...] = (
        (Fate.REMOVED, d.removed),
        (Fate.NEW, d.new),
        (Fate.BOOT, d.boot),
        (Fate.CHANGED, d.changed),
        (Fate.CHANGED, [d.unload] if d.unload is not None else []),
        (Fate.LEFT, d.ignored),
    )
    for fate, symbols in groups:
        is_post = fate is not Fate.REMOVED
        index = d.post if is_post else d.pre
        found |= {names.of(index, s, is_post=is_post): fate for s in symbols}
    return found


# --- what leads to new code ---------------------------------------------------------------------


def find_redirects(
    new_code: Sequence[NewCode],
) -> dict[tuple[str, str], dict[str, tuple[str, ...]]]:
    """Return by unit (``NewCode.key``), and name in its new code, the redirects that lead there.

    They are named as in ``Manifest.redirects``; hooks, which are called and lead nowhere else, as
    ``hook apply``.
    """
    defined: dict[str, tuple[int, Section]] = {}
    for number, code in enumerate(new_code):
        for s in code.obj.symbols:
            if s.section is not None and s.name.startswith("ksplice_"):
                defined[s.name] = number, s.section
    found: list[dict[str, list[str]]] = [defaultdict(list) for _ in new_code]
    for number, code in enumerate(new_code):
        for redirect, alias, tables in _starts(code):
            for table in tables:
                found[number][base_name(table)].append(redirect)
            start = defined.get(alias) or _own(number, code, alias)
            if start is None:
                continue
            for owner, section in _reach(start, new_code, defined):
                for name in _names_in(new_code[owner], section):
                    if redirect not in found[owner][name]:
                        found[owner][name].append(redirect)
    return {
        code.key: {name: tuple(by) for name, by in found[number].items()}
        for number, code in enumerate(new_code)
    }


def _starts(code: NewCode) -> Iterable[tuple[str, str, tuple[str, ...]]]:
    """Yield each redirect of a unit, the symbol that it leads to, and the data that name that."""
    for r in code.redirected:
        yield f"{code.target}:{r.name} by livepatch", r.alias, r.tables
    for other in code.redirects:
        is_field = other.kind in FIELDS
        place = f"{other.name}+{other.offset:#x}" if is_field else other.name
        tables = (other.name,) if is_field else other.tables
        yield f"{code.target}:{place} by {other.kind.value}", other.new, tables
    for hook in code.hooks:
        yield f"{HOOK}{hook.kind}", hook.alias, ()


def _own(number: int, code: NewCode, name: str) -> tuple[int, Section] | None:
    found = (s.section for s in code.obj.symbols if s.name == name and s.section is not None)
    return next(((number, section) for section in found), None)


def _reach(
    start: tuple[int, Section],
    new_code: Sequence[NewCode],
    defined: Mapping[str, tuple[int, Section]],
) -> set[tuple[int, Section]]:
    """Return the sections that are reached from one, also in the new code of other units."""
    seen, todo = {start}, [start]
    while todo:
        number, section = todo.pop()
        for r in section.relocations:
            if r.symbol.section is not None:
                to = number, r.symbol.section
            elif r.symbol.name in defined:
                to = defined[r.symbol.name]
            else:
                continue
            if to not in seen:
                seen.add(to)
                todo.append(to)
    return seen


def _names_in(code: NewCode, section: Section) -> Iterable[str]:
    for s in code.obj.symbols:
        if s.section is section and s.name and s.type != STT_SECTION:
            yield s.name
