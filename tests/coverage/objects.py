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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit
from ksplicd.create.patch.source_tree import PatchedFile, SourceTree
from ksplicd.errors import BuildError


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
    """Keeps what ``compile_split`` makes in ``OUTPUT/coverage-objects``, errors included.

    The headers of the tree must not change.
    """

    @property
    def locks(self) -> Path:
        """Where the locks are."""
        return self.tree.output / "coverage-locks"

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

    def compile_split(self, units: Sequence[Unit], folder: Path) -> dict[Unit, Path]:
        """Compile the units, or take what is kept.  Raises ``BuildError``, kept or new."""
        if folder.is_relative_to(self.tree.output):
            return super().compile_split(units, folder)  # kept there by Kbuild itself
        return self.compile_post(units, folder, folder / "plain")[0]

    def compile_post(
        self, units: Sequence[Unit], split: Path, plain: Path
    ) -> tuple[dict[Unit, Path], dict[Unit, Path]]:
        """Compile the units, or take what is kept.  Raises ``BuildError``, kept or new."""
        made = {unit: self._compile_both(unit, split, plain) for unit in units}
        return {u: both[0] for u, both in made.items()}, {u: both[1] for u, both in made.items()}

    def _compile_both(self, unit: Unit, split: Path, plain: Path) -> tuple[Path, Path]:
        """Return the split and the plain object."""
        kept = self.tree.output / "coverage-objects" / self._name_of(unit)
        error = kept.with_suffix(".error")
        both = kept, kept.with_suffix(".plain.o")
        made = split / f"{unit.flat_name}.o", plain / f"{unit.flat_name}.o"
        if error.exists():
            raise BuildError(error.read_text())
        if not all(k.exists() for k in both):
            kept.parent.mkdir(exist_ok=True)
            try:
                found = super().compile_post([unit], split, plain)
            except BuildError as e:
                error.write_text(str(e))
                raise
            for k, objects in zip(both, found, strict=True):
                temporary = k.with_suffix(f".{os.getpid()}")
                shutil.copyfile(objects[unit], temporary)
                temporary.rename(k)
        else:
            for k, m in zip(both, made, strict=True):
                m.parent.mkdir(exist_ok=True)
                shutil.copyfile(k, m)
        return made

    def _name_of(self, unit: Unit) -> str:
        """Return a name for what comes of the unit's source as it is now.

        The output tree stands for everything else: configuration, compiler, headers.
        """
        source = (self.tree.source.root / unit.source).read_bytes()
        made_by = [self.split_folder.name.encode(), b"%d" % (self.recorded.module_of(unit) is None)]
        digest = hashlib.sha256(b"\0".join([*made_by, source])).hexdigest()[:20]
        return f"{unit.flat_name}-{digest}.o"
