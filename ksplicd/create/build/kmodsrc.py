# SPDX-License-Identifier: GPL-2.0-only
"""Where the C sources are."""

from pathlib import Path
from typing import Final

_INSTALLED: Final = Path("/usr/share/ksplice/kmodsrc")


def kmodsrc() -> Path:
    """Return the folder of the C sources: beside the package in a checkout, else installed."""
    beside = Path(__file__).resolve().parents[3] / "kmodsrc"
    return beside if (beside / "Kbuild").exists() else _INSTALLED
