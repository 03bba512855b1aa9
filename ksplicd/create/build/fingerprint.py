# SPDX-License-Identifier: GPL-2.0-only
"""Whether the compiler makes the same code of a unit: a digest of its assembly.

It takes less time than an object, and shows only whether two are equal, never what differs.

Proof obligation: equal digests mean assembly that differs in nothing but the names of local symbols
that are defined in it, each renamed to one other name; the assembler makes the same bytes of it.
"""

import hashlib
import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.foreign import ForeignUnit
from ksplicd.create.build.units import Unit

_COUNTED: Final = (
    rb"[A-Za-z_][\w$]*(?:\.(?:isra|part|constprop|cold))*\.\d+"
    rb"|__(?:UNIQUE_ID|addressable)_\w*?\d+"
)
"""``__func__.17``, ``f.isra.0``; ``__UNIQUE_ID_license412``, which __COUNTER__ has numbered."""

_LABEL: Final = re.compile(rb"(?<![\w.$])(%b):" % _COUNTED)
_STORAGE: Final = re.compile(rb"^\s*\.(?:local|lcomm)\s+(%b)\b" % _COUNTED, re.MULTILINE)
_GLOBAL: Final = re.compile(rb"^\s*\.(?:globl|global|weak)\s+(%b)\b" % _COUNTED, re.MULTILINE)
_STRING_OR_COUNTED: Final = re.compile(rb'"(?:\\.|[^"\\])*"|\b(%b)\b' % _COUNTED, re.DOTALL)


def fingerprint(kbuild: Kbuild, unit: Unit, kept: Path | None = None) -> str:
    """Return a digest of the assembly that the compiler makes of a unit, one section a symbol.

    Debug information is left out and counted local names are numbered anew.  Of assembly it is a
    digest of the preprocessed text.  ``kept``: where the digest stays while it is valid.
    """
    recorded = kbuild.recorded
    if kept is not None and recorded.is_current(kept / unit.flat_name):
        return (kept / unit.flat_name).read_text()
    with tempfile.TemporaryDirectory(prefix="ksplice-asm-") as folder:
        out = Path(folder) / "unit"
        words = recorded.compiler(unit, out)
        is_assembly = unit.source.endswith(".S")
        mode = ["-E", "-P"] if is_assembly else ["-S", "-g0", *kbuild.split_flags(unit)]
        at = words.index("-c")
        kbuild.run(unit, [*words[:at], *mode, *words[at + 1 :]])
        made = out.read_bytes()
        digest = hashlib.sha256(made if is_assembly else number_names(made)).hexdigest()
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"{out}.d", kept / f"{unit.flat_name}.d")
            (kept / unit.flat_name).write_text(digest)
    return digest


def fingerprint_foreign(kbuild: Kbuild, unit: ForeignUnit) -> str:
    """Return a digest of what the compiler makes of a source that is no unit."""
    with tempfile.TemporaryDirectory(prefix="ksplice-asm-") as folder:
        out = Path(folder) / "unit"
        words = shlex.split(unit.command.split(";")[0])
        words = [str(out) if w == unit.object else w for w in words if not w.startswith("-Wp,-MMD")]
        if "-E" in words or unit.source.endswith(".S"):
            words = [words[0], "-E", "-P", *(w for w in words[1:] if w not in ("-c", "-E", "-P"))]
        else:
            words = [words[0], "-S", "-g0", *(w for w in words[1:] if w not in ("-c", "-S"))]
        kbuild.run(Unit(unit.source), words)
        made = out.read_bytes()
        return hashlib.sha256(made if "-E" in words else number_names(made)).hexdigest()


def number_names(assembly: bytes) -> bytes:
    """Give counted local names numbers by order of appearance.

    The compiler counts all that it sees, also what is not used: a new declaration in a header
    moves the numbers everywhere.  What only looks like such a name stays as it is: text of strings
    (``"v1.2"``), and what the assembly does not define (``.rodata.str1.1``).
    """
    defined = {m[1] for find in (_LABEL, _STORAGE) for m in find.finditer(assembly)}
    defined -= {m[1] for m in _GLOBAL.finditer(assembly)}
    numbers: dict[bytes, bytes] = {}

    def replace(m: re.Match[bytes]) -> bytes:
        name = m[1]
        if name is None or name not in defined:
            return m[0]
        if name not in numbers:  # the blank keeps it apart from every name of the assembly
            numbers[name] = b"%b %d" % (name.rstrip(b"0123456789"), len(numbers))
        return numbers[name]

    return _STRING_OR_COUNTED.sub(replace, assembly)
