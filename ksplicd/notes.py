# SPDX-License-Identifier: GPL-2.0-only
"""ELF notes (gABI, "Note Section"), as /sys/kernel/notes, modules and images have them."""

import contextlib
import struct
from typing import Final

BUILD_ID_SECTION: Final = ".note.gnu.build-id"

_NT_GNU_BUILD_ID: Final = 3  # <linux/elf.h>, name "GNU"


def find_build_id(notes: bytes) -> str:
    """Return the GNU build id in hex; empty when there is none."""
    at = 0
    with contextlib.suppress(struct.error):
        while at < len(notes):
            name_size, size, kind = struct.unpack_from("<III", notes, at)
            name = at + 12
            content = name + (name_size + 3) // 4 * 4
            if kind == _NT_GNU_BUILD_ID and notes[name : name + name_size] == b"GNU\0":
                return notes[content : content + size].hex()
            at = content + (size + 3) // 4 * 4
    return ""
