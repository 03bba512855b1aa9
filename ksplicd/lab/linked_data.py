# SPDX-License-Identifier: GPL-2.0-only
"""What the linker put into the kernel and its modules, as the distribution ships them.

A place in a guest that has the table's content, and had it when it was linked, is another table of
the same type and no copy.
"""

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from ksplicd.create.stock.image import KernelImage, read_image
from ksplicd.create.stock.module import find_stock_module
from ksplicd.elf.linked import LinkedFile, read_linked
from ksplicd.errors import ConfigDirError, ElfError
from ksplicd.lab.guest_memory import WORD

_MODULES: Final = 4
"""Stock modules that are held in memory at a time."""


class LinkedData:
    """The data of a stock kernel before it runs.

    Reading the image raises ``ConfigDirError`` and ``ToolError``.
    """

    def __init__(self, vmlinuz: Path, modules: Path) -> None:
        """Take the image, and the folder of its modules (/lib/modules/RELEASE)."""
        self._vmlinuz, self._modules = vmlinuz, modules
        self._module = lru_cache(maxsize=_MODULES)(self._read_module)

    def kernel_word(self, offset: int, shift: int) -> int | None:
        """Return the word at an offset from ``_text``; None: the image has nothing there.

        ``shift``: by how much the kernel was moved when it booted; an address is moved along.
        """
        data = self._image.read(self.base + offset, WORD)
        if data is None:
            return None
        word = int.from_bytes(data, "little")
        return word + shift if self.base <= word < self._end else word

    def is_in_module(self, module: str, section: str, offset: int) -> bool:
        """Tell whether a stock module has content, or a relocation, for the word at an offset."""
        file = self._module(module)
        if file is None:
            return False
        for index, s in enumerate(file.sections):
            if s.name == section:
                is_relocated = any(r.offset == offset for r in file.read_relocations(index))
                return is_relocated or any(s.data[offset : offset + WORD])
        return False

    @property
    def base(self) -> int:
        """The address of ``_text`` as it was linked."""
        return self._image.segments[0].address

    @cached_property
    def _image(self) -> KernelImage:
        return read_image(self._vmlinuz.read_bytes(), str(self._vmlinuz))

    @cached_property
    def _end(self) -> int:
        return self.base + (1 << 30)  # KERNEL_IMAGE_SIZE, arch/x86/include/asm/page_64_types.h

    def _read_module(self, name: str) -> LinkedFile | None:
        """Return a stock module; None: it is none of them."""
        try:
            return read_linked(find_stock_module(self._modules, name), name)
        except (ConfigDirError, ElfError):
            return None
