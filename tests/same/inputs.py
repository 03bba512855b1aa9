# SPDX-License-Identifier: GPL-2.0-only
"""The inputs of both states: independent changes of real kernel files, and pairs of objects.

The changes are cut from two of Debian's source packages when they are needed, in an order that
depends on nothing but the two versions.
"""

import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ksplicd.cache import digest_of
from ksplicd.errors import LabError
from ksplicd.run import run
from tests.coverage.changes import diff_file, independent_changes

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Fix:
    """One change of one file."""

    name: str
    """The file and the number of the change in it, such as ``fs/exec.c#1``."""
    patch: bytes

    @property
    def kid(self) -> str:
        """The id of the update that is made of it: always the same."""
        return digest_of(self.name)[:8]


def find_fixes(old: Path, new: Path, folders: Sequence[str], wanted: int) -> list[Fix]:
    """Return ``wanted`` changes between two source trees, from each folder in turn.

    A folder's files are those directly in it, sorted.  Raises ``LabError`` when there are not as
    many.
    """
    streams = [_fixes_in(old, new, folder) for folder in folders]
    in_turn = (fix for row in itertools.zip_longest(*streams) for fix in row if fix is not None)
    fixes = list(itertools.islice(in_turn, wanted))
    if len(fixes) < wanted:
        raise LabError(f"{', '.join(folders)}: {len(fixes)} changes of {wanted}; name more folders")
    return fixes


def _fixes_in(old: Path, new: Path, folder: str) -> Iterator[Fix]:
    for file in sorted((old / folder).glob("*.c")):
        path = str(file.relative_to(old))
        other = new / path
        if not other.is_file() or other.read_bytes() == file.read_bytes():
            continue
        patch = diff_file(old, new, path)
        parts = independent_changes(patch, file.read_bytes(), other.read_bytes())
        for i, part in enumerate(parts, 1):
            yield Fix(f"{path}#{i}", part)


def make_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the object files of each pair that the tests of pairs compare, pre and post."""
    folder.mkdir()
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests/pairs"]
    run(argv, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "KSPLICE_KEEP_PAIRS": str(folder)})
    return [(f, f.with_name("post.o")) for f in sorted(folder.glob("*/pre.o"))]
