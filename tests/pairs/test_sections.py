# SPDX-License-Identifier: GPL-2.0-only
"""Sections that the source asks for, groups, exports and weak functions."""

from pathlib import Path

import pytest

from ksplicd.errors import UnsupportedChangeError
from tests.support.objects.pair import changed, compare, cut, kept, new_functions, undefined

SCHED = """
#define sched __attribute__((section(".sched.text"), __noinline__))
sched int a(int x) {{ return hidden(x) + 1; }}
sched int b(int x) {{ {0} return a(x) + a(x + 1) {1}; }}
sched int c(int x) {{ return a(x) * b(x); }}
int d(int x) {{ return c(x); }}
"""


def test_functions_of_an_explicit_section_are_taken_apart(tmp_path: Path) -> None:
    """The assembler has resolved the calls among them, whose distances change when one grows."""
    d = compare(tmp_path, SCHED.format("", ""), SCHED.format("x ^= exported(x);", "- 2"))
    assert changed(d) == ["b"]
    code = cut(d)
    assert [s.name for s in code.obj.sections if s.is_text] == [".sched.text"]
    assert ".klp.sym.vmlinux.a,0" in undefined(code)


def test_a_function_moves_to_another_section(tmp_path: Path) -> None:
    source = "{0} int f(int x) {{ return hidden(x) + 1; }} int g(int x) {{ return f(x) + 2; }}"
    moved = '__attribute__((__noinline__, section(".sched.text")))'
    d = compare(tmp_path, source.format("noinline"), source.format(moved))
    assert d.is_empty
    assert not d.new
    assert not d.removed


def test_boot_code_that_becomes_ordinary_is_new(tmp_path: Path) -> None:
    """The running kernel has thrown the old one away, so that nothing may call it there."""
    source = "{0} static noinline int f(int x) {{ return hidden(x) + 1; }} {1}"
    boot = '__attribute__((section(".init.text")))'
    setup = f"{boot} int setup(int x) {{ return f(x) * 3; }}"
    user = "int g(int x) { return x + %s; }"
    d = compare(tmp_path, source.format(boot, setup + user % "1"),
                source.format("", setup + user % "f(x)"))  # fmt: skip
    assert changed(d) == ["g"]
    assert [s.name for s in d.new] == ["f"]
    assert new_functions(cut(d)) == ["f"]


def test_section_groups(tmp_path: Path) -> None:
    """A function in a COMDAT group, as ``__x86.get_pc_thunk``; its copy is in no group."""
    source = """
asm(".section .text.thunk,\\"axG\\",@progbits,thunk,comdat\\n.weak thunk\\n.type thunk,@function\\n"
    "thunk: mov ${0}, %eax\\nret\\n.size thunk, . - thunk\\n.text");
extern int thunk(void);
int f(int x) {{ return thunk() + x + {1}; }}
"""
    d = compare(tmp_path, source.format(1, 1), source.format(1, 2))
    assert changed(d) == ["f"]
    d = compare(tmp_path, source.format(1, 1), source.format(2, 1))
    assert changed(d) == ["thunk"]
    assert not any(s.flags & 0x200 for s in cut(d).obj.sections)


def test_weak_functions(tmp_path: Path) -> None:
    source = "__attribute__((weak)) int f(int x) {{ return hidden(x) + {0}; }}"
    d = compare(tmp_path, source.format(1), source.format(2))
    assert changed(d) == ["f"]


def test_one_function_of_two_names_is_replaced_once(tmp_path: Path) -> None:
    source = (
        "int f(int x) {{ return hidden(x) + {0}; }}"
        ' extern int alias(int) __attribute__((alias("f")));'
    )
    d = compare(tmp_path, source.format(1), source.format(2))
    assert len(changed(d)) == 1


SYSCALL = """
#define __SYSCALL(name) \\
    static long __se_sys_##name(long a); static inline long __do_sys_##name(int a); \\
    long __x64_sys_##name(const long *regs) {{ return __se_sys_##name(regs[14]); }} \\
    long __ia32_sys_##name(const long *regs) {{ return __se_sys_##name((unsigned)regs[5]); }} \\
    static long __se_sys_##name(long a) {{ return __do_sys_##name((int)a); }} \\
    static inline long __do_sys_##name(int a)
__SYSCALL(sample) {{ {0} return hidden(a) + {1}; }}
"""


def test_syscall_wrappers(tmp_path: Path) -> None:
    """The body is inlined into the entries for 64-bit and for 32-bit programs."""
    d = compare(tmp_path, SYSCALL.format("", 1), SYSCALL.format("", 2))
    assert changed(d) == ["__ia32_sys_sample", "__x64_sys_sample"]
    big = " ".join(f"a += exported(a + {i});" for i in range(30))
    d = compare(tmp_path, SYSCALL.format("", 1), SYSCALL.format(big, 2))
    assert {"__ia32_sys_sample", "__x64_sys_sample"} <= set(changed(d))
    assert all(s.name.endswith("_sys_sample") for s in d.new)


OLD_EXPORT = (
    'asm(".section \\"___ksymtab{0}+f\\",\\"a\\"\\n__ksymtab_f: .long f - ., 0, 0\\n.text");'
)
NEW_EXPORT = (
    'asm(".section .export_symbol,\\"a\\"\\n__export_symbol_f:\\n.asciz \\"{0}\\"\\n'
    '.asciz \\"\\"\\n.balign 8\\n.quad f\\n.text");'
)


@pytest.mark.parametrize(
    ("pre", "post", "word"),
    [
        ("", OLD_EXPORT.format(""), "added"),
        (OLD_EXPORT.format(""), "", "removed"),
        (OLD_EXPORT.format(""), OLD_EXPORT.format("_gpl"), "changed"),
        ("", NEW_EXPORT.format(""), "added"),
        (NEW_EXPORT.format("GPL"), "", "removed"),
        (NEW_EXPORT.format(""), NEW_EXPORT.format("GPL"), "changed"),
    ],
)
def test_exports_do_no_harm(tmp_path: Path, pre: str, post: str, word: str) -> None:
    """Until 6.3 a section each, then one for all."""
    source = "int f(int x) {{ return hidden(x) + {0}; }}"
    d = compare(tmp_path, source.format(1) + pre, source.format(2) + post)
    assert changed(d) == ["f"]
    assert d.refusals == ()
    assert len(d.notes) == 1
    assert d.notes[0].startswith(f"the export of f is {word}: modules that are loaded before")
    assert not any("ksymtab" in n or "export_symbol" in n for n in kept(cut(d)))


def test_a_global_that_moves_to_another_file_is_still_the_one_in_the_kernel(
    tmp_path: Path,
) -> None:
    user = "extern int shared(int); extern int total; int f(int x) { return shared(x) + total; }"
    owner = "int total = 3; noinline int shared(int x) { return hidden(x) + total; }"
    assert changed(compare(tmp_path, owner + user, user)) == []
    assert changed(compare(tmp_path, user, user + owner)) == []


def test_per_cpu_data(tmp_path: Path) -> None:
    """Several share the section without a number; new ones come along in one of that name."""
    source = """
#define per_cpu __attribute__((section(".data..percpu")))
per_cpu int first; per_cpu static int second;
{0}
int f(int x) {{ second += x; {1} return first; }}
"""
    d = compare(tmp_path, source.format("", ""), source.format("per_cpu int third;", "third++;"))
    assert changed(d) == ["f"]
    code = cut(d)
    assert {".klp.sym.vmlinux.first,0", ".klp.sym.vmlinux.second,0"} <= undefined(code)
    assert [s.size for s in code.obj.sections if s.name == ".data..percpu"] == [4]


def test_anonymous_constants(tmp_path: Path) -> None:
    """An initialiser in ``.rodata`` has no name; it comes along with its function."""
    source = """
struct big {{ long a[12]; }};
extern int use(struct big *);
int f(void) {{ struct big b = {{ {{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, {0} }} }}; return use(&b); }}
"""
    assert compare(tmp_path, source.format(12), source.format(12)).is_empty
    d = compare(tmp_path, source.format(12), source.format(13))
    assert changed(d) == ["f"]
    assert cut(d).obj.sections


@pytest.mark.parametrize("to_percpu", [True, False])
def test_data_that_become_per_cpu(tmp_path: Path, to_percpu: bool) -> None:  # noqa: FBT001
    """Whoever else uses them goes on using the old."""
    source = "{} int v = 1; int f(int x) {{ return v + x; }}"
    states = ("", '__attribute__((section(".data..percpu")))')
    pre, post = states if to_percpu else states[::-1]
    d = compare(tmp_path, source.format(pre), source.format(post))
    assert [r.symbol for r in d.refusals] == ["v"]


@pytest.mark.parametrize(
    ("pre", "post", "name"),
    [
        (
            "static int v = 1; int f(int x) { return v += x; }",
            "static int v INIT(data) = 1; int f(int x) { return v += x; }",
            "v",
        ),
        (
            "int f(int x) { return x; }",
            "static noinline INIT(text) int g(int x) { return x; } int f(int x) { return g(x); }",
            "g",
        ),
    ],
)
def test_what_is_there_at_boot_only(tmp_path: Path, pre: str, post: str, name: str) -> None:
    """The loader throws such sections of a module away, too."""
    macro = '#define INIT(x) __attribute__((section(".init." #x)))\n'
    with pytest.raises(UnsupportedChangeError, match=rf"{name} \(.init.*it is there at boot only"):
        cut(compare(tmp_path, pre, macro + post))
