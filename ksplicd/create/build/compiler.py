# SPDX-License-Identifier: GPL-2.0-only
"""The compiler as the kernel's own build calls it, for single units.

kbuild compiles a unit once in a prepared tree and records the command; every other variant of that
unit runs the recorded command with another output and further flags.  Nothing else of the kernel is
built.
"""

import hashlib
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.tree import Progress as Progress
from ksplicd.create.build.units import Unit as Unit
from ksplicd.create.messages import compiler_words as compiler_words
from ksplicd.create.messages import names_of, number_names
from ksplicd.create.objects.entry_sizes import probe_source, read_probe
from ksplicd.create.objects.special import EntrySizes
from ksplicd.elf import read_object
from ksplicd.errors import BuildError, UnsupportedChangeError
from ksplicd.run import run_any

Result = TypeVar("Result")

SPLIT: Final = ("-ffunction-sections", "-fdata-sections")
"""One section a function and one a datum: what the diff compares and the new code is cut from."""

INCLUDED: Final = ("runtime_const.h", "static_keys.h")
"""Of kmodsrc/: included in the split objects of vmlinux, and of modules."""

_RECORDED: Final = re.compile(r"^(?:saved)?cmd_(\S+) := (.*)$", re.MULTILINE)
_DEPENDENCY: Final = re.compile(r"^  (?:\$\(wildcard [^)]*\)|(\S+)) ?\\?$", re.MULTILINE)


class Kbuild(BuildTree):
    """Compiles units of one source tree for one configuration."""

    kid = "00000000"
    """Whose ids shadow variables have: the update's, or those of its series' first."""

    def compile_plain(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Return the units' objects exactly as the kernel build makes them.

        Raises ``UnsupportedChangeError`` for a unit that cannot be made and is not enabled.
        """
        stale = [u for u in units if not self._is_fresh(u)]
        if stale:
            self.progress(f"compiling {names_of(u.source for u in stale)}")
            made = self.in_parallel(self._compile_listed, stale)
            left = [u for u, is_made in zip(stale, made, strict=True) if not is_made]
            try:
                if left:
                    self.make(*(u.object for u in left))
            except BuildError:
                self._compile_elsewhere([u for u in left if not self._is_fresh(u)])
        return dict(zip(units, self.in_parallel(self._finish, units), strict=True))

    @cached_property
    def late_objtool(self) -> tuple[str, ...]:
        """The objtool command of a kernel whose build runs it on linked objects only, else nothing.

        With IBT or LTO (``delay-objtool`` of scripts/Makefile.lib) no unit has its tables of patch
        sites; the command, without the object, is found at modules of a single file.
        """
        if not re.search(
            r"^CONFIG_(?:X86_KERNEL_IBT|LTO_CLANG)=y$", self.config.text, re.MULTILINE
        ):
            return ()
        commands = (_objtool_part(unit.command) for unit in self.listing.values())
        return next(tuple(words[:-1]) for words in commands if words)

    def _finish(self, unit: Unit) -> Path:
        """Return the unit's plain object with what objtool makes of it."""
        made = self.output / unit.object
        if not self.late_objtool or _objtool_part(self._recorded(unit)[1]):
            return made
        out = self.output / "ksplice-plain" / f"{unit.flat_name}.o"
        if not self._is_newer(out, [str(made)]):
            out.parent.mkdir(exist_ok=True)
            new = out.with_suffix(".new")
            shutil.copy(made, new)
            is_built_in = self.module_of(unit) is None
            words = [w for w in self.late_objtool if not (is_built_in and w == "--module")]
            self._run(unit, [*words, str(new)])
            new.rename(out)
        return out

    def _compile_listed(self, unit: Unit) -> bool:
        """Compile a unit by what make would run; tell whether it could be done.

        It cannot where make first generates a header of that folder.
        """
        if unit.source not in self.listing:
            return False
        made = self.output / unit.object
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._run_recorded(unit, made, ())
        except BuildError:
            return False
        self._record(unit).unlink(missing_ok=True)  # what make wrote: it knows nothing of this one
        return True

    def _compile_elsewhere(self, units: Sequence[Unit]) -> None:
        """Have units made whose objects another folder's Makefile names; pass on what fails.

        virt/kvm/kvm_main.c is made as arch/x86/kvm/../../../virt/kvm/kvm_main.o.
        """
        for unit in units:
            enabled = self.listing.get(unit.source)
            if enabled is None:
                raise UnsupportedChangeError(
                    f"{unit.source}: this kernel is configured without the file; leave it out of"
                    " the patch"
                )
            self.make(enabled.object)
            made = self.output / enabled.object
            if enabled.object != unit.object:
                (self.output / unit.object).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(made, self.output / unit.object)

    def split_flags(self, unit: Unit) -> tuple[str, ...]:
        """Return the compiler's further arguments for the objects that are compared and cut.

        They read what the kernel would patch once, or before it is there: runtime constants, and in
        modules static keys.  A patch may include ksplice-patch.h.
        """
        flags = (*SPLIT, "-idirafter", str(kmodsrc()), f"-DKSPLICE_KID={self.kid}")
        header = INCLUDED[self.module_of(unit) is not None]
        return (*flags, "-include", str(kmodsrc() / header))

    def compile_split(self, units: Sequence[Unit], folder: Path) -> dict[Unit, Path]:
        """Compile the units of the source tree as it is now into ``folder``, one section a symbol.

        Raises ``BuildError`` with the compiler's words.
        """
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(unit: Unit) -> tuple[Unit, Path]:
            out = folder / f"{unit.flat_name}.o"
            self._run_recorded(unit, out, self.split_flags(unit))
            return unit, out

        return dict(self.in_parallel(compile_one, units))

    @property
    def split_folder(self) -> Path:
        """Where the split objects of the untouched tree are kept, for these compiler arguments."""
        headers = [(kmodsrc() / header).read_bytes() for header in INCLUDED]
        made_by = b"".join([" ".join(SPLIT).encode(), *headers])
        return self.output / f"ksplice-split-{hashlib.sha256(made_by).hexdigest()[:8]}"

    def compile_split_cached(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Like ``compile_split`` for the untouched source tree; the objects stay in the cache."""
        folder = self.split_folder
        known = {u: folder / f"{u.flat_name}.o" for u in units}
        self.compile_split([u for u, path in known.items() if not self._is_current(path)], folder)
        return known

    def in_parallel(
        self, function: Callable[[Unit], Result], units: Sequence[Unit]
    ) -> Iterator[Result]:
        """Yield ``function(unit)`` of each unit, some at a time, in order."""
        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            try:
                yield from pool.map(function, units)
            finally:
                pool.shutdown(cancel_futures=True)

    def fingerprint(self, unit: Unit, kept: Path | None = None) -> str:
        """Return a digest of the assembly that the compiler makes of a unit, one section a symbol.

        Debug information is left out and counted local names are numbered anew, so equal digests
        mean equal code.  ``kept``: a folder in which the digest stays while it is valid.
        """
        if kept is not None and self._is_current(kept / unit.flat_name):
            return (kept / unit.flat_name).read_text()
        with tempfile.TemporaryDirectory(prefix="ksplice-asm-") as folder:
            out = Path(folder) / "unit"
            words = self._compile_words(unit, out)
            mode = (
                ["-E", "-P"]
                if unit.source.endswith(".S")
                else ["-S", "-g0", *self.split_flags(unit)]
            )
            at = words.index("-c")
            self._run(unit, [*words[:at], *mode, *words[at + 1 :]])
            digest = hashlib.sha256(number_names(out.read_bytes())).hexdigest()
            if kept is not None:
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copy(f"{out}.d", kept / f"{unit.flat_name}.d")
                (kept / unit.flat_name).write_text(digest)
        return digest

    def module_of(self, unit: Unit) -> str | None:
        """Return the module that a unit belongs to, as /sys/module has it; None: built in."""
        words = shlex.split(self._recorded(unit)[1])
        if "-DMODULE" not in words:
            return None
        prefix = "-DKBUILD_MODNAME="
        name = next(w for w in words if w.startswith(prefix))
        return name.removeprefix(prefix).strip('"')

    def _record(self, unit: Unit) -> Path:
        path = Path(unit.object)
        return self.output / path.parent / f".{path.name}.cmd"

    def _recorded(self, unit: Unit) -> tuple[str, str]:
        """Return the object's name in a unit's compile command, and the command."""
        record = self._record(unit)
        if record.exists():
            m = _RECORDED.search(record.read_text())
            if m is None or m[1] != unit.object:
                raise BuildError(f"{record}: no compile command of {unit.object} in it")
            return m[1], m[2]
        enabled = self.listing[unit.source]
        return enabled.object, enabled.command

    def _is_fresh(self, unit: Unit) -> bool:
        """Tell whether the plain object is there and newer than all that it was made from."""
        made, record = self.output / unit.object, self._record(unit)
        if not record.exists():
            return self._is_current(made)
        source = self.source.root / unit.source
        return self._is_newer(made, [str(source), *self.dependencies(unit)])

    def _is_current(self, made: Path) -> bool:
        """Tell whether a file of ours is newer than all that gcc listed in ``FILE.d``."""
        listed = Path(f"{made}.d")
        return listed.exists() and self._is_newer(made, _listed_files(listed))

    def dependencies(self, unit: Unit) -> list[str]:
        """Return the files that the plain object was made from; none when there is none."""
        record, listed = self._record(unit), self.output / f"{unit.object}.d"
        if record.exists():
            return [m[1] for m in _DEPENDENCY.finditer(record.read_text()) if m[1]]
        return _listed_files(listed) if listed.exists() else []

    def _is_newer(self, made: Path, used: Iterable[str]) -> bool:
        """Tell whether ``made`` is there and not older than any of the files, which are there."""
        try:
            made_at = made.stat().st_mtime
            # joined with an absolute path, that path
            return all((self.output / path).stat().st_mtime <= made_at for path in used)
        except FileNotFoundError:
            return False

    def _compile_words(self, unit: Unit, out: Path) -> list[str]:
        """Return the compiler's part of a unit's command, with another output."""
        name, command = self._recorded(unit)
        for part in command.split(";"):
            words = _with_output(shlex.split(part), name, out)
            if "-c" in words:
                return words
        raise BuildError(f"{unit.source}: no compiler in its command: {command}")

    def _run_recorded(self, unit: Unit, out: Path, flags: Sequence[str]) -> None:
        """Run the unit's recorded commands (compiler, objtool) with another output."""
        name, command = self._recorded(unit)
        for part in command.split(";"):
            words = _with_output(shlex.split(part), name, out)
            if not words:
                continue
            if "-c" in words:
                words[-1:-1] = flags
            elif flags and self.late_objtool:
                continue  # it runs on the linked new code
            try:
                self._run(unit, words)
            except BuildError:
                out.unlink(missing_ok=True)
                raise

    def _run(self, unit: Unit, words: Sequence[str]) -> None:
        status, printed, err = run_any(words, cwd=self.output)
        if status:
            raise BuildError(compiler_words(unit.source, printed + err))

    # --- what the kernel's own headers say --------------------------------------------------------

    def entry_sizes(self, unit: Unit) -> EntrySizes:
        """Return the entry sizes of the special sections, read from the kernel's headers.

        A probe is compiled with the recorded command of ``unit``; each size is the size of an
        array in its object.
        """
        probe, source = self.output / "ksplice-sizes.o", self.output / "ksplice-sizes.c"
        text = probe_source()
        if not probe.exists() or source.read_text() != text:
            source.write_text(text)
            words = [w for w in self._compile_words(unit, probe) if "-MMD" not in w]
            status, out, err = run_any([*words[:-1], str(source)], cwd=self.output)
            if status:
                probe.unlink(missing_ok=True)
                raise BuildError(compiler_words("sizes of the special sections", out + err))
        return read_probe(read_object(probe.read_bytes(), str(probe)))


def _listed_files(path: Path) -> list[str]:
    """Return the files in a list that gcc -MMD made."""
    return path.read_text().partition(":")[2].replace("\\\n", " ").split()


def _with_output(words: Sequence[str], name: str, out: Path) -> list[str]:
    """Return a command's words with another output than ``name``, and dependencies beside it."""
    return [
        str(out) if w == name
        else f"-Wp,-MMD,{out}.d" if w.startswith("-Wp,-MMD,")
        else w
        for w in words
    ]  # fmt: skip


def _objtool_part(command: str) -> list[str]:
    """Return the words of the objtool call in a unit's command, none when it has none."""
    for part in command.split(";"):
        words = shlex.split(part)
        if words and words[0].endswith("/objtool"):
            return words
    return []
