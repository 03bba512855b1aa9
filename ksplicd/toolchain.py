# SPDX-License-Identifier: GPL-2.0-only
"""Where the compiler, make and what they start are run: on this machine, or in a root of a suite.

In a root, system folders are those of the root, and everything else is this machine's under the
same names, so that the paths in commands and objects are the same in both.  It is no sandbox.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.errors import ToolError
from ksplicd.run import run_any

_SYSTEM: Final = frozenset(
    {"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "proc", "dev", "sys", "run"}
)
"""Folders at the top that belong to a system; the others are bound in."""
_LINKS: Final = ("bin", "sbin", "lib", "lib64")
"""Links into /usr, as every suite has them since Debian 12."""
_PATH: Final = "/usr/sbin:/usr/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """Runs programs."""

    root: Path | None = None
    """The folder with a system in it; None: this machine."""
    inside: tuple[Path, ...] = ()
    """Folders below /usr of this machine that the programs need, and that the root has empty."""

    def command(self, argv: Sequence[str | Path], cwd: Path | None = None) -> list[str | Path]:
        """Return the command that runs ``argv`` there."""
        if self.root is None:
            return list(argv)
        tops = sorted(p for p in Path("/").iterdir() if p.is_dir() and not p.is_symlink())
        binds = [p for p in tops if p.name not in _SYSTEM]
        return [
            *("bwrap", "--die-with-parent", "--ro-bind", self.root / "usr", "/usr"),
            *("--ro-bind", self.root / "etc", "/etc", "--dev", "/dev", "--proc", "/proc"),
            *(word for name in _LINKS for word in ("--symlink", f"usr/{name}", f"/{name}")),
            *(word for path in (*binds, *self.inside) for word in ("--bind", path, path)),
            *("--setenv", "PATH", _PATH, "--chdir", (cwd or Path("/")).resolve()),
            *("--", *argv),
        ]

    def run_any(
        self, argv: Sequence[str | Path], *, cwd: Path | None = None, stdin: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Run a program; return (exit status, standard output, standard error).

        Raises ``ToolError`` when it is not there.
        """
        try:
            return run_any(self.command(argv, cwd), cwd=cwd, stdin=stdin)
        except ToolError as e:
            if self.root is None:
                raise
            raise ToolError(f"{e}: programs of another suite are run by bubblewrap") from e

    def run(
        self, argv: Sequence[str | Path], *, cwd: Path | None = None, stdin: bytes = b""
    ) -> bytes:
        """Run a program; return its standard output.  Raises ``ToolError`` when it fails."""
        status, out, err = self.run_any(argv, cwd=cwd, stdin=stdin)
        if status:
            words = (out + err).decode(errors="replace")
            raise ToolError(f"{' '.join(map(str, argv))}: exit status {status}\n{words[-2000:]}")
        return out


HOST: Final = Toolchain()
"""This machine."""
