# SPDX-License-Identifier: GPL-2.0-only
"""Which references wait for the core, and which the module loader needs before."""

from pathlib import Path

import pytest

from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.elf.read import read_object
from tests.support.objects.compile import SPLIT, compile_c

CALL = 'extern int fill(void) asm("ksplice_8c4o6ucj_fill"); int init(void) { return fill(); }\n'
CODE = """
extern int hidden(int) asm("\\".klp.sym.vmlinux.hidden,2\\"");
extern int of_module(int) asm("\\".klp.sym.ext4.of_module,0\\"");
extern int bound_to(int) asm("\\".klp.sym.ext4@vmlinux@bound_to,0\\"");
extern int exported(int);
"""


def sections(tmp_path: Path, source: str) -> dict[str, list[int]]:
    """Return the offsets of the relocations of each livepatch section of a finished module."""
    ko = compile_c(tmp_path, source, *SPLIT)
    obj = read_object(write_livepatch_module(ko, "m.ko"), "m.ko")
    # where the text of g begins in the joined section
    begins = {s.section: s.value for s in obj.symbols if s.name == "g" and s.section}
    return {
        k.name: [r.offset - begins.get(k.target, 0) for r in k.relocations] for k in obj.livepatch
    }


def asm(text: str) -> str:
    """Return C that has lines of assembly, where ``{hidden}`` is a symbol of vmlinux."""
    lines = text.replace("{hidden}", '\\".klp.sym.vmlinux.hidden,2\\"').strip().splitlines()
    return "".join(f'asm("{line.strip()}");\n' for line in lines)


def test_code_and_data_wait_where_the_module_calls_for_it(tmp_path: Path) -> None:
    source = f"""{CODE}
int f(int x) {{ return hidden(x) + of_module(x) + exported(x); }}
int (*pointer)(int) = hidden;
int (*const table[])(int) = {{ hidden, exported, hidden }};
"""
    found = sections(tmp_path, source)
    assert set(found) == {
        ".klp.rela.vmlinux..text", ".klp.rela.ext4..text",
        ".klp.rela.vmlinux..data.pointer", ".klp.rela.vmlinux..rodata.table",
    }  # fmt: skip
    found = sections(tmp_path, source + CALL)
    assert set(found) == {
        ".klp.rela.ksplice-vmlinux..text", ".klp.rela.ext4..text",
        ".klp.rela.ksplice-vmlinux..data.pointer", ".klp.rela.ksplice-vmlinux..rodata.table",
    }  # fmt: skip
    assert found[".klp.rela.ksplice-vmlinux..rodata.table"] == [0, 16]


@pytest.mark.parametrize(
    "section",
    [".init.text", ".data..percpu", ".data..ro_after_init", "__param", ".static_call.text"],
)
def test_what_is_used_before_does_not_wait(tmp_path: Path, section: str) -> None:
    flags = "ax" if section.endswith("text") else "aw"
    source = asm(f"""
        .section {section},\\"{flags}\\"
        .quad {{hidden}}
        .previous
    """)
    assert set(sections(tmp_path, source + CALL)) == {f".klp.rela.vmlinux.{section}"}


def test_what_an_alternative_rewrites_does_not_wait(tmp_path: Path) -> None:
    source = asm("""
        .section .text.g,\\"ax\\"
        g: call {hidden}
        1: call {hidden}
        nop
        2: call {hidden}
        .section .altinstr_replacement,\\"ax\\"
        3: call {hidden}
        .section .altinstructions,\\"a\\"
        .long 1b - .
        .long 3b - .
        .word 0x70
        .byte 2b - 1b, 5
        .previous
    """)
    found = sections(tmp_path, source + CALL)
    assert found == {
        ".klp.rela.vmlinux..text": [6],
        ".klp.rela.ksplice-vmlinux..text": [1, 12],
        ".klp.rela.vmlinux..altinstr_replacement": [1],
    }


def test_a_static_call_its_table_and_its_key_do_not_wait(tmp_path: Path) -> None:
    source = asm("""
        .section .text.g,\\"ax\\"
        g: call {hidden}
        1: call {hidden}
        .section .data.__SCK__of_new_code,\\"aw\\"
        .type __SCK__of_new_code,@object
        .size __SCK__of_new_code,16
        __SCK__of_new_code: .quad {hidden}, 0
        .section .data.other,\\"aw\\"
        .quad {hidden}
        .section .static_call_sites,\\"a\\"
        .long 1b - .
        .long __SCK__of_new_code - .
        .long 1b - .
        .long {hidden} - .
        .previous
    """)
    found = sections(tmp_path, source + CALL)
    assert found == {
        ".klp.rela.vmlinux..text": [6],
        ".klp.rela.ksplice-vmlinux..text": [1],
        ".klp.rela.vmlinux..data.__SCK__of_new_code": [0],
        ".klp.rela.ksplice-vmlinux..data.other": [0],
        ".klp.rela.vmlinux..static_call_sites": [12],
    }
