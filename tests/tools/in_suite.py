# SPDX-License-Identifier: GPL-2.0-only
"""Tests with the Python, libraries and tools of another suite: ``python -m tests.tools.in_suite``.

    in_suite trixie -q tests/unit/elf      what follows the suite is for pytest

Warnings are errors, also of the programs that tests start; but getpass tells people by a
``UserWarning``, and PyGObject calls what GLib 2.84 deprecates (``register_object()``) by itself.
A root of the suite has what ``setup.sh`` installs; its archive is kept in the cache, and extracted
for the run, whose changes are dropped with it.  Of this machine it has this tree, /dev and /sys, in
a mount namespace of its own.  The kernel is this machine's: guests are not run there.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, digest_of, to_stderr
from ksplicd.distro.apt import sudo
from ksplicd.distro.mirror import read_mirror
from ksplicd.errors import DistroError, ToolError
from ksplicd.lab.root_archive import PACKAGES, RootArchive
from ksplicd.run import run

ROOT: Final = Path(__file__).parents[2]
_TOOLS: Final = Path(__file__).parent
_LIBRARIES: Final = ("hypothesis", "pytest", "pytest-xdist")
"""Of requirements.txt, what tests import; the others check this tree alike on every suite."""

_ELSEWHERE: Final = "/opt/ksplice-tests"
_RUN: Final = f"""
set -eu
root=$1 tree=$2 libraries=$3 user=$4
shift 4
mount --bind "$root" "$root"  # so that files in it are on a mount that it knows
for folder in dev sys; do mount --rbind /$folder "$root/$folder"; done
mount -t proc proc "$root/proc"
mkdir -p "$root$tree" "$root{_ELSEWHERE}" "$root/home/tests"
chown "$user" "$root/home/tests"
mount --bind "$tree" "$root$tree"
mount --bind "$libraries" "$root{_ELSEWHERE}"
exec chroot --userspec="$user" "$root" /usr/bin/env -i HOME=/home/tests LC_ALL=C.UTF-8 \\
    PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 \\
    PYTHONWARNINGS=error,default::UserWarning,ignore::DeprecationWarning:gi.overrides.Gio \\
    PYTHONPATH="$tree:{_ELSEWHERE}" \\
    sh -c 'cd "$0" && exec python3 -m pytest -p no:cacheprovider "$@"' "$tree" "$@"
"""


def packages_of(setup: str) -> list[str]:
    """Return the packages that ``setup.sh`` installs, from its text."""
    match = re.search(r"^packages=\((.*?)^\)", setup, re.DOTALL | re.MULTILINE)
    if match is None:
        raise ValueError("setup.sh: no list of packages")
    return " ".join(line.partition("#")[0] for line in match[1].splitlines()).split()


def libraries_of(requirements: str) -> list[str]:
    """Return the lines of requirements.txt with what tests import."""
    lines = requirements.splitlines()
    return [line for line in lines if line.partition("==")[0] in _LIBRARIES]


def install_libraries(cache: Cache, python: str) -> Path:
    """Return a folder with the tests' libraries for a Python, such as ``python3.13``."""
    wanted = libraries_of((_TOOLS / "requirements.txt").read_text())

    def make(new: Path) -> None:
        cache.progress(f"installing {', '.join(wanted)} for {python}")
        version = python.removeprefix("python")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--only-binary", ":all:"]
        run([*pip, "--python-version", version, "--target", new, *wanted])

    return cache.entry("suite-libraries", digest_of(python, wanted), make)


def run_in_suite(cache: Cache, suite: str, argv: Sequence[str]) -> int:
    """Run pytest in a root of a suite; return its exit status."""
    installed = packages_of((_TOOLS / "setup.sh").read_text())
    packages = sorted({*PACKAGES, *installed} - {"busybox"})  # busybox-static is there
    archive = RootArchive(mirror=read_mirror(), suite=suite, packages=packages).made(cache)
    root = Path(tempfile.mkdtemp(prefix=".suite-", dir=cache.root))
    try:
        run([*sudo(), "tar", "-x", "-p", "--numeric-owner", "-C", root, "-f", archive])
        libraries = install_libraries(cache, (root / "usr/bin/python3").readlink().name)
        unshare = [*sudo(), "unshare", "--mount", "--propagation", "private"]
        user = f"{os.geteuid()}:{os.getegid()}"
        script: list[str | Path] = ["bash", "-c", _RUN, "x", root, ROOT, libraries, user]
        return subprocess.call([*unshare, *script, *argv])
    finally:
        run([*sudo(), "rm", "-rf", "--one-file-system", root])


def main(argv: Sequence[str]) -> int:
    """Run the command line; return pytest's status, or 1 when there is no such root."""
    suite, *rest = argv
    try:
        return run_in_suite(Cache(progress=to_stderr), suite, rest)
    except (DistroError, ToolError) as e:
        print(f"{suite}: nothing was tested, no root of it can be made: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
