# SPDX-License-Identifier: GPL-2.0-only
"""Patch sites read from the special sections of an object."""

from pathlib import Path

import pytest

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.old_code.sites import Site, SiteKind, read_sites
from ksplicd.elf.model import Object
from ksplicd.errors import ElfError
from tests.support.objects.compile import compile_object

SIZES = {
    "__mcount_loc": 8,
    ".altinstructions": 12,
    "__jump_table": 16,
    ".smp_locks": 4,
    ".return_sites": 4,
    ".retpoline_sites": 4,
    ".static_call_sites": 8,
    ".parainstructions": 16,
}
"""As in Linux 6.1."""


def assemble(tmp_path: Path, *lines: str) -> Object:
    body = "".join(f'"{line}\\n"\n' for line in (".text", "start:", *lines))
    return compile_object(tmp_path, f"asm({body});".replace('"a"', '\\"a\\"'))


def table(section: str, *fields: str) -> str:
    return f".pushsection {section}; {'; '.join(fields)}; .popsection"


def sites_of(obj: Object, sizes: dict[str, int] = SIZES) -> list[Site]:
    text = obj.find_section(".text")
    assert text is not None
    return read_sites(ObjectIndex(obj, sizes))[text]


def test_one_site_of_each_kind(tmp_path: Path) -> None:
    obj = assemble(
        tmp_path,
        "1: .byte 0x0f,0x1f,0x44,0,0",
        "2: lock incl (%rdi)",
        "3: call __x86_indirect_thunk_rax",
        "4: .byte 0x2e; call __x86_indirect_thunk_r11",
        "5: call __SCT__probe",
        "6: jmp __x86_return_thunk",
        "7: call *pv_ops+24(%rip)",
        table("__mcount_loc", ".quad 1b"),
        table(".smp_locks", ".long 2b - ."),
        table(".retpoline_sites", ".long 3b - .", ".long 4b - ."),
        table(".static_call_sites", ".long 5b - .", ".long __SCK__probe + 1 - ."),
        table(".return_sites", ".long 6b - ."),
        table(".parainstructions", ".quad 7b", ".byte 3, 6", ".balign 8"),
    )
    sites = sites_of(obj)
    assert [(s.kind, s.offset, s.size) for s in sites] == [
        (SiteKind.FENTRY, 0, 5),
        (SiteKind.LOCK, 5, 1),
        (SiteKind.RETPOLINE, 8, 5),
        (SiteKind.RETPOLINE, 13, 6),
        (SiteKind.STATIC_CALL, 19, 5),
        (SiteKind.RETURN, 24, 5),
        (SiteKind.PARAVIRT, 29, 6),
    ]
    key = sites[4].reference
    assert key is not None
    assert (key.symbol.name, key.addend) == ("__SCK__probe", 0), "the tail flag is no offset"


def test_a_trampoline_in_place_of_the_key_is_no_key(tmp_path: Path) -> None:
    obj = assemble(
        tmp_path,
        "1: call __SCT__probe",
        table(".static_call_sites", ".long 1b - .", ".long __SCT__probe - ."),
    )
    assert sites_of(obj)[0].reference is None


@pytest.mark.parametrize(
    ("code", "size"),
    [(".byte 0xeb, 0", 2), (".byte 0x66, 0x90", 2), (".byte 0x0f,0x1f,0x44,0,0", 5), ("jmp x", 5)],
)
def test_jump_label_knows_size_and_target(tmp_path: Path, code: str, size: int) -> None:
    obj = assemble(
        tmp_path,
        f"1: {code}",
        "ret",
        "2: ret",
        table("__jump_table", ".long 1b - .", ".long 2b - .", ".quad key - ."),
    )
    site, key = sites_of(obj)
    assert (site.kind, site.size) == (SiteKind.JUMP_LABEL, size)
    assert (key.kind, key.offset, key.size) == (SiteKind.KEY, 0, 1)
    assert site.reference is not None
    assert site.reference.symbol.value + site.reference.addend == size + 1


@pytest.mark.parametrize(("feature", "size"), [(".2byte 0x8123", 12), (".4byte 0x10123", 14)])
def test_alternatives_keep_the_order_of_their_table(
    tmp_path: Path, feature: str, size: int
) -> None:
    obj = assemble(
        tmp_path,
        "1: nop; nop; nop",
        table(
            ".altinstructions",
            ".long 1b - .", ".long 2f - .", feature, ".byte 3, 2",
            ".long 1b - .", ".long 3f - .", feature, ".byte 3, 0",
        ),
        table(".altinstr_replacement", "nop; 2: sti; cli; 3:"),
    )  # fmt: skip
    first, second = sites_of(obj, SIZES | {".altinstructions": size})
    assert first.alternative is not None
    code = first.alternative.section.data[first.alternative.offset :][: first.alternative.size]
    assert (first.size, code) == (3, b"\xfb\xfa")
    assert first.feature == int(feature.split()[1], 16)
    assert (second.offset, second.size, second.alternative) == (0, 3, None)


def test_alternatives_of_one_place_have_the_size_of_the_largest(tmp_path: Path) -> None:
    """Nested ones of Linux 6.8 and later: the outer one pads more than the inner one knows."""
    obj = assemble(
        tmp_path,
        "1: nop; nop; nop; 4: nop",
        table(
            ".altinstructions",
            ".long 1b - .", ".long 2f - .", ".2byte 1", ".byte 2, 1",
            ".long 1b - .", ".long 2f - .", ".2byte 2", ".byte 3, 1",
            ".long 4b - .", ".long 2f - .", ".2byte 2", ".byte 1, 1",
        ),
        table(".altinstr_replacement", "2: cli"),
    )  # fmt: skip
    assert [(s.offset, s.size) for s in sites_of(obj)] == [(0, 3), (0, 3), (3, 1)]


def test_landing_pads_of_functions(tmp_path: Path) -> None:
    obj = assemble(
        tmp_path,
        ".type f, @function; f: endbr64; nop; .size f, . - f",
        ".type g, @function; .set g, f; .size g, 5",
        ".type h, @function; h: nop; endbr64; .size h, . - h",
    )
    assert [(s.kind, s.offset, s.size) for s in sites_of(obj)] == [(SiteKind.ENDBR, 0, 4)]


def test_runtime_constants(tmp_path: Path) -> None:
    obj = assemble(
        tmp_path,
        "movabs $0x0123456789abcdef, %rax; 1: shrl $12, %eax; 2:",
        table("runtime_ptr_dentry_hashtable", ".long 1b - 8 - ."),
        table("runtime_shift_d_hash_shift", ".long 2b - 1 - ."),
    )
    assert [(s.kind, s.offset, s.size, s.variable) for s in sites_of(obj)] == [
        (SiteKind.RUNTIME_PTR, 2, 8, "dentry_hashtable"),
        (SiteKind.RUNTIME_SHIFT, 12, 1, "d_hash_shift"),
    ]


def test_an_alternative_comes_before_what_is_inside(tmp_path: Path) -> None:
    obj = assemble(
        tmp_path,
        "1: call *pv_ops(%rip); nop",
        table(".parainstructions", ".quad 1b", ".byte 0, 6", ".balign 8"),
        table(".altinstructions", ".long 1b - .", ".long 2f - .", ".2byte 1", ".byte 7, 1"),
        table(".altinstr_replacement", "2: cli"),
    )
    assert [s.kind for s in sites_of(obj)] == [SiteKind.ALT, SiteKind.PARAVIRT]


def test_refuses_entries_of_another_size(tmp_path: Path) -> None:
    obj = assemble(tmp_path, "1: nop", table(".smp_locks", ".long 1b - .", ".byte 0"))
    with pytest.raises(ElfError, match=r"\.smp_locks: 5 bytes are no multiple of 4"):
        read_sites(ObjectIndex(obj, SIZES))


def test_refuses_a_site_outside_its_code(tmp_path: Path) -> None:
    obj = assemble(tmp_path, "nop", table(".return_sites", ".long start - ."))
    with pytest.raises(ElfError, match=r"\.return_sites: entry 0 is outside its code"):
        read_sites(ObjectIndex(obj, SIZES))


def test_refuses_an_entry_without_code(tmp_path: Path) -> None:
    obj = assemble(tmp_path, "nop", table(".smp_locks", ".long elsewhere - ."))
    with pytest.raises(ElfError, match=r"\.smp_locks: entry 0 names no code"):
        read_sites(ObjectIndex(obj, SIZES))
