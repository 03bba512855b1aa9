# SPDX-License-Identifier: GPL-2.0-only
"""The compiler as the kernel's own build calls it, for single units.

One prepared output tree (``make O=``) per source tree, configuration and compiler is kept in the
cache.  kbuild compiles a unit there once and records the command; every other variant of that unit
runs the recorded command with another output and further flags.  Nothing else of the kernel is
built.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.create.config import ConfigDir
from ksplicd.create.entry_sizes import probe_source, read_probe
from ksplicd.create.source import SourceTree
from ksplicd.create.special import EntrySizes
from ksplicd.elf import read_object
from ksplicd.errors import BuildError, ConfigDirError, ToolError
from ksplicd.run import run, run_any

Progress = Callable[[str], None]

SPLIT: Final = ("-ffunction-sections", "-fdata-sections")
"""One section a function and one a datum: what the diff compares and the new code is cut from."""

_RECORDED: Final = re.compile(r"^(?:saved)?cmd_(\S+) := (.*)$", re.MULTILINE)
_DEPENDENCY: Final = re.compile(r"^  (?:\$\(wildcard [^)]*\)|(\S+)) ?\\?$", re.MULTILINE)
_READY: Final = "ksplice-ready"


@dataclass(frozen=True, slots=True)
class Unit:
    """One compiled source file, such as ``fs/fcntl.c``."""

    source: str

    @property
    def object(self) -> str:
        """The object's path in the output tree."""
        return self.source.removesuffix(".c") + ".o"

    @property
    def flat_name(self) -> str:
        """A file name for the unit: ``fs-fcntl``."""
        return self.source.removesuffix(".c").replace("/", "-")


class Kbuild:
    """Compiles units of one source tree for one configuration."""

    def __init__(
        self,
        source: SourceTree,
        config: ConfigDir,
        cache: Path,
        *,
        jobs: int = 1,
        progress: Progress = lambda _: None,
    ) -> None:
        self.source, self.config, self.jobs, self.progress = source, config, jobs, progress
        self.output = cache / "kbuild" / self._key()

    def _key(self) -> str:
        """Digest of what the prepared tree is made from."""
        root = self.source.root
        made_from = [
            str(root),
            str((root / "Makefile").stat().st_ino),
            (root / "Makefile").read_text(),
            self.config.text,
            self.config.release,
            *self.config.flags,
            self.compiler(),
        ]
        return hashlib.sha256("\0".join(made_from).encode()).hexdigest()[:16]

    def compiler(self) -> str:
        """Return the first line of the compiler's version.  Raises ``ConfigDirError``."""
        try:
            out = run([self.config.compiler, "--version"])
        except ToolError as e:
            raise ConfigDirError(
                f"{self.config.compiler} is needed, because the kernel was built with it"
                f" ({self.config.compiler_text}); install the package {self.config.compiler}"
            ) from e
        line = out.decode(errors="replace").splitlines()[0]
        if line != self.config.compiler_text:
            raise ConfigDirError(
                f"{self.config.compiler} is “{line}”, but the kernel was built with"
                f" “{self.config.compiler_text}”; install that version"
            )
        return line

    def _make(self, *targets: str) -> None:
        argv = [
            "make", "-C", self.source.root, f"-j{self.jobs}", f"O={self.output}", "ARCH=x86",
            f"CC={self.config.compiler}", f"KERNELRELEASE={self.config.release}",
            "LOCALVERSION=", "KBUILD_VERBOSE=0", *self.config.flags, *targets,
        ]  # fmt: skip
        status, out, err = run_any(list(map(str, argv)))
        if status:
            raise BuildError(compiler_words(" ".join(targets), out + err))

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Have the prepared output tree to ourselves while the context lasts.

        Raises ``ConfigDirError`` when the source tree cannot take the configuration as it is,
        ``BuildError`` when it cannot be prepared.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.output, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not (self.output / _READY).exists():
                self._prepare()
            yield
        finally:
            os.close(fd)

    def _prepare(self) -> None:
        self.progress("preparing the kernel's build tree")
        if (self.source.root / ".config").exists():
            raise ConfigDirError(
                f"{self.source.root}: was configured or built in place; run `make mrproper` there,"
                " or unpack the source anew"
            )
        for old in self.output.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        wanted = self.output / ".config"
        wanted.write_text(self.config.text)
        self._make("olddefconfig")
        self._check_config(wanted.read_text())
        self._make("prepare")
        (self.output / _READY).touch()

    def _check_config(self, made: str) -> None:
        """Refuse any difference: a lost option changes code (dwarves missing drops BTF)."""
        before, after = _options(self.config.text), _options(made)
        lost = sorted(before.items() - after.items())
        added = sorted(after.items() - before.items())
        if lost or added:
            lines = [f"  -{k}={v}" for k, v in lost[:8]] + [f"  +{k}={v}" for k, v in added[:8]]
            hint = ""
            if any("BTF" in name or "PAHOLE" in name for name, _ in lost):
                hint = "; install the package dwarves"
            raise ConfigDirError(
                f"{self.config.path}/.config does not fit {self.source.root}: this tree and this"
                f" compiler make another configuration of it{hint}\n" + "\n".join(lines)
            )

    # --- units ----------------------------------------------------------------------------------

    def compile_plain(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Return the units' objects exactly as the kernel build makes them."""
        stale = [u for u in units if not self._is_fresh(u)]
        if stale:
            self.progress(f"compiling {', '.join(u.source for u in stale)}")
            self._make(*(u.object for u in stale))
        return {u: self.output / u.object for u in units}

    def compile_split(self, units: Sequence[Unit], folder: Path) -> dict[Unit, Path]:
        """Compile the units of the source tree as it is now into ``folder``, one section a symbol.

        Each must have been compiled plain before.  Raises ``BuildError`` with the compiler's words.
        """
        folder.mkdir(parents=True, exist_ok=True)

        def compile_one(unit: Unit) -> tuple[Unit, Path]:
            out = folder / f"{unit.flat_name}.o"
            self._run_recorded(unit, out, SPLIT)
            return unit, out

        with ThreadPoolExecutor(max_workers=self.jobs) as pool:
            return dict(pool.map(compile_one, units))

    def compile_split_cached(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        """Like ``compile_split`` for the untouched source tree; the objects stay in the cache."""
        folder = self.output / "ksplice-split"
        known = {u: folder / f"{u.flat_name}.o" for u in units}
        fresh = {
            u for u, path in known.items()
            if path.exists() and path.stat().st_mtime > (self.output / u.object).stat().st_mtime
        }  # fmt: skip
        self.compile_split([u for u in units if u not in fresh], folder)
        return known

    def module_of(self, unit: Unit) -> str | None:
        """Return the module that a compiled unit belongs to, as /sys/module has it.

        None when the unit is built in.
        """
        words = shlex.split(self._recorded(unit))
        if "-DMODULE" not in words:
            return None
        prefix = "-DKBUILD_MODNAME="
        name = next(w for w in words if w.startswith(prefix))
        return name.removeprefix(prefix).strip('"')

    def _record(self, unit: Unit) -> Path:
        path = Path(unit.object)
        return self.output / path.parent / f".{path.name}.cmd"

    def _recorded(self, unit: Unit) -> str:
        m = _RECORDED.search(self._record(unit).read_text())
        if m is None or m[1] != unit.object:
            raise BuildError(f"{self._record(unit)}: no compile command of {unit.object} in it")
        return m[2]

    def _is_fresh(self, unit: Unit) -> bool:
        """Tell whether kbuild's object is there and newer than all that it was made from."""
        made, record = self.output / unit.object, self._record(unit)
        if not made.exists() or not record.exists():
            return False
        made_at = made.stat().st_mtime
        for m in _DEPENDENCY.finditer(record.read_text()):
            if m[1]:
                path = self.output / m[1]  # joined with an absolute path, that path
                if not path.exists() or path.stat().st_mtime > made_at:
                    return False
        source = self.source.root / unit.source
        return source.exists() and source.stat().st_mtime <= made_at

    def _run_recorded(self, unit: Unit, out: Path, flags: Sequence[str]) -> None:
        """Run the unit's recorded commands (compiler, objtool) with another output."""
        for command in self._recorded(unit).split(";"):
            words = shlex.split(command)
            if not words:
                continue
            words = [
                str(out) if w == unit.object
                else f"-Wp,-MMD,{out}.d" if w.startswith("-Wp,-MMD,")
                else w
                for w in words
            ]  # fmt: skip
            if "-c" in words:
                words[-1:-1] = flags
            status, printed, err = run_any(words, cwd=self.output)
            if status:
                out.unlink(missing_ok=True)
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
            compile_command = next(
                c for c in self._recorded(unit).split(";") if "-c" in shlex.split(c)
            )
            words = shlex.split(compile_command)
            words = [str(probe) if w == unit.object else w for w in words if "-MMD" not in w]
            status, out, err = run_any([*words[:-1], str(source)], cwd=self.output)
            if status:
                probe.unlink(missing_ok=True)
                raise BuildError(compiler_words("sizes of the special sections", out + err))
        return read_probe(read_object(probe.read_bytes(), str(probe)))


def _options(config: str) -> dict[str, str]:
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, re.MULTILINE))


def compiler_words(what: str, output: bytes) -> str:
    """Return a message with the lines of a failed compilation that tell something."""
    lines = output.decode(errors="replace").splitlines()
    telling = [x for x in lines if "error" in x.lower() or "***" in x or "No rule" in x]
    return f"{what}: does not compile:\n" + "\n".join(f"  {x}" for x in (telling or lines)[-12:])
