# SPDX-License-Identifier: GPL-2.0-only
"""The ledger of a patch: an entry for each hunk of each file, and what must not be silent.

A C file's hunks have their accounts from the units (``accounts.py``); those of any other file are
what became of the file.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ksplicd.create.ledger.accepted import Accepted
from ksplicd.create.ledger.accounts import IGNORED, UnitView, Verdict, account_for, sum_up
from ksplicd.create.ledger.c_items import CFile
from ksplicd.create.ledger.evidence import HOOK, UnitEvidence
from ksplicd.create.ledger.texts import ChangedText
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.hunks import ChangedLines, changed_lines
from ksplicd.create.patch.line_numbers import line_numbers_in
from ksplicd.errors import CreateError, UnaccountedError
from ksplicd.model import Account, Hunk, Ledger

_SUFFIXES: Final = (".c", ".h", ".inc")


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchEvidence:
    """What is known of a patch when its new code has been cut."""

    files: Sequence[ChangedFile]
    patched: Mapping[Path, bytes | None]
    """By path, the file as the post objects were compiled from it."""
    units: Sequence[UnitEvidence] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    """By file, what became of it, for those that lead to no unit (``to_compile.py``)."""
    dependants: int = 0
    """Units that include one of the changed headers."""
    read_source: Callable[[str], bytes | None] = lambda _path: None
    """Reads a file of the tree before the change."""
    built: Mapping[tuple[str, int], bool] = field(default_factory=dict)
    """By file and position of a hunk that stands under conditions, whether a unit has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One hunk and its verdict."""

    file: str
    lines: ChangedLines
    verdict: Verdict
    is_accepted: bool = False

    @property
    def place(self) -> str:
        """Where the hunk is in the new file: ``fs/fcntl.c:55``."""
        return f"{self.file}:{self.lines.after.first}"

    @property
    def is_missing(self) -> bool:
        """Tell whether the hunk is missing from the running kernel, and nobody accepted that."""
        return self.verdict.is_missing and not self.is_accepted


def account_for_patch(evidence: PatchEvidence, accepted: Sequence[Accepted] = ()) -> list[Entry]:
    """Return an entry for each hunk.  Raises ``CreateError`` for what is accepted and not there."""
    texts = {str(f.path): text_of(f, evidence) for f in evidence.files}
    views = views_of(evidence, list(texts.values()))
    entries = [
        Entry(file=path, lines=hunk, verdict=verdict_on(text, position, views, evidence))
        for path, text in texts.items()
        for position, hunk in enumerate(text.hunks)
    ]
    for a in accepted:
        if not any(_takes(a, e) for e in entries):
            raise CreateError(f"--accept {a}: the patch has no hunk there")
    return [_accept(e, accepted) for e in entries]


def text_of(file: ChangedFile, evidence: PatchEvidence) -> ChangedText:
    """Return a file as C, with the line numbers of the objects."""
    before, after = file.before or b"", file.after or b""
    content = evidence.patched.get(file.path)
    path = str(file.path)
    return ChangedText(
        path=path,
        before=CFile(before),
        after=CFile(after),
        hunks=changed_lines(before, after),
        numbers=line_numbers_in(after if content is None else content, after),
        built={at: is_built for (name, at), is_built in evidence.built.items() if name == path},
    )


def views_of(evidence: PatchEvidence, texts: Sequence[ChangedText]) -> list[UnitView]:
    """Return the units' evidence with their sources, which are read when they are needed."""
    of_c = [t for t in texts if t.path.endswith(_SUFFIXES)]

    by_path = {t.path: t for t in texts}

    def reader(unit: str) -> Callable[[], tuple[CFile, CFile]]:
        if (text := by_path.get(unit)) is not None:
            return lambda: (text.before, text.after)
        return lambda: (CFile(evidence.read_source(unit)),) * 2

    return [
        UnitView(u, reader(u.unit), of_c) for u in evidence.units
    ]  # fmt: skip


def verdict_on(
    text: ChangedText, position: int, views: Sequence[UnitView], evidence: PatchEvidence
) -> Verdict:
    """Return the verdict on one hunk of a file."""
    note = evidence.notes.get(text.path, "")
    is_text_of_units = text.path.endswith(_SUFFIXES) or "units depend on it" in note
    # A header that is accepted although it reaches other code, too, is compiled all the same; so
    # is what --only-targets leaves out of some targets.
    is_accepted = note.startswith("refused: ") and Path(text.path) in evidence.patched
    is_compiled = any(v.evidence.compiles(text.path) for v in views)
    is_half = is_accepted or (note.startswith("skipped: ") and is_compiled)
    if not is_text_of_units or (is_left_out(note) and not is_half):
        return verdict_on_file(note)
    is_unit = any(v.evidence.unit == text.path for v in views)
    own = [v for v in views if v.evidence.compiles(text.path)] if is_unit else views
    verdict = account_for(text, position, own, without_units(note, evidence.dependants))
    # Conditions are asked of units only: what these leave out, the other code may have.
    if is_half and verdict.account is not Account.COMMENT:
        return sum_up([verdict, verdict_on_file(note)])
    return verdict


def is_left_out(note: str) -> bool:
    """Tell whether a file's note says that no unit was compiled for it."""
    return note.startswith(("ignored: ", "skipped: ", "refused: "))


def verdict_on_file(note: str) -> Verdict:
    """Return the verdict on every hunk of a file of which nothing was compiled."""
    kind, _, why = note.partition(": ")
    if kind == "refused":
        return Verdict(Account.REFUSED, why, matters=True)
    if "--only-targets" in why or "of another target" in why:
        return Verdict(Account.LEFT_OUT, why, matters=True)
    if "before the kernel does" in why:
        return Verdict(Account.BOOT_ONLY, why)
    if "no effect" in why:
        return Verdict(Account.SAME_CODE, why)
    if kind in ("ignored", "skipped"):
        return Verdict(Account.NOT_BUILT, why)
    return Verdict(None, note or "nothing is known of what the file is for")


def without_units(note: str, dependants: int) -> Verdict:
    """Return the verdict on a file that units only include, where no unit's code changes."""
    if not note:
        return Verdict(None, "no unit that was compiled has code of the file")
    if not dependants:
        return Verdict(Account.NOT_BUILT, "no unit of this configuration includes the file")
    return Verdict(
        Account.SAME_CODE, f"{dependants} units include it, and the code of none changes"
    )


def _takes(accepted: Accepted, entry: Entry) -> bool:
    return accepted.takes(entry.file, entry.lines.after.first, entry.lines.after.count)


def _accept(entry: Entry, accepted: Sequence[Accepted]) -> Entry:
    is_said = any(w in entry.verdict.note for w in ("--only-targets", IGNORED))  # by the author
    is_accepted = entry.verdict.is_missing and (is_said or any(_takes(a, entry) for a in accepted))
    return replace(entry, is_accepted=is_accepted)


def check_accounts(entries: Sequence[Entry]) -> None:
    """Raise ``UnaccountedError`` for hunks that would be missing from the running kernel."""
    missing = [e for e in entries if e.is_missing]
    if missing:
        raise UnaccountedError(
            "parts of the patch would be missing from the running kernel:\n"
            f"{entries_text(missing)}\n"
            "take them out of the patch, or take each on your word with --accept FILE:LINE; hosts"
            " then show the update as incomplete",
            [(e.file, e.lines.after.first) for e in missing],
        )


def entries_text(entries: Sequence[Entry]) -> str:
    """Return a line for each hunk."""
    return "\n".join(f"  {e.place}: {_words(e.verdict)}" for e in entries)


def _words(verdict: Verdict) -> str:
    account = "no account" if verdict.account is None else verdict.account.replace("_", " ")
    return f"{account}: {verdict.note}" if verdict.note else account


def ledger_of(entries: Sequence[Entry], redirects: Sequence[str]) -> Ledger:
    """Return the ledger; ``redirects``: those of the manifest, in its order."""
    numbers = {redirect: i for i, redirect in enumerate(redirects)}
    return Ledger(hunks=tuple(_hunk(e, numbers) for e in entries))


def _hunk(entry: Entry, numbers: Mapping[str, int]) -> Hunk:
    verdict, lines = entry.verdict, entry.lines
    hooks = [r.removeprefix(HOOK) for r in verdict.by if r.startswith(HOOK)]
    called = f"called by the hook {', '.join(hooks)}" if hooks else ""
    return Hunk(
        file=entry.file,
        before=(lines.before.first, lines.before.count),
        after=(lines.after.first, lines.after.count),
        account=Account.LEFT_OUT if verdict.account is None else verdict.account,
        by=tuple(sorted(numbers[r] for r in verdict.by if not r.startswith(HOOK))),
        note="; ".join(t for t in (verdict.note, called) if t),
        is_accepted=entry.is_accepted,
    )
