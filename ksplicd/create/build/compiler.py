# SPDX-License-Identifier: GPL-2.0-only
"""The compiler as the kernel's own build calls it, for single units.

kbuild compiles a unit once in a prepared tree and records the command; every other variant of that
unit runs the recorded command with another output and further flags.  Nothing else of the kernel is
built.
"""

import hashlib
import shutil
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.build.recorded import RecordedCommands
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit
from ksplicd.create.messages import compiler_words, names_of
from ksplicd.create.objects.entry_sizes import probe_source, read_probe
from ksplicd.create.objects.special import EntrySizes
from ksplicd.elf.at_a_glance import read_section_names
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError, UnsupportedChangeError

Item = TypeVar("Item")
Result = TypeVar("Result")

SPLIT: Final = ("-ffunction-sections", "-fdata-sections")
"""One section a function and one a datum: what the diff compares and the new code is cut from."""

INCLUDED: Final = ("runtime_const.h", "static_keys.h")
"""Of kmodsrc/: included in the split objects of vmlinux, and of modules."""


@dataclass(frozen=True, slots=True)
class PostObjects:
    """The objects of units of the patched tree."""

    split: dict[Unit, Path]
    plain: dict[Unit, Path]
    unsplit: dict[Unit, Path]
    """As the split ones, but with the sections of the plain ones; of some units."""


class Kbuild:
    """Compiles units of one source tree for one configuration."""

    def __init__(self, tree: BuildTree, kid: str = "00000000") -> None:
        """``kid``: whose ids shadow variables have, the update's or those of its series' first."""
        self.tree, self.kid = tree, kid
        self.recorded = RecordedCommands(tree)

    def compile_plain(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Return the units' objects exactly as the kernel build makes them.

        Raises ``UnsupportedChangeError`` for a unit that cannot be made and is not enabled.
        """
        stale = [u for u in units if not self.recorded.is_fresh(u)]
        if stale:
            self.tree.source.check_untouched()
            self.tree.progress(f"compiling {names_of(u.source for u in stale)}")
            made = self.in_parallel(self._compile_listed, stale)
            left = [u for u, is_made in zip(stale, made, strict=True) if not is_made]
            try:
                if left:
                    self.tree.make(*(u.object for u in left))
            except BuildError:
                self._compile_elsewhere([u for u in left if not self.recorded.is_fresh(u)])
        return dict(zip(units, self.in_parallel(self._finish, units), strict=True))

    def _finish(self, unit: Unit) -> Path:
        """Return the unit's plain object with what objtool makes of it."""
        made = self.tree.output / unit.object
        if not self.recorded.late_objtool or self.recorded.has_objtool(unit):
            return made
        out = self.tree.output / "ksplice-plain" / f"{unit.flat_name}.o"
        if not self.recorded.is_newer(out, [str(made)]):
            out.parent.mkdir(exist_ok=True)
            new = out.with_suffix(".new")
            shutil.copy(made, new)
            self._run_late_objtool(unit, new)
            new.rename(out)
        return out

    def _run_late_objtool(self, unit: Unit, made: Path) -> None:
        """Run objtool on a plain object, where the kernel's build runs it on linked ones only."""
        if not self.recorded.late_objtool or self.recorded.has_objtool(unit):
            return
        is_built_in = not self.recorded.modules_of(unit)
        words = [w for w in self.recorded.late_objtool if not (is_built_in and w == "--module")]
        self.run(unit, [*words, str(made)])

    def _compile_listed(self, unit: Unit) -> bool:
        """Compile a unit by what make would run; return whether that worked.

        It cannot where make first generates a header of that folder.
        """
        if unit.source not in self.tree.listing:
            return False
        made = self.tree.output / unit.object
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._run_recorded(unit, made, ())
        except BuildError:
            return False
        self.recorded.forget(unit)
        return True

    def _compile_elsewhere(self, units: Sequence[Unit]) -> None:
        """Have units made whose objects another folder's Makefile names; pass on what fails.

        virt/kvm/kvm_main.c is made as arch/x86/kvm/../../../virt/kvm/kvm_main.o.
        """
        for unit in units:
            enabled = self.tree.listing.get(unit.source)
            if enabled is None:
                raise UnsupportedChangeError(
                    f"{unit.source}: this kernel is configured without the file; leave it out of"
                    " the patch"
                )
            self.tree.make(enabled.object)
            made = self.tree.output / enabled.object
            if enabled.object != unit.object:
                (self.tree.output / unit.object).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(made, self.tree.output / unit.object)

    def split_flags(self, unit: Unit) -> tuple[str, ...]:
        """Return the compiler's further arguments for the objects that are compared and cut.

        They read what the kernel would patch once, or before it is there: runtime constants, and in
        modules static keys.  A patch may include ksplice-patch.h.
        """
        header = INCLUDED[bool(self.recorded.modules_of(unit))]
        return (*SPLIT, *self.patch_flags, "-include", str(kmodsrc() / header))

    @property
    def patch_flags(self) -> tuple[str, ...]:
        """What a patch may need: ksplice-patch.h."""
        return ("-idirafter", str(kmodsrc()), f"-DKSPLICE_KID={self.kid}")

    def compile_split(self, units: Sequence[Unit], folder: Path) -> dict[Unit, Path]:
        """Compile the units of the source tree as it is now into ``folder``, one section a symbol.

        Raises ``BuildError`` with the compiler's words.
        """
        return dict(self.each_split(units, folder))

    def each_split(
        self, units: Sequence[Unit], folder: Path
    ) -> Generator[tuple[Unit, Path], None, None]:
        """Yield what ``compile_split`` returns, in order; who stops early has no more compiled."""
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(unit: Unit) -> tuple[Unit, Path]:
            out = folder / f"{unit.flat_name}.o"
            self._run_recorded(unit, out, self.split_flags(unit))
            return unit, out

        yield from self.in_parallel(compile_one, units)

    def compile_post(
        self, units: Sequence[Unit], rewritten: Collection[Unit], folder: Callable[[str], Path]
    ) -> PostObjects:
        """Compile the units of the patched tree in every way that is needed.

        ``rewritten``: those that are so before the change (``is_rewritten``); which of the others
        are so after it is seen here.  ``folder``: gives a folder by name.  Raises ``BuildError``.
        """
        made = PostObjects({}, {}, {})
        todo = [(unit, "post", made.split) for unit in units]
        todo += [(unit, "plain-post", made.plain) for unit in units]
        todo += [(unit, "unsplit-post", made.unsplit) for unit in units if unit in rewritten]

        def compile_one(what: tuple[Unit, str, dict[Unit, Path]]) -> Path:
            unit, name, kind = what
            if kind is made.plain:
                return self._compile_plain_to(unit, folder(name))
            if kind is made.unsplit:
                return self._compile_unsplit_to(unit, folder(name))
            out = folder(name) / f"{unit.flat_name}.o"
            self._run_recorded(unit, out, self.split_flags(unit))
            return out

        while todo:
            for (unit, _, kind), out in zip(todo, self.in_parallel(compile_one, todo), strict=True):
                kind[unit] = out
            left = [unit for unit in units if unit not in made.unsplit]
            todo = [(u, "unsplit-post", made.unsplit) for u in left
                    if self.is_rewritten(u, made.plain[u])]  # fmt: skip
        return made

    def is_rewritten(self, unit: Unit, plain: Path) -> bool:
        """Tell whether the new code of a unit reads what the kernel patches into its own code.

        Static keys in modules (kmodsrc/static_keys.h), runtime constants in vmlinux
        (runtime_const.h).  ``plain``: its plain object.  Raises ``ElfError``.
        """
        start = "__jump_table" if self.recorded.modules_of(unit) else "runtime_"
        names = read_section_names(plain.read_bytes(), unit.object)
        return any(name.startswith(start) for name in names)

    def compile_plain_to(self, units: Sequence[Unit], folder: Path) -> dict[Unit, Path]:
        """Compile units of the tree as it is now, as the kernel's build would, into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        made = self.in_parallel(lambda unit: self._compile_plain_to(unit, folder), units)
        return dict(zip(units, made, strict=True))

    def compile_unsplit_to(self, units: Sequence[Unit], folder: Path) -> dict[Unit, Path]:
        """Compile units as ``compile_split`` does, but with the sections of plain objects."""
        folder.mkdir(parents=True, exist_ok=True)
        made = self.in_parallel(lambda unit: self._compile_unsplit_to(unit, folder), units)
        return dict(zip(units, made, strict=True))

    def _compile_unsplit_to(self, unit: Unit, folder: Path) -> Path:
        out = folder / f"{unit.flat_name}.o"
        self._run_recorded(unit, out, [f for f in self.split_flags(unit) if f not in SPLIT])
        self._run_late_objtool(unit, out)
        return out

    def _compile_plain_to(self, unit: Unit, folder: Path) -> Path:
        out = folder / f"{unit.flat_name}.o"
        self._run_recorded(unit, out, self.patch_flags)
        self._run_late_objtool(unit, out)
        return out

    @property
    def split_folder(self) -> Path:
        """Where the split objects of the untouched tree are kept, for these compiler arguments."""
        headers = [(kmodsrc() / header).read_bytes() for header in INCLUDED]
        made_by = b"".join([" ".join(SPLIT).encode(), *headers])
        return self.tree.output / f"ksplice-split-{hashlib.sha256(made_by).hexdigest()[:8]}"

    def compile_split_cached(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Like ``compile_split`` for the untouched source tree; the objects stay in the cache."""
        folder = self.split_folder
        known = {u: folder / f"{u.flat_name}.o" for u in units}
        missing = [u for u, path in known.items() if not self.recorded.is_current(path)]
        if missing:
            self.tree.source.check_untouched()
        self.compile_split(missing, folder)
        return known

    def in_parallel(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Yield ``function(item)`` of each item, some at a time, in order."""
        with ThreadPoolExecutor(max_workers=self.tree.jobs) as pool:
            try:
                yield from pool.map(function, items)
            finally:
                pool.shutdown(cancel_futures=True)

    def _run_recorded(self, unit: Unit, out: Path, flags: Sequence[str]) -> None:
        """Run the unit's recorded commands (compiler, objtool) with another output."""
        for words in self.recorded.programs(unit, out):
            if "-c" in words:
                words[-1:-1] = flags
            elif SPLIT[0] in flags and self.recorded.late_objtool:
                continue  # it runs on the linked new code
            try:
                self.run(unit, words)
            except BuildError:
                out.unlink(missing_ok=True)
                raise

    def run(self, unit: Unit, words: Sequence[str]) -> None:
        """Run one program that makes a unit.  Raises ``BuildError`` with the program's words."""
        status, printed, err = self.tree.config.toolchain.run_any(words, cwd=self.tree.output)
        if status:
            raise BuildError(compiler_words(unit.source, printed + err))

    def entry_sizes(self, unit: Unit) -> EntrySizes:
        """Return the entry sizes of the special sections, read from the kernel's headers.

        A probe is compiled with the recorded command of ``unit``; each size is the size of an
        array in its object.
        """
        probe, source = self.tree.output / "ksplice-sizes.o", self.tree.output / "ksplice-sizes.c"
        text = probe_source()
        if not probe.exists() or source.read_text() != text:
            source.write_text(text)
            words = [w for w in self.recorded.compiler(unit, probe) if "-MMD" not in w]
            toolchain = self.tree.config.toolchain
            status, out, err = toolchain.run_any([*words[:-1], source], cwd=self.tree.output)
            if status:
                probe.unlink(missing_ok=True)
                raise BuildError(compiler_words("sizes of the special sections", out + err))
        return read_probe(read_object(probe.read_bytes(), str(probe)))
