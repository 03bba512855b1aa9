# SPDX-License-Identifier: GPL-2.0-only
"""Twins whose names the compiler numbers (``count.3``, ``foo.constprop.0``), paired by use.

Two twins refer to them from the same place, or they are what is left of a name.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher

from ksplicd.create.diff.twins import (
    Pairing,
    can_be_twins,
    is_numbered,
    is_paired_by_use,
    is_state,
)
from ksplicd.create.objects.index import (
    ObjectIndex,
    Referent,
    code_section_of,
    relocations_in,
    string_at,
)
from ksplicd.create.objects.names import base_name
from ksplicd.elf.model import SHF_WRITE, Symbol


def pair_by_use(pairing: Pairing) -> None:
    """Pair the numbered symbols that twins refer to.

    Pairs found by use may bring others together (clones), whose references then count too.  Those
    that are alike go first: what refers to a thing from the same place is certain.
    """
    users = _users_of_numbered(pairing.pre)
    done: set[Symbol] = set()
    while todo := [s for s in users if s in pairing.post_of and s not in done]:
        alike = [s for s in todo if is_alike(s, pairing.post_of[s])]
        for s in alike or todo:
            done.add(s)
            _pair_used(pairing, s, pairing.post_of[s])


def pair_leftovers(pairing: Pairing) -> None:
    """Pair numbered symbols that nobody paired by use and whose base name is unambiguous.

    Code and constants that are the same in the same order pair too: the entries
    ``__UNIQUE_ID_nop374`` of KVM's emulator are reached by computed jumps.  Variables that begin
    alike do not.
    """
    others = _group(pairing.post.obj.symbols, pairing.pre_of)
    for name, symbols in _group(pairing.pre.obj.symbols, pairing.post_of).items():
        candidates = others.get(name, [])
        contents = [_content(x) for x in symbols], [_content(x) for x in candidates]
        is_state = any(code_section_of(x).flags & SHF_WRITE for x in (*symbols, *candidates))
        if len(symbols) == len(candidates) == 1:
            same = not (is_state and _changes_hands(pairing, symbols[0], candidates[0]))
            why, why_not = f"the only {name} that is left", "other functions use it than before"
        else:
            same = contents[0] == contents[1] and not is_state
            why = "the same content at the same turn"
            why_not = f"{len(symbols)} of {name} are left before, {len(candidates)} after"
        if same:
            for a, b in zip(symbols, candidates, strict=True):
                _pair_numbered(pairing, a, b, why)
        else:
            pairing.leave(candidates, (x.name for x in symbols), why_not)


def _users_of_numbered(index: ObjectIndex) -> list[Symbol]:
    """Return the functions and data that refer to symbols paired by use."""
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


def is_alike(pre: Symbol, post: Symbol) -> bool:
    """Tell whether two symbols are relocated at the same offsets in the same ways."""
    return pre.size == post.size and [
        (r.offset - pre.value, r.type) for r in relocations_in(pre)
    ] == [(r.offset - post.value, r.type) for r in relocations_in(post)]


def _pair_used(pairing: Pairing, pre_user: Symbol, post_user: Symbol) -> None:
    """Pair the numbered symbols to which two twins refer from the same place."""
    before, after = _references(pairing.pre, pre_user), _references(pairing.post, post_user)
    why = f"{post_user.name} refers to it at the same place"
    tokens = [_token(p) for p in before], [_token(p) for p in after]
    if [t[:2] for t in tokens[0]] == [t[:2] for t in tokens[1]]:
        blocks = [(0, 0, len(before))]
    else:
        matcher = SequenceMatcher(None, *tokens, autojunk=False)
        blocks = [(m.a, m.b, m.size) for m in matcher.get_matching_blocks()]
    # Among more of a name than there were, only the surroundings tell which is which.
    uneven = {base for base, _ in _count(before).items() ^ _count(after).items()}
    unique = {t for t in tokens[0] if tokens[0].count(t) == tokens[1].count(t) == 1}
    for i, j, n in blocks:
        context = [token for token in tokens[0][i : i + n] if _is_context(token)]
        has_anchor = not unique.isdisjoint(context)
        for a, b in zip(before[i : i + n], after[j : j + n], strict=True):
            if a.symbol is None or b.symbol is None:
                continue
            is_certain = has_anchor if is_state(a.symbol) else bool(context)
            if is_certain or base_name(a.symbol.name) not in uneven:
                _pair_numbered(pairing, a.symbol, b.symbol, why)
    # What is left of a name on both sides, once, has only changed its surroundings or its size.
    left_before = _group((p.symbol for p in before), pairing.post_of)
    left_after = _group((p.symbol for p in after), pairing.pre_of)
    for base, symbols in left_before.items():
        others = left_after.get(base, [])
        if len(symbols) == len(others) == 1:
            _pair_numbered(
                pairing, symbols[0], others[0], f"the only one of its name left in {post_user.name}"
            )


def _pair_numbered(pairing: Pairing, a: Symbol, b: Symbol, why: str) -> None:
    if (
        is_paired_by_use(a)
        and is_paired_by_use(b)
        and base_name(a.name) == base_name(b.name)
        and can_be_twins(a, b)
    ):
        pairing.pair(a, b, why)


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


def _is_context(token: tuple[str, object, int]) -> bool:
    """Tell whether a reference tells one place of a function from others.

    Each function begins with a call of ``__fentry__``, and ends with one of the return thunk.
    """
    kind, name, _ = token
    return kind != "numbered" and name not in ("__fentry__", "__x86_return_thunk")


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


def _changes_hands(pairing: Pairing, a: Symbol, b: Symbol) -> bool:
    """Tell whether a variable goes from functions to others that have nothing to do with them.

    One function loses it and another one gets it, or the function that had it is gone and a new one
    has one of the same name.  A new function that an old user calls has taken its code over.
    """
    before, after = pairing.pre.functions_using(a), pairing.post.functions_using(b)
    return bool(before and after) and not takes_over(pairing, before, after)


def takes_over(pairing: Pairing, before: set[Symbol], after: set[Symbol]) -> bool:
    """Tell whether functions that use a variable afterwards are the old users, or called by them.

    All old users must still be there.
    """
    if not before <= pairing.post_of.keys():
        return False
    users = {pairing.post_of[f] for f in before}
    new = after - pairing.pre_of.keys()
    return bool(users & after) or any(pairing.post.refers(f, g) for f in users for g in new)


def _content(s: Symbol) -> bytes:
    section = code_section_of(s)
    return section.data[s.value : s.value + s.size] or bytes(s.size)
