# SPDX-License-Identifier: GPL-2.0-only
"""The units that a configuration enables, and the targets that they are part of.

Read from what ``make -n`` would run in a prepared tree.  Pure: text in, data out.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import normpath
from typing import Final

from ksplicd.model import VMLINUX

LISTING_FLAG: Final = "-DKSPLICE_LISTING"
"""A flag that no recorded command has: with it make takes every object for outdated."""

_COMMAND: Final = re.compile(r"echo '  (\S*gcc\S* -Wp,-MMD,.*?)';\s")
_OUTPUT: Final = re.compile(r" -c -o (\S+) (\S+)\s*(?:;|$)")
_MODULE_NAME: Final = re.compile(r"-DKBUILD_MODNAME='\"?\"([^\"']+)\"")
_CODE_MODEL: Final = re.compile(r"-mcmodel=(\w+)")
_OTHER_ASSEMBLY: Final = re.compile(r"/(boot|purgatory|realmode|vdso)/")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EnabledUnit:
    """A source file that the configuration compiles into the running kernel or a module."""

    source: str
    """In the source tree or, for generated files, in the output tree."""
    object: str
    module: str
    """As /sys/module has it, such as ``romfs``; empty when built in.

    Of an object that is linked into several, kbuild has the names joined by colons
    (``modname-multi`` of scripts/Makefile.lib): ``liquidio:liquidio_vf``."""
    command: str
    """What compiles it, in the output tree: programs parted by ``;``."""

    @property
    def unit(self) -> Unit:
        """The unit."""
        return Unit(self.source)

    @property
    def targets(self) -> tuple[str, ...]:
        """What it is part of: ``vmlinux``, or modules by their names."""
        return modules_of(self.module) or (VMLINUX,)


def modules_of(name: str) -> tuple[str, ...]:
    """Return the modules in a name of kbuild's, none for an empty one."""
    return tuple(x for x in name.split(":") if x)


def parse_dry_run(output: str, source_root: Path) -> list[EnabledUnit]:
    """Return the enabled units from what ``make -n V=1`` printed; assembly too."""
    prefix = f"{source_root}/"
    found = {}
    for line in output.splitlines():
        m = _COMMAND.search(line) if " -c -o " in line else None
        if m is None:
            continue
        command = m[1].replace("'\\''", "'").replace(f" {LISTING_FLAG}", "")
        output_file = _OUTPUT.search(command)
        if output_file is None:
            continue
        source = normpath(output_file[2].removeprefix(prefix))
        if not _is_kernel_code(source, command):
            continue
        name = _MODULE_NAME.search(command) if "-DMODULE " in command else None
        found[source] = EnabledUnit(
            source=source,
            object=output_file[1],
            module=name[1] if name else "",
            command=command.strip(),
        )
    return list(found.values())


def _is_kernel_code(source: str, command: str) -> bool:
    """Leave out programs of the build, the vDSO, purgatory, real mode and the EFI stub.

    The code model of the running kernel is ``kernel`` (arch/x86/Makefile); the last flag counts.
    """
    if source.endswith(".S"):
        return "-D__ASSEMBLY__" in command and not _OTHER_ASSEMBLY.search(source)
    return _CODE_MODEL.findall(command)[-1:] == ["kernel"]


def write_listing(units: Iterable[EnabledUnit]) -> str:
    """Return the form in which a listing is kept."""
    return "".join("\t".join((u.source, u.object, u.module, u.command)) + "\n" for u in units)


def read_listing(text: str) -> dict[str, EnabledUnit]:
    """Return the kept units by source."""
    return {u.source: u for u in _read_lines(text)}


def _read_lines(text: str) -> Iterator[EnabledUnit]:
    for line in text.splitlines():
        source, obj, module, command = line.split("\t")
        yield EnabledUnit(source=source, object=obj, module=module, command=command)


# --- targets ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TargetFilter:
    """``--only-targets``: patterns in which ``%`` stands for any text, as in make."""

    patterns: tuple[str, ...] = ()

    @classmethod
    def parse(cls, lists: Sequence[str]) -> "TargetFilter":
        """Return the filter for lists of patterns, parted by commas or blanks; none: any target."""
        return cls(tuple(p for text in lists for p in re.split(r"[,\s]+", text) if p))

    def takes(self, target: str) -> bool:
        """Tell whether a target is meant; in a module's name ``-`` and ``_`` are the same."""
        return not self.patterns or any(
            re.fullmatch(".*".join(map(re.escape, p.replace("-", "_").split("%"))), target)
            for p in self.patterns
        )


ANY_TARGET: Final = TargetFilter()
