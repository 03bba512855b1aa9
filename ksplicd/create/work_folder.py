# SPDX-License-Identifier: GPL-2.0-only
"""The files of one run of create: gone at its end or, with ``--keep DIR``, left in ``DIR``.

They are made in a temporary folder in any case, so that nothing in an update depends on ``DIR``::

    plain/ plain-post/ the objects of each unit as the kernel was built, and would be
    pre/ post/         its split objects, of both states; unsplit-post/ those with plain sections
    new/               the new code of each unit
    modules/ whole/    the folders in which the update's modules, and whole modules, are built
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ksplicd.errors import CreateError


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolder:
    """The folder while the run lasts."""

    root: Path
    is_kept: bool

    def folder(self, name: str) -> Path:
        """Return a folder in it, which is there."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def show(self, name: str, files: Mapping[str, Path]) -> None:
        """Have copies of files in a folder, by name, where it is kept, unless they are there."""
        for file, path in files.items() if self.is_kept else ():
            if path != self.root / name / file:
                shutil.copy(path, self.folder(name) / file)


@contextlib.contextmanager
def work_folder(keep: Path | None = None) -> Iterator[WorkFolder]:
    """Have the folder while the context lasts; whatever ends it, leave it in ``keep``.

    Raises ``CreateError`` when ``keep`` is not empty or cannot be written to; that is no news when
    the run has failed, and its own error stands.
    """
    if keep is not None:
        make_empty(keep)
    with tempfile.TemporaryDirectory(prefix="ksplice-create-") as folder:
        try:
            yield WorkFolder(root=Path(folder), is_kept=keep is not None)
        except BaseException:
            if keep is not None:
                with contextlib.suppress(CreateError):
                    move_into(keep, Path(folder))
            raise
        if keep is not None:
            move_into(keep, Path(folder))


def move_into(keep: Path, folder: Path) -> None:
    """Move what is in ``folder``.  Raises ``CreateError``."""
    try:
        keep.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            shutil.move(path, keep)
    except OSError as e:  # with a list of them where it is copied to another file system
        raise CreateError(f"--keep {keep}: {e.strerror or e}; give another folder") from e


def make_empty(keep: Path) -> None:
    """Make a folder unless it is there and empty.  Raises ``CreateError``."""
    try:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise CreateError(
                f"--keep {keep}: not empty; give a folder that is empty or does not exist"
            )
    except (FileExistsError, NotADirectoryError) as e:
        raise CreateError(f"--keep {keep}: {e.filename} is not a folder; give another one") from e
    except OSError as e:
        raise CreateError(f"--keep {keep}: {e.strerror}; give another folder") from e
    if not os.access(keep, os.W_OK | os.X_OK):
        raise CreateError(f"--keep {keep}: cannot be written to; give another folder")
