# SPDX-License-Identifier: GPL-2.0-only
"""The command that makes a unit, as the kernel's build recorded it, and what the unit is made from.

kbuild records a command when it compiles (``.NAME.o.cmd``); of a unit that it has not compiled here
the listing has the command that it would run.  Nothing is run here.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import Unit, modules_of
from ksplicd.errors import BuildError

_RECORDED: Final = re.compile(r"^(?:saved)?cmd_(\S+) := (.*)$", re.MULTILINE)
_DEPENDENCY: Final = re.compile(r"^  (?:\$\(wildcard [^)]*\)|(\S+)) ?\\?$", re.MULTILINE)


class RecordedCommands:
    """The recorded commands of one tree's units."""

    def __init__(self, tree: BuildTree) -> None:
        self.tree = tree

    def programs(self, unit: Unit, out: Path) -> list[list[str]]:
        """Return the words of each program that makes a unit (compiler, objtool), into ``out``."""
        name, command = self._command(unit)
        found = (_with_output(shlex.split(part), name, out) for part in command.split(";"))
        return [words for words in found if words]

    def compiler(self, unit: Unit, out: Path) -> list[str]:
        """Return the compiler's words of a unit's command, with another output."""
        for words in self.programs(unit, out):
            if "-c" in words:
                return words
        raise BuildError(f"{unit.source}: no compiler in its command: {self._command(unit)[1]}")

    def has_objtool(self, unit: Unit) -> bool:
        """Tell whether objtool runs on the unit's own object."""
        return bool(_objtool_part(self._command(unit)[1]))

    @cached_property
    def late_objtool(self) -> tuple[str, ...]:
        """The objtool command of a kernel whose build runs it on linked objects only, else nothing.

        With IBT or LTO (``delay-objtool`` of scripts/Makefile.lib) no unit has its tables of patch
        sites; the command, without the object, is found at modules of a single file.  Raises
        ``BuildError`` when there is none.
        """
        configuration = self.tree.config.text
        if not re.search(r"^CONFIG_(?:X86_KERNEL_IBT|LTO_CLANG)=y$", configuration, re.MULTILINE):
            return ()
        for unit in self.tree.listing.values():
            if words := _objtool_part(unit.command):
                return tuple(words[:-1])
        raise BuildError(
            f"{self.tree.config.path}/.config: with X86_KERNEL_IBT or LTO_CLANG objtool's arguments"
            " are read from the command of a module of a single file, and this configuration has no"
            " such module; build the kernel with one, such as CONFIG_DUMMY=m"
        )

    def modules_of(self, unit: Unit) -> tuple[str, ...]:
        """Return the modules that have a unit, as /sys/module has them; none: built in."""
        words = shlex.split(self._command(unit)[1])
        if "-DMODULE" not in words:
            return ()
        prefix = "-DKBUILD_MODNAME="
        name = next(w for w in words if w.startswith(prefix))
        return modules_of(name.removeprefix(prefix).strip('"'))

    def dependencies(self, unit: Unit) -> list[str]:
        """Return the files that the plain object was made from; none when there is none."""
        record, listed = self._record(unit), self.tree.output / f"{unit.object}.d"
        if record.exists():
            return [m[1] for m in _DEPENDENCY.finditer(record.read_text()) if m[1]]
        return _listed_files(listed) if listed.exists() else []

    def forget(self, unit: Unit) -> None:
        """Remove what make recorded of a unit: the object is now one that make knows nothing of."""
        self._record(unit).unlink(missing_ok=True)

    def is_fresh(self, unit: Unit) -> bool:
        """Tell whether the plain object is there and newer than all that it was made from."""
        made = self.tree.output / unit.object
        if not self._record(unit).exists():
            return self.is_current(made)
        source = self.tree.source.root / unit.source
        return self.is_newer(made, [str(source), *self.dependencies(unit)])

    def is_current(self, made: Path) -> bool:
        """Tell whether a file of ours is newer than all that gcc listed in ``FILE.d``."""
        listed = Path(f"{made}.d")
        return listed.exists() and self.is_newer(made, _listed_files(listed))

    def is_newer(self, made: Path, used: Iterable[str]) -> bool:
        """Tell whether ``made`` is there and not older than any of the files, which are there."""
        try:
            made_at = made.stat().st_mtime
            # joined with an absolute path, that path
            return all((self.tree.output / path).stat().st_mtime <= made_at for path in used)
        except FileNotFoundError:
            return False

    def _record(self, unit: Unit) -> Path:
        path = Path(unit.object)
        return self.tree.output / path.parent / f".{path.name}.cmd"

    def _command(self, unit: Unit) -> tuple[str, str]:
        """Return the object's name in a unit's command, and the programs parted by ``;``."""
        record = self._record(unit)
        if record.exists():
            m = _RECORDED.search(record.read_text())
            if m is None or m[1] != unit.object:
                raise BuildError(f"{record}: no compile command of {unit.object} in it")
            return m[1], m[2]
        enabled = self.tree.listing[unit.source]
        return enabled.object, enabled.command


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
