# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's build makes beside the units: code of the vDSO, of real mode, generated files.

An update changes none of it, so a change that reaches it is only half of a fix.  Read from what
``make -n`` would run and from the commands that kbuild has recorded.
"""

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from posixpath import normpath
from typing import Final

from ksplicd.create.build.units import EnabledUnit

_PRINTED: Final = re.compile(r"echo '  (.*?)';\s+(?:trap|\w)")
_TARGET: Final = re.compile(r"trap 'rm -f (\S+); trap - HUP")
_RECORDED: Final = re.compile(r"^(?:saved)?cmd_(\S+) := (.*)$", re.MULTILINE)
_DEPENDENCY: Final = re.compile(r"^  (?:\$\(wildcard [^)]*\)|(\S+)) ?\\?$", re.MULTILINE)
_MADE: Final = re.compile(r" -o (\S+\.(?:o|s|lds)) (\S+)\s*$")
_GENERATED: Final = (".c", ".h", ".S", ".inc")
_PROGRAM: Final = re.compile(r"^(?:gcc|cc|g\+\+)\b.* -o (\S+) ")


class Role(StrEnum):
    """What code beside the units is for; the value stands in messages."""

    VDSO = "code of the vDSO, which processes have mapped and run by themselves"
    REAL_MODE = "code for real mode, of which the running kernel keeps an image"
    PURGATORY = "code that kexec takes from an image within the kernel"
    OFFSETS = "constants for assembly and headers, which are generated and not made anew"
    LINKER = "a linker script, by which the running kernel is linked already"


_ROLES: Final = (
    ("/vdso/", Role.VDSO), ("/realmode/", Role.REAL_MODE), ("/purgatory/", Role.PURGATORY),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignUnit:
    """A source file that is compiled, but not into code that an update can redirect."""

    source: str
    object: str
    role: Role
    command: str

    def as_unit(self) -> EnabledUnit:
        """Return it in the form in which the include graph takes units."""
        return EnabledUnit(source=self.source, object=self.object, module="", command=self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one file is generated."""

    target: str
    command: str
    """For the shell, in the output tree."""
    inputs: frozenset[str]
    """Files of the source tree, also those that the programs are made of."""
    programs: tuple[tuple[str, str], ...] = ()
    """Programs of the build that the command runs, and what compiles each."""


def parse_foreign(output: str, source_root: Path, compiler: str) -> Iterator[ForeignUnit]:
    """Yield what is compiled beside the units, from what ``make -n V=1`` printed."""
    for line in output.splitlines():
        m = _PRINTED.search(line)
        command = m[1].replace("'\\''", "'") if m else ""
        made = _MADE.search(command)
        if made is None or not command.startswith(f"{compiler} "):
            continue
        source = normpath(made[2].removeprefix(f"{source_root}/"))
        role = _role(made[1], command)
        if role is not None and not source.startswith(("/", "scripts/")):
            yield ForeignUnit(source=source, object=made[1], role=role, command=command)


def _role(made: str, command: str) -> Role | None:
    if made.endswith(".s"):
        return None if made.startswith("scripts/") else Role.OFFSETS
    if made.endswith(".lds"):
        return None if made.startswith("scripts/") else Role.LINKER
    model = re.findall(r"-mcmodel=(\w+)", command)[-1:]
    is_kernels = model == ["kernel"] or ("-D__ASSEMBLY__" in command and "-m32" not in command)
    for folder, role in _ROLES:
        if folder in f"/{made}" and (model != ["kernel"] or not is_kernels):
            return role
    return None


def parse_recipes(output: str, recorded: Iterable[str], source_root: Path) -> list[Recipe]:
    """Return how files are generated; ``recorded``: the texts of kbuild's ``.NAME.cmd``."""
    commands: dict[str, tuple[str, set[str]]] = {}
    for line in output.splitlines():
        made, m = _TARGET.search(line), _PRINTED.search(line)
        if made is not None and m is not None:
            commands[made[1]] = (m[1].replace("'\\''", "'"), set())
    for text in recorded:
        if (m := _RECORDED.search(text)) is not None:
            depends = {d[1] for d in _DEPENDENCY.finditer(text) if d[1]}
            commands[m[1]] = (m[2].replace("$$", "$").replace("$(pound)", "#"), depends)
    programs = {target: found for target, found in commands.items() if _PROGRAM.match(found[0])}
    prefix = f"{source_root}/"
    recipes = []
    for target, (command, depends) in commands.items():
        if not target.endswith(_GENERATED) or target.startswith(("scripts/", "tools/")):
            continue
        words = set(_words(command))
        run = [(name, *programs[name]) for name in sorted(words & programs.keys())]
        used = words | depends
        used |= {word for _, line, more in run for word in (*_words(line), *more)}
        inputs = frozenset(normpath(w.removeprefix(prefix)) for w in used if w.startswith(prefix))
        lines = tuple((name, line) for name, line, _ in run)
        recipes.append(Recipe(target=target, command=command, inputs=inputs, programs=lines))
    return recipes


def _words(command: str) -> Iterator[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        words = command.split()
    return (word.removeprefix("./") for word in words if not word.startswith("-"))


def write_foreign(units: Iterable[ForeignUnit]) -> str:
    """Return the form in which they are kept."""
    return "".join(f"{u.source}\t{u.object}\t{u.role.name}\t{u.command}\n" for u in units)


def read_foreign(text: str) -> list[ForeignUnit]:
    """Return those that were kept."""
    fields = (line.split("\t") for line in text.splitlines())
    return [ForeignUnit(source=s, object=o, role=Role[r], command=c) for s, o, r, c in fields]


def write_recipes(recipes: Iterable[Recipe]) -> str:
    """Return the form in which they are kept."""
    return json.dumps([[r.target, r.command, sorted(r.inputs), r.programs] for r in recipes])


def read_recipes(text: str) -> list[Recipe]:
    """Return those that were kept."""
    return [
        Recipe(target=target, command=command, inputs=frozenset(inputs),
               programs=tuple((name, line) for name, line in programs))
        for target, command, inputs, programs in json.loads(text)
    ]  # fmt: skip
