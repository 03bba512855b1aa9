# SPDX-License-Identifier: GPL-2.0-only
"""The old code's tables, written and taken apart again."""

from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.old_code import tables
from ksplicd.create.old_code.sites import ROWS, SiteKind, read_sites
from ksplicd.create.old_code.tables import OldUnit, compared_functions, write_old_code
from ksplicd.create.stock.match import match_unit
from ksplicd.elf.x86_64 import R_X86_64_PC32, R_X86_64_PLT32, RELOCATION_TYPES
from ksplicd.errors import ImageMismatchError
from tests.support.objects.compile import compile_object
from tests.support.objects.link import Linked, link
from tests.support.old_code.blob import Blob

SOURCE = r"""
asm(".text\nbegin: .skip 16\n");
extern int printk(const char *, ...);
static int count;
static int limits[4] = { 1, 2, 3, 4 };
static __attribute__((noipa)) int helper(int x) { return printk("helper %d", x + count); }
int user(int x) { count += limits[x]; return helper(x + 1); }
int same_a(int x) { return x * 3; }
int same_b(int x) { return x * 3; }
extern int alias(int x) __attribute__((alias("user")));
__attribute__((section(".init.text"))) int setup(void) { return printk("setup"); }
__attribute__((weak)) int overridden(void) { return 1; }
int site(void)
{
    asm volatile("1: nop; nop; nop; nop; nop\n"
        ".pushsection .altinstructions, \"a\"\n"
        ".long 1b - ., 2f - .\n.2byte 0x8042\n.byte 5, 5\n"
        ".popsection\n"
        ".pushsection .altinstr_replacement, \"ax\"\n2: call helper\n.popsection\n"
        "3: .byte 0x0f,0x1f,0x44,0,0\n"
        ".pushsection __jump_table, \"aw\"\n"
        ".long 3b - ., 4f - .\n.quad count + 3 - .\n"
        ".popsection\n4:"
        ".pushsection __ex_table, \"a\"\n"
        ".long 4b - ., 3b - .\n.long 0x30007\n"
        ".popsection");
    return 0;
}
"""
OTHER = r"""
static int count = 5;
static __attribute__((noinline)) int helper(int x) { return x + count; }
int other(int x) { return helper(x); }
int overridden(void) { return 2; }
int printk(const char *format, ...) { return *format; }
"""
SIZES = {".altinstructions": 12, "__jump_table": 16, "__ex_table": 12}


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return link(tmp_path, {"unit": SOURCE, "other": OTHER})


def write(linked: Linked, *names: str) -> bytes:
    units = [
        OldUnit(
            match=match_unit(linked.objects[name], linked.image, linked.map),
            sites=read_sites(ObjectIndex(linked.objects[name], SIZES)),
        )
        for name in names
    ]
    return write_old_code("vmlinux", units, linked.map)


def test_structures_are_those_of_format_h(tmp_path: Path) -> None:
    folder = Path(__file__).parents[4] / "kmodsrc"
    build_bug = tmp_path / "linux/build_bug.h"
    build_bug.parent.mkdir()
    build_bug.write_text("#define static_assert _Static_assert\n")  # of the kernel's own headers
    obj = compile_object(
        tmp_path,
        """
        #include "format.h"
        const __u32 sizes[] = {
            sizeof(struct ksplice_old_header), sizeof(struct ksplice_sym),
            sizeof(struct ksplice_func), sizeof(struct ksplice_reloc), sizeof(struct ksplice_site),
            KSPLICE_OLD_MAGIC, KSPLICE_OLD_VERSION, KSPLICE_NO_SYM,
            KSPLICE_REF_SYM, KSPLICE_REF_BYTES, KSPLICE_REF_SLOT,
            KSPLICE_SITE_FENTRY, KSPLICE_SITE_ALT, KSPLICE_SITE_JUMP_LABEL, KSPLICE_SITE_LOCK,
            KSPLICE_SITE_RETURN, KSPLICE_SITE_RETPOLINE, KSPLICE_SITE_STATIC_CALL,
            KSPLICE_SITE_PARAVIRT, KSPLICE_SITE_ENDBR, KSPLICE_SITE_RUNTIME_PTR,
            KSPLICE_SITE_RUNTIME_SHIFT, KSPLICE_SITE_CALL, KSPLICE_SITE_KEY, KSPLICE_SITE_FIXUP,
        };
        """,
        f"-I{folder}",
        f"-I{tmp_path}",
    )
    sizes = next(s for s in obj.symbols if s.name == "sizes")
    assert sizes.section is not None
    data = sizes.section.data[sizes.value : sizes.value + sizes.size]
    numbers = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    structures = [getattr(tables, s).size for s in ("HEADER", "SYM", "FUNC", "RELOC", "SITE")]
    constants = ("MAGIC", "VERSION", "NO_SYM", "REF_SYM", "REF_BYTES", "REF_SLOT")
    assert numbers == structures + [getattr(tables, c) for c in constants] + list(SiteKind)


def test_blob_is_well_formed(linked: Linked) -> None:
    data = write(linked, "unit", "other")
    blob = Blob(data)
    assert (blob.magic, blob.version, blob.target) == (0x444C4F4B, 1, "vmlinux")
    assert blob.size == len(data)
    assert len(data) % 8 == 0
    assert data[-1] == 0
    names = [blob.sym(i) for i in range(blob.nr_syms)]
    assert names == sorted(set(names))
    for f in blob.functions():
        offsets = [r.offset for r in f.relocs]
        assert offsets == sorted(offsets)
        assert [(s.offset, s.kind) for s in f.sites] == sorted((s.offset, s.kind) for s in f.sites)


def test_same_input_gives_same_bytes(linked: Linked) -> None:
    assert write(linked, "unit", "other") == write(linked, "unit", "other")


def test_what_is_compared(linked: Linked) -> None:
    names = {f.name for f in Blob(write(linked, "unit")).functions()}
    assert names == {"helper", "user", "same_a", "same_b", "site"}, (
        "no alias twice, no init code, no overridden weak function"
    )


def test_what_is_freed_after_boot_is_not_compared(linked: Linked) -> None:
    start = linked.address("same_a")
    kept = [s for s in linked.symbols if not s.name.startswith("__init_")]
    init = [("__init_begin", start), ("__init_end", start + 1)]
    symbols = type(linked.map)([*kept, *(type(kept[0])(a, "D", name) for name, a in init)])
    match = match_unit(linked.objects["unit"], linked.image, symbols)
    names = {f.name for f, _ in compared_functions(match, symbols)}
    assert "same_a" not in names
    assert "same_b" in names


def test_positions_of_ambiguous_names(linked: Linked) -> None:
    helpers = [
        f.sym for f in Blob(write(linked, "unit", "other")).functions() if f.name == "helper"
    ]
    assert sorted(helpers) == [("helper", 1), ("helper", 2)]


def test_every_reference_leads_where_the_image_has_it(linked: Linked) -> None:
    blob = Blob(write(linked, "unit", "other"))
    seen = set()
    for f in blob.functions():
        name, position = f.sym
        start = linked.map.addresses(name)[max(position, 1) - 1]
        for r in f.relocs:
            kind = RELOCATION_TYPES[r.type]
            field = linked.image.read(start + r.offset, kind.size)
            assert field is not None
            value = int.from_bytes(field, "little", signed=kind.is_signed)
            value = (value + (start + r.offset if kind.is_pc_relative else 0)) & (1 << 64) - 1
            seen.add(r.kind)
            if r.kind == tables.REF_SYM:
                name, position = blob.sym(r.ref)
                assert value == linked.map.addresses(name)[max(position, 1) - 1] + r.addend
            else:
                assert r.kind == tables.REF_BYTES
                content = linked.image.read(value - r.addend, r.length)
                assert content == bytes(blob.data[r.ref : r.ref + r.length])
    assert seen == {tables.REF_SYM, tables.REF_BYTES}


def test_alternative_carries_its_replacement(linked: Linked) -> None:
    blob = Blob(write(linked, "unit"))
    site = next(s for s in blob.function("site").sites if s.kind == SiteKind.ALT)
    assert (site.size, site.alt_size, site.feature, site.nr_relocs) == (5, 5, 0x8042, 1)
    assert blob.data[site.alt] == 0xE8
    call = blob.reloc(site.reloc)
    assert (call.offset, call.kind) == (1, tables.REF_SYM)
    assert call.type in (R_X86_64_PC32, R_X86_64_PLT32)
    name, position = blob.sym(call.ref)
    target = linked.map.addresses(name)[max(position, 1) - 1] + call.addend + 4
    assert target in linked.map.addresses("helper")


def test_jump_label_carries_its_target(linked: Linked) -> None:
    blob = Blob(write(linked, "unit"))
    site = next(s for s in blob.function("site").sites if s.kind == SiteKind.JUMP_LABEL)
    name, position = blob.sym(site.sym)
    target = linked.map.addresses(name)[max(position, 1) - 1] + site.addend
    assert target == linked.address("site") + site.offset + site.size


def test_rows_of_tables_carry_what_they_lead_to(linked: Linked) -> None:
    """objtool's mark at a key is not the kernel's."""
    blob = Blob(write(linked, "unit"))
    key, fixup = (s for s in blob.function("site").sites if s.kind in ROWS)
    name, position = blob.sym(key.sym)
    count = linked.map.addresses(name)[max(position, 1) - 1] + key.addend
    assert (key.kind, key.offset, key.size) == (SiteKind.KEY, 5, 1)
    assert count in {address | 1 for address in linked.map.addresses("count")}
    name, position = blob.sym(fixup.sym)
    target = linked.map.addresses(name)[max(position, 1) - 1] + fixup.addend
    assert (fixup.kind, fixup.offset, fixup.feature) == (SiteKind.FIXUP, 10, 0x30007)
    assert target == linked.address("site") + 5


def test_rows_of_modules_are_left_out(linked: Linked) -> None:
    match = match_unit(linked.objects["unit"], linked.image, linked.map)
    sites = read_sites(ObjectIndex(linked.objects["unit"], SIZES))
    blob = Blob(write_old_code("romfs", [OldUnit(match=match, sites=sites)], linked.map))
    assert {s.kind for s in blob.function("site").sites} == {SiteKind.ALT, SiteKind.JUMP_LABEL}


def test_refuses_units_without_running_code(linked: Linked) -> None:
    match = match_unit(linked.objects["unit"], linked.image, linked.map)
    match = replace(match, functions={})
    with pytest.raises(ImageMismatchError, match=r"unit\.o: no function of theirs runs"):
        write_old_code("vmlinux", [OldUnit(match=match, sites={})], linked.map)
