# SPDX-License-Identifier: GPL-2.0-only
"""The account of each hunk of a C file: what every unit says of the items that it changes.

::

    hunk ─▸ lines with more than comments ─▸ items, before and after ─▸ verdicts of all units ─▸ one

A function is seen by the code that is from its lines, wherever that was inlined; a datum by its
symbol; a macro, a type or a declaration by the changed functions that mention it.  What nothing
speaks for has no account.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ksplicd.create.ledger.c_items import CFile, Item, Kind
from ksplicd.create.ledger.evidence import HOOK, Lines, UnitEvidence
from ksplicd.create.ledger.fates import Fate
from ksplicd.create.ledger.lists import ListChange, is_named
from ksplicd.create.ledger.texts import ChangedText, Pair
from ksplicd.create.messages import names_of
from ksplicd.model import Account

_RANK: Final = (
    None, Account.LEFT_OUT, Account.REFUSED, Account.IN_EFFECT, Account.BOOT_ONLY,
    Account.SAME_CODE, Account.NOT_BUILT, Account.COMMENT,
)  # fmt: skip
"""Of several verdicts on a hunk the first of these is the hunk's account."""

IGNORED: Final = "KPATCH_IGNORE_FUNCTION()"
"""In the note of a function that stays as it is, as the patch says."""
_NOTES: Final = 3
"""Verdicts whose notes a hunk has."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one unit says of one item."""

    account: Account | None
    """None: nothing accounts for it."""
    note: str = ""
    by: tuple[str, ...] = ()
    """Redirects, as in ``Manifest.redirects``."""
    matters: bool = False
    """Of what is left out, whether the running kernel could behave otherwise with it."""

    @property
    def is_missing(self) -> bool:
        """Tell whether the update must not be made unless its author takes it on his word."""
        return self.account is None or self.matters


@dataclass(frozen=True)
class UnitView:
    """A unit's evidence, with the text of its source."""

    evidence: UnitEvidence
    read_source: Callable[[], tuple[CFile, CFile]]
    """Reads the source before the change and after it."""
    texts: Sequence[ChangedText]
    """The changed files."""

    @cached_property
    def named(self) -> Mapping[str, Sequence[str]]:
        """By name in the source, the functions of its object: ``foo`` and ``foo.isra.0``."""
        found: dict[str, list[str]] = defaultdict(list)
        for alias, name in self.evidence.aliases.items():
            found[_source_name(alias)].append(name)
        return found

    @cached_property
    def touched(self) -> frozenset[str]:
        """The functions of its object that have code from an item that a hunk changes."""
        found: set[str] = set()
        for text in self.texts:
            for pair in _unique(text.pairs) if self.evidence.compiles(text.path) else ():
                if pair.kind in (Kind.FUNCTION, Kind.USE):
                    found |= functions_of(pair, text, self)
        return frozenset(found)

    @cached_property
    def mentions(self) -> Mapping[str, frozenset[str]]:
        """By function of its object, what the items of its source mention that it has code from."""
        found: dict[str, frozenset[str]] = {}
        before, after = self.read_source()
        lines = self.evidence.pre.get(self.evidence.unit, {})
        for item in before.items if lines else ():
            own = set(item.lines) if item.kind in (Kind.FUNCTION, Kind.USE) else set()
            for name, has in lines.items() if own else ():
                if has & own:
                    found[name] = found.get(name, frozenset()) | item.mentions
        by_name = {n: i for i in after.items if i.kind is Kind.FUNCTION for n in i.names}
        for name in self.evidence.functions:
            if (item_after := by_name.get(_source_name(name))) is not None:
                found[name] = found.get(name, frozenset()) | item_after.mentions
        return found


def account_for(
    text: ChangedText, position: int, views: Sequence[UnitView], without_units: Verdict
) -> Verdict:
    """Return the account of a hunk; ``without_units``: what holds where no unit was compiled."""
    hunk = text.hunks[position]
    old = [n for n in hunk.before.lines if text.before.code_of(n)]
    new = [n for n in hunk.after.lines if text.after.code_of(n)]
    if not old and not new:
        return Verdict(Account.COMMENT)
    if text.before.tokens_of(old) == text.after.tokens_of(new):
        return Verdict(Account.SAME_CODE, "the same tokens on other lines")
    if not text.built.get(position, True):
        return Verdict(Account.NOT_BUILT, "a condition leaves the lines out of every unit")
    if not views:
        return without_units
    verdicts = [judge(pair, text, views) for pair in text.pairs[position]]
    return sum_up(verdicts or [others_changed("the lines", views)])


def sum_up(verdicts: Sequence[Verdict]) -> Verdict:
    """Return one verdict for several: the gravest account, the redirects and notes of all."""
    ranked = sorted(verdicts, key=lambda v: (_RANK.index(v.account), not v.matters))
    first = ranked[0]
    notes = list(dict.fromkeys(v.note for v in ranked if v.note and _adds(first, v)))
    return Verdict(
        first.account,
        "; ".join(notes[:_NOTES]) + ("; …" if notes[_NOTES:] else ""),
        tuple(dict.fromkeys(r for v in ranked for r in v.by)),
        any(v.matters for v in ranked),
    )


def _adds(first: Verdict, other: Verdict) -> bool:
    """Tell whether the note of another verdict says more: of the same, or of what has no effect."""
    return other.account is first.account or other.account in (Account.BOOT_ONLY, Account.LEFT_OUT)


def judge(pair: Pair, text: ChangedText, views: Sequence[UnitView]) -> Verdict:
    """Return what all units that have an item say of it."""
    if pair.kind in (Kind.FUNCTION, Kind.DATA, Kind.USE):
        verdicts = [v for view in views for v in judge_in(pair, text, view)]
        if verdicts:
            return sum_up(verdicts)
        if pair.kind is Kind.FUNCTION and not pair.is_static:
            return Verdict(Account.NOT_BUILT, f"no object has {pair.head}")
    if pair.kind in (Kind.INCLUDE, Kind.CONDITION, Kind.OTHER):
        return others_changed(f"“{pair.items[0].text[:40]}”", views)
    return judge_by_users(pair, text, views)


def judge_in(pair: Pair, text: ChangedText, view: UnitView) -> list[Verdict]:
    """Return what one unit says of an item that makes code, data or entries of lists."""
    evidence = view.evidence
    verdicts = [
        Verdict(Account.LEFT_OUT, change.reason, matters=change.matters)
        for change in evidence.lists
        if pair.kind is not Kind.FUNCTION and is_of(change, pair)
    ]
    users = functions_of(pair, text, view)
    if users:
        verdicts.append(judge_functions(users, evidence))
    if pair.kind is not Kind.FUNCTION:
        verdicts += judge_data(pair, evidence)
    if pair.kind is Kind.USE and (hooks := _hooks_of(pair, evidence)):
        verdicts.append(Verdict(Account.IN_EFFECT, _of_unit(evidence), hooks))
    return verdicts


def is_of(change: ListChange, pair: Pair) -> bool:
    """Tell whether an item makes an entry of a list."""
    if pair.kind is Kind.DATA:
        return bool(change.names & pair.names)
    return pair.kind is Kind.USE and is_named(change, pair.mentions)


def _unique(pairs: Iterable[Iterable[Pair]]) -> Iterable[Pair]:
    return dict.fromkeys(pair for of_hunk in pairs for pair in of_hunk)


def functions_of(pair: Pair, text: ChangedText, view: UnitView) -> set[str]:
    """Return the functions that have code from the lines of an item, or its name."""
    evidence = view.evidence
    found: set[str] = set()
    if pair.before is not None:
        found |= _with_lines(evidence.pre, text.path, set(pair.before.lines))
    if pair.after is not None:
        lines = {text.number(n) for n in pair.after.lines}
        found |= _with_lines(evidence.post, text.path, lines) - neighbours(
            pair.after, lines, text, evidence
        )
    if pair.kind is Kind.FUNCTION:
        found |= {n for name in pair.names for n in view.named.get(name, ())}
    return found


def _with_lines(lines: Lines, path: str, wanted: set[int]) -> set[str]:
    return {name for name, has in lines.get(path, {}).items() if has & wanted}


def neighbours(item: Item, lines: set[int], text: ChangedText, evidence: UnitEvidence) -> set[str]:
    """Return the functions whose own lines have the numbers of an item's that came in before them.

    What a patch puts in is numbered on from the line before it, and the line behind it has the
    number that it had.
    """
    by_name: dict[str, set[int]] = {}
    for number in lines:
        for other in text.functions_at.get(number, ()):
            for name in other.names if other is not item else ():
                by_name.setdefault(name, set()).add(number)
    return {
        name for name, has in evidence.post.get(text.path, {}).items()
        if _source_name(name) in by_name and has & lines <= by_name[_source_name(name)]
    }  # fmt: skip


def _source_name(name: str) -> str:
    return name.partition(".")[0]


def judge_functions(users: Iterable[str], evidence: UnitEvidence) -> Verdict:
    """Return what became of the functions that have code from an item."""
    by_fate: dict[Fate, list[str]] = {}
    for name in sorted(users):
        by_fate.setdefault(evidence.functions.get(name, Fate.SAME), []).append(name)
    names = names_of(sorted(set(map(_source_name, users))))
    changed = by_fate.get(Fate.CHANGED, [])
    if problem := unreached(changed, evidence):
        return problem
    if Fate.LEFT in by_fate:
        why = f"{names_of(by_fate[Fate.LEFT])} stays as it is: {IGNORED}"
        return Verdict(Account.LEFT_OUT, why, matters=True)
    led = (*changed, *by_fate.get(Fate.NEW, ()), *by_fate.get(Fate.BOOT, ()))  # also at unload
    by = _by_all(led, evidence)
    if by:
        return Verdict(Account.IN_EFFECT, _of_unit(evidence), by)
    if Fate.BOOT in by_fate:
        return Verdict(
            Account.BOOT_ONLY, f"{names_of(by_fate[Fate.BOOT])} runs only at boot or at unload"
        )
    if Fate.NEW in by_fate:
        return Verdict(Account.SAME_CODE, f"nothing that runs calls {names_of(by_fate[Fate.NEW])}")
    if by_fate.keys() == {Fate.REMOVED}:
        callers = _by_all(evidence.changed, evidence)
        if callers:
            return Verdict(Account.IN_EFFECT, f"nothing calls {names} any more", callers)
        return Verdict(Account.SAME_CODE, f"nothing called {names}")
    if by_fate.keys() <= {Fate.BOOT_SAME}:
        return Verdict(
            Account.SAME_CODE, f"the code of {names}, which runs only at boot, is the same"
        )
    return Verdict(Account.SAME_CODE, f"the code of {names} in {evidence.unit} is the same")


def unreached(changed: Sequence[str], evidence: UnitEvidence) -> Verdict | None:
    """Return the verdict on changed functions whose new code does not come to be run."""
    if lost := [n for n in changed if not _leads_to(n, evidence)]:
        return Verdict(None, f"{names_of(lost)} changes, and nothing leads to the new code of it")
    return None


def _leads_to(name: str, evidence: UnitEvidence) -> tuple[str, ...]:
    return evidence.redirects.get(name, ())


def _by_all(names: Iterable[str], evidence: UnitEvidence) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r for n in names for r in _leads_to(n, evidence)))


def _of_unit(evidence: UnitEvidence) -> str:
    return f"in {evidence.unit}"


def judge_data(pair: Pair, evidence: UnitEvidence) -> list[Verdict]:
    """Return what became of the data of an item's names; nothing when the objects have none."""
    verdicts = []
    for name in sorted(pair.names & evidence.data.keys()):
        fates = evidence.data[name]
        by = _leads_to(name, evidence) or _in_tables(name, evidence)
        if Fate.REMOVED in fates:
            verdicts.append(Verdict(Account.SAME_CODE, f"the running kernel keeps {name}"))
        elif by and fates & {Fate.CHANGED, Fate.COPIED, Fate.NEW}:
            verdicts.append(Verdict(Account.IN_EFFECT, _of_unit(evidence), by))
        elif Fate.COPIED in fates:
            verdicts.append(Verdict(Account.BOOT_ONLY, f"only boot code reads {name}"))
        elif Fate.CHANGED in fates:
            verdicts.append(Verdict(None, f"{name} changes, and nothing leads to the new one"))
        elif Fate.LEFT in fates:
            why = f"{name} changes, and the running kernel's stays as it is"
            verdicts.append(Verdict(Account.LEFT_OUT, why, matters=True))
        elif Fate.BOOT in fates:
            verdicts.append(Verdict(Account.BOOT_ONLY, f"{name} is used only at boot"))
        elif Fate.NEW in fates:
            verdicts.append(Verdict(Account.SAME_CODE, f"nothing that runs uses {name}"))
        else:
            verdicts.append(Verdict(Account.SAME_CODE, f"{name} begins with the same content"))
    return verdicts


def _hooks_of(pair: Pair, evidence: UnitEvidence) -> tuple[str, ...]:
    """Return the calls of the functions that an item names: ``ksplice_apply(set_up);``."""
    return tuple(r for r in _by_all(sorted(pair.names), evidence) if r.startswith(HOOK))


def _in_tables(name: str, evidence: UnitEvidence) -> tuple[str, ...]:
    """Return the pointers of a table that lead to new code."""
    found = (r for by in evidence.redirects.values() for r in by)
    start = f"{evidence.target}:{name}+"
    return tuple(dict.fromkeys(r for r in found if r.startswith(start)))


# --- macros, types, declarations: by who mentions them ------------------------------------------


def judge_by_users(pair: Pair, text: ChangedText, views: Sequence[UnitView]) -> Verdict:
    """Return what the functions that mention an item, by any detour, say of it."""
    names = text.spread(pair.names or pair.mentions)
    by: dict[str, None] = {}
    units = []
    problems = []
    for view in views:
        evidence = view.evidence
        users = [
            n for n in evidence.changed
            if view.mentions.get(n, frozenset()) & names
        ]  # fmt: skip
        if not users and text.path != evidence.unit:
            users = _untouched(view)  # by way of other headers
        if problem := unreached(users, evidence):
            problems.append(problem)
        elif found := _by_all(users, evidence):
            by.update(dict.fromkeys(found))
            units.append(evidence.unit)
    if problems:
        return sum_up([*problems, Verdict(Account.IN_EFFECT, "", tuple(by))])
    if by:
        return Verdict(Account.IN_EFFECT, f"in {names_of(units)}, by use", tuple(by))
    where = names_of(view.evidence.unit for view in views)
    what = "the declaration" if pair.kind is Kind.DECLARATION else "what uses it"
    return Verdict(Account.SAME_CODE, f"{pair.head}: {what} in {where} makes the same code")


def _untouched(view: UnitView) -> list[str]:
    """Return the changed functions that no hunk touches: something else has changed them."""
    return [n for n in view.evidence.changed if n not in view.touched]


def others_changed(what: str, views: Sequence[UnitView]) -> Verdict:
    """Return the account of a directive: by the functions that change untouched by a hunk."""
    for view in views:
        if problem := unreached(_untouched(view), view.evidence):
            return problem
    by = tuple(dict.fromkeys(r for v in views for r in _by_all(_untouched(v), v.evidence)))
    if by:
        return Verdict(Account.IN_EFFECT, "by what it brings", by)
    return Verdict(Account.SAME_CODE, f"{what} changes no code by itself")
