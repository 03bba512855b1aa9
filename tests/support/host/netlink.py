# SPDX-License-Identifier: GPL-2.0-only
"""Messages of tripwires, as kmodsrc/tripwire.c sends them, and malformed ones."""

import struct
from collections.abc import Mapping
from typing import Final

FAMILY: Final = 0x1C

THE_HIT: Final[Mapping[int, bytes]] = {
    1: b"CVE-2022-0847\0",
    2: b"copy_page_to_iter_pipe\0",
    4: struct.pack("=I", 4711),
    5: struct.pack("=I", 4710),
    6: struct.pack("=I", 1000),
    7: b"exploit\0",
    8: struct.pack("=I", 1),
    9: struct.pack("=Q", 1700 * 10**15),
}
"""Attributes by number: enum ksplice_tripwire_attr."""

SUPPRESSED: Final[Mapping[int, bytes]] = {1: b"\0", 2: b"here\0", 3: struct.pack("=I", 9)}


def attribute(kind: int, content: bytes) -> bytes:
    """Return a struct nlattr with its content and padding."""
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def message(
    attributes: Mapping[int, bytes],
    *,
    kind: int = FAMILY,
    command: int = 1,
    version: int = 1,
    more: bytes = b"",
) -> bytes:
    """Return a whole message."""
    body = b"".join(attribute(*a) for a in attributes.items()) + more
    return struct.pack("=IHHIIBBH", 20 + len(body), kind, 0, 0, 0, command, version, 0) + body
