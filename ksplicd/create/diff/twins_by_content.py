# SPDX-License-Identifier: GPL-2.0-only
"""Constants of functions (``__msg.12``), paired by what is in them.

A function has many of one name where a macro makes them (``NL_SET_ERR_MSG()`` of
include/linux/netlink.h).  One more shifts their order, and the code around them tells little; the
content, which only one has before and one after, tells all that matters of a constant.
"""

from collections import defaultdict
from collections.abc import Iterable

from ksplicd.create.diff.twins import Pairing, can_be_twins, is_paired_by_use
from ksplicd.create.objects.index import relocations_in
from ksplicd.create.objects.names import base_name
from ksplicd.elf.model import STT_OBJECT, Symbol


def pair_by_content(pairing: Pairing) -> None:
    """Pair the numbered constants of one name whose content is there once, before and after."""
    others = _by_content(pairing.post.obj.symbols)
    for key, symbols in _by_content(pairing.pre.obj.symbols).items():
        found = others.get(key, [])
        if len(symbols) == len(found) == 1 and can_be_twins(symbols[0], found[0]):
            pairing.pair(symbols[0], found[0], "no other one has its content")


def _by_content(symbols: Iterable[Symbol]) -> dict[tuple[str, bytes], list[Symbol]]:
    """Return the constants without references, by name without number and content."""
    found: dict[tuple[str, bytes], list[Symbol]] = defaultdict(list)
    for s in symbols:
        section = s.section
        if s.type != STT_OBJECT or section is None or not section.name.startswith(".rodata"):
            continue
        if s.size and is_paired_by_use(s) and not relocations_in(s):
            content = section.data[s.value : s.value + s.size]
            found[base_name(s.name), content].append(s)
    return found
