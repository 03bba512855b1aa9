# SPDX-License-Identifier: GPL-2.0-only
"""Twins: which symbol of the post object is which symbol of the pre object.

Names that the source gives pair by name.  Names that the compiler numbers (``count.3``,
``foo.constprop.0``) pair by use: the same place of two functions or data that are twins.  What has
no twin is new, or gone.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher

from ksplicd.create.objects.index import (
    ObjectIndex,
    Referent,
    code_section_of,
    relocations_in,
    string_at,
)
from ksplicd.create.objects.names import (
    base_name,
    is_boot_section,
    is_cold_part,
    is_literal,
    is_per_cpu,
    is_printk_index,
)
from ksplicd.elf import Symbol
from ksplicd.elf.model import SHF_WRITE, STB_LOCAL, STT_FILE, STT_OBJECT, STT_SECTION

_Named = dict[tuple[str, str], list[Symbol]]
"""Symbols by name and source file, the latter only where it matters."""


class Twins:
    """A one-to-one pairing of symbols, readable in both directions."""

    def __init__(self) -> None:
        self.pre_of: dict[Symbol, Symbol] = {}
        self.post_of: dict[Symbol, Symbol] = {}
        self.ambiguous: set[Symbol] = set()
        """Post symbols without a twin that may be one of several pre symbols."""

    def pair(self, pre: Symbol, post: Symbol) -> None:
        """Pair two symbols; the first pairing of a symbol stands."""
        if pre not in self.post_of and post not in self.pre_of:
            self.post_of[pre] = post
            self.pre_of[post] = pre

    def are_twins(self, pre: Symbol, post: Symbol) -> bool:
        """Tell whether the two are the same thing before and after."""
        if pre.section is None and post.section is None:
            return pre.name == post.name
        return self.post_of.get(pre) is post


def is_numbered(symbol: Symbol) -> bool:
    """Tell whether the compiler numbered this name: static locals, clones and ``__UNIQUE_ID``."""
    return symbol.bind == STB_LOCAL and base_name(symbol.name) != symbol.name


def is_paired_by_use(symbol: Symbol) -> bool:
    """Tell whether references tell which symbol this is: numbered, and not content alone."""
    return is_numbered(symbol) and not is_literal(symbol) and not is_printk_index(symbol)


def can_be_twins(pre: Symbol, post: Symbol) -> bool:
    """Tell whether two symbols of one name are of one kind.

    Code that was ``__init`` and no longer is (``.init.text`` → ``.text``) is new: the running
    kernel has thrown its twin away.  Per-CPU data and other data are reached in different ways.
    """
    a, b = pre.section, post.section
    return (
        a is not None
        and b is not None
        and pre.is_function == post.is_function
        and is_boot_section(a) == is_boot_section(b)
        and is_per_cpu(a) == is_per_cpu(b)
    )


def correlate(pre: ObjectIndex, post: ObjectIndex) -> Twins:
    """Return the twins of two objects compiled with one section a symbol."""
    twins = Twins()
    pre_symbols, post_symbols = _by_name(pre, post)
    for name, symbols in pre_symbols.items():
        _pair_named(twins, symbols, post_symbols.get(name, []))
    # Pairs found by use may bring others together (clones), whose references then count too.
    # Those that are alike go first: what refers to a thing from the same place is certain.
    users = _users_of_numbered(pre)
    done: set[Symbol] = set()
    while todo := [s for s in users if s in twins.post_of and s not in done]:
        alike = [s for s in todo if _is_alike(s, twins.post_of[s])]
        for s in alike or todo:
            done.add(s)
            _pair_by_use(twins, pre, post, s, twins.post_of[s])
    _pair_leftovers(twins, pre, post)
    _pair_moved(twins, pre, post)
    _pair_renamed(twins, pre, post)
    return twins


def _pair_named(twins: Twins, pre: list[Symbol], post: list[Symbol]) -> None:
    """Pair symbols of one name."""
    if len(pre) == len(post) == 1 and not is_numbered(pre[0]) and can_be_twins(pre[0], post[0]):
        twins.pair(pre[0], post[0])
    elif len(pre) > 1 or len(post) > 1:  # two files of one name
        twins.ambiguous.update(s for s in post if s.bind == STB_LOCAL and not is_numbered(s))


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


# --- by use -------------------------------------------------------------------------------------


def _users_of_numbered(index: ObjectIndex) -> list[Symbol]:
    """Return the functions and data that refer to symbols which are paired by use."""
    found: dict[Symbol, None] = {}
    for section in index.obj.sections:
        if not section.is_alloc:
            continue
        for r in section.relocations:
            s = index.locate(section, r).symbol
            if s is not None and s.section is not None and is_paired_by_use(s):
                user = index.symbol_at(section, r.offset)
                if user is not None:
                    found[user] = None
    return list(found)


def _is_alike(pre: Symbol, post: Symbol) -> bool:
    """Tell whether two symbols are relocated at the same offsets in the same ways."""
    return pre.size == post.size and [
        (r.offset - pre.value, r.type) for r in relocations_in(pre)
    ] == [(r.offset - post.value, r.type) for r in relocations_in(post)]


def _pair_by_use(
    twins: Twins, pre: ObjectIndex, post: ObjectIndex, pre_user: Symbol, post_user: Symbol
) -> None:
    """Pair the numbered symbols to which two twins refer from the same place."""
    before, after = _references(pre, pre_user), _references(post, post_user)
    tokens = [_token(p) for p in before], [_token(p) for p in after]
    if [t[:2] for t in tokens[0]] == [t[:2] for t in tokens[1]]:
        blocks = [(0, 0, len(before))]
    else:
        matcher = SequenceMatcher(None, *tokens, autojunk=False)
        blocks = [(m.a, m.b, m.size) for m in matcher.get_matching_blocks()]
    # Among more of a name than there were, only the surroundings tell which is which.
    uneven = {base for base, _ in _count(before).items() ^ _count(after).items()}
    for i, j, n in blocks:
        has_context = any(kind != "numbered" for kind, _, _ in tokens[0][i : i + n])
        for a, b in zip(before[i : i + n], after[j : j + n], strict=True):
            if a.symbol is None or b.symbol is None:
                continue
            if has_context or base_name(a.symbol.name) not in uneven:
                _pair_numbered(twins, a.symbol, b.symbol)
    # What is left of a name on both sides, once, has only changed its surroundings or its size.
    left_before = _group((p.symbol for p in before), twins.post_of)
    left_after = _group((p.symbol for p in after), twins.pre_of)
    for base, symbols in left_before.items():
        others = left_after.get(base, [])
        if len(symbols) == len(others) == 1:
            _pair_numbered(twins, symbols[0], others[0])


def _pair_numbered(twins: Twins, a: Symbol, b: Symbol) -> None:
    if (
        is_paired_by_use(a)
        and is_paired_by_use(b)
        and base_name(a.name) == base_name(b.name)
        and can_be_twins(a, b)
    ):
        twins.pair(a, b)


def _references(index: ObjectIndex, user: Symbol) -> list[Referent]:
    section = code_section_of(user)
    return [index.locate(section, r) for r in relocations_in(user)]


def _token(referent: Referent) -> tuple[str, object, int]:
    """Return what identifies a reference in both objects: kind, name or text, size."""
    s, section = referent.symbol, referent.section
    if s is not None and (section is None or not is_numbered(s)):
        return "symbol", s.name, referent.offset
    if s is not None:
        return "numbered", base_name(s.name), s.size
    assert section is not None
    if section.is_strings:
        return "string", string_at(section, referent.offset), 0
    return "section", base_name(section.name), 0


def _count(referents: Iterable[Referent]) -> dict[str, int]:
    """Return how many symbols of each base name are referred to."""
    return {name: len(found) for name, found in _group((p.symbol for p in referents), ()).items()}


def _group(symbols: Iterable[Symbol | None], taken: Collection[Symbol]) -> dict[str, list[Symbol]]:
    """Return the symbols that have no twin yet and are paired by use, by base name."""
    found: dict[str, dict[Symbol, None]] = defaultdict(dict)
    for s in symbols:
        if s is not None and s.section is not None and s not in taken and is_paired_by_use(s):
            found[base_name(s.name)][s] = None
    return {name: list(group) for name, group in found.items()}


def _pair_leftovers(twins: Twins, pre: ObjectIndex, post: ObjectIndex) -> None:
    """Pair numbered symbols that nobody paired by use and whose base name is unambiguous.

    Code and constants that are the same in the same order pair too: the entries
    ``__UNIQUE_ID_nop374`` of KVM's emulator are reached by computed jumps.  Variables that begin
    alike tell nothing.
    """
    others = _group(post.obj.symbols, twins.pre_of)
    for name, symbols in _group(pre.obj.symbols, twins.post_of).items():
        candidates = others.get(name, [])
        contents = [_content(x) for x in symbols], [_content(x) for x in candidates]
        is_state = any(code_section_of(x).flags & SHF_WRITE for x in (*symbols, *candidates))
        if len(symbols) == len(candidates) == 1:
            is_alike = not (
                is_state and _changes_hands(twins, pre, symbols[0], post, candidates[0])
            )
        else:
            is_alike = contents[0] == contents[1] and not is_state
        if is_alike:
            for a, b in zip(symbols, candidates, strict=True):
                _pair_numbered(twins, a, b)
        else:
            twins.ambiguous.update(candidates)


def _changes_hands(twins: Twins, pre: ObjectIndex, a: Symbol, post: ObjectIndex, b: Symbol) -> bool:
    """Tell whether one function loses a variable and another one, which was there, gets it."""
    before, after = _functions_using(pre, a), _functions_using(post, b)
    return (
        bool(before and after)
        and before <= twins.post_of.keys()
        and after <= twins.pre_of.keys()
        and not {twins.post_of[f] for f in before} & after
    )


def _functions_using(index: ObjectIndex, s: Symbol) -> set[Symbol]:
    found = set()
    for owner in filter(lambda x: x.is_text, index.obj.sections):
        for r in owner.relocations:
            user = index.symbol_at(owner, r.offset)
            if user is not None and index.locate(owner, r).symbol is s:
                found.add(index.main_of(user))
    return found


def _pair_moved(twins: Twins, pre: ObjectIndex, post: ObjectIndex) -> None:
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
        for index, taken in ((pre, twins.post_of), (post, twins.pre_of))
    )  # fmt: skip
    for is_inside in (True, False):
        for name, symbols in before[is_inside].items():
            others = after[not is_inside].get(name, [])
            if len(symbols) == len(others) == 1 and can_be_twins(symbols[0], others[0]):
                twins.pair(symbols[0], others[0])


def _by_base_name(symbols: Iterable[Symbol]) -> dict[str, list[Symbol]]:
    found: dict[str, list[Symbol]] = defaultdict(list)
    for s in symbols:
        found[base_name(s.name)].append(s)
    return found


def _pair_renamed(twins: Twins, pre: ObjectIndex, post: ObjectIndex) -> None:
    """Pair static functions that only the new name tells apart, as their tables show.

    Where ``.show = old_show`` becomes ``.show = new_show`` and the old function is gone, the kernel
    goes on calling the old one, which is redirected.
    """
    names = {s.name for s in post.obj.symbols}
    gone = {
        s for s in pre.obj.functions()
        if s.bind == STB_LOCAL and s not in twins.post_of and s.name not in names
        and not is_numbered(s) and not is_cold_part(s.name)
    }  # fmt: skip
    found: dict[Symbol, set[Symbol | None]] = defaultdict(set)
    for section in pre.obj.sections:
        if not gone or not section.is_alloc or section.is_text:
            continue
        for r in section.relocations:
            s, user = pre.locate(section, r).symbol, pre.symbol_at(section, r.offset)
            twin = twins.post_of.get(user) if user is not None else None
            if s in gone and user is not None and twin is not None and _is_alike(user, twin):
                found[s].add(_target_at(post, twin, r.offset - user.value))
    known = {s.name for s in pre.obj.symbols}
    for s, targets in found.items():
        new = targets.pop() if len(targets) == 1 else None
        if new is not None and new.is_function and new.name not in known and can_be_twins(s, new):
            twins.pair(s, new)


def _target_at(index: ObjectIndex, user: Symbol, offset: int) -> Symbol | None:
    """Return what the relocation at ``offset`` of a symbol refers to."""
    for r in relocations_in(user):
        if r.offset - user.value == offset:
            return index.locate(code_section_of(user), r).symbol
    return None


def _content(s: Symbol) -> bytes:
    section = code_section_of(s)
    return section.data[s.value : s.value + s.size] or bytes(s.size)
