# SPDX-License-Identifier: GPL-2.0-only
"""The cache: things that are slow to make, kept outside the source tree.

Rule: an entry is named by a digest of everything that it is made from, is complete or absent
(made in a folder beside it and renamed), and is made once even when two processes want it.
Entries are folders ``KIND/DIGEST`` below ``$XDG_CACHE_HOME/ksplice``.  Deleting any of them is
always safe, also while a guest runs from one.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

Progress: TypeAlias = Callable[[str], None]
"""Takes a line about what is being done."""

_DIGEST_LENGTH: Final = 20


def silent(line: str) -> None:
    """Show nothing."""


def to_stderr(line: str) -> None:
    """Show progress on standard error, as the commands do."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def default_root() -> Path:
    """Return ``$XDG_CACHE_HOME/ksplice``, or the same below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ksplice"


def digest_of(*parts: object) -> str:
    """Return a digest of ``parts``: anything made of text, numbers, lists and dicts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_LENGTH]


def digest_of_file(path: Path) -> str:
    """Return a digest of the bytes of ``path``."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()[:_DIGEST_LENGTH]


def digest_of_tree(root: Path) -> str:
    """Return a digest of the names, modes and contents of everything below ``root``."""
    lines: list[list[object]] = []
    for path in sorted(root.rglob("*")):
        name, mode = str(path.relative_to(root)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            lines.append([name, "->", str(path.readlink())])
        elif stat.S_ISREG(mode):
            lines.append([name, stat.S_IMODE(mode), digest_of_file(path)])
        else:
            lines.append([name, stat.S_IMODE(mode)])
    return digest_of(lines)


class Cache:
    """A folder of entries; ``progress`` gets a line for each entry that has to be made."""

    def __init__(self, root: Path | None = None, *, progress: Progress = silent) -> None:
        self.root: Final = root or default_root()
        self.progress: Final = progress

    def entry(self, kind: str, digest: str, make: Callable[[Path], None]) -> Path:
        """Return the entry's folder, after ``make(folder)`` has filled it if it was absent.

        Whatever ``make`` raises is passed on, and nothing is kept then.
        """
        final = self.root / kind / digest
        if final.is_dir():
            os.utime(final)
            return final
        with self.lock(f"{kind}-{digest}"):
            if not final.is_dir():
                final.parent.mkdir(parents=True, exist_ok=True)
                for stale in final.parent.glob(f".{digest}-*"):  # its maker was killed
                    shutil.rmtree(stale, ignore_errors=True)
                new = Path(tempfile.mkdtemp(prefix=f".{digest}-", dir=final.parent))
                try:
                    make(new)
                    new.chmod(0o755)
                    new.rename(final)
                finally:
                    shutil.rmtree(new, ignore_errors=True)
        return final

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock ``name`` against other processes and threads; report a wait."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("w") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.progress(f"waiting for another process that makes {name}")
                fcntl.flock(f, fcntl.LOCK_EX)
            yield

    def prune(self, kind: str, *, keep: int) -> None:
        """Delete all but the ``keep`` entries of ``kind`` that were used last."""
        folder = self.root / kind
        with self.lock(f"{kind}-prune"):
            entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
            entries.sort(key=lambda p: p.stat().st_mtime, reverse=True)
            for old in entries[keep:]:
                shutil.rmtree(old, ignore_errors=True)
