# SPDX-License-Identifier: GPL-2.0-only
"""The ledger of an update ⇄ ``extensions.ledger`` of its manifest.

A whole version step has thousands of hunks, so that the form is compact and bounded: a note stands
once and is cut, and of a hunk that very many functions bring into effect the first are named and
the others counted.  How hunks come by their accounts is in ``create/ledger/``.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ksplicd.fields import ONE_LINE, Fields
from ksplicd.model import Account, Hunk, Ledger

MAX_HUNKS: Final = 30_000
MAX_NAMED: Final = 64
"""Redirects that a hunk names."""

_MANY_HUNKS: Final = 2_000
_FEW_NAMED: Final = 4
"""Redirects that a hunk names where there are many hunks."""
MAX_NOTE: Final = 1_000
"""Characters of a note."""
_ALL_NOTES: Final = 1 << 20
"""Bytes of all notes together that are written."""
_NO_ROOM: Final = "the manifest has no room for the note"

_MAX_LINE: Final = 1 << 24
_MAX_REDIRECTS: Final = 1 << 20
_FILE: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,1023}")
_NOTE: Final = re.compile(f"(?:{ONE_LINE.pattern.removesuffix('*')}){{0,{MAX_NOTE}}}")
_NOT_PLAIN: Final = re.compile(ONE_LINE.pattern.removesuffix("*").replace("[^", "["))
_ACCOUNT: Final = re.compile("|".join(Account))


def bounded(ledger: Ledger) -> Ledger:
    """Return a ledger as a manifest can hold it.

    No hunk names more redirects, and no note is longer, than a manifest has room for; notes are
    plain text in one line, and where there are too many, those of what is missing stay.
    """
    most = _FEW_NAMED if len(ledger.hunks) > _MANY_HUNKS else MAX_NAMED
    hunks = [replace(_with_at_most(h, most), note=_plain(h.note)) for h in ledger.hunks]
    kept = _notes_with_room(hunks)
    return Ledger(hunks=tuple(h if h.note in kept else replace(h, note=_NO_ROOM) for h in hunks))


def _with_at_most(hunk: Hunk, most: int) -> Hunk:
    if len(hunk.by) <= most:
        return hunk
    return replace(hunk, by=hunk.by[:most], more=hunk.more + len(hunk.by) - most)


def _plain(note: str) -> str:
    """Return a note, which may quote source text, in one line of plain text."""
    text = _NOT_PLAIN.sub(" ", note)
    return text if len(text) <= MAX_NOTE else f"{text[: MAX_NOTE - 1]}…"


def _notes_with_room(hunks: Sequence[Hunk]) -> set[str]:
    """Return the notes that all together are not too long, those of accepted hunks first."""
    kept = {""}
    left = _ALL_NOTES
    for hunk in sorted(hunks, key=lambda h: not h.is_accepted):
        if hunk.note not in kept and (size := len(json.dumps(hunk.note))) <= left:
            kept.add(hunk.note)
            left -= size
    return kept


def ledger_value(ledger: Ledger) -> dict[str, object]:
    """Return the JSON value of a ledger."""
    notes = {note: i for i, note in enumerate(dict.fromkeys(h.note for h in ledger.hunks))}
    files: dict[str, list[dict[str, object]]] = {}
    for hunk in ledger.hunks:
        files.setdefault(hunk.file, []).append(_hunk_value(hunk, notes))
    return {"complete": ledger.is_complete, "notes": list(notes), "files": files}


def _hunk_value(hunk: Hunk, notes: dict[str, int]) -> dict[str, object]:
    value: dict[str, object] = {
        "before": hunk.before,
        "after": hunk.after,
        "account": hunk.account.value,
        "note": notes[hunk.note],
    }
    if hunk.by:
        value["by"] = hunk.by
    if hunk.more:
        value["more"] = hunk.more
    if hunk.is_accepted:
        value["accepted"] = True
    return value


def read_ledger(fields: Fields, redirects: int) -> Ledger:
    """Return a ledger; ``redirects``: how many the update has.

    Raises the error of ``fields``, which names the field.
    """
    is_complete = fields.flag("complete")
    notes = fields.texts("notes", _NOTE, f"plain text of at most {MAX_NOTE} characters")
    hunks: list[Hunk] = []
    files = fields.group("files")
    for name in files.names():
        if not _FILE.fullmatch(name):
            files.refuse(ascii(name)[:60], "is not the name of a file")
        hunks += (_read_hunk(name, entry, notes, redirects) for entry in files.groups(name))
        if len(hunks) > MAX_HUNKS:
            files.refuse(name, f"over {MAX_HUNKS} hunks")
    fields.close()
    ledger = Ledger(hunks=tuple(hunks))
    if ledger.is_complete != is_complete:
        fields.refuse("complete", "contradicts the hunks")
    return ledger


def _read_hunk(file: str, fields: Fields, notes: tuple[str, ...], redirects: int) -> Hunk:
    note = fields.number("note", 0, len(notes) - 1)
    hunk = Hunk(
        file=file,
        before=_read_span(fields, "before"),
        after=_read_span(fields, "after"),
        account=Account(fields.text("account", _ACCOUNT, "an account of a hunk")),
        note=notes[note],
        by=fields.numbers("by", 0, redirects - 1) if fields.has("by") else (),
        more=fields.number("more", 1, _MAX_REDIRECTS) if fields.has("more") else 0,
        is_accepted=fields.flag("accepted") if fields.has("accepted") else False,
    )
    if hunk.account is Account.REFUSED and not hunk.is_accepted:
        fields.refuse("account", "refused, and its author has not accepted that")
    fields.close()
    if len(hunk.by) > MAX_NAMED:
        fields.refuse("by", f"over {MAX_NAMED} redirects")
    return hunk


def _read_span(fields: Fields, key: str) -> tuple[int, int]:
    numbers = fields.numbers(key, 0, _MAX_LINE)
    if len(numbers) != 2:
        fields.refuse(key, "is not a line and a number of lines")
    return numbers[0], numbers[1]
