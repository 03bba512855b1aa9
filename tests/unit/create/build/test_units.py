# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.create.build.fingerprint import number_names
from ksplicd.create.build.units import (
    EnabledUnit,
    TargetFilter,
    parse_dry_run,
    read_listing,
    write_listing,
)
from ksplicd.create.messages import names_of

ROOT = Path("/src/linux")


def line(source: str, obj: str, flags: str) -> str:
    """Return what make -n prints for a unit, shortened (scripts/Kbuild.include, if_changed)."""
    command = f"gcc-12 -Wp,-MMD,x/.o.d -I./include {flags} -DKSPLICE_LISTING -c -o {obj} {source}"
    quoted = command.replace("'", "'\\''")
    objtool = f"; ./tools/objtool/objtool --orc {obj}"
    return f"set -e;  echo '  {quoted}   {objtool}';   trap 'rm -f {obj}' HUP; {command} {objtool}"


MODULE = "-mcmodel=kernel -DMODULE -DKBUILD_BASENAME='\"super\"' -DKBUILD_MODNAME='\"romfs\"'"
TEXT = "\n".join([
    "make[1]: Entering directory",
    line("/src/linux/fs/fcntl.c", "fs/fcntl.o", "-mcmodel=kernel -DKBUILD_MODNAME='\"fcntl\"'"),
    line("/src/linux/fs/romfs/super.c", "fs/romfs/super.o", MODULE),
    line("/src/linux/arch/x86/kvm/../../../virt/kvm/kvm_main.c",
         "arch/x86/kvm/../../../virt/kvm/kvm_main.o", "-mcmodel=kernel "),
    line("/src/linux/arch/x86/entry/vdso/vclock_gettime.c", "arch/x86/entry/vdso/vclock_gettime.o",
         "-mcmodel=kernel -fPIC -mcmodel=small"),
    line("scripts/mod/modpost.c", "scripts/mod/modpost.o", ""),
    line("/src/linux/lib/memcpy_64.S", "lib/memcpy_64.o", "-D__ASSEMBLY__"),
    line("/src/linux/arch/x86/boot/head.S", "arch/x86/boot/head.o", "-D__ASSEMBLY__"),
])  # fmt: skip


@pytest.fixture
def units() -> dict[str, EnabledUnit]:
    return {u.source: u for u in parse_dry_run(TEXT, ROOT)}


def test_units_of_the_running_kernel(units: dict[str, EnabledUnit]) -> None:
    assert {u.source: (u.object, *u.targets) for u in units.values()} == {
        "fs/fcntl.c": ("fs/fcntl.o", "vmlinux"),
        "fs/romfs/super.c": ("fs/romfs/super.o", "romfs"),
        "virt/kvm/kvm_main.c": ("arch/x86/kvm/../../../virt/kvm/kvm_main.o", "vmlinux"),
        "lib/memcpy_64.S": ("lib/memcpy_64.o", "vmlinux"),
    }


def test_commands_are_those_of_the_build(units: dict[str, EnabledUnit]) -> None:
    command = units["fs/fcntl.c"].command
    assert command.startswith("gcc-12 -Wp,-MMD,x/.o.d ")
    assert "-DKBUILD_MODNAME='\"fcntl\"' -c -o" in command
    assert "KSPLICE_LISTING" not in command
    assert command.endswith("; ./tools/objtool/objtool --orc fs/fcntl.o")


def test_listing_is_kept(units: dict[str, EnabledUnit]) -> None:
    assert read_listing(write_listing(units.values())) == units


@pytest.mark.parametrize(
    ("lists", "taken", "left"),
    [
        ([], ["vmlinux", "ext4"], []),
        (["vmlinux"], ["vmlinux"], ["ext4"]),
        (["ext4,romfs", "nf%"], ["ext4", "romfs", "nf_tables"], ["vmlinux", "xnf"]),
        (["nf-tables"], ["nf_tables"], ["nf_tables_x"]),
        (["%"], ["vmlinux", "ext4"], []),
        (["e%4"], ["ext4"], ["ext4x", "e.4x"]),
        (["e.t4"], [], ["ext4"]),
    ],
)
def test_targets(lists: list[str], taken: list[str], left: list[str]) -> None:
    wanted = TargetFilter.parse(lists)
    assert [t for t in taken + left if wanted.takes(t)] == taken


def test_counted_names_get_their_numbers_anew() -> None:
    defined = b"__func__.17:\n__func__.3:\n.section .text.f.isra.0\nf.isra.0:\n"
    before = b"lea __func__.17(%rip)\nlea __func__.3(%rip)\nlea __func__.17\ncall f.isra.0\n"
    after = (before + defined).replace(b".17", b".25").replace(b".3", b".4")
    assert number_names(before + defined) == number_names(after)
    unique = b".section .modinfo\n__UNIQUE_ID_license412:\n__addressable_init_module9: f.17\n"
    moved = unique.replace(b"412", b"413").replace(b"module9", b"module11")
    assert number_names(unique) == number_names(moved)
    swapped = before.replace(b"__func__.17\n", b"__func__.3\n")
    assert number_names(before + defined) != number_names(swapped + defined)
    assert number_names(b".local a.1\nlea a.1\n") == number_names(b".local a.2\nlea a.2\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'.string "v1.2"\n', b'.string "v1.3"\n'),
        (b'v1.2:\n.string "v1.2"\n', b'v1.3:\n.string "v1.3"\n'),
        (b'.ascii "say \\"a\\" x.1"\n', b'.ascii "say \\"a\\" x.2"\n'),
        (b"#APP\n# sequence.1\n.byte seq.1\n#NO_APP\n", b"#APP\n.byte seq.2\n#NO_APP\n"),
        (b".section .rodata.str1.1\n", b".section .rodata.str1.8\n"),
        (b".globl a.1\na.1:\n", b".globl a.2\na.2:\n"),
    ],
)
def test_numbers_that_no_compiler_counted_stay(one: bytes, other: bytes) -> None:
    assert number_names(one) != number_names(other)


def test_names_are_shortened() -> None:
    assert names_of("abc") == "a, b, c"
    assert names_of("abcdef") == "a, b, c, d and 2 more"
