# SPDX-License-Identifier: GPL-2.0-only
"""Differences that count as a change and those that do not, shown on object pairs."""

from pathlib import Path

import pytest

from tests.support.objects.pair import PRELUDE, changed, compare

WIDE = """
static int table[3] = {1, 2, 3};
static const char *const names[] = {"one", "two"};
int state = 5;
noinline int leaf(int x) { static int count; count += x; return count + table[x & 1]; }
int user(int x) { return exported(leaf(x)) + printk("%s %s", names[x & 1], __func__); }
int other(int x) { static int count; count -= x; return count + hidden(x) + state; }
"""


def test_the_same_source_has_no_difference(tmp_path: Path) -> None:
    d = compare(tmp_path, WIDE, WIDE)
    assert d.is_empty
    assert not d.new
    assert not d.removed


def test_changed_body(tmp_path: Path) -> None:
    d = compare(tmp_path, WIDE, WIDE.replace("count += x", "count += 2 * x"))
    assert changed(d) == ["leaf"]


def test_another_callee_of_the_same_size(tmp_path: Path) -> None:
    d = compare(tmp_path, "int f(int x) { return exported(x) + 1; }",
                "int f(int x) { return hidden(x) + 1; }")  # fmt: skip
    assert changed(d) == ["f"]
    assert "refers to hidden instead of exported" in next(iter(d.changed.values()))


def test_changed_string(tmp_path: Path) -> None:
    d = compare(tmp_path, 'int f(void) { return printk("old"); }',
                'int f(void) { return printk("new"); }')  # fmt: skip
    assert changed(d) == ["f"]


def test_shared_strings_may_move(tmp_path: Path) -> None:
    pre = 'int f(void) { return printk("tail"); }'
    post = 'int g(void) { return printk("a long head and tail"); }' + pre
    d = compare(tmp_path, pre, post)
    assert changed(d) == []
    assert [s.name for s in d.new] == ["g"]


def test_renumbered_static_locals_are_no_change(tmp_path: Path) -> None:
    """A new static local before others renumbers them: count.1 becomes count.2."""
    extra = "noinline int early(int x) { static int count = 7; count ^= x; return count; }"
    d = compare(tmp_path, extra.replace("static int count = 7; count ^= x; return count",
                                        "return x") + WIDE, extra + WIDE)  # fmt: skip
    assert changed(d) == ["early"]
    assert d.refusals == ()


def test_static_locals_pair_by_use(tmp_path: Path) -> None:
    swapped = WIDE.replace("static int count; count += x;", "static int count; count += x + 1;")
    d = compare(tmp_path, WIDE, swapped)
    for post, pre in d.twins.pre_of.items():
        if post.name.startswith("count"):
            users = {
                name for name in ("leaf", "other") for s in d.post.obj.functions()
                if s.name == name and s.section and any(
                    d.post.locate(s.section, r).symbol is post for r in s.section.relocations)
            }  # fmt: skip
            pre_users = {
                name for name in ("leaf", "other") for s in d.pre.obj.functions()
                if s.name == name and s.section and any(
                    d.pre.locate(s.section, r).symbol is pre for r in s.section.relocations)
            }  # fmt: skip
            assert users == pre_users
            assert len(users) == 1


def test_line_number_of_a_bug_is_no_change(tmp_path: Path) -> None:
    source = "int f(int x) {{ if (x) BUG_ENTRY({line}); return x; }}"
    d = compare(tmp_path, source.format(line=10), source.format(line=13))
    assert d.is_empty


def test_once_flags_are_no_change(tmp_path: Path) -> None:
    source = """
void {0}(void) {{
    static WARN_ONCE_FLAG char __already_done;
    if (!__already_done) {{ __already_done = 1; printk("{0}"); }}
}}
"""
    f, g = source.format("f"), source.format("g")
    d = compare(tmp_path, g, f + g)
    assert changed(d) == []


def test_constant_in_a_merged_section(tmp_path: Path) -> None:
    source = "double f(double x) {{ return x * {}; }}"
    d = compare(tmp_path, source.format("1.5"), source.format("2.5"))
    assert changed(d) == ["f"]
    assert compare(tmp_path, source.format("1.5"), source.format("1.5")).is_empty


def test_cold_part_brings_its_function(tmp_path: Path) -> None:
    source = """
__attribute__((cold)) noinline void report(int x) {{ printk("cold %d", x); }}
int f(int x) {{ if (__builtin_expect(x > 100, 0)) {{ report({}); report(x); }} return x; }}
"""
    d = compare(tmp_path, source.format(1), source.format(2))
    assert changed(d) == ["f"]


def test_clone_that_is_renumbered(tmp_path: Path) -> None:
    source = """
static noinline int helper(int x, int y) {{ return hidden(x) + exported(y); }}
int a(int x) {{ return helper(x, 7) + {}; }}
int b(int x) {{ return helper(x + 1, 7); }}
"""
    d = compare(tmp_path, source.format(1), source.format(2))
    assert changed(d) == ["a"]


def test_inlined_callee_changes_its_caller(tmp_path: Path) -> None:
    source = "static inline int step(int x) {{ return x + {}; }} int f(int x) {{ return step(x); }}"
    d = compare(tmp_path, source.format(1), source.format(2))
    assert changed(d) == ["f"]


@pytest.mark.parametrize(
    ("pre", "post", "symbol", "reason"),
    [
        ("int x = 1; int f(void) { return x; }", "int x = 2; int f(void) { return x; }",
         "x", "initialised data changes"),
        ("char b[4]; char f(void) { return b[1]; }", "char b[8]; char f(void) { return b[1]; }",
         "b", "size 4 → 8"),
        ("int x; int f(void) { return x; }", "int x = 3; int f(void) { return x; }",
         "x", "bytes differ from"),
    ],
)  # fmt: skip
def test_refused_by_name(tmp_path: Path, pre: str, post: str, symbol: str, reason: str) -> None:
    d = compare(tmp_path, pre, post)
    assert [r.symbol for r in d.refusals] == [symbol]
    assert reason in d.refusals[0].reason
    assert d.refusals[0].hint


BOOT = '__attribute__((section(".init.text"))) int setup(void) {{ return exported({}); }} '


def test_boot_code_alone_is_refused_by_name(tmp_path: Path) -> None:
    d = compare(tmp_path, BOOT.format(1), BOOT.format(2))
    assert d.is_boot_only
    assert [r.symbol for r in d.refuse_boot_code()] == ["setup"]
    assert "runs only at boot" in d.refuse_boot_code()[0].reason


def test_boot_code_beside_ordinary_code_is_left_out(tmp_path: Path) -> None:
    d = compare(tmp_path, BOOT.format(1) + WIDE,
                BOOT.format(2) + WIDE.replace("count += x", "count += 2 * x"))  # fmt: skip
    assert changed(d) == ["leaf"]
    assert d.notes == ("setup runs only at boot or at unload: its change is left out",)
    assert not d.is_boot_only
    assert d.refusals == ()


LINES = """
extern void warn(const char *text, const char *file, int line);
extern void check(const char *file, int line, int more);
{0}
#line {1} "net/core/sample.c"
int f(int x) {{ if (x > 5) warn("failed at %s (%d)", __FILE__, __LINE__); return exported(x); }}
int g(int x) {{ check("mm/a.c", __LINE__, 0); exported(x);
    check("mm/a.c", __LINE__, {2}); return x; }}
int h(int x) {{ exported({3}); return printk("%s %d", __func__, __LINE__); }}
"""


@pytest.mark.parametrize("flag", ["-gdwarf-2", "-gdwarf-4", "-gdwarf-5", "-gz=zlib"])
def test_line_numbers_are_no_change(tmp_path: Path, flag: str) -> None:
    """Lines are immediates beside the name of a file or of the function; all move alike."""
    d = compare(tmp_path, LINES.format("", 10, 1, 9), LINES.format("", 13, 1, 9), "-g", flag)
    assert d.is_empty


def test_line_numbers_without_debug_information(tmp_path: Path) -> None:
    """``__FILE__, __LINE__`` is clear; what stands beside ``__func__`` may be any number."""
    d = compare(tmp_path, LINES.format("", 10, 1, 9), LINES.format("", 13, 1, 9))
    assert changed(d) == ["h"]


@pytest.mark.parametrize("flag", ["-g", "-g0"])
def test_a_number_beside_the_functions_name_is_no_line(tmp_path: Path, flag: str) -> None:
    source = 'int f(void) {{ return printk("%s %d", __func__, {}) + 1; }}'
    assert changed(compare(tmp_path, source.format(1000), source.format(2000), flag)) == ["f"]
    line = PRELUDE.count("\n") + 1
    assert changed(compare(tmp_path, source.format(line), source.format(line + 1), flag)) == ["f"]


@pytest.mark.parametrize(
    ("more", "other", "name"),
    [(4, 9, "g"), (1, 12, "h"), (4, 12, "g")],
)
def test_other_immediates_are_a_change(tmp_path: Path, more: int, other: int, name: str) -> None:
    """A constant that moves as the lines do, or beside a line, is still a change."""
    d = compare(tmp_path, LINES.format("", 10, 1, 9), LINES.format("", 12, more, other), "-g")
    assert name in changed(d)
    assert "f" not in changed(d)


def test_static_function_becomes_global(tmp_path: Path) -> None:
    """Its callers are the same: the call is only written down in another way."""
    source = """{} noinline int h(int x) {{ return hidden(x) + hidden(x); }}
        int f(int x) {{ return h(x) + 1; }} int g(int x) {{ return h(x + {}); }}"""
    d = compare(tmp_path, source.format("static", 1), source.format("", 2), "-fno-ipa-ra")
    assert changed(d) == ["g"]


def test_reasons_tell_what_differs(tmp_path: Path) -> None:
    source = 'int f(int x) {{ return printk("{}", x); }} const char *name = "{}";'
    long = "a long text that goes on and on until nobody reads it, "
    d = compare(tmp_path, source.format("one %d", long), source.format("two %d", long + "end"))
    (why,) = d.changed.values()
    assert why.endswith('refers to "two %d" instead of "one %d"')
    (refusal,) = d.refusals
    assert refusal.reason.endswith('goes on and on until no...", whose content differs')


def test_code_in_no_function(tmp_path: Path) -> None:
    label = 'asm(".text\\n.globl label\\nlabel: {} ret\\n"); extern int label(int);'
    source = label + "int f(int x) {{ return label(x) + {}; }}"
    d = compare(tmp_path, source.format("", 1), source.format("nop\\n", 1))
    assert [(r.symbol, r.reason) for r in d.refusals] == [
        (".text", "code that belongs to no function changes")
    ]
    d = compare(tmp_path, source.format("", 1), source.format("", 2))
    assert not d.refusals
    assert changed(d) == ["f"]
    d = compare(tmp_path, source.format("", 1), "int f(int x) { return hidden(x) + 1; }")
    assert [r.symbol for r in d.refusals] == [".text"]


def test_one_of_two_names_of_a_function(tmp_path: Path) -> None:
    """What redirects one of them redirects the other."""
    alias = 'int a(int x) {{ return hidden(x); }} int b(int) __attribute__((alias("a")));'
    pre = alias.format()
    d = compare(tmp_path, pre, "int a(int x) { return hidden(x); } int b(int x) { return 1; }")
    assert [(r.symbol, r.reason) for r in d.refusals] == [
        ("b", "in the kernel a is the same function; the patch parts them")
    ]
    d = compare(tmp_path, pre, pre.replace("hidden(x)", "hidden(x) + 1"))
    assert not d.refusals
    assert changed(d) == ["a"]
    d = compare(tmp_path, pre, "int a(int x) { return hidden(x) + 1; }")  # b is gone
    assert not d.refusals
