# SPDX-License-Identifier: GPL-2.0-only
"""What is to change: patch files, edited copies or a git commit, as contents before and after.

The tree is only read.  With ``--series`` the contents before are those that the earlier updates
leave, which is what their bundles' patches make of the tree.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ksplicd.create.patch.places import Part, check_places, read_output, split_repeated
from ksplicd.errors import NoChangesError, PatchError, SourceTreeError
from ksplicd.run import run, run_any

_HUNK: Final = re.compile(r"@@ -\d+(?:,(\d{1,9}))? \+\d+(?:,(\d{1,9}))? @@")
_RENAME: Final = re.compile(r"(?:rename|copy) (?:from|to) (.+)")
_EXTENSION: Final = re.compile(r"[A-Za-z0-9._~+-]+")
_SOURCE_SUFFIXES: Final = (".c", ".h", ".S", ".o")
_OPTION: Final = re.compile(
    r"-p\d{1,2}|--strip=\d{1,2}|-F\d|--fuzz=\d|-l|--ignore-whitespace|-R|--reverse|--binary"
    r"|-E|--remove-empty-files"
)
"""Options of patch(1) that say how a patch is read; others name files, or are of no use here."""
_STRIP: Final = re.compile(r"(?:-p|--strip=)(\d+)")
_FUZZ: Final = re.compile(r"(?:-F|--fuzz=)\d")
_REVERSE: Final = ("-R", "--reverse")
_LOOSE: Final = ("-l", "--ignore-whitespace")
_GIT: Final = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    """One file of the tree, with its contents; None where there is no such file."""

    path: Path
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of the tree."""

    files: tuple[ChangedFile, ...]
    """Those that differ, in the order in which the input names them."""
    patch: bytes
    """The change as a unified diff that ``patch -p1`` applies."""
    timestamp: int
    """Seconds since 1970 of the newest input."""
    notes: tuple[str, ...] = ()
    """A sentence for each hunk that is applied elsewhere than it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What patches make of a tree."""

    files: tuple[ChangedFile, ...]
    """Those that differ."""
    notes: tuple[str, ...]
    """As ``Change.notes``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The tree that a change is made to: a folder, and contents that take the place of its own."""

    root: Path
    contents: Mapping[Path, bytes | None] = field(default_factory=dict)

    def read(self, path: Path) -> bytes | None:
        """Return the contents of a file, None when there is none."""
        if path in self.contents:
            return self.contents[path]
        try:
            return (self.root / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise SourceTreeError(f"{self.root / path}: {e.strerror}") from e


# --- patch files --------------------------------------------------------------------------------


def from_patches(before: Before, patches: Sequence[Path], options: Sequence[str] = ()) -> Change:
    """Return what patch files change, applied in order; ``options`` go to patch(1).

    Raises ``PatchError`` with patch's own words, ``NoChangesError``.
    """
    texts = {}
    for patch in patches:
        try:
            texts[str(patch)] = patch.read_bytes()
        except OSError as e:
            raise PatchError(f"{patch}: cannot be read: {e.strerror}") from e
    applied = apply(before, texts, options)
    if not applied.files:
        names = ", ".join(texts)
        raise NoChangesError(f"{names}: changes no file of the source tree")
    as_given = not options and not applied.notes
    return Change(
        files=applied.files,
        patch=b"".join(texts.values()) if as_given else unified_diff(applied.files),
        timestamp=int(max(p.stat().st_mtime for p in patches)),
        notes=applied.notes,
    )


def check_options(options: Sequence[str]) -> None:
    """Raise ``PatchError`` for options of patch(1) that are not passed on."""
    for option in options:
        if not _OPTION.fullmatch(option):
            raise PatchError(
                f"--patch-opt={option}: only -pN, --fuzz=N, -l, -R, -E and --binary are passed on"
                " to patch(1)"
            )


def apply(before: Before, texts: Mapping[str, bytes], options: Sequence[str] = ()) -> Applied:
    """Return what patches, by name, change.

    Each hunk must fit whole, unless ``options`` allow fuzz.  Raises ``PatchError``.
    """
    check_options(options)
    strip = next((int(m[1]) for o in reversed(options) if (m := _STRIP.fullmatch(o))), 1)
    paths = dict.fromkeys(p for name, text in texts.items() for p in paths_of(name, text, strip))
    with tempfile.TemporaryDirectory(prefix="ksplice-patch-") as folder:
        copy = Path(folder)
        for path in paths:
            content = before.read(path)
            if content is not None:
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                (copy / path).write_bytes(content)
        notes = [
            note
            for name, text in texts.items()
            for part in split_repeated(text)
            for note in _apply_part(name, part, before.root, copy, strip, options)
        ]
        after = Before(root=copy)
        found = (
            ChangedFile(path=path, before=before.read(path), after=after.read(path))
            for path in paths
        )
        return Applied(files=tuple(f for f in found if f.before != f.after), notes=tuple(notes))


def _apply_part(
    name: str,
    part: Part,
    root: Path,
    copy: Path,
    strip: int,
    options: Sequence[str],
) -> list[str]:
    """Apply a part of a patch to a copy of files of ``root``; return notes.

    The part names no file twice.  Raises ``PatchError``.
    """
    sections = {
        str(Path(*Path(os.fsdecode(n)).parts[strip:])): section
        for section in part.sections
        for n in section.names
    }
    old = {path: Before(root=copy).read(Path(path)) for path in sections}
    argv = ["patch", "--batch", "--forward", "--no-backup-if-mismatch", "-r", "-", "--fuzz=0"]
    status, out, err = run_any([*argv, f"-p{strip}", *options], cwd=copy, stdin=part.text)
    output = (out + err).decode(errors="surrogateescape").strip()
    if status:
        shown = output.encode(errors="surrogateescape").decode(errors="replace")
        raise PatchError(f"{name}: does not apply to {root}:\n{shown}{_fuzz_hint(output, options)}")
    notes: list[str] = []
    for path, placed in read_output(output):
        if path in sections:
            hunks = sections[path].hunks
            if any(o in _REVERSE for o in options):
                hunks = tuple(replace(h, old=h.new, new=h.old) for h in hunks)
            loose = any(o in _LOOSE for o in options)
            notes += check_places(f"{name}: {path}", old[path], hunks, placed, loose=loose)
    return notes


def _fuzz_hint(output: str, options: Sequence[str]) -> str:
    """Return what to do about hunks that do not fit."""
    if "FAILED" not in output or any(_FUZZ.fullmatch(o) for o in options):
        return ""
    return (
        "\nEach line of context must fit; make the patch against this source, or give"
        " --patch-opt=--fuzz=2"
    )


def paths_of(name: str, patch: bytes, strip: int = 1) -> list[Path]:
    """Return the paths that a unified diff names.  Raises ``PatchError``."""
    paths: dict[Path, None] = {}
    for path, depth in _named(patch.decode(errors="surrogateescape").splitlines(), name, strip):
        parts = Path(path).parts[depth:]
        if not parts or ".." in parts or Path(path).is_absolute() or "\0" in path:
            raise PatchError(f"{name}: {path}: with -p{strip} no path inside the source tree")
        paths[Path(*parts)] = None
    if not paths:
        raise PatchError(f"{name}: no unified diff in it (no --- and +++ lines)")
    return list(paths)


def _named(lines: Sequence[str], name: str, strip: int) -> Iterator[tuple[str, int]]:
    """Yield the names in a diff's headers, each with the number of folders to leave out.

    Hunks are skipped by their counts: a removed ``-- x`` looks like a header.
    """
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("GIT binary patch"):
            raise PatchError(f"{name}:{at}: a binary patch; only text can be changed")
        if m := _RENAME.fullmatch(line):
            yield m[1], strip - 1
        elif m := _HUNK.match(line):
            left = [int(m[1] or 1), int(m[2] or 1)]
            while at < len(lines) and any(n > 0 for n in left):
                sign = lines[at][:1]
                left[0] -= sign in ("-", " ", "")
                left[1] -= sign in ("+", " ", "")
                at += 1
        elif line.startswith("--- ") and at < len(lines) and lines[at].startswith("+++ "):
            old, new = (text[4:].split("\t")[0].strip() for text in (line, lines[at]))
            at += 1
            yield (old if new == "/dev/null" else new), strip


def unified_diff(files: Sequence[ChangedFile]) -> bytes:
    """Return a diff that ``patch -p1`` applies; it depends on the contents only."""
    out = []
    with tempfile.TemporaryDirectory(prefix="ksplice-diff-") as folder:
        for file in files:
            argv: list[str | Path] = ["diff", "-a", "-u"]
            for side, content in (("a", file.before), ("b", file.after)):
                (Path(folder) / side).write_bytes(content or b"")
                argv += ["--label", "/dev/null" if content is None else f"{side}/{file.path}"]
            out.append(run([*argv, "a", "b"], cwd=Path(folder), ok=(0, 1)))
    return b"".join(out)


# --- edited copies ------------------------------------------------------------------------------


def from_copies(before: Before, extension: str) -> Change:
    """Return what files ``FILE.EXT`` beside the originals change; FILE need not exist.

    Raises ``PatchError`` for an extension that sources themselves have, ``NoChangesError``.
    """
    if not _EXTENSION.fullmatch(extension) or extension in _SOURCE_SUFFIXES:
        raise PatchError(
            f"--diffext {extension}: no extension for edited copies; name them such as"
            " fcntl.c.new and give .new"
        )
    argv = ["find", ".", "-name", ".git", "-prune", "-o", "-type", "f", "-name", f"*{extension}"]
    found = run([*argv, "-print0"], cwd=before.root).decode(errors="surrogateescape")
    edited = [Path(name) for name in sorted(filter(None, found.split("\0")))]
    files, newest = [], 0.0
    for copy in edited:
        path = copy.with_name(copy.name.removesuffix(extension))
        content = (before.root / copy).read_bytes()
        old = before.read(path)
        if copy.name != extension and content != old:
            files.append(ChangedFile(path=path, before=old, after=content))
            newest = max(newest, (before.root / copy).stat().st_mtime)
    if not files:
        raise NoChangesError(
            f"{before.root}: {len(edited)} files end in {extension}, and none of them differs from"
            f" its original; copy a file to FILE{extension} and edit the copy"
        )
    return Change(files=tuple(files), patch=unified_diff(files), timestamp=int(newest))


# --- git ----------------------------------------------------------------------------------------


def from_git(before: Before, revision: str) -> Change:
    """Return what a commit, or a range ``A..B``, changes, applied to the work tree as it is.

    The work tree is what the running kernel was built from.  Git's state is only read.  Raises
    ``SourceTreeError`` for a tree with changes of its own, ``PatchError`` for what git does not
    know or what does not apply, ``NoChangesError``.
    """
    status = _git(before.root, "status", "--porcelain", "--untracked-files=no", "--", ".")
    dirty = [line[3:] for line in status.decode(errors="replace").splitlines()]
    if dirty:
        raise SourceTreeError(
            f"{before.root}: {', '.join(dirty[:5])}{', …' if dirty[5:] else ''}: changed and not"
            " committed; commit or undo that, because the work tree must be what the running"
            " kernel was built from"
        )
    ends = [revision] if ".." in revision else [f"{revision}^1", revision]
    options = ("--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", "--relative", "-U3")
    prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
    diff = _git(before.root, "diff", *options, *prefixes, "--end-of-options", *ends, "--")
    if not diff:
        raise NoChangesError(f"--git {revision}: changes no file of {before.root}")
    try:
        applied = apply(before, {f"--git {revision}": diff})
    except PatchError as e:
        raise PatchError(
            f"{e}\nCheck out what the running kernel was built from; the commit is applied to that"
        ) from e
    if not applied.files:
        raise NoChangesError(f"--git {revision}: the work tree has it already")
    last = revision.rpartition("..")[2] or "HEAD"
    time = _git(before.root, "log", "-1", "--format=%ct", "--end-of-options", last, "--")
    return Change(
        files=applied.files,
        patch=unified_diff(applied.files) if applied.notes else diff,
        timestamp=int(time),
        notes=applied.notes,
    )


def _git(root: Path, *arguments: str) -> bytes:
    # Without optional locks `git status` does not write the index.
    argv = [*_GIT, "-C", str(root), *arguments]
    status, out, err = run_any(argv, env={"GIT_OPTIONAL_LOCKS": "0"})
    if status:
        message = err.decode(errors="replace").strip()
        raise PatchError(f"--git: {root}: git {arguments[0]}: {message}")
    return out
