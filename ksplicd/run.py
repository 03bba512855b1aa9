# SPDX-License-Identifier: GPL-2.0-only
"""The one door to processes: every program is started here.

Programs get no shell, no standard input and a C locale.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TypeAlias

from ksplicd.errors import ToolError

Process: TypeAlias = subprocess.Popen[bytes]

_TAIL_LINES = 20


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    ok: Sequence[int] = (0,),
    timeout: float | None = None,
) -> bytes:
    """Run ``argv`` and return what it wrote to standard output.

    ``env`` is added to our own environment.  Raises ``ToolError`` with the last lines of output
    when the exit status is not in ``ok``, the program is missing, or ``timeout`` seconds passed.
    """
    status, out, err = run_any(argv, cwd=cwd, env=env, stdin=stdin, timeout=timeout)
    if status not in ok:
        tail = "\n".join((out + err).decode(errors="replace").splitlines()[-_TAIL_LINES:])
        raise ToolError(f"{shlex.join(map(str, argv))}: exit status {status}\n{tail}")
    return out


def run_any(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
) -> tuple[int, bytes, bytes]:
    """Run ``argv`` and return (exit status, standard output, standard error)."""
    try:
        done = subprocess.run(
            list(map(str, argv)),
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as e:
        raise ToolError(f"{argv[0]}: not found; install the package that has it") from e
    except subprocess.TimeoutExpired as e:
        raise ToolError(f"{shlex.join(map(str, argv))}: no end after {timeout:g} s") from e
    return done.returncode, done.stdout, done.stderr


def has(program: str) -> bool:
    """Return whether ``program`` is in PATH."""
    return shutil.which(program) is not None


def spawn(
    argv: Sequence[str | Path],
    *,
    stderr: IO[bytes] | int = subprocess.DEVNULL,
) -> Process:
    """Start ``argv`` without its output; the caller kills it and waits for it."""
    try:
        return subprocess.Popen(
            list(map(str, argv)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    except FileNotFoundError as e:
        raise ToolError(f"{argv[0]}: not found; install the package that has it") from e


def wait(process: Process, timeout: float) -> bool:
    """Return whether ``process`` ends within ``timeout`` seconds."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True
