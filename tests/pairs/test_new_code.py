# SPDX-License-Identifier: GPL-2.0-only
"""The parts of new code, and what it reaches in the kernel, shown on object pairs."""

from pathlib import Path

import pytest

from ksplicd.create.new_code.model import RedirectKind
from ksplicd.elf.model import STB_GLOBAL
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.errors import UnsupportedChangeError
from ksplicd.run import run
from tests.support.objects.pair import FakeUnit, compare, cut, kept, new_functions, undefined

SOURCE = """
static int counter;
extern int visible;
static noinline int unchanged(int x) {{ counter += x; return hidden(counter); }}
int f(int x) {{ return unchanged(x) + exported(x) + visible + printk("text %d", {}); }}
int quiet(int x) {{ return printk("not taken along") + x; }}
"""


def test_references(tmp_path: Path) -> None:
    code = cut(compare(tmp_path, SOURCE.format("x"), SOURCE.format("x + 1")))
    assert [(r.name, r.alias) for r in code.redirected] == [("f", "ksplice_new_0")]
    assert undefined(code) == {
        ".klp.sym.vmlinux.unchanged,0", "exported", "printk", ".klp.sym.vmlinux.visible,0",
    }  # fmt: skip
    text = {s.name for s in code.obj.sections if s.is_text}
    assert text == {".text.f"}
    assert not any(b"not taken along" in s.data for s in code.obj.sections)


def test_alias_is_global_and_the_function_keeps_its_name(tmp_path: Path) -> None:
    code = cut(compare(tmp_path, SOURCE.format("x"), SOURCE.format("x + 1")))
    symbols = {s.name: s for s in code.obj.symbols}
    assert symbols["ksplice_new_0"].bind == STB_GLOBAL
    assert symbols["f"].bind != STB_GLOBAL
    assert symbols["f"].value == symbols["ksplice_new_0"].value


def test_it_links(tmp_path: Path) -> None:
    code = cut(compare(tmp_path, SOURCE.format("x"), SOURCE.format("x + 1")))
    (tmp_path / "new.o").write_bytes(write_object(code.obj))
    run(["ld", "-r", "-o", tmp_path / "linked.o", tmp_path / "new.o"])
    linked = read_object((tmp_path / "linked.o").read_bytes())
    assert "ksplice_new_0" in {s.name for s in linked.symbols}


def test_ambiguous_local_name_gets_its_position(tmp_path: Path) -> None:
    d = compare(tmp_path, SOURCE.format("x"), SOURCE.format("x + 1"))
    code = cut(d, FakeUnit(positions={"unchanged": 3, "f": 2}))
    assert ".klp.sym.vmlinux.unchanged,3" in undefined(code)
    assert code.redirected[0].sympos == 2


def test_new_function_and_new_data_come_along(tmp_path: Path) -> None:
    post = SOURCE.format("fresh(x)").replace(
        "int f(int x)", "static int memory;\n"
        "static noinline int fresh(int x) { memory += x; return memory; }\nint f(int x)",
    )  # fmt: skip
    code = cut(compare(tmp_path, SOURCE.format("x"), post))
    assert new_functions(code) == ["fresh"]
    assert {".text.f", ".text.fresh", ".bss.memory"} <= kept(code)


def test_static_local_of_old_code_is_shared_not_copied(tmp_path: Path) -> None:
    source = "int f(int x) {{ static int total = 9; total += {}; return total; }}"
    code = cut(compare(tmp_path, source.format("x"), source.format("x * 2")))
    assert any(name.startswith(".klp.sym.vmlinux.total.") for name in undefined(code))
    assert not any(name.startswith(".data") for name in kept(code))


def test_renumbered_static_local_goes_by_its_old_name(tmp_path: Path) -> None:
    pre = "int f(int x) { static int total = 9; total += x; return total; }"
    post = (
        "int f(int x) { static int fresh = 1; static int total = 9;"
        " total += x; fresh ^= x; return total + fresh; }"
    )
    d = compare(tmp_path, pre, post)
    old = next(s.name for s in d.pre.obj.symbols if s.name.startswith("total."))
    code = cut(d)
    assert f".klp.sym.vmlinux.{old},0" in undefined(code)
    assert any(name.startswith(".data.fresh") for name in kept(code))


def test_cold_part_comes_along(tmp_path: Path) -> None:
    source = """
__attribute__((cold)) noinline void report(int x) {{ printk("cold %d", x); }}
int f(int x) {{ if (__builtin_expect(x > 100, 0)) {{ report(1); report(x); }} return x + {}; }}
"""
    code = cut(compare(tmp_path, source.format(1), source.format(2)))
    assert {".text.f", ".text.unlikely.f"} <= kept(code)
    assert [a.function for a in code.anchors] == ["f"]


def test_cold_part_that_calls_nothing_is_anchored(tmp_path: Path) -> None:
    """A task is preempted there, or waits for a page."""
    source = """
extern volatile int *seen;
__attribute__((cold)) int report(int x);
int f(int x) {{ if (x > 100) {{ x = *seen; return report(x); }} return x + {}; }}
"""
    code = cut(compare(tmp_path, source.format(1), source.format(2)))
    (part,) = (s for s in code.obj.sections if s.name == ".text.unlikely.f")
    assert not any(part.data[r.offset - 1] == 0xE8 for r in part.relocations)
    assert [a.function for a in code.anchors] == ["f"]


def test_only_own_entries_of_special_sections(tmp_path: Path) -> None:
    source = """
int g(int x) {{ if (x == 5) BUG_ENTRY(1); return x; }}
int f(int x) {{ if (x == 6) BUG_ENTRY(2); return x + {}; }}
"""
    code = cut(compare(tmp_path, source.format(1), source.format(2)))
    table = code.obj.find_section("__bug_table")
    assert table is not None
    assert table.size == 12
    assert table.relocations[0].symbol.section is code.obj.find_section(".text.f")
    assert int.from_bytes(table.data[8:10], "little") == 2


def test_address_of_a_replaced_function_stays_the_old_one(tmp_path: Path) -> None:
    """A pointer may be compared with an old one, and it may outlive the update."""
    source = """
extern void keep(int (*)(int));
noinline int f(int x) {{ return hidden(x) + {0}; }}
int g(int x) {{ keep(f); return f(x) + {0}; }}
"""
    code = cut(compare(tmp_path, source.format(1), source.format(2)))
    assert {r.name for r in code.redirected} == {"f", "g"}
    assert ".klp.sym.vmlinux.f,0" in undefined(code)
    calls = [
        r for s in code.obj.sections if s.name == ".text.g" for r in s.relocations
        if r.symbol.section is not None and r.symbol.section.name == ".text.f"
    ]  # fmt: skip
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (FakeUnit(untraceable=frozenset({"f"})), "f .*cannot be redirected, and other files"),
        (FakeUnit(missing=frozenset({"visible"})), "visible .*kallsyms lack it"),
    ],
)
def test_refused_by_name(tmp_path: Path, unit: FakeUnit, words: str) -> None:
    d = compare(tmp_path, SOURCE.format("x"), SOURCE.format("x + 1"))
    with pytest.raises(UnsupportedChangeError, match=words):
        cut(d, unit)


def test_what_the_stock_kernel_has_inlined_everywhere_comes_along(tmp_path: Path) -> None:
    d = compare(tmp_path, SOURCE.format("x"), SOURCE.format("x + 1"))
    code = cut(d, FakeUnit(missing=frozenset({"unchanged"})))
    assert {s.name for s in code.obj.functions()} >= {"f", "unchanged"}
    assert [r.name for r in code.redirected] == ["f"]


def test_what_is_joined_by_a_short_jump_comes_along(tmp_path: Path) -> None:
    """``ww_mutex_lock`` jumps into its slow path by two bytes, which no relocation fits into."""
    s = '__attribute__((section(".sched.text"), __noinline__)) '
    source = f"{s}int a(int x) {{{{ return x + {{}}; }}}} {s}int b(int x) {{{{ return a(x); }}}}"
    code = cut(compare(tmp_path, source.format(1), source.format(200)))
    assert [r.name for r in code.redirected] == ["a"]
    assert {s.name for s in code.obj.functions()} >= {"a", "b"}


def test_debug_tells_why_each_thing_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    post = SOURCE.format("fresh(x)").replace(
        "int f(int x)", "static int memory;\n"
        "static noinline int fresh(int x) { memory += hidden(x); return memory; }\nint f(int x)",
    )  # fmt: skip
    d = compare(tmp_path, SOURCE.format("x"), post)
    with caplog.at_level("DEBUG", "ksplice.cut"):
        cut(d)
    lines = [line.removeprefix("unit.c: ") for line in caplog.messages]
    assert lines[0].startswith("takes f: livepatch redirects it: ")
    assert "takes fresh: .text.f uses it, and the kernel has none of its own" in lines
    assert "takes memory: new data that .text.fresh uses" in lines
    assert "links to hidden as .klp.sym.vmlinux.hidden,0: the kernel does not export it" in lines
    assert "links to printk as printk: the kernel exports it" in lines
    assert len(lines) == len(set(lines))


NOTRACE = """
static noinline int inner(int x) {{ return hidden(x) + {0}; }}
static noinline int middle(int x) {{ return inner(x) + 1; }}
int outer(int x) {{ return middle(x) + 2; }}
int other(int x) {{ return inner(x) + hidden(x); }}
int untouched(int x) {{ return x; }}
"""


def test_callers_of_a_function_without_fentry_are_taken_in(tmp_path: Path) -> None:
    unit = FakeUnit(untraceable=frozenset({"inner", "middle"}))
    code = cut(compare(tmp_path, NOTRACE.format(1), NOTRACE.format(2)), unit)
    assert {r.name for r in code.redirected} == {"outer", "other"}
    assert {"inner", "middle"} <= set(new_functions(code))
    reasons = {r.name: r.reason for r in code.redirected}
    assert reasons["outer"] == "calls middle, which livepatch cannot redirect"
    assert {s.name for s in code.obj.sections if s.is_text} == {
        ".text.inner", ".text.middle", ".text.outer", ".text.other",
    }  # fmt: skip
    assert undefined(code) == {".klp.sym.vmlinux.hidden,0"}


def test_kept_address_of_a_function_without_fentry_is_refused(tmp_path: Path) -> None:
    source = NOTRACE + "int (*pointer)(int) = inner;"
    unit = FakeUnit(untraceable=frozenset({"inner"}))
    d = compare(tmp_path, source.format(1), source.format(2))
    with pytest.raises(UnsupportedChangeError, match=r"inner .*kept in \.data\.pointer"):
        cut(d, unit)


def test_kept_address_of_a_function_without_fentry_gets_a_kprobe(tmp_path: Path) -> None:
    source = NOTRACE + "int (*pointer)(int) = inner;"
    unit = FakeUnit(untraceable=frozenset({"inner"}), probeable=frozenset({"inner"}))
    code = cut(compare(tmp_path, source.format(1), source.format(2)), unit)
    assert [(r.kind, r.name, r.place) for r in code.redirects] == [
        (RedirectKind.PROBE, "inner", ".klp.sym.vmlinux.inner,0")
    ]
    assert not code.redirected
    assert [(f.name, f.how) for f in code.functions] == [("inner", "kprobe")]
    assert len(code.anchors) == 1  # livepatch does not know it


EXIT = """
static int count;
static void __attribute__((section(".exit.text"), __noinline__)) helper(int x)
{{ count += x; hidden(x); }}
void __attribute__((section(".exit.text"))) my_exit(void) {{ helper({0}); helper(count); }}
void cleanup_module(void) __attribute__((alias("my_exit")));
int f(int x) {{ return count + x; }}
"""


def test_exit_function_of_a_module_is_exchanged(tmp_path: Path) -> None:
    code = cut(compare(tmp_path, EXIT.format(1), EXIT.format(2)), FakeUnit(target="mod"))
    assert [(r.kind, r.name, r.place) for r in code.redirects] == [
        (RedirectKind.EXIT, "cleanup_module", "")
    ]
    assert not code.redirected
    assert not any(s.name.startswith(".exit") for s in code.obj.sections)
    assert {"my_exit", "helper"} <= {s.name for s in code.obj.functions()}
    assert len(code.anchors) == 1


def test_exit_function_of_vmlinux_is_of_no_use(tmp_path: Path) -> None:
    source = EXIT.replace('void cleanup_module(void) __attribute__((alias("my_exit")));', "")
    d = compare(tmp_path, source.format(1), source.format(2))
    assert d.is_boot_only


JUMPS = """
void sleep(void);
static noinline int last(int x) {{ sleep(); return x; }}
static noinline int fresh(int x) {{ sleep(); return last(x + 1) + {0}; }}
static noinline void callback(int x) {{ sleep(); }}
int f(int x) {{ sleep(); return {1}; }}
"""


@pytest.mark.parametrize(
    ("tail", "anchored"),
    [("fresh(x)", 1), ("fresh(x) + 1", 0), ("x + call(callback)", 1)],
)
def test_what_is_not_entered_by_a_call_is_anchored(
    tmp_path: Path, tail: str, anchored: int
) -> None:
    declared = "int call(void (*fn)(int));" + JUMPS
    pre = "\n".join(
        line for line in declared.format(0, 0).splitlines() if "fresh(int" not in line
    ).replace("static noinline void callback(int x) { sleep(); }", "")
    code = cut(compare(tmp_path, pre, declared.format(3, tail)))
    assert len(code.anchors) == anchored


KEYED = """
extern struct static_key {0};
int f(int x) {{{{ return BRANCH({0}) ? hidden(x) : x + {{}}; }}}}
"""


def test_static_key_of_vmlinux_is_used_as_it_is(tmp_path: Path) -> None:
    source = KEYED.format("some_key")
    code = cut(compare(tmp_path, source.format(1), source.format(2)))
    assert ".klp.sym.vmlinux.some_key,0" in undefined(code)
    assert "__jump_table" in kept(code)


def test_static_key_of_a_patched_module_is_refused(tmp_path: Path) -> None:
    source = KEYED.format("some_key")
    d = compare(tmp_path, source.format(1), source.format(2))
    with pytest.raises(UnsupportedChangeError, match=r"some_key .*of the patched module"):
        cut(d, FakeUnit(target="ext4"))


def test_tracepoint_of_a_patched_module_is_silenced_and_said(tmp_path: Path) -> None:
    source = KEYED.format("__tracepoint_demo")
    d = compare(tmp_path, source.format(1), source.format(2))
    code = cut(d, FakeUnit(target="ext4"))
    assert "__jump_table" not in kept(code)
    assert len(code.notes) == 1
    assert code.notes[0].startswith("unit.c: the tracepoint demo does not fire in the new code")


TABLE = """
struct ops {{ int (*a)(int); int (*b)(int); long flags; }};
static noinline int one(int x) {{ return hidden(x); }}
{1}
struct ops table = {{ .a = one, {0} }};
int f(int x) {{ return table.a(x); }}
"""
TWO = "static int two(int x) { return hidden(x) + 2; }"


def test_function_pointer_that_comes_is_exchanged(tmp_path: Path) -> None:
    code = cut(compare(tmp_path, TABLE.format("", ""), TABLE.format(".b = two", TWO)))
    (pointer,) = code.redirects
    assert pointer.kind is RedirectKind.POINTER
    assert (pointer.place, pointer.offset, pointer.old) == (".klp.sym.vmlinux.table,0", 8, "")
    assert pointer.new in {s.name for s in code.obj.symbols if s.bind == STB_GLOBAL}
    assert code.keeps_code
    assert len(code.anchors) == 1
    assert [(p.table, p.offset) for p in code.pointers] == [("table", 8)]


@pytest.mark.parametrize(
    ("name", "section", "is_bound"),
    [
        ("pv_ops", ".data", True),
        ("selinux_hooks", ".data..ro_after_init", True),
        ("nl80211_fam", ".data..ro_after_init", False),
    ],
)
def test_function_pointer_of_which_boot_code_made_calls(
    tmp_path: Path,
    name: str,
    section: str,
    is_bound: bool,  # noqa: FBT001
) -> None:
    place = f'#define table {name}\nextern struct ops table __attribute__((section("{section}")));'
    pre, post = (TABLE.format(f".b = {f}", TWO) for f in ("one", "two"))
    pre, post = (s.replace("static noinline int one", place + "\nstatic noinline int one")
                 for s in (pre, post))  # fmt: skip
    d = compare(tmp_path, pre, post)
    assert bool(d.refusals) is is_bound
    assert bool(d.pointers) is not is_bound


def test_function_pointer_that_changes_to_what_the_kernel_has(tmp_path: Path) -> None:
    both = TABLE + "int g(int x) {{ return two(x); }}"
    pre, post = both.format(".b = two", TWO), both.format(".b = one", TWO)
    code = cut(compare(tmp_path, pre, post))
    (pointer,) = code.redirects
    assert pointer.new == ".klp.sym.vmlinux.one,0"
    assert not code.keeps_code


def test_function_pointer_to_what_another_file_defines(tmp_path: Path) -> None:
    table = "int exported(int);" + TABLE
    code = cut(compare(tmp_path, table.format("", ""), table.format(".b = exported", "")))
    assert [r.new for r in code.redirects] == ["exported"]
    assert not code.keeps_code


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (".b = one", ""),  # somebody has just tested it
        (".flags = 1", ".flags = 2"),
        ("", ".flags = 1, .b = one"),
        ("", ".b = (void *)&exported_data"),
        (".b = one", ".b = (void *)((char *)one + 1)"),
    ],
)
def test_other_changes_of_a_table_are_refused(tmp_path: Path, before: str, after: str) -> None:
    table = "extern char exported_data;" + TABLE
    d = compare(tmp_path, table.format(before, ""), table.format(after, ""))
    with pytest.raises(UnsupportedChangeError, match=r"table .*initialised data changes"):
        cut(d)


POINTER = """
static noinline int helper(int x) {{ return hidden(x) + 1; }}
int f(int x) {{ int (*volatile p)(int) = {}; return p ? p(x) : helper(x); }}
"""


def test_address_of_a_function_without_landing_pad(tmp_path: Path) -> None:
    d = compare(tmp_path, POINTER.format("0"), POINTER.format("helper"))
    assert ".klp.sym.vmlinux.helper,0" in undefined(cut(d))
    with pytest.raises(UnsupportedChangeError, match=r"helper .*without landing pad is taken"):
        cut(d, FakeUnit(sealed=frozenset({"helper"})))
    called = compare(tmp_path, POINTER.format("0"), POINTER.format("(void *)1"))
    cut(called, FakeUnit(sealed=frozenset({"helper", "hidden"})))
