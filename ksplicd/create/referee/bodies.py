# SPDX-License-Identifier: GPL-2.0-only
"""Whether two pieces of code are the same, as far as whoever asks says what references mean."""

from collections.abc import Callable, Sequence
from typing import Final

from ksplicd.create.referee.view import Body, Place, Reference, TableEntry, View
from ksplicd.elf.instructions import Role
from ksplicd.elf.model import Section, Symbol

Leads = Callable[[Reference, Reference], str | None]
"""Says why the second of two references does not lead where the first one does."""

STATIC_CALLS: Final = ".static_call_sites"
_KEYED: Final = frozenset({"__jump_table", STATIC_CALLS})


class BodyComparison:
    """Compares code of one object with code of another."""

    def __init__(
        self,
        a: View,
        b: View,
        leads: Leads,
        may_lack: Callable[[TableEntry], bool] = lambda _: False,
    ) -> None:
        """``may_lack``: whether the second object may do without an entry of the first one's."""
        self.a, self.b, self.leads, self.may_lack = a, b, leads, may_lack

    def why_differs(self, a: Body, b: Body) -> str | None:
        """Return why ``b`` is not the same code as ``a``, None when it is."""
        if why := self.why_code_differs(a, b):
            return why
        return self.why_references_differ(a, b) or self.why_tables_differ(a, b)

    @staticmethod
    def why_code_differs(a: Body, b: Body) -> str | None:
        """Compare the instructions alone."""
        if len(a.operations) != len(b.operations):
            return f"has {len(b.operations)} instructions instead of {len(a.operations)}"
        for i, (x, y) in enumerate(zip(a.operations, b.operations, strict=True)):
            if x.code != y.code:
                return f"has {y.code.hex()} as instruction {i} instead of {x.code.hex()}"
            if len(x.references) != len(y.references):
                return f"has other references in instruction {i}"
        return None

    def why_references_differ(self, a: Body, b: Body) -> str | None:
        """Compare what code of the same instructions refers to."""
        for i, (x, y) in enumerate(zip(a.operations, b.operations, strict=True)):
            for ra, rb in zip(x.references, y.references, strict=True):
                if why := self.why_leads_elsewhere(a, b, ra, rb):
                    return f"{why} in instruction {i}"
        return None

    def why_leads_elsewhere(self, a: Body, b: Body, ra: Reference, rb: Reference) -> str | None:
        """Compare two references; those into the pieces themselves by the instruction."""
        if ra.place in a or rb.place in b:
            at = a.index.get(ra.place.offset) if ra.place in a else None
            to = b.index.get(rb.place.offset) if rb.place in b else None
            if at is not None and at == to:
                return None
            if ra.place.offset != a.start or ra.place not in a:  # recursion may go elsewhere
                return "leads to another instruction of its own"
        if self.is_nameless_code(self.a, ra.place) and self.is_nameless_code(self.b, rb.place):
            return self.why_pieces_differ(a, b, ra.place, rb.place)
        return self.leads(ra, rb)

    @staticmethod
    def is_nameless_code(view: View, place: Place) -> bool:
        """Tell whether a place is in code that has no name, such as ``.altinstr_aux``."""
        section = place.section
        return (
            section is not None
            and section.is_text
            and view.symbol_at(section, place.offset) is None
            and 0 <= place.offset < section.size
        )

    def why_pieces_differ(self, a: Body, b: Body, at: Place, to: Place) -> str | None:
        """Compare code without a name, which leads back into the pieces ``a`` and ``b``."""
        assert at.section is not None
        assert to.section is not None
        pa, pb = self.a.piece(at.section, at.offset), self.b.piece(to.section, to.offset)
        if why := self.why_code_differs(pa, pb):
            return why
        for x, y in zip(pa.operations, pb.operations, strict=True):
            for ra, rb in zip(x.references, y.references, strict=True):
                if ra.place in pa and rb.place in pb:
                    continue
                if why := self.why_leads_elsewhere(a, b, ra, rb):
                    return why
        return None

    # --- tables ---------------------------------------------------------------------------------

    def why_tables_differ(self, a: Body, b: Body) -> str | None:
        """Compare the entries of tables that belong to the code."""
        before, after = _in_order(a, self.a.entries_of(a)), _in_order(b, self.b.entries_of(b))
        i = 0
        for at, entry in before:
            if i < len(after) and self.is_same_entry(a, b, (at, entry), after[i]):
                i += 1
            elif not (entry.table in _KEYED and self.may_lack(entry)):
                return f"has another entry of {entry.table} at instruction {at}"
        if i < len(after):
            return f"has one more entry of {after[i][1].table} at instruction {after[i][0]}"
        return None

    def is_same_entry(
        self, a: Body, b: Body, mine: tuple[int, TableEntry], other: tuple[int, TableEntry]
    ) -> bool:
        """Compare two entries, with the code that an alternative copies in."""
        (at, x), (to, y) = mine, other
        if (at, x.table, x.data) != (to, y.table, y.data):
            return False
        if [o for o, _ in x.references] != [o for o, _ in y.references]:
            return False
        for (_, p), (_, q) in zip(x.references, y.references, strict=True):
            if x.table == STATIC_CALLS and is_key_by_trampoline(p, q):
                continue
            ra, rb = Reference(Role.MEMORY, p), Reference(Role.MEMORY, q)
            if self.why_leads_elsewhere(a, b, ra, rb):
                return False
        return self.is_same_replacement(a, b, x.replacement, y.replacement)

    def is_same_replacement(
        self,
        a: Body,
        b: Body,
        x: tuple[Section, int, int] | None,
        y: tuple[Section, int, int] | None,
    ) -> bool:
        """Compare what alternatives may copy over their code."""
        if x is None or y is None:
            return x is y
        pa, pb = self.a.code(*x), self.b.code(*y)
        if self.why_code_differs(pa, pb):
            return False
        pairs = [
            (ra, rb)
            for o, p in zip(pa.operations, pb.operations, strict=True)
            for ra, rb in zip(o.references, p.references, strict=True)
        ]
        return all(
            (ra.place in pa and rb.place in pb) or not self.why_leads_elsewhere(a, b, ra, rb)
            for ra, rb in pairs
        )


def is_key_by_trampoline(key: Place, other: Place) -> bool:
    """Tell whether a module names a static call's key, which is not exported, by its trampoline.

    objtool (``create_static_call_sections()``) does so; ``static_call_add_module()`` of
    kernel/static_call_inline.c looks the key up when the module is loaded.
    """
    if key.symbol is None or other.symbol is None or key.offset != other.offset:
        return False
    before, name = key.symbol.name.partition("__SCK__")[1:]
    return bool(before) and other.symbol.name == f"__SCT__{name}"


def _in_order(body: Body, entries: Sequence[TableEntry]) -> list[tuple[int, TableEntry]]:
    """Return the entries with their instructions, in an order that does not depend on the file."""
    found = [(body.index.get(e.code.offset, -1), e) for e in entries]
    return sorted(found, key=lambda f: (f[1].table, f[0], f[1].data))


def spot(view: View, place: Place) -> tuple[Symbol, int] | None:
    """Return the function that a place is in and the instruction, None when it is in none."""
    if place.section is None or not place.section.is_text:
        return None
    s = view.symbol_at(place.section, place.offset)
    if s is None:
        return None
    if place.offset == s.value or not s.size:
        return s, 0
    at = view.body(s).index.get(place.offset)
    return None if at is None else (s, at)
