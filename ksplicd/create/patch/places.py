# SPDX-License-Identifier: GPL-2.0-only
"""The hunks of a unified diff, and whether patch(1) could have put one of them elsewhere.

patch(1) searches a place for a hunk whose lines are not where it says.  A place that was searched
is believed only when it is the only one.  The diff is applied elsewhere (``change.py``).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ksplicd.errors import PatchError

_NOWHERE: Final = b"/dev/null"
_ENOUGH: Final = 3
"""Lines of context that are not blank, by which a hunk is known; diff -u gives three a side."""
_HEADER: Final = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")

# What GNU patch 2.7 prints: similar_hunk_found and apply_hunk of its src/patch.c.
_FILE: Final = re.compile(r"patching file (?P<name>.+?)(?: \((?:renamed|copied) from .*\))?")
_PLACED: Final = re.compile(
    r"Hunk #(?P<number>\d+) succeeded at (?P<line>\d+)(?: with fuzz (?P<fuzz>\d+))?"
    r"(?: \(offset (?P<offset>-?\d+) lines?\))?\."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """One hunk; lines without their ends, which may be CR LF."""

    number: int
    """In its file, from 1."""
    line: int
    """The first line of the old side, from 1; with no lines there, the line in front of it."""
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    context: tuple[int, int]
    """Unchanged lines at its beginning and at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a diff has of one file."""

    names: frozenset[bytes]
    """Those of the --- and the +++ line, as they stand there."""
    hunks: tuple[Hunk, ...]
    text: bytes
    """With what stands in front of it, such as git's headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Sections of a diff that follow each other."""

    text: bytes
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What patch(1) says of a hunk that it did not find where it should be, or not whole."""

    number: int
    line: int
    fuzz: int


def read_sections(patch: bytes) -> list[Section]:
    """Return the parts of a unified diff, in the order in which patch takes them."""
    raw = patch.splitlines(keepends=True)
    lines = [line.rstrip(b"\r\n") for line in raw]
    sections: list[Section] = []
    start = at = 0
    while at < len(lines):
        if not (lines[at].startswith(b"--- ") and lines[at + 1 : at + 2][:1] and
                lines[at + 1].startswith(b"+++ ")):  # fmt: skip
            at += 1
            continue
        names = frozenset(line[4:].split(b"\t")[0].strip() for line in lines[at : at + 2])
        at += 2
        hunks: list[Hunk] = []
        while at < len(lines) and (m := _HEADER.match(lines[at])):
            counts = [1 if n is None else int(n) for n in (m[2], m[4])]
            end = _end_of_hunk(lines, at + 1, counts)
            hunks.append(_hunk(len(hunks) + 1, int(m[1]), lines[at + 1 : end]))
            at = end
            while at < len(lines) and lines[at].startswith(b"\\"):
                at += 1
        text = b"".join(raw[start:at])
        sections.append(Section(names=names, hunks=tuple(hunks), text=text))
        start = at
    if sections:
        rest = b"".join(raw[start:])
        sections[-1] = replace(sections[-1], text=sections[-1].text + rest)
    return sections


def split_repeated(patch: bytes) -> list[Part]:
    """Return a diff in parts, in order, none of which names a file twice."""
    parts: list[Part] = []
    for section in read_sections(patch):
        named = section.names - {_NOWHERE}
        if parts and not any(named & other.names for other in parts[-1].sections):
            last = parts.pop()
            parts.append(Part(text=last.text + section.text, sections=(*last.sections, section)))
        else:
            parts.append(Part(text=section.text, sections=(section,)))
    return parts or [Part(text=patch, sections=())]  # such as git's pure renames


def _end_of_hunk(lines: Sequence[bytes], at: int, counts: list[int]) -> int:
    """Return where a hunk ends that still has so many lines of the old and the new side."""
    while at < len(lines) and any(n > 0 for n in counts):
        sign = lines[at][:1]
        counts[0] -= sign in (b"-", b" ", b"")
        counts[1] -= sign in (b"+", b" ", b"")
        at += 1
    return at


def _hunk(number: int, line: int, body: Sequence[bytes]) -> Hunk:
    signs = b"".join(text[:1] or b" " for text in body if text[:1] != b"\\")
    unchanged = len(signs) - len(signs.lstrip(b" ")), len(signs) - len(signs.rstrip(b" "))
    return Hunk(
        number=number,
        line=line,
        old=tuple(text[1:] for text in body if text[:1] in (b" ", b"-", b"")),
        new=tuple(text[1:] for text in body if text[:1] in (b" ", b"+", b"")),
        context=unchanged,
    )


def read_output(text: str) -> list[tuple[str, dict[int, Placed]]]:
    """Return each file that patch(1) reports, and what it says of hunks, by their numbers."""
    files: list[tuple[str, dict[int, Placed]]] = []
    for line in text.splitlines():
        if m := _FILE.fullmatch(line):
            files.append((m["name"].strip("'"), {}))
        elif files and (m := _PLACED.match(line)):
            number = int(m["number"])
            files[-1][1][number] = Placed(
                number=number, line=int(m["line"]), fuzz=int(m["fuzz"] or 0)
            )
    return files


def check_places(
    where: str,
    before: bytes | None,
    hunks: Sequence[Hunk],
    placed: Mapping[int, Placed],
    *,
    loose: bool = False,
) -> Iterator[str]:
    """Yield a sentence for each hunk of a file that is applied elsewhere than it says.

    ``before``: the file in front of this diff; ``loose``: white space is not compared.  Raises
    ``PatchError`` for a hunk that fits in two places where any hunk of the file was searched, and
    for one that has nothing to find its place by.
    """
    lines = [_plain(line.rstrip(b"\r\n"), loose=loose) for line in (before or b"").splitlines()]
    for hunk in hunks:
        if not hunk.old and lines:
            raise PatchError(
                f"{where}: hunk {hunk.number} has no line of the file to find its place by; make"
                " the diff with lines of context (diff -u, git diff -U3)"
            )
        if not placed:
            continue
        fuzz = placed[hunk.number].fuzz if hunk.number in placed else 0
        found = _places(lines, hunk, fuzz, loose=loose)
        if hunk.number in placed and len(found) == 1:
            found = _places(lines, _without_weak_context(hunk), 0, loose=loose)
        if len(found) > 1:
            more = ", …" if found[4:] else ""
            raise PatchError(
                f"{where}: hunk {hunk.number}, for line {hunk.line}, fits in {len(found)} places"
                f" (at lines {', '.join(map(str, found[:4]))}{more}), and the lines of the file are"
                " not where the patch has them; make the patch against this source"
            )
        if hunk.number in placed:
            at = placed[hunk.number].line
            less = f", without {fuzz} lines of its context" if fuzz else ""
            yield f"{where}: hunk {hunk.number}, for line {hunk.line}, is applied at {at}{less}"


def _without_weak_context(hunk: Hunk) -> Hunk:
    """Return a hunk without the context that does not tell one place from another.

    Blank lines at its ends are no evidence; nor is less than a whole side of what diff -u gives.
    """
    before, behind = hunk.context
    if not hunk.old[before : len(hunk.old) - behind]:  # lines are added only
        before = behind = 0
    context = (*hunk.old[:before], *hunk.old[len(hunk.old) - behind :])
    known = [line for line in context if line.strip()]
    if len(known) >= _ENOUGH:
        kept = [i for i, line in enumerate(hunk.old) if line.strip()]
        before, behind = min(before, kept[0]), min(behind, len(hunk.old) - 1 - kept[-1])
    core = hunk.old[before : len(hunk.old) - behind]
    return replace(hunk, line=hunk.line + before, old=core, context=(0, 0))


def _places(lines: Sequence[bytes], hunk: Hunk, fuzz: int, *, loose: bool) -> list[int]:
    """Return the lines, from 1, at which the old side of a hunk stands in a file."""
    # as patch does: the longer end of context loses ``fuzz`` lines, the other one what is more
    begin, end = (max(0, fuzz + n - max(hunk.context)) for n in hunk.context)
    first, last = begin, len(hunk.old) - end
    wanted = [_plain(line, loose=loose) for line in hunk.old[first:last]]
    if not wanted:
        return list(range(1, len(lines) + 1))
    return [
        i + 1 - first
        for i, line in enumerate(lines)
        if line == wanted[0] and lines[i : i + len(wanted)] == wanted
    ]


def _plain(line: bytes, *, loose: bool) -> bytes:
    return b" ".join(line.split()) if loose else line
