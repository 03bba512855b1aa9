# SPDX-License-Identifier: GPL-2.0-only
"""The name in a module file, which is there twice: what the kernel calls it when it is loaded.

Hosts read it before they load a module, so it is plain ``struct`` for two sections.  The rest of
ELF is read on the create side only (``ksplicd.elf``).
"""

import struct
from typing import Final

from ksplicd.errors import BadBundleError

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr, <linux/elf.h>
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_IDENT: Final = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_ET_REL: Final = 1
_EM_X86_64: Final = 62
_SHT_NOBITS: Final = 8

_NAME_AT: Final = 24
"""struct module: enum state, list, then name[MODULE_NAME_LEN] (<linux/module.h>, 6.1 and 6.12)."""
_NAME_SIZE: Final = 56


def read_module_names(data: bytes, file: str) -> dict[str, str]:
    """Return the module's name by the place that has it, such as ``".modinfo name="``.

    Raises ``BadBundleError`` naming ``file`` when this is not an x86_64 kernel module.
    """
    try:
        sections = _read_sections(data)
    except (struct.error, ValueError) as e:
        raise BadBundleError(f"{file}: not an x86_64 kernel module: {e}") from None
    for name in (".modinfo", ".gnu.linkonce.this_module"):
        if name not in sections:
            raise BadBundleError(f"{file}: not a kernel module: it has no section {name}")
    names = [
        entry.removeprefix(b"name=")
        for entry in sections[".modinfo"].split(b"\0")
        if entry.startswith(b"name=")
    ]
    if len(names) != 1:
        raise BadBundleError(f"{file}: .modinfo has {len(names)} entries name=, not one")
    this_module = sections[".gnu.linkonce.this_module"][_NAME_AT : _NAME_AT + _NAME_SIZE]
    return {
        ".modinfo name=": names[0].decode("latin-1"),
        ".gnu.linkonce.this_module": this_module.partition(b"\0")[0].decode("latin-1"),
    }


def _read_sections(data: bytes) -> dict[str, bytes]:
    """Return the sections' bytes by name; of equal names the first, as the kernel does."""
    header = _EHDR.unpack_from(data)
    ident, kind, machine, shoff, shentsize, shnum, shstrndx = (
        header[i] for i in (0, 1, 2, 6, 11, 12, 13)
    )
    if not ident.startswith(_IDENT) or (kind, machine) != (_ET_REL, _EM_X86_64):
        raise ValueError("its ELF header is of another kind")
    if shentsize != _SHDR.size or not 0 < shstrndx < shnum or shoff > len(data):
        raise ValueError("its section table is damaged")
    table = [_SHDR.unpack_from(data, shoff + i * _SHDR.size) for i in range(shnum)]
    names = _slice(data, table[shstrndx])
    found: dict[str, bytes] = {}
    for section in table[1:]:
        name = names[section[0] :].partition(b"\0")[0].decode("latin-1")
        found.setdefault(name, _slice(data, section))
    return found


def _slice(data: bytes, section: tuple[int, ...]) -> bytes:
    kind, offset, size = section[1], section[4], section[5]
    if kind == _SHT_NOBITS:
        return b""
    if offset + size > len(data):
        raise ValueError("a section ends behind the end of the file")
    return data[offset : offset + size]
