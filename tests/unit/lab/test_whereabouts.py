# SPDX-License-Identifier: GPL-2.0-only
"""Where a physical address is, as the kernel and its page tables say."""

import random

import pytest

from ksplicd.errors import LabError
from ksplicd.lab.guest_memory import PAGE
from ksplicd.lab.whereabouts import KernelSymbols, read_areas
from tests.support.guest.made_memory import IMAGE, IMAGE_SIZE, MODULE, TEXT, VMALLOC, MadeMemory


def test_symbols_by_name_and_address() -> None:
    symbols = KernelSymbols(
        "ffffffff81000000 T _text\n"
        "ffffffff81000000 T _stext\n"
        "ffffffff81000100 d fops.3\n"
        "ffffffff81000200 d fops.14\n"
        "ffffffffc0001000 d fops.3\t[romfs]\n"
    )
    assert symbols.addresses("fops.3") == [0xFFFFFFFF81000100]
    assert symbols.addresses("fops.3", "romfs") == [0xFFFFFFFFC0001000]
    assert symbols.addresses_like("fops") == [0xFFFFFFFF81000100, 0xFFFFFFFF81000200]
    assert symbols.addresses("fops") == []
    near = symbols.nearest(0xFFFFFFFF810001FF)
    assert near is not None
    assert near.name == "fops.3"
    assert symbols.next_address(0xFFFFFFFF81000100) == 0xFFFFFFFF81000200
    assert symbols.nearest(0) is None
    assert symbols.next_address(0xFFFFFFFFC0001000) is None
    with pytest.raises(LabError, match="has 2 symbols named fops"):
        KernelSymbols("ffffffff81000100 d fops\nffffffff81000200 d fops\n").address("fops")


@pytest.mark.parametrize(
    "line",
    [
        "", "ffffffff81000000", "ffffffff8100000 T short", "ffffffff81000000 TT name",
        "FFFFFFFF81000000 T upper", "ffffffff81000000 T name\t[]", "ffffffff81000000 T a b",
        "ffffffff81000000 T name\t[a]b]", f"ffffffff81000000 T {'n' * 5000}",
    ],
)  # fmt: skip
def test_lines_that_are_none_are_skipped(line: str) -> None:
    symbols = KernelSymbols(f"{line}\nffffffff81000100 T name\n{line}")
    assert symbols.addresses("name") == [0xFFFFFFFF81000100]
    assert symbols.nearest(0xFFFFFFFF81000000) is None


def test_areas_that_hold_memory() -> None:
    text = (
        "0xffffb0dcc0000000-0xffffb0dcc0005000   20480 copy_process+0x2f5/0x1d80 pages=4 vmalloc\n"
        "0xffffb0dcc0006000-0xffffb0dcc0008000    8192 acpi_os_map+0x1/0x2 phys=0x1000 ioremap\n"
        "0xffffb0dcc0008000-0xffffb0dcc000a000    8192 unpurged vm_area\n"
        "0xffffb0dcc000c000-0xffffb0dcc000e000    8192 vm_map_ram\n"
        "0xffffb0dcc0010000-0xffffb0dcc0010000       0 nothing+0x1/0x2 vmalloc\n"
        "(____ptrval____)-(____ptrval____)   20480 hidden+0x1/0x2 vmalloc\n"
    )
    assert [(a.begin & 0xFFFFF, a.by) for a in read_areas(text)] == [
        (0, "copy_process"), (0xC000, ""),
    ]  # fmt: skip


def test_places_have_names() -> None:
    made = MadeMemory()
    made.add_area(VMALLOC, [0x40000, 0x42000], "copy_process")
    made.add_area(VMALLOC + 0x10000, [0x44000], "kvmalloc_node")
    made.add_area(MODULE, [0x46000], "move_module")
    made.of_modules = [f"{MODULE + 0x20:016x} d ops\t[romfs]"]
    made.add_slab(0x50000, "net_namespace", 0x51000)
    now = made.whereabouts()
    assert now.describe(IMAGE + 0x9010) == "table+0x10 (physical address 0x19010)"
    assert now.describe(0x46028) == "ops+0x8 [romfs] (physical address 0x46028)"
    assert now.describe(0x46010) == "vmalloc memory of move_module (physical address 0x46010)"
    assert now.describe(0x42010) == "a task's kernel stack (physical address 0x42010)"
    assert now.describe(0x44000) == "vmalloc memory of kvmalloc_node (physical address 0x44000)"
    assert now.describe(0x50060) == "slab cache net_namespace (physical address 0x50060)"
    assert now.describe(0x60000) == "physical address 0x60000"
    assert now.module_of(MODULE + 0x28) == "romfs"
    assert now.module_of(MODULE) is None
    assert now.module_of(TEXT) is None
    assert now.module_of(None) is None


def test_slab_cache_without_a_name() -> None:
    made = MadeMemory()
    made.add_slab(0x50000, "no_such_cache", 0x51000)
    assert made.whereabouts().describe(0x50000) == "a slab cache (physical address 0x50000)"
    made.symbols.pop("vmemmap_base")
    assert made.whereabouts().describe(0x50000) == "a slab cache (physical address 0x50000)"


def test_addresses_both_ways() -> None:
    made = MadeMemory()
    made.add_area(VMALLOC, [0x42000, 0x40000], "kvmalloc_node")
    now = made.whereabouts()
    assert now.translate(TEXT + 0x123) == IMAGE + 0x123
    assert now.virtual(IMAGE + IMAGE_SIZE - 1) == TEXT + IMAGE_SIZE - 1
    assert now.translate(VMALLOC + PAGE + 5) == 0x40005
    assert now.virtual(0x40005) == VMALLOC + PAGE + 5
    assert now.virtual(0x60000) is None
    # as the kernel sees it, one page is behind the other
    assert now.beside(0x42FF8, 8) == 0x40000
    assert now.beside(0x40000, -8) == 0x42FF8
    assert now.beside(0x40FF8, 8) is None
    assert now.beside(0x60FF8, 8) == 0x61000


def test_what_the_image_gave_back_is_none_of_it() -> None:
    made = MadeMemory()
    for page in (IMAGE + 0x6000, IMAGE + 0x7000):
        made.flags[page // PAGE] = 0
    made.add_area(VMALLOC, [IMAGE + 0x6000], "kvmalloc_node")
    now = made.whereabouts()
    assert now.virtual(IMAGE + 0x6008) == VMALLOC + 8
    assert (
        now.describe(IMAGE + 0x6008) == "vmalloc memory of kvmalloc_node (physical address 0x16008)"
    )
    assert now.describe(IMAGE + 0x7008) == "physical address 0x17008"


def test_kernel_that_does_not_say_where_it_lies() -> None:
    made = MadeMemory()
    made.iomem = ""
    with pytest.raises(LabError, match="/proc/iomem does not say"):
        made.whereabouts()
    made = MadeMemory()
    del made.symbols["init_top_pgt"]
    with pytest.raises(LabError, match="0 symbols named init_top_pgt"):
        made.whereabouts()


def test_whatever_is_in_the_memory_is_described() -> None:
    """Page tables, page structs and slab caches are foreign bytes."""
    rng = random.Random(7)
    made = MadeMemory()
    made.add_area(VMALLOC, [0x40000], "copy_process")
    made.add_slab(0x50000, "net_namespace", 0x51000)
    made.areas.append(f"0x{'0' * 16}-0x{'f' * 16} 1 everything+0x1/0x2 vmalloc")
    whole = bytes(made.data)
    for _ in range(20):
        made.data[:] = whole
        for _ in range(400):
            at = rng.randrange(0x70000, 0x90000) & ~7
            made.put_word(at, rng.choice([rng.getrandbits(64), made.data[at] | 1, 0]))
        now = made.whereabouts()
        for _ in range(20):
            assert "physical address" in now.describe(rng.randrange(0, 1 << 20))
