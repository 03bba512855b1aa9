# SPDX-License-Identifier: GPL-2.0-only
"""Module.symvers: which symbols the kernel and its modules export.

It does not know where they are (``system_map.py``).
"""

from collections.abc import Iterator
from pathlib import Path

from ksplicd.errors import ConfigDirError
from ksplicd.model import VMLINUX


def read_exports(symvers: Path) -> frozenset[str]:
    """Return what vmlinux exports to every module, from ``Module.symvers``.

    Symbols in a namespace are left out: they are reached like unexported ones.  Raises
    ``ConfigDirError``.
    """
    return frozenset(
        name for name, owner, space in _read_symvers(symvers) if owner == VMLINUX and not space
    )


def read_module_exports(symvers: Path) -> dict[str, str]:
    """Return the module that exports each symbol that vmlinux does not.

    Raises ``ConfigDirError``.
    """
    return {
        name: Path(owner).name.replace("-", "_")
        for name, owner, _ in _read_symvers(symvers)
        if owner != VMLINUX
    }


def _read_symvers(symvers: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (symbol, owner, namespace).

    Lines are CRC, symbol, owner, kind, namespace (Documentation/kbuild/modules.rst).
    """
    try:
        lines = symvers.read_text().splitlines()
    except OSError as e:
        raise ConfigDirError(f"{symvers}: {e.strerror}; the headers package has it") from e
    for number, line in enumerate(lines, 1):
        fields = line.split("\t")
        if len(fields) < 4:
            raise ConfigDirError(f"{symvers}:{number}: not a line of Module.symvers: {line!r}")
        yield fields[1], fields[2], fields[4] if len(fields) > 4 else ""
