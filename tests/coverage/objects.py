# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's build with kept objects, for several workers in one tree.

While create changes, the objects stay the same, so a patched unit is compiled only once.  While a
worker has a file patched, no other worker compiles it.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ksplicd.create.build.compiler import Kbuild, PostObjects
from ksplicd.create.build.units import Unit
from ksplicd.create.patch.source_tree import PatchedFile, SourceTree
from ksplicd.errors import BuildError

_KINDS: Final = ("split", "plain", "unsplit")
"""The fields of ``PostObjects``."""


@contextlib.contextmanager
def locked(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Hold a lock for each name against the other workers, taken in the order of the names."""
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        for name in sorted(set(names)):
            fcntl.flock(stack.enter_context((folder / name).open("w")), fcntl.LOCK_EX)
        yield


class SharedTree(SourceTree):
    """A source tree in which several workers have files patched."""

    locks: Path
    """Where the locks are."""

    @contextlib.contextmanager
    def patched(self, files: Sequence[PatchedFile]) -> Iterator[None]:
        """Have ``files`` in the tree, and nobody else compile them, while the context lasts."""
        with (
            locked(self.locks, [Unit(str(f.path)).flat_name for f in files]),
            super().patched(files),
        ):
            yield


class RememberingKbuild(Kbuild):
    """Keeps what ``compile_post`` makes in ``OUTPUT/coverage-objects``, errors included.

    The headers of the tree must not change.
    """

    @property
    def locks(self) -> Path:
        """Where the locks are."""
        return self.tree.output / "coverage-locks"

    def find_fault(self, unit: Unit) -> str:
        """Return the compiler's errors with a unit of the tree as it is now, or nothing."""
        words = self.recorded.compiler(unit, Path("/dev/null"))
        words = [w for w in words if not w.startswith("-Wp,-MMD")]
        try:
            self.run(unit, [*words[:-1], "-fsyntax-only", words[-1]])
        except BuildError as e:
            return str(e)
        return ""

    def compile_plain(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Compile the units, or take what is there; one make at a time."""
        with locked(self.locks, [u.flat_name for u in units]):
            if all(self.recorded.is_fresh(u) for u in units):
                return super().compile_plain(units)
            with locked(self.locks, [" make"]):
                return super().compile_plain(units)

    def compile_split_cached(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Compile the units, or take what is there."""
        with locked(self.locks, [u.flat_name for u in units]):
            return super().compile_split_cached(units)

    def compile_post(
        self, units: Sequence[Unit], rewritten: Collection[Unit], folder: Callable[[str], Path]
    ) -> PostObjects:
        """Compile the units, or take what is kept.  Raises ``BuildError``, kept or new."""
        found = PostObjects({}, {}, {})
        for unit in units:
            made = self._compile_one(unit, [unit] if unit in rewritten else [], folder)
            found.split.update(made.split)
            found.plain.update(made.plain)
            found.unsplit.update(made.unsplit)
        return found

    def _compile_one(
        self, unit: Unit, rewritten: Collection[Unit], folder: Callable[[str], Path]
    ) -> PostObjects:
        kept = self.tree.output / "coverage-objects" / self._name_of(unit)
        error = kept.with_suffix(".error")
        if error.exists():
            raise BuildError(error.read_text())
        if not kept.exists():
            try:
                made = super().compile_post([unit], rewritten, folder)
            except BuildError as e:
                kept.parent.mkdir(exist_ok=True)
                error.write_text(str(e))
                raise
            temporary = kept.with_suffix(f".{os.getpid()}")
            temporary.mkdir(parents=True)
            for kind in _KINDS:
                for path in getattr(made, kind).values():
                    shutil.copyfile(path, temporary / f"{kind}.o")
            temporary.rename(kept)
        found = PostObjects({}, {}, {})
        for kind in _KINDS:
            if (kept / f"{kind}.o").exists():
                getattr(found, kind)[unit] = kept / f"{kind}.o"
        return found

    def _name_of(self, unit: Unit) -> str:
        """Return a name for what comes of the unit's source as it is now.

        The output tree stands for everything else: configuration, compiler, headers.
        """
        source = (self.tree.source.root / unit.source).read_bytes()
        made_by = [self.split_folder.name.encode(), b"%d" % (not self.recorded.modules_of(unit))]
        digest = hashlib.sha256(b"\0".join([*made_by, source])).hexdigest()[:20]
        return f"{unit.flat_name}-{digest}"
