# SPDX-License-Identifier: GPL-2.0-only
"""What a place in an object means: a thing and an offset in it, and whether the thing has a state.

In a plain object many variables lie in one section, and a reference says no more than where in it.
So one place may mean several things: the end of one array is the beginning of the next variable,
and of an empty one.
"""

from typing import Final

from ksplicd.create.referee.pairs import base_name
from ksplicd.create.referee.view import Place, View
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import SHF_WRITE, STT_FUNC, Section, Symbol

_FAR: Final = 4096
"""Bytes before an array, or behind it, that an index with a bias may mean."""
_PRIVATE_SECTIONS: Final = frozenset(
    {".data.once", ".data..once", ".data.unlikely", "__dyndbg", "__verbose"}
)
_PRIVATE_NAMES: Final = frozenset({"_rs", "rs", "__key", "__print_once", "__warned"})


def things_at(view: View, place: Place, role: Role) -> list[tuple[Symbol, int]]:
    """Return what a place of data may mean, the likeliest first; a branch means but one thing."""
    section = place.section
    assert section is not None
    s = view.symbol_at(section, place.offset)
    found = [(s, place.offset - s.value)] if s is not None else []
    if role is Role.BRANCH:
        return found
    before, behind = view.neighbours(section, place.offset)
    if before is not None and before is not s and place.offset - before.value - before.size < _FAR:
        found.append((before, place.offset - before.value))
    if behind is not None and behind.value - place.offset < _FAR:
        found.append((behind, place.offset - behind.value))
    known = {x for x, _ in found}
    found += [(x, 0) for x in view.empty.get((section, place.offset), ()) if x not in known]
    return found


def is_private(s: Symbol) -> bool:
    """Tell whether new code may have a variable of its own where the kernel has one.

    ``__already_done.7`` of WARN_ONCE(), a descriptor of pr_debug(), ``_rs.4`` of
    printk_ratelimited(): all that gets lost is how often something was printed.  Lock classes
    (``__key.2``) are empty without lockdep.
    """
    section = s.section
    return (
        section is None
        or not s.size
        or section.name in _PRIVATE_SECTIONS
        or base_name(s.name).rpartition(".")[2] in _PRIVATE_NAMES
    )


def is_descriptor(section: Section) -> bool:
    """Tell whether a section holds descriptors of pr_debug(), which name a line of the source."""
    return section.name in ("__dyndbg", "__verbose")


def is_constant(section: Section) -> bool:
    """Tell whether nobody writes a section, so that its content is all there is to it."""
    return not section.flags & SHF_WRITE and not section.is_text


def is_boot(section: Section) -> bool:
    """Tell whether a section is gone after boot, or after the module's own: ``.init.text``."""
    return section.name.startswith((".init", ".con_initcall", ".security_initcall"))


def is_exit(section: Section) -> bool:
    """Tell whether a section runs when a module is unloaded; of what is built in, never."""
    return section.name.startswith(".exit")


def function_names(view: View, place: Place) -> list[str]:
    """Return the names of the function that begins at a place, none where none does."""
    if place.section is None:
        return [place.symbol.name] if place.symbol is not None and not place.offset else []
    s = view.symbol_at(place.section, place.offset)
    if s is None or s.value != place.offset or s.type != STT_FUNC:
        return []
    return view.names[place.section, place.offset]


def describe(view: View, place: Place) -> str:
    """Return a place in words, for messages."""
    if place.section is None:
        name, offset = place.symbol.name if place.symbol else "?", place.offset
    elif place.section.is_strings:
        text = view.text_at(place.section, place.offset)
        return repr((text or b"?")[:-1][:40].decode(errors="replace"))
    else:
        s = view.symbol_at(place.section, place.offset)
        name = s.name if s is not None else place.section.name
        offset = place.offset - s.value if s is not None else place.offset
    return f"{name}{offset:+#x}" if offset else name
