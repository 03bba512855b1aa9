# SPDX-License-Identifier: GPL-2.0-only
"""The stock kernel image: vmlinuz → ELF payload, its bytes by address, its symbols.

Pure: bytes in, data out; only the compressor programs are started.  It does not know objects or
how they are matched (``match.py``).
"""

import shutil
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from ksplicd.errors import ConfigDirError
from ksplicd.notes import find_build_id
from ksplicd.run import run

_ELF_MAGIC: Final = b"\x7fELF"
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4

_WEAK: Final = frozenset("WV")
"""Types of weak symbols in a System.map, see nm(1)."""

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


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes that the image has for addresses from ``address`` on."""

    address: int
    data: memoryview


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """An uncompressed kernel image, not relocated."""

    data: bytes
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


def read_image(vmlinuz: bytes, name: str = "vmlinuz") -> Image:
    """Read a kernel image, compressed or not.

    Raises ``ConfigDirError`` when it is not an x86-64 kernel with a build id.
    """
    elf = unpack_vmlinuz(vmlinuz, name)
    view = memoryview(elf)
    segments: list[Segment] = []
    build_id = ""
    try:
        if elf[4] != 2 or elf[5] != 1:
            raise ConfigDirError(f"{name}: not a 64-bit little-endian ELF file")
        (phoff,) = struct.unpack_from("<Q", elf, 0x20)
        entsize, count = struct.unpack_from("<HH", elf, 0x36)
        for i in range(count):
            kind, _, offset, address, _, size = struct.unpack_from(
                "<IIQQQQ", elf, phoff + i * entsize
            )
            if offset + size > len(elf):
                raise ConfigDirError(f"{name}: truncated")
            if kind == _PT_LOAD:
                segments.append(Segment(address, view[offset : offset + size]))
            elif kind == _PT_NOTE:
                build_id = build_id or find_build_id(elf[offset : offset + size])
    except (struct.error, IndexError) as e:
        raise ConfigDirError(f"{name}: truncated") from e
    if not segments or not build_id:
        raise ConfigDirError(f"{name}: no loadable segments or no GNU build id")
    return Image(elf, tuple(segments), build_id)


def build_id(image: Image) -> str:
    """Return the GNU build id in hex, as /sys/kernel/notes of the running kernel has it."""
    return image.build_id


# --- symbols ------------------------------------------------------------------------------------


class MapSymbol(NamedTuple):
    """One line of a System.map."""

    address: int
    type: str
    """As nm writes it, such as ``T`` or ``d``."""
    name: str


def recover_symbols(vmlinux: bytes) -> list[MapSymbol]:
    """Return all symbols of an uncompressed image from its kallsyms tables, in their order.

    That order is the one in which the running kernel counts equal names.  Takes about three
    seconds.  Raises ``ConfigDirError`` when the tables are not found, or
    the package is missing.
    """
    # Imported here: only "create" has the package, and it takes a while.
    try:
        from vmlinux_to_elf.core.kallsyms import KallsymsFinder, KallsymsNotFoundException
    except ImportError as e:
        raise ConfigDirError(
            "System.map: recovering it from the image needs the Python package vmlinux-to-elf;"
            " install it with pip"
        ) from e
    try:
        finder = KallsymsFinder(vmlinux, 64)
    except KallsymsNotFoundException as e:
        raise ConfigDirError(
            f"vmlinuz: no kallsyms tables found ({e}); give the System.map of the -dbg package"
        ) from e
    return [
        MapSymbol(
            s.virtual_address, _type_letter(s.symbol_type.value, is_global=s.is_global), s.name
        )
        for s in finder.symbols
    ]


def _type_letter(letter: str, *, is_global: bool) -> str:
    return letter.upper() if is_global else letter.lower()


def write_system_map(symbols: Iterable[MapSymbol]) -> str:
    """Return the text of a System.map file."""
    return "".join(f"{s.address:016x} {s.type} {s.name}\n" for s in symbols)


def read_system_map(text: str, name: str = "System.map") -> list[MapSymbol]:
    """Read a System.map or a copy of /proc/kallsyms; symbols of modules are left out.

    Raises ``ConfigDirError`` for a stub, such as the image package's, a /proc/kallsyms read without
    privilege, and lines of another form.
    """
    symbols = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if len(fields) == 4 and fields[3].startswith("["):
            continue
        try:
            address, letter, symbol = fields
            symbols.append(MapSymbol(int(address, 16), letter, symbol))
        except ValueError as e:
            raise ConfigDirError(
                f"{name}:{number}: not “address type name”: {line[:80]!r}; the real map is in the"
                " -dbg package, or is recovered from vmlinuz"
            ) from e
    if not any(s.address for s in symbols):
        raise ConfigDirError(f"{name}: no addresses in it; read /proc/kallsyms as root")
    return symbols


class SymbolMap:
    """The kernel's symbols by name and by address."""

    def __init__(self, symbols: Iterable[MapSymbol]) -> None:
        self._addresses: dict[str, list[int]] = {}
        self._globals: dict[str, int] = {}
        self._strong: set[str] = set()
        for s in symbols:
            self._addresses.setdefault(s.name, []).append(s.address)
            if s.type.isupper():
                self._globals[s.name] = s.address
                if s.type not in _WEAK:
                    self._strong.add(s.name)
        unique = sorted((a[0], name) for name, a in self._addresses.items() if len(a) == 1)
        self._unique_addresses = [address for address, _ in unique]
        self._unique_names = [name for _, name in unique]

    def addresses(self, name: str) -> list[int]:
        """Return every address that ``name`` has, in kallsyms order; empty when unknown."""
        return self._addresses.get(name, [])

    def is_unique(self, name: str) -> bool:
        """Tell whether exactly one symbol has this name."""
        return len(self.addresses(name)) == 1

    def global_address(self, name: str) -> int | None:
        """Return the address of the symbol that every file knows by ``name``."""
        return self._globals.get(name)

    def is_global(self, name: str) -> bool:
        """Tell whether files know ``name`` from each other."""
        return name in self._globals

    def is_strong(self, name: str) -> bool:
        """Tell whether ``name`` is a global symbol that takes the place of every weak one."""
        return name in self._strong

    def position(self, name: str, address: int) -> int | None:
        """Return livepatch's sympos of ``name`` at ``address``.

        0 when the name is unique, else its place among equal names from 1; None when no symbol of
        this name is there.
        """
        addresses = self.addresses(name)
        if address not in addresses:
            return None
        return 0 if len(addresses) == 1 else addresses.index(address) + 1

    def nearest_unique(self, address: int) -> tuple[str, int] | None:
        """Return (name, address) of the last uniquely named symbol at or before ``address``."""
        i = bisect_right(self._unique_addresses, address) - 1
        return (self._unique_names[i], self._unique_addresses[i]) if i >= 0 else None

    def next_unique(self, address: int) -> tuple[str, int] | None:
        """Return (name, address) of the first uniquely named symbol at or behind ``address``."""
        i = bisect_left(self._unique_addresses, address)
        if i == len(self._unique_addresses):
            return None
        return self._unique_names[i], self._unique_addresses[i]

    def function_at(self, address: int) -> str:
        """Return the name of the uniquely named symbol before ``address``, for messages."""
        found = self.nearest_unique(address)
        return found[0] if found else f"{address:#x}"
