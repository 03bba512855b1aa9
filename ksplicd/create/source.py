# SPDX-License-Identifier: GPL-2.0-only
"""The kernel source tree: patched for a while, and given back as it was found.

While a file is patched, the original waits beside it as ``FILE.KSPLICE_presrc``, the same inode
with the same times.  The original is there before the patched file is, so whenever we are killed, a
later ``revert()`` finds everything.  An empty ``.KSPLICE_presrc`` without permissions says that
there was no such file.
"""

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.errors import PatchError, SourceTreeError, ToolError, UnsupportedChangeError
from ksplicd.run import run, run_any

PRESRC: Final = ".KSPLICE_presrc"

_OLD_FILE: Final = re.compile(r"^--- ([^\t\n]+)", re.MULTILINE)
_NEW_FILE: Final = re.compile(r"^\+\+\+ ([^\t\n]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """One file of a patch: its path in the tree and its content after the patch."""

    path: Path
    content: bytes


class SourceTree:
    """An unpacked kernel source tree."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if not (self.root / "Kbuild").is_file() or not (self.root / "Makefile").is_file():
            raise SourceTreeError(
                f"{root}: not a kernel source tree (no Kbuild); give the folder that"
                " linux-source-X.Y.tar.xz unpacks to"
            )

    def version(self) -> str:
        """Return the upstream version that the tree's Makefile states, such as ``6.1.176``."""
        text = (self.root / "Makefile").read_text()
        numbers = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)", text, re.MULTILINE))
        try:
            return "{VERSION}.{PATCHLEVEL}.{SUBLEVEL}".format(**numbers)
        except KeyError as e:
            raise SourceTreeError(f"{self.root}/Makefile: {e.args[0]} is not stated") from e

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from patching the tree.  Raises ``SourceTreeError`` when it is in use."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as e:
            raise SourceTreeError(
                f"{self.root}: another ksplice-create works on this tree; wait for it"
            ) from e
        finally:
            os.close(fd)

    def revert(self) -> list[Path]:
        """Give every patched file its original back; return their paths."""
        found = run(["find", self.root, "-name", f"*{PRESRC}", "-print0"])
        reverted = []
        for name in filter(None, found.split(b"\0")):
            saved = Path(os.fsdecode(name))
            self._restore(saved)
            reverted.append(saved.relative_to(self.root))
        return reverted

    def apply(self, patches: Sequence[Path], options: Sequence[str] = ()) -> list[PatchedFile]:
        """Apply patch files to copies and return the files that they change.

        ``options`` go to patch(1).  The tree is not touched.  Raises ``PatchError`` with patch's
        own words, ``UnsupportedChangeError`` for files that a patch removes.
        """
        strip = next((int(o[2:]) for o in options if re.fullmatch(r"-p\d+", o)), 1)
        paths: dict[Path, None] = {}
        for patch in patches:
            for path in self.paths_of(patch, strip):
                paths[path] = None
        with tempfile.TemporaryDirectory(prefix="ksplice-patch-") as folder:
            copy = Path(folder)
            for path in paths:
                (copy / path).parent.mkdir(parents=True, exist_ok=True)
                if (self.root / path).exists():
                    shutil.copy2(self.root / path, copy / path)
            for patch in patches:
                self._patch(copy, patch, [f"-p{strip}", *options])
            return [self._patched(copy, path) for path in paths if self._is_changed(copy, path)]

    @staticmethod
    def paths_of(patch: Path, strip: int = 1) -> list[Path]:
        """Return the paths that a patch names.  Raises ``PatchError``."""
        try:
            text = patch.read_text(errors="surrogateescape")
        except OSError as e:
            raise PatchError(f"{patch}: cannot be read: {e.strerror}") from e
        old, new = _OLD_FILE.findall(text), _NEW_FILE.findall(text)
        if not new or len(old) != len(new):
            raise PatchError(f"{patch}: no unified diff in it (no --- and +++ lines)")
        paths = []
        for before, after in zip(old, new, strict=True):
            name = before if after == "/dev/null" else after
            parts = Path(name).parts[strip:]
            if not parts or ".." in parts or Path(name).is_absolute():
                raise PatchError(f"{patch}: {name}: with -p{strip} no path inside the source tree")
            paths.append(Path(*parts))
        return paths

    def _patch(self, copy: Path, patch: Path, options: Sequence[str]) -> None:
        argv = ["patch", "--batch", "--forward", "--no-backup-if-mismatch", "-r", "-", *options]
        status, out, err = run_any([*argv, "-i", patch.resolve()], cwd=copy)
        if status:
            said = (out + err).decode(errors="replace").strip()
            raise PatchError(f"{patch}: does not apply to {self.root}:\n{said}")

    def _is_changed(self, copy: Path, path: Path) -> bool:
        new, old = copy / path, self.root / path
        if not new.exists():
            raise UnsupportedChangeError(
                f"{path}: the patch removes the file; a running kernel keeps its code,"
                " so leave the file in place and change its callers"
            )
        return not old.exists() or new.read_bytes() != old.read_bytes()

    def _patched(self, copy: Path, path: Path) -> PatchedFile:
        content = (copy / path).read_bytes()
        original = self.root / path
        if original.exists() and path.suffix == ".c":
            content = keep_line_numbers(original, copy / path)
        return PatchedFile(path, content)

    @contextlib.contextmanager
    def patched(self, files: Sequence[PatchedFile]) -> Iterator[None]:
        """Have ``files`` in the tree while the context lasts."""
        try:
            for file in files:
                self._switch(file)
            yield
        finally:
            for file in files:
                saved = self.root / f"{file.path}{PRESRC}"
                if saved.exists():
                    self._restore(saved)

    def _switch(self, file: PatchedFile) -> None:
        path = self.root / file.path
        saved = self.root / f"{file.path}{PRESRC}"
        temporary = self.root / f"{file.path}.KSPLICE_new"
        if path.exists():
            os.link(path, saved)
        else:
            saved.touch(mode=0)
        temporary.write_bytes(file.content)
        temporary.replace(path)

    @staticmethod
    def _restore(saved: Path) -> None:
        path = Path(str(saved).removesuffix(PRESRC))
        path.with_name(path.name + ".KSPLICE_new").unlink(missing_ok=True)
        if saved.stat().st_size == 0 and not saved.stat().st_mode & 0o777:
            path.unlink(missing_ok=True)
            saved.unlink()
        elif path.exists() and path.samefile(saved):
            saved.unlink()
        else:
            saved.replace(path)


def keep_line_numbers(before: Path, after: Path) -> bytes:
    """Return the content of ``after`` with a ``#line`` behind each hunk.

    Everything behind a hunk then has the numbers that it had before, and ``__LINE__`` in an
    untouched function makes no change out of nothing.
    """
    status, out, _ = run_any(["diff", "-U0", before, after])
    if status not in (0, 1):
        raise ToolError(f"diff {before} {after}: exit status {status}")
    lines = after.read_bytes().splitlines(keepends=True)
    safe = _directive_places(lines)
    inserts: dict[int, int] = {}
    shift = 0
    for m in re.finditer(
        r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", out.decode(errors="replace"), re.MULTILINE
    ):
        removed, start, added = int(m[2] or "1"), int(m[3]), int(m[4] or "1")
        shift += removed - added
        # With -U0 a pure removal names the line before the gap.
        behind = start + added if added else start + 1
        place = next((n for n in range(behind, len(lines) + 1) if safe[n - 1]), None)
        if place is not None:
            inserts[place] = place + shift
    out_lines = []
    for number, line in enumerate(lines, 1):
        if number in inserts:
            out_lines.append(b"#line %d\n" % inserts[number])
        out_lines.append(line)
    return b"".join(out_lines)


_TOKEN: Final = re.compile(
    rb"""//[^\n]*|/\*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[(){}]|\\\r?\n""", re.DOTALL
)


def _directive_places(lines: Sequence[bytes]) -> list[bool]:
    """Tell for each line whether a ``#`` directive may be put before it.

    Not inside a comment, a continued line, or parentheses, which may be a macro's arguments.
    """
    places = []
    depth = 0
    in_comment = continued = False
    for line in lines:
        places.append(not in_comment and not continued and depth == 0)
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
    return places
