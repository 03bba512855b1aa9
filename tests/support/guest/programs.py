# SPDX-License-Identifier: GPL-2.0-only
"""Small programs for guests, where each start of a Python takes an emulated processor a second."""

import functools
import tempfile
from pathlib import Path
from typing import Final

from ksplicd.run import run

HERE: Final = Path(__file__).parent


@functools.cache
def compiled(name: str) -> bytes:
    """Return the program of ``name``.c in this folder, which needs no library.

    Raises ``ToolError``.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / name
        run(["gcc", "-Wall", "-Werror", "-static", "-s", "-O2", "-o", made, HERE / f"{name}.c"])
        return made.read_bytes()
