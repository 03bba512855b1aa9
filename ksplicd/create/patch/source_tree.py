# SPDX-License-Identifier: GPL-2.0-only
"""The kernel source tree: patched for a while, and given back as it was found.

While a file is patched, the original waits beside it as ``FILE.KSPLICE_presrc``, the same inode
with the same times.  The original is there before the patched file is, so whenever we are killed, a
later ``revert()`` finds everything.  An empty ``.KSPLICE_presrc`` without permissions stands for a
file or folder that was not there.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.errors import SourceTreeError
from ksplicd.run import run

PRESRC: Final = ".KSPLICE_presrc"
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """A file that is to have another content for a while; None: it is not to be there."""

    path: Path
    content: bytes | None


class SourceTree:
    """An unpacked kernel source tree."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.depth = 0
        """How many contexts have files of theirs in the tree."""
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
    def lock(self, progress: Progress = lambda _: None) -> Iterator[None]:
        """Keep others from patching the tree; ``progress`` gets a line when that means waiting."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting: another ksplice-create works on {self.root}")
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
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

    @contextlib.contextmanager
    def patched(self, files: Sequence[PatchedFile]) -> Iterator[None]:
        """Have ``files`` in the tree while the context lasts."""
        places = [self._saved_place(file.path) for file in files]
        self.depth += bool(files)
        try:
            for file, saved in zip(files, places, strict=True):
                self._switch(file, saved)
            yield
        finally:
            for saved in places:
                if saved.exists():
                    self._restore(saved)
            self.depth -= bool(files)

    def check_untouched(self) -> None:
        """Assert that the tree is as it was found.

        The originals come back with their times, so that an object that stays would look newer.
        """
        assert not self.depth, "an object of the patched tree would be taken for one of the tree"

    def _saved_place(self, path: Path) -> Path:
        """Return where the original of ``path`` waits; of a new folder, where the folder's does."""
        new_folders = [p for p in path.parents if not (self.root / p).exists()]
        first = new_folders[-1] if new_folders else path
        return self.root / f"{first}{PRESRC}"

    def _switch(self, file: PatchedFile, saved: Path) -> None:
        path = self.root / file.path
        temporary = self.root / f"{file.path}.KSPLICE_new"
        if path.exists():
            os.link(path, saved)
        elif file.content is not None:
            saved.touch(mode=0)
            path.parent.mkdir(parents=True, exist_ok=True)
        if file.content is None:
            path.unlink(missing_ok=True)
        else:
            temporary.write_bytes(file.content)
            temporary.replace(path)

    @staticmethod
    def _restore(saved: Path) -> None:
        path = Path(str(saved).removesuffix(PRESRC))
        path.with_name(path.name + ".KSPLICE_new").unlink(missing_ok=True)
        if saved.stat().st_size == 0 and not saved.stat().st_mode & 0o777:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            saved.unlink()
        elif path.exists() and path.samefile(saved):
            saved.unlink()
        else:
            saved.replace(path)
