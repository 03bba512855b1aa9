# SPDX-License-Identifier: GPL-2.0-only
"""A tiny image, compiled and linked on the fly, that stands for the stock kernel."""

from dataclasses import dataclass, replace
from pathlib import Path

from ksplicd.create.stock.image import KernelImage, read_image
from ksplicd.create.stock.system_map import MapSymbol, SymbolMap
from ksplicd.elf.linked import Segment
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.run import run
from tests.support.objects.compile import compile_c

TEXT = 0xFFFFFFFF81000000


@dataclass(frozen=True)
class Linked:
    """The image of some units."""

    elf: bytes
    objects: dict[str, Object]
    symbols: list[MapSymbol]

    @property
    def image(self) -> KernelImage:
        return read_image(self.elf)

    @property
    def map(self) -> SymbolMap:
        return SymbolMap(self.symbols)

    def address(self, name: str) -> int:
        (address,) = self.map.addresses(name)
        return address

    def damaged(self, address: int) -> KernelImage:
        """Return the image with one byte changed."""
        image = self.image
        segments = []
        for segment in image.segments:
            data = bytearray(segment.data)
            if 0 <= address - segment.address < len(data):
                data[address - segment.address] ^= 1
            segments.append(Segment(segment.address, memoryview(bytes(data))))
        return replace(image, segments=tuple(segments))


def link(tmp_path: Path, sources: dict[str, str], *flags: str) -> Linked:
    """Compile and link C sources, given by unit name, in their order."""
    for name, source in sources.items():
        compile_c(tmp_path, source, *flags, name=name)
    image = tmp_path / "image"
    files = [tmp_path / f"{name}.o" for name in sources]
    run(
        [
            "ld", "-e", hex(TEXT), f"-Ttext={TEXT:#x}", "--build-id=sha1", "-z", "noexecstack",
            "-o", str(image), *map(str, files),
        ]
    )  # fmt: skip
    lines = run(["nm", "--numeric-sort", image]).decode().splitlines()
    fields = [line.split() for line in lines]
    return Linked(
        elf=image.read_bytes(),
        objects={f.stem: read_object(f.read_bytes(), f.name) for f in files},
        symbols=[MapSymbol(int(address, 16), kind, name) for address, kind, name in fields],
    )
