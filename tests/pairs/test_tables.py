# SPDX-License-Identifier: GPL-2.0-only
"""Special sections: what their entries mean for a function, and which go into new code."""

from pathlib import Path

import pytest

from tests.support.objects.pair import changed, compare, cut, kept, undefined

KEYS = """
struct key {{ int n; }};
struct key a_key, b_key;
#define BRANCH(key) asm goto("1: .byte 0x0f,0x1f,0x44,0x00,0x00\\n" \\
    ".pushsection __jump_table,\\"aw\\"\\n.balign 8\\n" \\
    ".long 1b - ., %l[yes] - .\\n.quad %c0 + 1 - .\\n.popsection" :: "i" (&key) :: yes)
int f(int x) {{ BRANCH({0}); return exported(x); yes: return hidden(x) + {1}; }}
int g(int x) {{ BRANCH(a_key); return exported(x); yes: return hidden(x) + 5; }}
"""


def test_a_static_key(tmp_path: Path) -> None:
    """Only the entry tells which key a branch tests."""
    d = compare(tmp_path, KEYS.format("a_key", 1), KEYS.format("b_key", 1))
    assert changed(d) == ["f"]
    assert list(d.changed.values()) == ["entry in __jump_table differs"]
    code = cut(d)
    table = code.obj.find_section("__jump_table")
    assert table is not None
    assert table.size == 16
    assert ".klp.sym.vmlinux.b_key,0" in undefined(code)


def test_a_static_key_stays(tmp_path: Path) -> None:
    d = compare(tmp_path, KEYS.format("a_key", 1), KEYS.format("a_key", 2))
    assert changed(d) == ["f"]


STATIC_CALL = """
asm(".pushsection .static_call.text,\\"ax\\"\\n.globl __SCT__{0}, __SCT__other\\n"
    ".type __SCT__{0},@function\\n__SCT__{0}: .byte 0xe9\\n.long {0} - . - 4\\n"
    ".byte 0x0f,0xb9,0xcc\\n.size __SCT__{0}, 8\\n"
    ".type __SCT__other,@function\\n__SCT__other: .byte 0xe9\\n.long hidden - . - 4\\n"
    ".byte 0x0f,0xb9,0xcc\\n.size __SCT__other, 8\\n.popsection");
int __SCK__{0};
#define CALL(name) asm volatile("1: call __SCT__" name "\\n" \\
    ".pushsection .static_call_sites,\\"aw\\"\\n.long 1b - ., __SCK__{0} - .\\n.popsection")
int f(int x) {{ CALL("{0}"); return x + {1}; }}
int g(int x) {{ CALL("{0}"); return x; }}
"""


def test_static_calls(tmp_path: Path) -> None:
    """Trampolines share ``.static_call.text``; a site belongs to its function."""
    d = compare(tmp_path, STATIC_CALL.format("exported", 1), STATIC_CALL.format("exported", 2))
    assert changed(d) == ["f"]
    code = cut(d)
    sites = code.obj.find_section(".static_call_sites")
    assert sites is not None
    assert sites.size == 8
    assert {".klp.sym.vmlinux.__SCK__exported,0", ".klp.sym.vmlinux.__SCT__exported,0"} <= (
        undefined(code)
    )


def test_another_default_of_a_static_call(tmp_path: Path) -> None:
    """Boot code has rewritten the calls to the old function: neither key nor trampoline matter."""
    source = """
int first(int x) {{ return hidden(x); }} int second(int x) {{ return exported(x); }}
struct {{ void *func; long type; }} __SCK__op = {{ .func = {0}, .type = 1 }};
asm(".pushsection .static_call.text,\\"ax\\"\\n.globl __SCT__op\\n.type __SCT__op,@function\\n"
    "__SCT__op: .byte 0xe9\\n.long {0} - . - 4\\n.size __SCT__op, 5\\n.popsection");
"""
    d = compare(tmp_path, source.format("first"), source.format("second"))
    assert [r.symbol for r in d.refusals] == ["__SCK__op", "__SCT__op"]
    assert {r.hint for r in d.refusals} == {"call static_call_update() from a hook"}
    assert not d.changed
    assert not d.pointers


ALTERNATIVE = """
#define ALT(new, feature) asm volatile("661: nopl 0(%%rax,%%rax,1)\\n662:\\n" \\
    ".pushsection .altinstructions,\\"a\\"\\n.long 661b - ., 663f - .\\n.word " feature "\\n" \\
    ".byte 662b - 661b, 664f - 663f\\n.popsection\\n" \\
    ".pushsection .altinstr_replacement,\\"ax\\"\\n663: " new "\\n664:\\n.popsection" ::: "memory")
int g(int x) {{ {2} return x; }}
int f(int x) {{ ALT("{0}", "{1}"); return x; }}
"""


@pytest.mark.parametrize(
    ("pre", "post", "names"),
    [
        (("call exported", "3", ""), ("call hidden", "3", ""), ["f"]),
        (("mfence", "3", ""), ("lfence", "3", ""), ["f"]),
        (("mfence", "3", ""), ("mfence", "4", ""), ["f"]),
        (("mfence", "3", ""), ("mfence", "3", 'ALT("call hidden", "7");'), ["g"]),
    ],
)
def test_alternatives(
    tmp_path: Path, pre: tuple[str, ...], post: tuple[str, ...], names: list[str]
) -> None:
    """The replacement counts, wherever it lies in its section."""
    d = compare(tmp_path, ALTERNATIVE.format(*pre), ALTERNATIVE.format(*post))
    assert changed(d) == names
    table = cut(d).obj.find_section(".altinstructions")
    assert table is not None
    assert table.size == 12


def test_code_of_other_alternatives_is_overwritten(tmp_path: Path) -> None:
    """objtool, which reads it all, gives up new code with a call that leads nowhere."""
    other = 'ALT("call hidden", "7");'
    d = compare(
        tmp_path,
        ALTERNATIVE.format("call exported; nop", "3", other),
        ALTERNATIVE.format("call exported; pause", "3", other),
    )
    assert changed(d) == ["f"]
    code = cut(d).obj.find_section(".altinstr_replacement")
    assert code is not None
    assert code.data == b"\xcc" * 5 + b"\xe8\0\0\0\0" + b"\xf3\x90"
    assert [r.symbol.name for r in code.relocations] == ["exported"]


FRAGMENT = """
#define HAS(bit) asm goto("1: jmp 6f\\n2:\\n" \\
    ".pushsection .altinstr_aux,\\"ax\\"\\n6: testb $" #bit ", features(%%rip)\\n" \\
    "jnz %l[yes]\\njmp %l[no]\\n.popsection" :::: yes, no)
{2}
int f(int x) {{ HAS({0}); yes: return exported(x); no: return hidden(x) + {1}; }}
int g(int x) {{ HAS(4); yes: return exported(x); no: return hidden(x) + 3; }}
"""


def test_fragments_of_code_belong_to_the_function_that_jumps_there(tmp_path: Path) -> None:
    """static_cpu_has() puts a test into ``.altinstr_aux``, where that of all functions are."""
    d = compare(tmp_path, FRAGMENT.format(1, 1, ""), FRAGMENT.format(2, 1, ""))
    assert changed(d) == ["f"]
    assert [s.size for s in cut(d).obj.sections if s.name == ".altinstr_aux"] == [18]
    more = "int early(int x) { HAS(8); yes: return x; no: return x + 1; }"
    d = compare(tmp_path, FRAGMENT.format(1, 1, ""), FRAGMENT.format(1, 7, more))
    assert changed(d) == ["f"]
    assert [s.name for s in d.new] == ["early"]


FIXUP = """
#define LOAD(x, p, error) asm volatile("1: mov (%1), %0\\n2:\\n" \\
    ".pushsection .fixup,\\"ax\\"\\n3: mov $" #error ", %0\\njmp 2b\\n.popsection\\n" \\
    ".pushsection __ex_table,\\"a\\"\\n.long 1b - ., 3b - ., 0\\n.popsection" : "=r" (x) : "r" (p))
int g(int *p) {{ int x; LOAD(x, p, -5); return x; }}
int f(int *p) {{ int x; LOAD(x, p, {0}); return exported(x); }}
int h(int *p) {{ int x; LOAD(x, p, -7); return x + 1; }}
"""


def test_the_repair_of_an_exception(tmp_path: Path) -> None:
    """Until Linux 5.16 it was in ``.fixup``; only the exception table refers to it."""
    d = compare(tmp_path, FIXUP.format("-14"), FIXUP.format("-22"))
    assert changed(d) == ["f"]
    code = cut(d)
    fixups = [s for s in code.obj.sections if s.name == ".fixup"]
    assert len(fixups) == 1
    assert (-22).to_bytes(4, "little", signed=True) in fixups[0].data
    table = code.obj.find_section("__ex_table")
    assert table is not None
    assert table.size == 12


SITES = """
#define SITE(table, entry, insn) asm volatile("771: " insn "\\n" \\
    ".pushsection " table ",\\"a\\"\\n" entry "\\n.popsection" ::: "memory")
int g(int x) {{ {0} return x; }}
int f(int x) {{ {0} return x + {1}; }}
"""
LOCK = 'SITE(".smp_locks", ".long 771b - .", "lock; incl counter(%%rip)");'
PARAVIRT = (
    'SITE(".parainstructions", ".balign 8\\n.quad 771b\\n.byte 7, 6\\n.balign 8",'
    ' "call *pv_ops+8(%%rip)");'
)
RETURN = 'SITE(".return_sites", ".long 771b - .", "nop");'
RETPOLINE = 'SITE(".retpoline_sites", ".long 771b - .", "call __x86_indirect_thunk_rax");'
ORC = 'SITE(".orc_unwind_ip", ".long 771b - .", "nop"); SITE(".orc_unwind", ".skip 6", "nop");'


@pytest.mark.parametrize(
    ("site", "table", "size"),
    [
        (LOCK, ".smp_locks", 4),
        (PARAVIRT, ".parainstructions", 16),
        (RETURN, ".return_sites", 4),
        (RETPOLINE, ".retpoline_sites", 4),
        (ORC, ".orc_unwind_ip", 4),
        (ORC, ".orc_unwind", 6),
    ],
)
def test_sites_come_with_their_function(tmp_path: Path, site: str, table: str, size: int) -> None:
    d = compare(tmp_path, SITES.format(site, 1), SITES.format(site, 2))
    assert changed(d) == ["f"]
    section = cut(d).obj.find_section(table)
    assert section is not None
    assert section.size == size


def test_another_paravirt_operation(tmp_path: Path) -> None:
    other = PARAVIRT.replace(".byte 7", ".byte 8")
    d = compare(tmp_path, SITES.format(PARAVIRT, 1), SITES.format(other, 1))
    assert changed(d) == ["f", "g"]


DEBUG = """
struct descriptor {{ const char *module, *function, *file, *format; int line; long key; }};
extern void debug(struct descriptor *, const char *);
#line {0} "{1}"
int f(int x) {{
    static struct descriptor __attribute__((section("__dyndbg"), aligned(8)))
        __UNIQUE_ID_ddebug{0} = {{ "mod", __func__, __FILE__, "{2}", __LINE__, 0 }};
    if (__UNIQUE_ID_ddebug{0}.key) debug(&__UNIQUE_ID_ddebug{0}, "x");
    return x;
}}
"""


def test_dynamic_debug(tmp_path: Path) -> None:
    """The line, the file and the number of the descriptor may differ; what it says may not."""
    assert compare(
        tmp_path, DEBUG.format(10, "a.c", "text"), DEBUG.format(20, "b.c", "text")
    ).is_empty
    d = compare(tmp_path, DEBUG.format(10, "a.c", "text"), DEBUG.format(10, "a.c", "other"))
    assert changed(d) == ["f"]
    assert "__dyndbg" in kept(cut(d))


UBSAN = """
int f(int *a, int i) {{ {0} return a[i] << {1}; }}
int table[4];
int g(int i) {{ return table[i]; }}
"""


def test_sanitizer_records(tmp_path: Path) -> None:
    """Each check of UBSAN has a record with its line, in a section without a symbol."""
    flags = "-fsanitize=shift,bounds"
    assert compare(tmp_path, UBSAN.format("", 3), UBSAN.format("\n\n", 3), flags).is_empty
    d = compare(tmp_path, UBSAN.format("", "i"), UBSAN.format("\n\n", "(i + 1)"), flags)
    assert changed(d) == ["f"]
    assert any("Lubsan" in name for name in kept(cut(d)))


SWITCH = """
int f(int x) {{
    switch (x) {{
    case 1: return hidden(1); case 2: return exported(2); case 3: return hidden(x * 3);
    case 4: return hidden(44); case 5: return {0}(5); case 6: return exported(66);
    }}
    return 0;
}}
int g(int x) {{
    switch (x) {{
    case 1: return hidden(1); case 2: return exported(2); case 3: return hidden(x * 3);
    case 4: return hidden(44); case 5: return exported(5); case 6: return exported(66);
    }}
    return 1;
}}
"""


def test_jump_tables_of_switches(tmp_path: Path) -> None:
    """They have no symbol, and refer into their function."""
    d = compare(tmp_path, SWITCH.format("hidden"), SWITCH.format("exported"), "-fjump-tables")
    assert changed(d) == ["f"]
    code = cut(d)
    tables = [s for s in code.obj.sections if s.name.startswith(".rodata.f") and s.relocations]
    assert len(tables) == 1
    assert {r.symbol.section.name for r in tables[0].relocations if r.symbol.section} == {".text.f"}
    assert compare(
        tmp_path, SWITCH.format("hidden"), SWITCH.format("hidden"), "-fjump-tables"
    ).is_empty


def test_entries_in_a_switch_change_places(tmp_path: Path) -> None:
    """Code of the same bytes whose jump table differs."""
    source = """
asm(".pushsection .rodata.table,\\"a\\"\\n.balign 8\\n1: .quad .text.f + {0}, .text.f + {1}\\n"
    ".popsection\\n.pushsection .text.f,\\"ax\\"\\n.type f,@function\\n.globl f\\n"
    "f: jmp *.rodata.table(,%rdi,8)\\nxor %eax,%eax\\nret\\nmov %edi,%eax\\nret\\n.size f, . - f\\n"
    ".popsection");
"""
    d = compare(tmp_path, source.format(7, 10), source.format(10, 7))
    assert changed(d) == ["f"]


def test_labels_in_a_table(tmp_path: Path) -> None:
    """``jumptable`` of kernel/bpf/core.c: the kernel's copy leads into the old function."""
    source = """
int f(int x)
{{
    static const void *const jumptable[] = {{ &&one, &&two, &&three }};
    goto *jumptable[x];
one: return hidden(1);
two: return hidden({});
three: return hidden(3);
}}
"""
    d = compare(tmp_path, source.format(2), source.format(4))
    assert changed(d) == ["f"]
    code = cut(d)
    assert undefined(code) == {".klp.sym.vmlinux.hidden,0"}
    (table,) = (s for s in code.obj.sections if s.name.startswith(".rodata.jumptable"))
    assert [r.symbol.section.name for r in table.relocations if r.symbol.section] == 3 * [".text.f"]
