# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of each file that a change touches, told by its name and its contents.

A file is a unit, part of other units (a header), no part of the running kernel, or something that
an update cannot change.  Nothing is compiled here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

from ksplicd.create.affected.include_graph import includes_in
from ksplicd.create.patch.change import ChangedFile
from ksplicd.errors import UnsupportedChangeError

_NO_KERNEL: Final = frozenset(
    ("Documentation", "LICENSES", "debian", "samples", "scripts", "tools", "usr")
)
_TEXTS: Final = (".rst", ".txt", ".md", ".yaml", ".json", ".dts", ".dtsi", ".cocci")
_TEXT_NAMES: Final = frozenset(("COPYING", "CREDITS", "MAINTAINERS", "README", "TODO"))
_BEFORE_KERNEL: Final = (
    "arch/x86/boot/", "arch/x86/purgatory/", "arch/x86/realmode/rm/",
    "drivers/firmware/efi/libstub/",
)  # fmt: skip
_CONFIGURATIONS: Final = ("arch/x86/configs/", "kernel/configs/")
_VDSO: Final = ("arch/x86/entry/vdso/", "lib/vdso/")
_OF_KERNEL: Final = frozenset(("vma.c", "extable.c", "vdso32-setup.c"))
"""Files of arch/x86/entry/vdso that are code of the kernel."""

_VERSION_LINE: Final = re.compile(rb"(?:VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION|NAME) =.*")

UNIT_SUFFIX: Final = ".c"


@dataclass(slots=True, kw_only=True)
class Touched:
    """The files of a change, by what they are."""

    units: list[ChangedFile] = field(default_factory=list)
    """C files that the kernel's build compiles by themselves."""
    parts: list[ChangedFile] = field(default_factory=list)
    """Headers, and other text that units include."""
    notes: dict[str, str] = field(default_factory=dict)
    """By file, what happened to it, for those that are left alone."""
    disabled: list[str] = field(default_factory=list)
    """C files that the configuration leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What is known about the files of the tree."""

    is_enabled: Callable[[str], bool]
    """Tells whether a source is a unit of this configuration."""
    is_included: Callable[[str], bool]
    """Tells whether an enabled unit includes a file."""


def classify_files(files: Sequence[ChangedFile], tree: Tree) -> Touched:
    """Say of every file what it is.

    Raises ``UnsupportedChangeError`` for all that cannot be handled, each with the way out.
    """
    out, refused = Touched(), []
    for file in files:
        path = str(file.path)
        if path.startswith("tools/") and tree.is_enabled(path):
            out.units.append(file)  # kernel/bpf compiles tools/lib/bpf/relo_core.c
        elif note := why_ignored(file.path):
            out.notes[path] = f"ignored: {note}"
        elif is_recipe(file.path) and has_same_meaning(file):
            out.notes[path] = "ignored: the change has no effect on what is built"
        elif refusal := why_refused(file):
            refused.append(f"{path}: {refusal}")
        elif is_header(file.path):
            out.parts.append(file)
        elif file.path.suffix != UNIT_SUFFIX:
            if is_part(file, files, tree):
                out.parts.append(file)
            else:
                refused.append(
                    f"{path}: it is not known what the kernel's build makes of it; leave it out of"
                    " the patch, and change the C code that uses it"
                )
        elif file.before is not None and tree.is_enabled(path):
            if file.after is not None:
                out.units.append(file)
            else:
                refused.append(
                    f"{path}: the patch removes the file; a running kernel keeps its code, so leave"
                    " the file in place and change its callers"
                )
        elif is_part(file, files, tree):
            out.parts.append(file)
        elif file.before is None:
            refused.append(
                f"{path}: a new source file, which no unit of the kernel includes; put its"
                " functions into a file that the kernel has"
            )
        else:
            out.notes[path] = "skipped: this kernel is configured without the file"
            out.disabled.append(path)
    if refused:
        raise UnsupportedChangeError("\n".join(refused))
    return out


def is_header(path: PurePosixPath | Path) -> bool:
    """Tell whether a file is there to be included, by its name."""
    return path.suffix == ".h" and not path.name.endswith(".lds.h")


def is_part(file: ChangedFile, files: Sequence[ChangedFile], tree: Tree) -> bool:
    """Tell whether units include a file, before the change or after it."""
    if file.before is not None and tree.is_included(str(file.path)):
        return True
    return any(
        name[1:].rpartition("/")[2] == file.path.name
        for other in files
        for name in includes_in(other.after or b"")
    )


def why_ignored(path: PurePosixPath | Path) -> str | None:
    """Return why a file has no part in the running kernel, None when it may have."""
    name, top = str(path), path.parts[0]
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
        return (
            "code of the vDSO, which processes have mapped and run by themselves; leave it out of"
            " the patch"
        )
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
    """Tell whether a file says how the kernel is built: Kconfig, Makefile, Kbuild."""
    return path.name.startswith(("Kconfig", "Makefile.")) or path.name in ("Makefile", "Kbuild")


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
