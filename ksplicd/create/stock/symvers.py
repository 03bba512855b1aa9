# SPDX-License-Identifier: GPL-2.0-only
"""Module.symvers: which symbols the kernel and its modules export.

It does not know where they are (``vmlinux.py``, ``module.py``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ksplicd.errors import ConfigDirError
from ksplicd.model import VMLINUX


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """What a kernel and its modules export."""

    vmlinux: frozenset[str]
    """To every module.  Symbols in a namespace are left out: they are reached like unexported
    ones."""
    modules: dict[str, str]
    """The module that exports each symbol that vmlinux does not."""


def read_exports(symvers: Path) -> Exports:
    """Read ``Module.symvers``.  Raises ``ConfigDirError``."""
    lines = list(_read_lines(symvers))
    return Exports(
        vmlinux=frozenset(name for name, owner, space in lines if owner == VMLINUX and not space),
        modules={
            name: owner.rpartition("/")[2].replace("-", "_")
            for name, owner, _ in lines
            if owner != VMLINUX
        },
    )


def _read_lines(symvers: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (symbol, owner, namespace).

    Lines are CRC, symbol, owner, kind, namespace (Documentation/kbuild/modules.rst).
    """
    try:
        lines = symvers.read_text(errors="replace").splitlines()
    except OSError as e:
        raise ConfigDirError(f"{symvers}: {e.strerror}; the headers package has it") from e
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 4:
            raise ConfigDirError(f"{symvers}:{number}: not a line of Module.symvers: {line!r}")
        yield fields[1], fields[2], fields[4] if len(fields) > 4 else ""
