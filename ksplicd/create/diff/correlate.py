# SPDX-License-Identifier: GPL-2.0-only
"""How twins are found: each level pairs what the levels before it have left.

1. By name: ``tcp_sendmsg``; of several files that are linked, ``init_once`` of each.
2. By function: the static variables that the compiler numbers, by the function that defines them
   (``count.3`` of ``tcp_check``), as the debug information tells.
3. By use: names that the compiler numbers (``__already_done.7``, ``foo.constprop.0``) mean the same
   thing where two twins refer to them from the same place.
4. What is left of a numbered name on both sides: once each, or the same content in the same order,
   such as ``__UNIQUE_ID_nop374`` of KVM's emulator.
5. Moved: a variable goes into a function or out of it, ``count`` and ``count.3``.
6. Renamed: ``.show = old_show`` of a table becomes ``.show = new_show``, and ``old_show`` is gone.

What has no twin then is new, or gone.  Last, of functions that were one and are several only one is
the kernel's (``one_place.py``).
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from ksplicd.create.diff.one_place import part_functions
from ksplicd.create.diff.twins import Pairing, Twins, can_be_twins, is_numbered, is_paired_by_use
from ksplicd.create.diff.twins_by_content import pair_by_content
from ksplicd.create.diff.twins_by_function import pair_by_function
from ksplicd.create.diff.twins_by_use import is_alike, pair_by_use, pair_leftovers
from ksplicd.create.objects.index import ObjectIndex, code_section_of, relocations_in
from ksplicd.create.objects.names import base_name, is_cold_part
from ksplicd.elf.model import STB_LOCAL, STT_FILE, STT_OBJECT, STT_SECTION, Symbol

_Named = dict[tuple[str, str], list[Symbol]]
"""Symbols by name and source file, the latter only where it matters."""


def correlate(pre: ObjectIndex, post: ObjectIndex) -> Twins:
    """Return the twins of two objects compiled with one section a symbol."""
    pairing = Pairing(pre, post)
    _pair_by_name(pairing)
    pair_by_function(pairing)
    pair_by_content(pairing)
    pair_by_use(pairing)
    pair_leftovers(pairing)
    _pair_moved(pairing)
    _pair_renamed(pairing)
    part_functions(pairing)
    return pairing.finish()


def _pair_by_name(pairing: Pairing) -> None:
    """Pair the symbols whose names the source gives."""
    pre_symbols, post_symbols = _by_name(pairing.pre, pairing.post)
    for name, symbols in pre_symbols.items():
        _pair_named(pairing, symbols, post_symbols.get(name, []))


def _pair_named(pairing: Pairing, pre: list[Symbol], post: list[Symbol]) -> None:
    """Pair symbols of one name."""
    if len(pre) == len(post) == 1 and not is_numbered(pre[0]) and can_be_twins(pre[0], post[0]):
        pairing.pair(pre[0], post[0])
    elif len(pre) > 1 or len(post) > 1:  # two files of one name
        left = [s for s in post if s.bind == STB_LOCAL and not is_numbered(s)]
        pairing.leave(
            left, (s.name for s in pre), f"{len(pre)} had the name, and {len(post)} have it"
        )


def _by_name(pre: ObjectIndex, post: ObjectIndex) -> tuple[_Named, _Named]:
    """Return the defined symbols of both by name and, where a name is there twice, source file.

    A module of several files (``nfsd.o``) is linked from their objects, and has a static
    ``init_once`` of each that has one.
    """
    before, after = (
        Counter(_file_name(s) for s in index.obj.symbols if s.type == STT_FILE)
        for index in (pre, post)
    )
    known = {name for name, n in before.items() if n == after[name]}
    listed = tuple(_with_files(index, known) for index in (pre, post))
    out: tuple[_Named, _Named] = (defaultdict(list), defaultdict(list))
    for named, mine in zip(out, listed, strict=True):
        for name, symbols in mine.items():
            is_several = any(len(theirs.get(name, ())) > 1 for theirs in listed)
            for file, s in symbols:
                named[name, file if is_several else ""].append(s)
    return out


def _with_files(index: ObjectIndex, known: Collection[str]) -> dict[str, list[tuple[str, Symbol]]]:
    """Return the defined symbols by name, local ones with their source file.

    gcc writes the file's name without its folder.  Files of one name are counted, in the order of
    the link, where both objects have as many (``known``).
    """
    found: dict[str, list[tuple[str, Symbol]]] = defaultdict(list)
    file, seen = "", Counter[str]()
    for s in index.obj.symbols:
        if s.type == STT_FILE:
            name = _file_name(s)
            seen[name] += 1
            file = f"{name}:{seen[name] if name in known else 0}"
        elif s.section is not None and s.name and s.type != STT_SECTION:
            found[s.name].append((file if s.bind == STB_LOCAL else "", s))
    return found


def _file_name(s: Symbol) -> str:
    return s.name.rpartition("/")[2]


def _pair_moved(pairing: Pairing) -> None:
    """Pair the variables that move into a function or out of it: ``count.3`` and ``count``."""
    before, after = (
        {
            is_inside: _by_base_name(
                s for s in index.obj.symbols
                if s not in taken and s.bind == STB_LOCAL and s.type == STT_OBJECT
                and s.section is not None and is_paired_by_use(s) is is_inside
            )
            for is_inside in (True, False)
        }
        for index, taken in ((pairing.pre, pairing.post_of), (pairing.post, pairing.pre_of))
    )  # fmt: skip
    for is_inside in (True, False):
        why = "it moves out of its function" if is_inside else "it moves into a function"
        for name, symbols in before[is_inside].items():
            others = after[not is_inside].get(name, [])
            if len(symbols) == len(others) == 1 and can_be_twins(symbols[0], others[0]):
                pairing.pair(symbols[0], others[0], why)


def _by_base_name(symbols: Iterable[Symbol]) -> dict[str, list[Symbol]]:
    found: dict[str, list[Symbol]] = defaultdict(list)
    for s in symbols:
        found[base_name(s.name)].append(s)
    return found


def _pair_renamed(pairing: Pairing) -> None:
    """Pair static functions that were renamed, as the tables that hold them show.

    Where ``.show = old_show`` becomes ``.show = new_show`` and the old function is gone, the kernel
    goes on calling the old one, which is redirected.
    """
    names = {s.name for s in pairing.post.obj.symbols}
    gone = {
        s for s in pairing.pre.obj.functions()
        if s.bind == STB_LOCAL and s not in pairing.post_of and s.name not in names
        and not is_numbered(s) and not is_cold_part(s.name)
    }  # fmt: skip
    found: dict[Symbol, set[Symbol | None]] = defaultdict(set)
    for section in pairing.pre.obj.sections:
        if not gone or not section.is_alloc or section.is_text:
            continue
        for r in section.relocations:
            s = pairing.pre.locate(section, r).symbol
            user = pairing.pre.symbol_at(section, r.offset)
            twin = pairing.post_of.get(user) if user is not None else None
            if s in gone and user is not None and twin is not None and is_alike(user, twin):
                found[s].add(_target_at(pairing.post, twin, r.offset - user.value))
    known = {s.name for s in pairing.pre.obj.symbols}
    for s, targets in found.items():
        new = targets.pop() if len(targets) == 1 else None
        if new is not None and new.is_function and new.name not in known and can_be_twins(s, new):
            pairing.pair(s, new, "it takes its place in every table, and the old name is gone")


def _target_at(index: ObjectIndex, user: Symbol, offset: int) -> Symbol | None:
    """Return what the relocation at ``offset`` of a symbol refers to."""
    for r in relocations_in(user):
        if r.offset - user.value == offset:
            return index.locate(code_section_of(user), r).symbol
    return None
