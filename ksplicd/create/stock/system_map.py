# SPDX-License-Identifier: GPL-2.0-only
"""System.map: the kernel's symbols at their link-time addresses, by name and by address.

The map is a file, or is read from the tables in the image (``kallsyms.py``).  What lies at the
addresses is not known here (``image.py``).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final, NamedTuple

from ksplicd.errors import ConfigDirError

_WEAK: Final = frozenset("WV")
"""Types of weak symbols in a System.map, see nm(1)."""


class MapSymbol(NamedTuple):
    """One line of a System.map."""

    address: int
    type: str
    """As nm writes it, such as ``T`` or ``d``."""
    name: str


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
