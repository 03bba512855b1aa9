# SPDX-License-Identifier: GPL-2.0-only
"""Run the kernel's own checkpatch.pl, from the kernel's source, over kmodsrc/.

``--strict``, each file as a whole.  The source package comes from this machine's apt sources.
"""

import sys
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.errors import KspliceError
from ksplicd.lab.cache import Cache, to_stderr
from ksplicd.lab.debian import KernelSource
from ksplicd.run import run_any
from tests.stock import VERSION

ROOT: Final = Path(__file__).parent.parent.parent
SCRIPTS: Final = tuple(
    f"scripts/{name}" for name in ("checkpatch.pl", "spelling.txt", "const_structs.checkpatch")
)


def main() -> int:
    """Return the exit status; what checkpatch has to say goes to standard output."""
    sources = sorted([*ROOT.glob("kmodsrc/*.c"), *ROOT.glob("kmodsrc/*.h")])
    try:
        scripts = KernelSource(cache=Cache(progress=to_stderr), version=VERSION).files(SCRIPTS)
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in scripts.items():
                path = Path(scratch) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            options = [
                "--strict",
                "--no-tree",
                "--terse",
                "--summary-file",
                "--max-line-length=100",
            ]
            checkpatch = Path(scratch) / SCRIPTS[0]
            status, out, err = run_any(["perl", checkpatch, *options, "-f", *sources])
    except KspliceError as e:
        sys.stderr.write(f"lint-c: {e}\n")
        return 1
    sys.stdout.write((out + err).decode(errors="replace"))
    return status


if __name__ == "__main__":
    sys.exit(main())
