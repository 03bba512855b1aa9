# SPDX-License-Identifier: GPL-2.0-only
"""Puts files into the drop directory as other programs do."""

from pathlib import Path

from tests.support.bundles import samples
from tests.support.bus.calls import BUNDLE, KID
from tests.support.bus.host import Host

NAME = f"ksplice-{KID}.tar.gz"


def write(host: Host, name: str, data: bytes) -> None:
    (host.store / name).write_bytes(data)


def drop(host: Host, data: bytes = BUNDLE, kid: str = KID) -> None:
    name = f"ksplice-{kid}.tar.gz"
    write(host, f"{name}.minisig", samples.signature(data))
    write(host, name, data)


def left(folder: Path) -> list[str]:
    """Return the bundles and signatures in ``folder`` itself."""
    return sorted(p.name for p in folder.iterdir() if ".tar.gz" in p.name)
