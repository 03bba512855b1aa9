# SPDX-License-Identifier: GPL-2.0-only
"""Bundles with one fault each, which the reader must find."""

import struct
from typing import Final

from ksplicd import bundle
from tests.support.old_code.blob import Blob

_MAGIC: Final = b"KOLD"


def flip_old_code(data: bytes, function: str, offset: int) -> bytes:
    """Return a bundle whose old code has one bit flipped, ``offset`` bytes into ``function``.

    The bundle is whole otherwise: digests and sizes are right, only the kernel differs from it.
    """
    content = bundle.unpack(data)
    files = dict(content.files)
    name = content.manifest.targets[0].old_file
    module = files[name]
    start = module.index(_MAGIC)
    (size,) = struct.unpack_from("<I", module, start + 8)
    blob = Blob(module[start : start + size])
    blob.data[blob.function(function).at + offset] ^= 1
    files[name] = module[:start] + bytes(blob.data) + module[start + size :]
    kept = {n: d for n, d in files.items() if n.endswith(".ko") or n in ("patch", "timestamp")}
    return bundle.pack(content.manifest, kept)


def break_signature(text: str) -> str:
    """Return a minisign signature of other bytes: one character of it is another."""
    lines = text.splitlines(keepends=True)
    at = len(lines[1]) // 2
    lines[1] = lines[1][:at] + ("A" if lines[1][at] != "A" else "B") + lines[1][at + 1 :]
    return "".join(lines)
