# SPDX-License-Identifier: GPL-2.0-only
"""A configuration directory from a running machine, which is a folder here."""

from pathlib import Path

import pytest

from ksplicd.create.stock.from_machine import Machine, fill_from_machine, find_symbols
from ksplicd.create.stock.system_map import read_system_map
from ksplicd.errors import ConfigDirError
from tests.link import Linked, link

RELEASE = "6.1.0-50-cloud-amd64"
CONFIG = 'CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14) 12.2.0"\n'
SLIDE = 0x1A000000


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    source = 'const char linux_banner[] = "Linux version 6.1.176 (x)"; void f(void) {}'
    return link(tmp_path, {"a": source})


@pytest.fixture
def machine(tmp_path: Path, linked: Linked) -> Machine:
    machine = Machine(release=RELEASE, root=tmp_path / "root")
    headers = machine.root / "usr/src/headers"
    for folder in (
        machine.vmlinuz.parent, machine.modules / "kernel", machine.kallsyms.parent,
        headers / "include/generated", machine.maps[0].parent,
    ):  # fmt: skip
        folder.mkdir(parents=True)
    machine.vmlinuz.write_bytes(linked.elf)
    (machine.modules / "build").symlink_to(headers)
    (headers / ".config").write_text(CONFIG)
    (headers / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{RELEASE}"\n')
    machine.maps[1].write_text("ffffffffffffffff B The real System.map is in the dbg package\n")
    machine.kallsyms.write_text(kallsyms(linked, SLIDE))
    return machine


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
    tmp_path: Path, machine: Machine, linked: Linked
) -> None:
    origin = fill_from_machine(tmp_path / "config", machine)
    assert origin == str(machine.kallsyms)
    found = addresses(tmp_path / "config")
    assert found["linux_banner"] == linked.address("linux_banner")
    assert found["cpu_tss_rw"] == 0x6000  # an offset, the same in every boot
    assert "init_module" not in found
    assert (tmp_path / "config/modules").resolve() == machine.modules.resolve()


def test_real_map_comes_first(tmp_path: Path, machine: Machine, linked: Linked) -> None:
    machine.maps[0].write_text(kallsyms(linked, 0).replace("cpu_tss_rw", "of_the_map"))
    assert fill_from_machine(tmp_path / "config", machine) == str(machine.maps[0])
    assert "of_the_map" in addresses(tmp_path / "config")


def test_map_of_another_version_is_passed_over(machine: Machine, linked: Linked) -> None:
    machine.maps[0].write_text(kallsyms(linked, 0x100))
    _, origin = find_symbols(linked.elf, machine.maps, machine.kallsyms)
    assert origin == str(machine.kallsyms)


def test_symbols_hidden_from_us(machine: Machine, linked: Linked) -> None:
    """Without privilege all addresses are 0; then the image is asked, which has no tables."""
    machine.kallsyms.write_text("0000000000000000 T _text\n0000000000000000 D linux_banner\n")
    with pytest.raises(ConfigDirError, match=r"no kallsyms tables found|vmlinux-to-elf"):
        find_symbols(linked.elf, machine.maps, machine.kallsyms)


def test_headers_that_are_not_installed(tmp_path: Path, machine: Machine) -> None:
    (machine.modules / "build").unlink()
    with pytest.raises(ConfigDirError, match=rf"install the package linux-headers-{RELEASE}"):
        fill_from_machine(tmp_path / "config", machine)
