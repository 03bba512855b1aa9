# SPDX-License-Identifier: GPL-2.0-only
"""A configuration directory from a running host; a folder stands in for the host."""

from pathlib import Path

import pytest

from ksplicd.create.stock.from_machine import RunningHost, fill_from_machine, find_symbols
from ksplicd.create.stock.system_map import read_system_map
from ksplicd.errors import ConfigDirError
from tests.support.objects.link import Linked, link

RELEASE = "6.1.0-50-cloud-amd64"
CONFIG = 'CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14) 12.2.0"\n'
SLIDE = 0x1A000000


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    source = 'const char linux_banner[] = "Linux version 6.1.176 (x)"; void f(void) {}'
    return link(tmp_path, {"a": source})


@pytest.fixture
def host(tmp_path: Path, linked: Linked) -> RunningHost:
    host = RunningHost(release=RELEASE, root=tmp_path / "root")
    headers = host.root / "usr/src/headers"
    for folder in (
        host.vmlinuz.parent, host.modules / "kernel", host.kallsyms.parent,
        headers / "include/generated", host.maps[0].parent,
    ):  # fmt: skip
        folder.mkdir(parents=True)
    host.vmlinuz.write_bytes(linked.elf)
    (host.modules / "build").symlink_to(headers)
    (headers / ".config").write_text(CONFIG)
    (headers / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{RELEASE}"\n')
    host.maps[-1].write_text("ffffffffffffffff B The real System.map is in the dbg package\n")
    host.kallsyms.write_text(kallsyms(linked, SLIDE))
    return host


def kallsyms(linked: Linked, slide: int) -> str:
    """Return /proc/kallsyms of a boot at an offset."""
    banner = next(s.address for s in linked.symbols if s.name == "linux_banner")
    text = linked.image.segments[0].address
    lines = [
        f"{0:016x} A fixed_percpu_data", f"{0x6000:016x} A cpu_tss_rw",
        f"{text + slide:016x} T _text", f"{banner + slide:016x} D linux_banner",
        "ffffffffc0000000 t init_module\t[ext4]",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def addresses(folder: Path) -> dict[str, int]:
    return {s.name: s.address for s in read_system_map((folder / "System.map").read_text())}


def test_symbols_of_the_boot_are_moved_back(
    tmp_path: Path, host: RunningHost, linked: Linked
) -> None:
    origin = fill_from_machine(tmp_path / "config", host)
    assert origin == str(host.kallsyms)
    found = addresses(tmp_path / "config")
    assert found["linux_banner"] == linked.address("linux_banner")
    assert found["cpu_tss_rw"] == 0x6000  # an offset, the same in every boot
    assert "init_module" not in found
    assert (tmp_path / "config/modules").resolve() == host.modules.resolve()


def test_real_map_comes_first(tmp_path: Path, host: RunningHost, linked: Linked) -> None:
    host.maps[0].write_text(kallsyms(linked, 0).replace("cpu_tss_rw", "of_the_map"))
    assert fill_from_machine(tmp_path / "config", host) == str(host.maps[0])
    assert "of_the_map" in addresses(tmp_path / "config")


def test_map_of_another_version_is_passed_over(host: RunningHost, linked: Linked) -> None:
    host.maps[0].write_text(kallsyms(linked, 0x100))
    _, origin = find_symbols(linked.elf, host.maps, host.kallsyms)
    assert origin == str(host.kallsyms)


def test_symbols_hidden_from_us(host: RunningHost, linked: Linked) -> None:
    """Without privilege all addresses are 0; then the image is asked, which has no tables."""
    host.kallsyms.write_text("0000000000000000 T _text\n0000000000000000 D linux_banner\n")
    with pytest.raises(ConfigDirError, match="no kallsyms tables found"):
        find_symbols(linked.elf, host.maps, host.kallsyms)


def test_headers_that_are_not_installed(tmp_path: Path, host: RunningHost) -> None:
    (host.modules / "build").unlink()
    with pytest.raises(ConfigDirError, match=rf"install the package linux-headers-{RELEASE}"):
        fill_from_machine(tmp_path / "config", host)


def test_image_beside_the_modules(tmp_path: Path, host: RunningHost) -> None:
    """As the packages of Linux 7 have it; nothing of the kernel is in /boot there."""
    host.vmlinuz.rename(host.modules / "vmlinuz")
    fill_from_machine(tmp_path / "config", host)
    assert (tmp_path / "config/vmlinuz").read_bytes() == host.vmlinuz.read_bytes()


def test_map_of_the_debug_package_beside_the_modules(host: RunningHost, linked: Linked) -> None:
    host.maps[1].parent.mkdir(parents=True)
    host.maps[1].write_text(kallsyms(linked, 0))
    assert find_symbols(linked.elf, host.maps)[1] == str(host.maps[1])


def test_image_that_cannot_be_read(tmp_path: Path, host: RunningHost) -> None:
    host.vmlinuz.unlink()
    host.vmlinuz.mkdir()
    with pytest.raises(ConfigDirError, match=r"/boot/vmlinuz-.*: Is a directory"):
        fill_from_machine(tmp_path / "config", host)
    assert not (tmp_path / "config").exists()


def test_map_that_is_not_text(tmp_path: Path, host: RunningHost) -> None:
    host.maps[0].write_bytes(b"\xff\xfe")
    assert fill_from_machine(tmp_path / "config", host) == str(host.kallsyms)
