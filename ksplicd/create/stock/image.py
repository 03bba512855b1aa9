# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel image: vmlinuz → ELF payload, its bytes by address.

Bytes in, data out; no process but a decompressor is started.  It does not know symbols
(``system_map.py``), nor how objects are matched (``match.py``).
"""

import shutil
import struct
from dataclasses import dataclass
from typing import Final

from ksplicd.elf.linked import Segment, read_linked
from ksplicd.errors import ConfigDirError, ElfError
from ksplicd.run import run

_ELF_MAGIC: Final = b"\x7fELF"

_LZ4_LEGACY_MAGIC: Final = b"\x02\x21\x4c\x18"
_DECOMPRESSORS: Final = (
    (_LZ4_LEGACY_MAGIC, "lz4", ("lz4", "-dc")),
    (b"\x28\xb5\x2f\xfd", "zstd", ("zstd", "-dc")),
    (b"\x1f\x8b", "gzip", ("gzip", "-dc")),
    (b"\xfd7zXZ", "xz-utils", ("xz", "-dc", "--single-stream")),
)
"""Magic, Debian package, program; from the kernel's scripts/extract-vmlinux."""


def unpack_vmlinuz(data: bytes, name: str = "vmlinuz") -> bytes:
    """Return the ELF file inside a bzImage; an ELF file is returned as it is.

    Offsets are those of the boot protocol 2.08 (Documentation/x86/boot.rst): ``setup_sects`` at
    0x1f1, ``payload_offset`` and ``payload_length`` at 0x248.  Raises ``ConfigDirError`` for other
    files, ``ToolError`` when the decompressor is missing or fails.
    """
    if data.startswith(_ELF_MAGIC):
        return data
    if data[0x202:0x206] != b"HdrS" or len(data) < 0x250:
        raise ConfigDirError(f"{name}: neither a bzImage nor an ELF file; give the stock image")
    start = ((data[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", data, 0x248)
    # The build appends the uncompressed size (scripts/Makefile.lib, size_append).
    payload = data[start + offset : start + offset + length - 4]
    for magic, package, argv in _DECOMPRESSORS:
        if not payload.startswith(magic):
            continue
        if shutil.which(argv[0]) is None:
            raise ConfigDirError(f"{name}: needs the program {argv[0]}; install {package}")
        elf = run(argv, stdin=payload)
        if not elf.startswith(_ELF_MAGIC):
            raise ConfigDirError(f"{name}: the payload is no ELF file")
        return elf
    raise ConfigDirError(f"{name}: unknown compression (payload starts with {payload[:6].hex()})")


@dataclass(frozen=True, slots=True, eq=False)
class KernelImage:
    """An uncompressed kernel image, not relocated."""

    data: bytes
    """The whole file."""
    segments: tuple[Segment, ...]
    build_id: str
    """GNU build id in hex."""

    def read(self, address: int, size: int) -> bytes | None:
        """Return ``size`` bytes at ``address``, None when the image does not have them all."""
        for segment in self.segments:
            offset = address - segment.address
            if 0 <= offset <= len(segment.data) - size:
                return bytes(segment.data[offset : offset + size])
        return None

    def read_string(self, address: int, limit: int = 4096) -> bytes | None:
        """Return the NUL-terminated string at ``address`` with its NUL, None when there is none."""
        for segment in self.segments:
            offset = address - segment.address
            if 0 <= offset < len(segment.data):
                found, nul, _ = bytes(segment.data[offset : offset + limit]).partition(b"\0")
                return found + nul if nul else None
        return None


def read_image(vmlinuz: bytes, name: str = "vmlinuz") -> KernelImage:
    """Read a kernel image, compressed or not.

    Raises ``ConfigDirError`` when it is not an x86-64 kernel with a build id, ``ToolError`` when a
    program or package to read it is missing.
    """
    elf = unpack_vmlinuz(vmlinuz, name)
    try:
        file = read_linked(elf, name)
    except ElfError as e:
        raise ConfigDirError(str(e)) from e
    if not file.segments or not file.build_id:
        raise ConfigDirError(f"{name}: no loadable segments or no GNU build id")
    return KernelImage(elf, file.segments, file.build_id)
