# SPDX-License-Identifier: GPL-2.0-only
"""Parts and clones that the compiler makes of functions: .cold, .part, .isra, .constprop."""

from pathlib import Path

from tests.support.objects.pair import changed, compare, cut, kept, new_functions, undefined

COLD = """
__attribute__((cold)) noinline void report(int x) {{ printk("cold %d", x); }}
int f(int x) {{ {} return x + {}; }}
"""
UNLIKELY = "if (__builtin_expect(x > 100, 0)) { report(1); report(x); }"


def test_a_cold_part_comes(tmp_path: Path) -> None:
    d = compare(tmp_path, COLD.format("", 1), COLD.format(UNLIKELY, 1))
    assert changed(d) == ["f"]
    assert [s.name for s in d.new] == ["f.cold"]
    assert ".text.unlikely.f" in kept(cut(d))


def test_a_cold_part_goes(tmp_path: Path) -> None:
    d = compare(tmp_path, COLD.format(UNLIKELY, 1), COLD.format("", 1))
    assert changed(d) == ["f"]
    assert [s.name for s in d.removed] == ["f.cold"]


def test_a_cold_part_of_a_clone_belongs_to_the_clone(tmp_path: Path) -> None:
    """``walk.constprop.0.cold`` is a part of ``walk.constprop.0``, not of a function ``walk``."""
    source = """
__attribute__((cold)) noinline void report(int x) {{ printk("cold %d", x); }}
static noinline int walk(int x, int step) {{
    if (__builtin_expect(x > 100, 0)) {{ report({0}); report(x); }}
    return hidden(x) * step;
}}
int f(int x) {{ return walk(x, 7); }}
"""
    d = compare(tmp_path, source.format(1), source.format(2))
    main = next(s.name for s in d.post.obj.functions() if s.name.startswith("walk.c"))
    assert changed(d) == [main]
    code = cut(d)
    assert [r.name for r in code.redirected] == [main]
    assert f"{main}.cold" in {s.name for s in code.obj.symbols if s.is_function}
    assert not any(".cold" in name for name in undefined(code))


def test_swapped_clones_pair_by_their_callers(tmp_path: Path) -> None:
    """The order in the file numbers the clones: walk.constprop.0 and .1 change places."""
    source = """
static noinline int walk(int x, int n) {{
    for (int i = 0; i < n; i++) x += hidden(x) * n + exported(i + n);
    return x;
}}
{0}
"""
    a = "int a(int x) { return walk(x, 3) + 1; }"
    b = "int b(int x) { return walk(x, 5) + 2; }"
    d = compare(tmp_path, source.format(a + b), source.format(b + a), "-O3")
    clones = [s.name for s in d.post.obj.functions() if s.name.startswith("walk.constprop")]
    assert len(clones) == 2
    assert changed(d) == []
    assert not d.new
    assert not d.removed


def test_a_clone_with_another_signature_is_new(tmp_path: Path) -> None:
    """``walk.isra.0`` takes other arguments than ``walk``, so that its callers change with it."""
    source = """
struct pair {{ int a, b; }};
static noinline int walk(struct pair *p) {{ return hidden(p->a) {0}; }}
int f(struct pair *p) {{ return walk(p); }}
int g(struct pair *p) {{ return walk(p) + 1; }}
"""
    d = compare(tmp_path, source.format("+ (p->b = 1)"), source.format(""))
    assert [s.name for s in d.new] == ["walk.isra.0"]
    assert [s.name for s in d.removed] == ["walk"]
    assert changed(d) == ["f", "g"]
    code = cut(d)
    assert new_functions(code) == ["walk.isra.0"]


def test_a_part_is_split_off(tmp_path: Path) -> None:
    """Partial inlining makes ``f.part.0``; the callers inline the test before it."""
    source = """
static int f(int x) {{
    if (x > 10) return 0;
    {0}
    return printk("%d %d", hidden(x), exported(x)) + hidden(x + 1) + hidden(x + 2);
}}
int a(int x) {{ return f(x) + 1; }}
int b(int x) {{ return f(x) + 2; }}
int c(int x) {{ return f(x) + 3; }}
"""
    d = compare(tmp_path, source.format(""), source.format("exported(7);"))
    part = [s.name for s in d.post.obj.functions() if ".part" in s.name]
    assert part
    assert changed(d) == part


def test_inlining_spreads_a_change(tmp_path: Path) -> None:
    source = """
static inline __attribute__((always_inline)) int step(int x) {{ return hidden(x) + {0}; }}
int a(int x) {{ return step(x); }}
int b(int x) {{ return step(x) * 2; }}
int c(int x) {{ return x; }}
"""
    d = compare(tmp_path, source.format(1), source.format(2))
    assert changed(d) == ["a", "b"]


def test_a_function_is_inlined_no_more(tmp_path: Path) -> None:
    source = """
static {0} int step(int x) {{ return hidden(x) + 1; }}
int a(int x) {{ return step(x); }}
"""
    d = compare(tmp_path, source.format("inline"), source.format("noinline"))
    assert changed(d) == ["a"]
    assert [s.name for s in d.new] == ["step"]
    assert new_functions(cut(d)) == ["step"]


def test_padding_before_a_function_belongs_to_it(tmp_path: Path) -> None:
    """``__pfx_f`` of objtool is neither changed nor a second function of the section."""
    source = """
asm(".pushsection .text.f,\\"ax\\"\\n.type __pfx_f,@function\\n__pfx_f: .skip 16, 0x90\\n"
    ".size __pfx_f, 16\\n.popsection");
int f(int x) {{ return exported(x) + {0}; }}
"""
    d = compare(tmp_path, source.format(1), source.format(2))
    assert changed(d) == ["f"]
    code = cut(d)
    assert [r.name for r in code.redirected] == ["f"]
    assert {"f", "__pfx_f"} <= {s.name for s in code.obj.symbols if s.is_function}


RENAMED = """
struct ops {{ int (*show)(int); int (*store)(int); }};
static int {0}(int x) {{ return hidden(x) + {1}; }}
static int store(int x) {{ return exported(x); }}
struct ops ops = {{ {0}, store }};
"""


def test_a_renamed_function_is_the_one_that_the_kernel_calls(tmp_path: Path) -> None:
    """Its table has the old one's address, which is redirected to the new one."""
    d = compare(tmp_path, RENAMED.format("show", 1), RENAMED.format("show_safely", 2))
    assert d.refusals == ()
    assert changed(d) == ["show_safely"]
    code = cut(d)
    assert [r.name for r in code.redirected] == ["show"]


def test_a_wrapper_that_has_the_old_function_inlined(tmp_path: Path) -> None:
    """It does not call the function that is led to it; gcc inlines what one function calls."""
    pre = RENAMED.format("show", 1)
    wrapper = "static int show_safely(int x) { return x < 0 ? 0 : show(x); }\n"
    wrapper += "struct ops ops = { show_safely,"
    d = compare(tmp_path, pre, pre.replace("struct ops ops = { show,", wrapper))
    assert (d.refusals, d.pointers, changed(d)) == ((), (), ["show_safely"])
    code = cut(d)
    assert [(r.name, r.tables) for r in code.redirected] == [("show", ("ops",))]
    assert not any("show" in name for name in undefined(code))


def test_another_function_in_a_table_is_no_new_name(tmp_path: Path) -> None:
    source = RENAMED.format("show", 1)
    d = compare(
        tmp_path, source, source.replace("{ show,", "{ store,").replace("int show", "int shown")
    )
    assert d.changed == {}
    assert [(c.datum.name, c.offset, c.new.name) for c in d.pointers] == [("ops", 0, "store")]
