# SPDX-License-Identifier: GPL-2.0-only
"""Whether the compiler makes the same code of a unit: a digest of its assembly.

It takes less time than an object, and shows only whether two are equal, never what differs.
"""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit

_COUNTED: Final = re.compile(
    rb"\b(?:([A-Za-z_][\w$]*(?:\.(?:isra|part|constprop|cold))*\.)(\d+)"
    rb"|(__(?:UNIQUE_ID|addressable)_\w*?)(\d+))\b"
)
"""``__func__.17``, ``f.isra.0``; ``__UNIQUE_ID_license412``, which __COUNTER__ has numbered."""


def fingerprint(kbuild: Kbuild, unit: Unit, kept: Path | None = None) -> str:
    """Return a digest of the assembly that the compiler makes of a unit, one section a symbol.

    Debug information is left out and counted local names are numbered anew, so equal digests mean
    equal code.  ``kept``: a folder in which the digest stays while it is valid.
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
        digest = hashlib.sha256(number_names(out.read_bytes())).hexdigest()
        if kept is not None:
            kept.mkdir(parents=True, exist_ok=True)
            shutil.copy(f"{out}.d", kept / f"{unit.flat_name}.d")
            (kept / unit.flat_name).write_text(digest)
    return digest


def number_names(assembly: bytes) -> bytes:
    """Give counted names numbers by order of appearance.

    The compiler counts all that it sees, also what is not used: a new declaration in a header
    moves the numbers everywhere.
    """
    numbers: dict[bytes, int] = {}

    def replace(m: re.Match[bytes]) -> bytes:
        return b"%b%d" % (m[1] or m[3], numbers.setdefault(m[0], len(numbers)))

    return _COUNTED.sub(replace, assembly)
