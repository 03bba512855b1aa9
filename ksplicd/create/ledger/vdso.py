# SPDX-License-Identifier: GPL-2.0-only
"""The vDSO, which shares headers with the kernel: what a change of them would be in it.

Processes have the vDSO mapped and run it by themselves; no update reaches it.  Its sources are
compiled here as a file of the kernel in the same folder is: not for use, but so that their
functions can be compared before and after the change.
"""

from collections.abc import Sequence
from os.path import normpath
from pathlib import Path
from typing import Final

from ksplicd.create.build.compiler import SPLIT, Kbuild
from ksplicd.create.build.units import Unit
from ksplicd.create.diff.difference import UnitChange
from ksplicd.create.diff.unit import diff
from ksplicd.create.ledger.evidence import UnitEvidence, read_evidence
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.change import ChangedFile
from ksplicd.create.patch.states import TreeStates
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError

NAME: Final = "the vDSO"

_FOLDER: Final = "arch/x86/entry/vdso"
_LIKE: Final = Unit(f"{_FOLDER}/vma.c")
"""A file of the kernel, whose command has the folders and options of all there."""
_OTHERS: Final = frozenset(("vma.c", "extable.c", "vdso32-setup.c", "vdso2c.c"))
"""Files there that are code of the kernel, or a program of the build."""


def read_vdso(
    kbuild: Kbuild, files: Sequence[ChangedFile], states: TreeStates
) -> list[UnitEvidence]:
    """Return the evidence of each source of the vDSO that includes a changed file.

    Raises ``BuildError`` when it does not compile any more, ``ElfError``.
    """
    headers = {str(f.path) for f in files if f.path.suffix != ".c" and f.before is not None}
    if not headers or _LIKE.source not in kbuild.tree.listing:
        return []
    found = []
    folder = kbuild.tree.output / "ksplice-vdso"
    for source in sources(kbuild.tree.source.root):
        before = folder / f"{Unit(source).flat_name}.o"
        with kbuild.tree.source.patched(states.before):
            if states.before or not kbuild.recorded.is_current(before):
                _compile(kbuild, source, before)
        included = _included(kbuild, before)
        if states.before:
            before = before.rename(folder / "before.o")  # of no use for another change
        if headers & included:
            after = folder / "after.o"
            with kbuild.tree.source.patched(states.after):
                _compile(kbuild, source, after)
            found.append(_compare(kbuild, source, before, after, headers))
    return found


def sources(root: Path) -> list[str]:
    """Return the C files that the 64-bit vDSO is made of."""
    names = sorted(p.name for p in (root / _FOLDER).glob("*.c"))
    return [f"{_FOLDER}/{name}" for name in names if name not in _OTHERS]


def _compile(kbuild: Kbuild, source: str, out: Path) -> None:
    """Compile a file of the vDSO, one section a function."""
    out.parent.mkdir(exist_ok=True)
    words = kbuild.recorded.compiler(_LIKE, out)
    assert words[-1].endswith(_LIKE.source), words
    try:
        path = str(kbuild.tree.source.root / source)
        kbuild.run(Unit(source), [*words[:-1], *SPLIT, path])
    except BuildError:
        out.unlink(missing_ok=True)
        raise


def _included(kbuild: Kbuild, made: Path) -> set[str]:
    """Return the files of the source tree that an object was made from."""
    root = f"{kbuild.tree.source.root}/"
    listed = Path(f"{made}.d").read_text().partition(":")[2].replace("\\\n", " ").split()
    paths = (normpath(kbuild.tree.output / path) for path in listed)
    return {path.removeprefix(root) for path in paths}


def _compare(
    kbuild: Kbuild, source: str, before: Path, after: Path, headers: set[str]
) -> UnitEvidence:
    sizes = kbuild.entry_sizes(_LIKE)
    pre, post = (
        index_separated(read_object(path.read_bytes(), source), sizes) for path in (before, after)
    )
    change = UnitChange.of(source, diff(pre, post))
    return read_evidence(source, NAME, pre, post, change, {}, headers | {source}, beyond=NAME)
