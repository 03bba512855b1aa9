# SPDX-License-Identifier: GPL-2.0-only
"""Line numbers that a patch leaves alone: ``#line`` behind each hunk.

Without a file name the directive keeps ``__FILE__``, so it serves in headers too (C11, 6.10.4).
What stands in a group that is skipped (``#ifdef``) has no effect there, and is one more line: so it
stands again behind each directive that ends such a group.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.hunks import ChangedLines, changed_lines, changed_lines_of
from ksplicd.create.patch.source_tree import PatchedFile


def with_line_numbers(file: ChangedFile) -> PatchedFile:
    """Return the state of a file after a change, its C with the line numbers from before."""
    return with_line_numbers_of([file])[0]


def with_line_numbers_of(files: Sequence[ChangedFile]) -> list[PatchedFile]:
    """Return the same for some files; one process for all."""
    versions = {
        file.path: (file.before, file.after)
        for file in files
        if file.before is not None and file.after is not None and file.path.suffix in (".c", ".h")
    }
    hunks = dict(zip(versions, changed_lines_of(list(versions.values())), strict=True))
    kept = {path: _with_numbers(after, hunks[path]) for path, (_, after) in versions.items()}
    return [PatchedFile(f.path, kept.get(f.path, f.after)) for f in files]


def line_numbers_in(content: bytes, after: bytes) -> list[int]:
    """Return the number that each line of ``after`` has in what ``keep_line_numbers`` made of it.

    Several lines may have one number: those that came, and those behind the hunk.
    """
    found: list[int] = []
    number, lines = 0, after.splitlines(keepends=True)
    for line in content.splitlines(keepends=True):
        number += 1
        if len(found) < len(lines) and line == lines[len(found)]:
            found.append(number)
        elif m := re.match(rb"#line (\d+)\n", line):
            number = int(m[1]) - 1
    return found


def keep_line_numbers(before: bytes, after: bytes) -> bytes:
    """Return ``after`` with a ``#line`` behind each hunk that parts it from ``before``.

    Everything behind a hunk then has the numbers that it had before, and ``__LINE__`` in an
    untouched function makes no change out of nothing.
    """
    return _with_numbers(after, changed_lines(before, after))


def _with_numbers(after: bytes, hunks: Sequence[ChangedLines]) -> bytes:
    lines = after.splitlines(keepends=True)
    safe, starts = _directive_places(lines)
    conditions = [
        (number, m[1]) for number, line in enumerate(lines, 1)
        if starts[number - 1] and (m := _CONDITION.match(line))
    ]  # fmt: skip
    wanted = {place for hunk in hunks for place in _places_behind(hunk.after.behind, conditions)}
    places = {_next_safe(place, safe) for place in wanted}
    out_lines = []
    shift, left = 0, list(hunks)
    for number, line in enumerate(lines, 1):
        while left and left[0].after.behind <= number:
            hunk = left.pop(0)
            shift += hunk.before.count - hunk.after.count
        if number in places:
            out_lines.append(b"#line %d\n" % (number + shift))
        out_lines.append(line)
    return b"".join(out_lines)


_CONDITION: Final = re.compile(rb"[ \t]*#[ \t]*(if|elif|else|endif)")


def _places_behind(line: int, conditions: Sequence[tuple[int, bytes]]) -> Iterator[int]:
    """Yield a line, and that behind each ``#else`` and ``#endif`` of the groups that it is in."""
    yield line
    depth = 0
    for number, word in conditions:
        if number < line:
            continue
        if word == b"if":
            depth += 1
        elif not depth:
            yield number + 1
        elif word == b"endif":
            depth -= 1


def _next_safe(line: int, safe: Sequence[bool]) -> int | None:
    return next((n for n in range(line, len(safe) + 1) if safe[n - 1]), None)


_TOKEN: Final = re.compile(
    rb"""//[^\n]*|/\*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[(){}]|\\\r?\n""", re.DOTALL
)


def _directive_places(lines: Sequence[bytes]) -> tuple[list[bool], list[bool]]:
    """Tell for each line whether a ``#`` directive may be put before it, and whether it may be one.

    Not inside a comment or a continued line; not before a line inside parentheses, which may be a
    macro's arguments.
    """
    places, starts = [], []
    depth = 0
    in_comment = continued = False
    for line in lines:
        starts.append(not in_comment and not continued)
        places.append(starts[-1] and depth == 0)
        continued = line.rstrip(b"\r\n").endswith(b"\\")
        at = 0
        while at < len(line):
            if in_comment:
                end = line.find(b"*/", at)
                if end < 0:
                    break
                in_comment, at = False, end + 2
                continue
            m = _TOKEN.search(line, at)
            if m is None:
                break
            at = m.end()
            if m[0] == b"/*":
                in_comment = True
            elif m[0] == b"(":
                depth += 1
            elif m[0] == b")":
                depth = max(0, depth - 1)
            elif m[0] in (b"{", b"}") and line[: m.start()].strip() == b"":
                # A brace that opens a line stands outside of any argument list: forget what
                # conditional compilation left unbalanced.
                depth = 0
    return places, starts
