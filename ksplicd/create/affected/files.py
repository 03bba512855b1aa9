# SPDX-License-Identifier: GPL-2.0-only
"""What each file that a change touches is to an update, by its name and its contents.

A file is a unit, part of other units (a header), no part of the running kernel, or something that
an update cannot change.  A unit that others include is part of them, too, and so is one that is
compiled into other code as well.  Nothing is compiled.

Proof obligation: a file that is ignored is neither compiled nor included by what runs in the
kernel, and no file that the kernel is built of is generated from it, or that one stays the same.
"""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

from ksplicd.create.affected.c_text import split
from ksplicd.create.build.foreign import Role
from ksplicd.create.debug import phase
from ksplicd.create.messages import names_of
from ksplicd.create.patch.change import ChangedFile
from ksplicd.errors import UnsupportedChangeError

_NO_KERNEL: Final = frozenset(
    ("Documentation", "LICENSES", "debian", "samples", "scripts", "tools", "usr")
)
_TEXTS: Final = (".rst", ".txt", ".md", ".yaml", ".json", ".dts", ".dtsi", ".cocci")
_TEXT_NAMES: Final = frozenset(("COPYING", "CREDITS", "MAINTAINERS", "README", "TODO"))
_BEFORE_KERNEL: Final = (
    "arch/x86/boot/", "drivers/firmware/efi/libstub/",
)  # fmt: skip
_HOW_UNITS_ARE_BUILT: Final = re.compile(
    r"scripts/(?:Kbuild\.include|Makefile\.(?!clean|dtbinst|headersinst|host|modinst|package|userprogs)"
    r"[\w-]+)"
)
_CONFIGURATIONS: Final = ("arch/x86/configs/", "kernel/configs/")
_IMAGES: Final = (
    ("arch/x86/realmode/rm/", Role.REAL_MODE), ("arch/x86/purgatory/", Role.PURGATORY),
)  # fmt: skip
_VDSO: Final = ("arch/x86/entry/vdso/", "lib/vdso/")
_OF_KERNEL: Final = frozenset(("vma.c", "extable.c", "vdso32-setup.c"))
"""Files of arch/x86/entry/vdso that are code of the kernel."""

_VERSION_LINE: Final = re.compile(rb"(?:VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION|NAME) =.*")

LOG: Final = phase("affected")

UNIT_SUFFIX: Final = ".c"


class Kind(StrEnum):
    """What a file is to an update."""

    UNIT = "unit"
    """A C file that the kernel's build compiles."""
    PART = "part"
    """A header, or other text that units include."""
    IGNORED = "ignored"
    """No part of the running kernel, or without effect."""
    DISABLED = "disabled"
    """A C file that the configuration leaves out."""
    REFUSED = "refused"
    """What an update cannot change."""


_MEANING: Final = {
    Kind.UNIT: "in: this kernel compiles it",
    Kind.PART: "units include it: they are looked for",
    Kind.IGNORED: "out: ",
    Kind.DISABLED: "out: ",
    Kind.REFUSED: "refused: ",
}
"""What ``--debug=affected`` prints for a kind."""


_LEFT_OUT: Final = {
    Kind.IGNORED: "ignored", Kind.DISABLED: "skipped", Kind.REFUSED: "refused"
}  # fmt: skip
"""How the note of a file begins that leads to no unit; the ledger reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesByKind:
    """The files of a change, by what they are."""

    units: tuple[ChangedFile, ...]
    parts: tuple[ChangedFile, ...]
    """Headers and the like; units of which there is code elsewhere, too."""
    disabled: tuple[str, ...]
    notes: dict[str, str]
    """By file that is ignored or disabled, or refused and accepted to be left out, why."""
    left_out: tuple[Path, ...] = ()
    """Files that an update cannot change, and that are left out on their author's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFiles:
    """What is known about the files of the tree."""

    is_enabled: Callable[[str], bool]
    """Tells whether a source is a unit of this configuration."""
    is_included: Callable[[str], bool]
    """Tells whether what is compiled includes a file, before the change or after it."""
    role: Callable[[str], Role | None] = lambda _: None
    """Returns what a file is compiled for beside the units."""
    other_generated: Callable[[str], Sequence[str]] = lambda _: ()
    """Returns the generated files that a change of a file makes other ones."""


def classify_files(
    files: Sequence[ChangedFile], known: KnownFiles, accepted: Collection[str] = ()
) -> FilesByKind:
    """Say of every file what it is; ``accepted``: what may be left out on its author's word.

    Raises ``UnsupportedChangeError`` for all that cannot be handled, each with the way out.
    """
    kinds = {file.path: classify(file, known) for file in files}
    for path, (kind, why) in kinds.items():
        LOG.debug("%s: %s%s", path, _MEANING[kind], why)
    refused = {str(path): why for path, (kind, why) in kinds.items() if kind is Kind.REFUSED}
    if wrong := [f"{path}: {why}" for path, why in refused.items() if path not in accepted]:
        hint = "or leave a file out on your word with --accept FILE"
        raise UnsupportedChangeError("\n".join([*wrong, hint]))

    def of_kind(wanted: Kind) -> tuple[ChangedFile, ...]:
        return tuple(file for file in files if kinds[file.path][0] is wanted)

    left_out = {
        str(path): f"{_LEFT_OUT[kind]}: {why}"
        for path, (kind, why) in kinds.items()
        if kind in _LEFT_OUT
    }
    parts = of_kind(Kind.PART)
    both = (f for f in of_kind(Kind.UNIT) if is_elsewhere(str(f.path), known))
    return FilesByKind(
        units=of_kind(Kind.UNIT),
        parts=(*parts, *both),
        disabled=tuple(str(file.path) for file in of_kind(Kind.DISABLED)),
        notes=left_out,
        left_out=tuple(file.path for file in of_kind(Kind.REFUSED)),
    )


def is_elsewhere(path: str, known: KnownFiles) -> bool:
    """Tell whether there is code of a unit elsewhere: others include it, or it is compiled twice.

    The kernel's and purgatory's ``sha256_update`` are both of lib/crypto/sha256.c.
    """
    return known.role(path) is not None or known.is_included(path)


def classify(file: ChangedFile, known: KnownFiles) -> tuple[Kind, str]:
    """Return what a file of a change is, and why it is left out or refused."""
    path = str(file.path)
    if made := known.other_generated(path):
        return Kind.REFUSED, (
            f"{names_of(made)}: generated from it when the kernel is built, and would be other"
            " files; an update does not make them anew, so leave that part out of the patch"
        )
    if file.path.suffix == UNIT_SUFFIX and known.is_enabled(path):
        return classify_source(file, known)  # kernel/bpf compiles tools/lib/bpf/relo_core.c
    if (role := known.role(path) or _role_by_folder(path)) is not None:
        return classify_foreign(file, role)
    if file.path.suffix != ".S" and not is_recipe(file.path) and known.is_included(path):
        return Kind.PART, ""  # whatever its folder: tools/lib/bpf/relo_core.h
    if note := why_ignored(file.path):
        return Kind.IGNORED, note
    if is_recipe(file.path) and has_same_meaning(file):
        return Kind.IGNORED, "the change has no effect on what is built"
    if refusal := why_refused(file):
        return Kind.REFUSED, refusal
    if is_header(file.path):
        return Kind.PART, ""
    if file.path.suffix != UNIT_SUFFIX:
        return Kind.REFUSED, (
            "it is not known what the kernel's build makes of it; leave it out of the patch, and"
            " change the C code that uses it"
        )
    return classify_source(file, known)


def classify_source(file: ChangedFile, known: KnownFiles) -> tuple[Kind, str]:
    """Return what a C file of the kernel is, and why it is left out or refused."""
    if file.before is not None and known.is_enabled(str(file.path)):
        if file.after is not None:
            return Kind.UNIT, ""
        return Kind.REFUSED, (
            "the patch removes the file; a running kernel keeps its code, so leave the file in"
            " place and change its callers"
        )
    if known.is_included(str(file.path)):
        return Kind.PART, ""
    if file.before is None:
        return Kind.REFUSED, (
            "a new source file, which no unit of the kernel includes; put its functions into a"
            " file that the kernel has"
        )
    return Kind.DISABLED, "this kernel is configured without the file"


def classify_foreign(file: ChangedFile, role: Role) -> tuple[Kind, str]:
    """Return what a file is that is compiled, but not into code that an update can redirect."""
    before, after = ((text or b"").decode(errors="replace") for text in (file.before, file.after))
    if file.path.suffix in (".c", ".h") and [p.key for p in split(before)] == [
        p.key for p in split(after)
    ]:
        return Kind.IGNORED, f"{role}; the change has no effect on it"
    return Kind.REFUSED, f"{role}; leave it out of the patch"


def _role_by_folder(path: str) -> Role | None:
    """Return what a file of a folder is for that has such code only; headers are looked up."""
    is_code = path.endswith((".c", ".S"))
    return next((role for folder, role in _IMAGES if path.startswith(folder) and is_code), None)


def is_header(path: PurePosixPath | Path) -> bool:
    """Tell whether a file is there to be included, by its name."""
    return path.suffix == ".h" and not path.name.endswith(".lds.h")


def why_ignored(path: PurePosixPath | Path) -> str | None:
    """Return why a file has no part in the running kernel, None when it may have."""
    name, top = str(path), path.parts[0]
    if _HOW_UNITS_ARE_BUILT.fullmatch(name):
        return None
    if top in _NO_KERNEL or path.suffix in _TEXTS or path.name in _TEXT_NAMES:
        return "not part of the running kernel"
    if path.name.startswith("."):
        return "not part of the running kernel"
    if top == "arch" and len(path.parts) > 2 and path.parts[1] != "x86":
        return f"of another architecture, {path.parts[1]}"
    if name.startswith("arch/x86/um/"):
        return "of another architecture, um"
    if name.startswith(_BEFORE_KERNEL):
        return "it runs before the kernel does"
    if name.startswith(_CONFIGURATIONS):
        return "a configuration; the running kernel keeps its own"
    return None


def why_refused(file: ChangedFile) -> str | None:
    """Return why a file cannot be changed in a running kernel, and the way out."""
    path, name = file.path, str(file.path)
    if name.startswith(_VDSO) and path.name not in _OF_KERNEL and path.suffix != ".h":
        return f"{Role.VDSO}; leave it out of the patch"
    if path.suffix == ".S":
        return "assembly, which is not compared and cannot be redirected; change its callers in C"
    if path.name.startswith("Kconfig"):
        return (
            "the running kernel's configuration stays as it is; leave the file out of the patch,"
            " and make the C code independent of the option"
        )
    if is_recipe(path):
        return (
            "it changes how units are built or which there are; leave it out of the patch, and put"
            " new functions into a file that the kernel has"
        )
    return None


def is_recipe(path: PurePosixPath | Path) -> bool:
    """Tell whether a file decides how the kernel is built: Kconfig, Makefile, Kbuild."""
    names = ("Makefile", "Kbuild", "Kbuild.include")
    return path.name.startswith(("Kconfig", "Makefile.")) or path.name in names


def has_same_meaning(file: ChangedFile) -> bool:
    """Tell whether a Kconfig file or Makefile differs in what has no effect only."""
    meaning = kconfig_meaning if file.path.name.startswith("Kconfig") else makefile_meaning
    return meaning(file.before) == meaning(file.after)


def kconfig_meaning(text: bytes | None) -> list[bytes]:
    """Return the lines of a Kconfig file that have an effect: no help, no comments."""
    lines: list[bytes] = []
    help_indent: int | None = None
    for line in (text or b"").expandtabs().splitlines():
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if not stripped or (help_indent is not None and indent > help_indent):
            continue
        help_indent = indent if stripped in (b"help", b"---help---") else None
        if help_indent is None and not stripped.startswith(b"#"):
            lines.append(stripped)
    return lines


def makefile_meaning(text: bytes | None) -> list[bytes]:
    """Return the lines of a Makefile that have an effect: no comments, no version."""
    lines = (re.sub(rb"(^|\s)#.*", b"", line).rstrip() for line in (text or b"").splitlines())
    return [line for line in lines if line and not _VERSION_LINE.fullmatch(line)]
