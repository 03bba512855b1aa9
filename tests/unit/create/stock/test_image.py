# SPDX-License-Identifier: GPL-2.0-only
"""Kernel images, compressed and uncompressed."""

import struct
from pathlib import Path

import pytest

from ksplicd.create.stock.image import read_image, unpack_vmlinuz
from ksplicd.errors import ConfigDirError
from ksplicd.run import run
from tests.support.needs import require
from tests.support.objects.link import TEXT, Linked, link


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return link(tmp_path, {"a": 'const char *text(void) { return "hello"; }'})


def bzimage(payload: bytes) -> bytes:
    """Return a bzImage with one setup sector."""
    header = bytearray(2 * 512)
    header[0x1F1] = 1
    header[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", header, 0x248, 16, len(payload) + 4)
    return bytes(header) + bytes(16) + payload + bytes(4) + b"signature"


@pytest.mark.parametrize(
    "argv", [("lz4", "-l", "-c"), ("zstd", "-c"), ("gzip", "-c"), ("xz", "--check=crc32", "-c")]
)
def test_unpacks_every_compression(linked: Linked, argv: tuple[str, ...]) -> None:
    require(argv[0])
    assert unpack_vmlinuz(bzimage(run(argv, stdin=linked.elf))) == linked.elf


def test_reads_an_elf_file_as_it_is(linked: Linked) -> None:
    assert unpack_vmlinuz(linked.elf) is linked.elf


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"MZ" + bytes(2000), "neither a bzImage"),
        (bzimage(b"\0" * 64), "unknown compression"),
        (b"\x7fELF" + bytes(200), "not a 64-bit"),
        (b"\x7fELF\2\1" + bytes(20), "truncated"),
        (b"\x7fELF\2\1" + bytes(200), "no loadable segments"),
    ],
)
def test_refuses_other_files(data: bytes, words: str) -> None:
    with pytest.raises(ConfigDirError, match=words):
        read_image(data)


def test_image_gives_bytes_by_address(linked: Linked, tmp_path: Path) -> None:
    image = linked.image
    (unit,) = linked.objects.values()
    text = unit.find_section(".text")
    assert text is not None
    assert image.read(TEXT, 1) == text.data[:1]
    assert image.read(TEXT - 0x10000000, 1) is None
    assert image.read(TEXT, 1 << 30) is None
    rodata = next(s.address for s in image.segments if b"hello\0" in bytes(s.data))
    data = next(bytes(s.data) for s in image.segments if s.address == rodata)
    assert image.read_string(rodata + data.index(b"hello\0")) == b"hello\0"
    assert image.read_string(0) is None
    shown = run(["readelf", "-n", tmp_path / "image"]).decode()
    assert f"Build ID: {image.build_id}" in shown


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60), bytes(1000)])
def test_no_image_says_which_file(data: bytes) -> None:
    with pytest.raises(ConfigDirError, match=r"^dir/vmlinuz: "):
        read_image(data, "dir/vmlinuz")
