# SPDX-License-Identifier: GPL-2.0-only
"""Changes of data, shown on object pairs."""

from pathlib import Path

import pytest

from tests.support.objects.pair import changed, compare, cut, kept, undefined


def names(symbols: object) -> list[str]:
    assert isinstance(symbols, tuple)
    return [s.name for s in symbols]


# --- constants ----------------------------------------------------------------------------------

TABLE = """
static const int table[] = {{ {0} }};
int f(int x) {{ return table[x & 1]; }}
int g(int x) {{ return x + 1; }}
"""


def test_a_constant_is_part_of_the_functions_that_read_it(tmp_path: Path) -> None:
    d = compare(tmp_path, TABLE.format("1, 2"), TABLE.format("1, 3"))
    assert changed(d) == ["f"]
    assert names(d.copied_constants) == ["table"]
    assert d.refusals == ()
    assert next(iter(d.changed.values())) == "uses table, whose content changes"
    code = cut(d)
    assert ".rodata.table" in kept(code)
    assert "table" not in " ".join(undefined(code))


def test_a_constant_may_grow(tmp_path: Path) -> None:
    """As an nla_policy does that gets an entry: its size is part of its content."""
    source = """
struct policy {{ unsigned char type; unsigned short len; }};
static const struct policy policy[{0} + 1] = {{ [{0}] = {{ .type = 1, .len = 4 }} }};
extern int parse(const struct policy *, int max);
int f(void) {{ return parse(policy, 7); }}
"""
    d = compare(tmp_path, source.format(2), source.format(3))
    assert changed(d) == ["f"]
    assert names(d.copied_constants) == ["policy"]


def test_a_constant_behind_a_constant(tmp_path: Path) -> None:
    source = """
struct row {{ const int *values; int n; }};
static const int values[] = {{ {0} }};
static const struct row rows[] = {{ {{ values, 2 }}, {{ 0, 0 }} }};
int f(int x) {{ return rows[x].values[1]; }}
"""
    d = compare(tmp_path, source.format("1, 2"), source.format("1, 3"))
    assert changed(d) == ["f"]
    assert set(names(d.copied_constants)) == {"values", "rows"}
    assert {".rodata.values", ".rodata.rows"} <= kept(cut(d))


def test_an_unchanged_constant_stays_in_the_kernel(tmp_path: Path) -> None:
    source = TABLE.replace("x & 1]", "x & 1] + {1}")
    d = compare(tmp_path, source.format("1, 2", 1), source.format("1, 2", 2))
    assert ".klp.sym.vmlinux.table,0" in undefined(cut(d))


KEPT = """
struct kind {{ int size, flags; }};
struct object {{ const struct kind *kind; int n; }};
static const struct kind small = {{ 8, {0} }};
int size_of(const struct kind *);
int f(struct object *o) {{ {1} }}
int g(struct object *o) {{ return o->kind->size; }}
"""


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("o->kind = &small; return 0;", "f stores its address"),
        ("return o->kind == &small ? o->n : 0;", "f compares its address"),
    ],
)
def test_a_constant_by_whose_address_objects_are_known(
    tmp_path: Path, code: str, how: str
) -> None:  # fmt: skip
    """Objects that were made before have the address of the kernel's own."""
    d = compare(tmp_path, KEPT.format(1, code), KEPT.format(2, code))
    assert d.copied_constants == ()
    (refusal,) = d.refusals
    assert refusal.symbol == "small"
    assert how in refusal.reason


def test_a_constant_whose_address_is_only_passed_on(tmp_path: Path) -> None:
    code = "return size_of(&small) + o->n;"
    d = compare(tmp_path, KEPT.format(1, code), KEPT.format(2, code))
    assert names(d.copied_constants) == ["small"]


def test_a_constant_whose_end_is_compared(tmp_path: Path) -> None:
    source = """
static const int steps[8] = {{ 1, {0} }};
int read(const int *);
int f(int x)
{{
	for (const int *p = steps; p < steps + 8; p++)
		if (read(p) == x)
			return 1;
	return 0;
}}
"""
    d = compare(tmp_path, source.format(1), source.format(2))
    assert names(d.copied_constants) == ["steps"]


@pytest.mark.parametrize("at", ["n + 1", "n - 1", "n"])
def test_a_string_is_compared_whole(tmp_path: Path, at: str) -> None:
    """A reference into a string, or beside it, is an index from there."""
    source = 'int f(int n) {{ return hidden("{0}"[{1}]); }} int g(void) {{ return printk("{2}"); }}'
    d = compare(tmp_path, source.format("-0+", at, "other"), source.format("~0+", at, "other"))
    assert changed(d) == ["f"]
    d = compare(tmp_path, source.format("-0+", at, "other"), source.format("-0+", at, "text"))
    assert changed(d) == ["g"]


def test_functions_in_a_constant_that_is_only_looked_into(tmp_path: Path) -> None:
    """No address of it is ever kept, so that a copy does as well."""
    source = """
static int a(int x) {{ return x + 1; }}
static int b(int x) {{ return x + 2; }}
static int (*const handlers[])(int) = {{ {0} }};
int f(int x) {{ return handlers[x & 1](x); }}
"""
    d = compare(tmp_path, source.format("a, b"), source.format("b, a"))
    assert changed(d) == ["f"]
    assert names(d.copied_constants) == ["handlers"]
    assert d.refusals == ()


OPS = """
struct ops {{ int (*open)(int); int (*close)(int); }};
static int o(int x) {{ return hidden(x); }}
static int c(int x) {{ return exported(x); }}
static const struct ops ops = {{ .open = {0} }};
extern void keep(const struct ops *);
int f(void) {{ keep(&ops); return 1; }}
"""


def test_an_operations_table_has_an_identity(tmp_path: Path) -> None:
    """The kernel has stored its address, in files and inodes, and compares it."""
    d = compare(tmp_path, OPS.format("o"), OPS.format("o, .close = c"))
    assert names(d.copied_constants) == []
    assert [(c.datum.name, c.offset, c.old, c.new.name) for c in d.pointers] == [
        ("ops", 8, None, "c")
    ]
    d = compare(tmp_path, OPS.format("o, .close = c"), OPS.format("o"))
    assert [r.symbol for r in d.refusals] == ["ops"]
    assert "keeps its address" in d.refusals[0].hint


@pytest.mark.parametrize(
    "keeper",
    [
        "const int *const shown = table;",  # other data point to it
        # boot code has handed it over
        '__attribute__((section(".init.text"))) const int *which(void) { return table; }',
    ],
)  # fmt: skip
def test_a_constant_that_others_keep_is_refused(tmp_path: Path, keeper: str) -> None:
    pre, post = TABLE.format("1, 2"), TABLE.format("1, 3")
    d = compare(tmp_path, pre + keeper, post + keeper)
    assert "table" in [r.symbol for r in d.refusals]


def test_a_constant_that_other_files_can_use_is_refused(tmp_path: Path) -> None:
    source = TABLE.replace("static const", "const")
    d = compare(tmp_path, source.format("1, 2"), source.format("1, 3"))
    assert [r.symbol for r in d.refusals] == ["table"]


# --- what is no change --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pre", "post"),
    [
        ("int a = 1, b = 2;", "int b = 2, a = 1;"),  # order
        ("static int x; ", "static int x __attribute__((section(\".data\")));"),  # .bss, .data
        ("static int x = 3;", "static int x __attribute__((section(\".data..shared\"))) = 3;"),
        ("static int x = 3;", "static int x __attribute__((aligned(64))) = 3;"),
        ("struct { char c; long l; } s = { 1, 2 };",
         "struct { char c, pad[7]; long l; } s = { .c = 1, .l = 2 };"),
    ],
)  # fmt: skip
def test_the_same_content(tmp_path: Path, pre: str, post: str) -> None:
    users = {"x": "int f(void) { x++; return x; }", "a": "int f(void) { return a++ + b++; }",
             "s": "long f(void) { return s.l++; }"}  # fmt: skip
    name = "x" if " x" in pre else "a" if "a = 1" in pre else "s"
    d = compare(tmp_path, pre + users[name], post + users[name])
    assert d.refusals == ()
    assert changed(d) == []


def test_data_that_point_to_renumbered_things(tmp_path: Path) -> None:
    """``.data.rel`` tables refer to static locals and strings, whose numbers and places change."""
    source = """
struct entry {{ const char *name; int *value; }};
{0}
int f(void) {{
    static int value = 5;
    static struct entry entry = {{ "name", &value }};
    entry.value++;
    return *entry.value;
}}
"""
    extra = """
const char *early(int x) { static int value = 1; static struct { const char *t; int *v; } entry
    = { "something longer", &value }; entry.v++; return entry.t; }
"""
    d = compare(tmp_path, source.format(""), source.format(extra))
    assert changed(d) == []
    assert d.refusals == ()
    assert [s.name for s in d.new] == ["early"]


def test_data_pair_through_data(tmp_path: Path) -> None:
    """Two numbered things of one name, told apart only by the data that point to them."""
    source = """
struct node {{ struct node *next; int v; }};
{0}
struct node first = {{ (struct node *)&(struct node){{ 0, 1 }}, 10 }};
struct node second = {{ (struct node *)&(struct node){{ 0, 2 }}, 20 }};
int f(void) {{ return first.next->v++ + second.next->v++ + {1}; }}
"""
    extra = "struct node zeroth = { (struct node *)&(struct node){ 0, 3 }, 30 };"
    d = compare(tmp_path, source.format("", 1), source.format(extra, 2))
    assert changed(d) == ["f"]
    assert d.refusals == ()


def test_what_only_a_list_of_the_linker_has(tmp_path: Path) -> None:
    """printk's index has an entry with the line for each printk(); only debugfs reads it."""
    source = """
struct pi_entry {{ const char *fmt, *file; unsigned line; }};
int f(int x) {{
    static const struct pi_entry _entry __attribute__((used)) = {{ "text", "file.c", {0} }};
    static const struct pi_entry *_entry_ptr
        __attribute__((used, section(".printk_index"))) = &_entry;
    return printk("text") + x;
}}
"""
    assert compare(tmp_path, source.format(10), source.format(20)).is_empty
    variable = "static int _entry = {}; int f(int x) {{ return _entry += x; }}"
    d = compare(tmp_path, variable.format(1), variable.format(2))
    assert [r.symbol for r in d.refusals] == ["_entry"]


@pytest.mark.parametrize("outside", [True, False])
def test_a_constant_that_has_the_name_of_an_entry(tmp_path: Path, outside: bool) -> None:  # noqa: FBT001
    """It is read, and not by debugfs."""
    entry = "static const int _entry[] = {{ 1, {0} }};"
    code = "return _entry[x & 1] + hidden(x);"
    source = f"{entry} int f(int x) {{{{ {code} }}}}"
    if not outside:
        source = f"int f(int x) {{{{ {entry} {code} }}}}"
    d = compare(tmp_path, source.format(2), source.format(3))
    assert changed(d) == ["f"]
    assert any("_entry" in name for name in kept(cut(d)))


def test_what_boot_code_and_lists_have_is_left_out_and_said(tmp_path: Path) -> None:
    """Such as a mode in ``.init.data``, and an entry that DECLARE_PCI_FIXUP makes."""
    source = """
extern int old(int), new(int);
struct ops {{ int (*op)(int); int mode; }};
static struct ops boot __attribute__((used, section(".init.data"))) = {{ old, {1} }};
static struct ops listed __attribute__((used, section(".pci_fixup_resume"))) = {{ {0} }};
int f(int x) {{ return hidden(x) + {1}; }}
"""
    d = compare(tmp_path, source.format("old", 1), source.format("new", 2))
    assert changed(d) == ["f"]
    assert [note.split()[0] for note in d.notes] == ["listed", "boot"]
    assert "the linker makes of .pci_fixup_resume" in d.notes[0]
    same = source.replace("old, {1} }}", "old, 1 }}")
    assert not compare(tmp_path, same.format("old", 1), same.format("old", 2)).notes


@pytest.mark.parametrize(
    ("before", "after", "is_refused"),
    [
        ("ours", "another", True),  # of this file
        ("old", "new", True),  # of others
        ("ours", "0", True),
        ("0", "ours", True),
        ("set_up", "set_up_too", False),  # boot code, which nobody calls any more
        ("set_up", "0", False),
        ("ours", "ours", False),
    ],
)
def test_what_boot_code_hands_over(
    tmp_path: Path, before: str, after: str, *, is_refused: bool
) -> None:
    """Such as ``vmx_x86_ops``, which is __initdata, and copied when the module comes up."""
    source = """
extern int old(int), new(int);
#define INIT __attribute__((section(".init.text")))
int ours(int x) {{ return hidden(x); }} int another(int x) {{ return hidden(x) + 2; }}
int INIT set_up(int x) {{ return x; }} int INIT set_up_too(int x) {{ return x + 1; }}
struct ops {{ int (*op)(int); }};
static struct ops boot __attribute__((used, section(".init.data"))) = {{ {0} }};
int f(int x) {{ return hidden(x) + {1}; }}
"""
    d = compare(tmp_path, source.format(before, 1), source.format(after, 2))
    assert changed(d) == ["f"]
    assert [r.symbol for r in d.refusals] == ["boot"] * is_refused
    if is_refused:
        names = [{"0": "nothing"}.get(name, name) for name in (before, after)]
        assert d.refusals[0].reason.endswith(f": {names[0]} → {names[1]} at 0x0")


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pre", "post", "hint"),
    [
        ("int limit = 5;", "int limit = 6;", "change it from a hook"),
        ('__attribute__((section(".data..percpu"))) int limit = 5;',
         '__attribute__((section(".data..percpu"))) int limit = 6;', "each processor's copy"),
        ("char limit[4] = {1};", "char limit[8] = {1};", "change it from a hook"),
    ],
)  # fmt: skip
def test_changed_initialised_data(tmp_path: Path, pre: str, post: str, hint: str) -> None:
    user = "extern void use(void *); void f(void) { use(&limit); }"
    d = compare(tmp_path, pre + user, post + user)
    assert [r.symbol for r in d.refusals] == ["limit"]
    assert hint in d.refusals[0].hint


def test_a_tracepoint_changes(tmp_path: Path) -> None:
    source = """
static char print_fmt_sample[] = "{0}";
static struct {{ char *fmt; int n; }} event_class_sample = {{ print_fmt_sample, 1 }};
void *f(void) {{ event_class_sample.n++; return &event_class_sample; }}
"""
    d = compare(tmp_path, source.format("a"), source.format("b"))
    assert [(r.symbol, r.reason) for r in d.refusals] == [
        ("print_fmt_sample", "a tracepoint changes")
    ]


def test_a_constant_becomes_a_variable(tmp_path: Path) -> None:
    """The running kernel's is in read-only memory."""
    source = """
{0} int level[2] = {{1, 2}};
extern void use(void *);
void f(void) {{ use((void *)level); }}
"""
    d = compare(tmp_path, source.format("static const"), source.format("static"))
    assert [r.symbol for r in d.refusals] == ["level"]
    assert "it was read-only" in d.refusals[0].reason


# --- new data -----------------------------------------------------------------------------------

SETUP = """
static int *queue;
extern int *make(void);
__attribute__((section(".init.text"))) void setup(void) {{ {0} }}
int f(int x) {{ return exported(x){1}; }}
{2}
"""


def test_new_data_that_boot_code_sets_up(tmp_path: Path) -> None:
    d = compare(tmp_path, SETUP.format("make();", "", "").replace("static int *queue;", ""),
                SETUP.format("queue = make();", " + *queue", ""))  # fmt: skip
    assert [(r.symbol, r.reason) for r in d.refusals] == [
        ("queue", "setup sets it up, which runs only at boot")
    ]


def test_new_data_that_unload_code_tears_down(tmp_path: Path) -> None:
    """That the old unload code knows nothing of it leaves something behind, at worst."""
    source = SETUP.replace(".init.text", ".exit.text")
    d = compare(tmp_path, source.format("make();", "", ""),
                source.format("queue = make();", " + *queue", ""))  # fmt: skip
    assert d.refusals == ()
    assert changed(d) == ["f"]


def test_old_data_that_boot_code_sets_up(tmp_path: Path) -> None:
    reader = "int g(void) { return *queue; }"
    d = compare(tmp_path, SETUP.format("queue = make();", "", reader),
                SETUP.format("queue = make();", " + *queue", reader))  # fmt: skip
    assert d.refusals == ()
    assert changed(d) == ["f"]


def test_static_variables_of_one_name_are_told_apart_by_their_surroundings(tmp_path: Path) -> None:
    """A third ``count`` comes between two: the old ones keep their content."""
    source = """
int f(int x) {{
    {{ static int count; count += hidden(x); x += count; }}
    {0}
    {{ static int count; count -= exported(x); x += count; }}
    return x;
}}
"""
    more = '{ static int count; count ^= printk("new"); x += count; }'
    d = compare(tmp_path, source.format(""), source.format(more))
    assert changed(d) == ["f"]
    new = [s for s in d.post.obj.symbols if s.name.startswith("count.") and s not in d.twins.pre_of]
    assert len(new) == 1
    code = cut(d)
    assert len([n for n in undefined(code) if n.startswith(".klp.sym.vmlinux.count.")]) == 2


def test_static_variables_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """Two ``count`` become three, and nothing around them tells which is new."""
    one = "{{ static int count; x += count++ * {}; }}"
    two = "int f(int x) {" + one.format(3) + one.format(5) + "return x; }"
    three = "int f(int x) {" + one.format(7) + one.format(9) + one.format(11) + "return -x; }"
    d = compare(tmp_path, two, three)
    assert [r.symbol.split(".")[0] for r in d.refusals] == ["count"] * 3
    assert all("count.0" in r.reason and "count.1" in r.reason for r in d.refusals)


def test_variables_that_begin_alike_are_not_paired_by_their_order(tmp_path: Path) -> None:
    """Two functions get new names and change places: whose ``count`` is whose?"""
    one = "static noinline int {0}(int x) {{ static int count; return hidden(count {1} x) + {2}; }}"
    user = "int f(int x) {{ return {0}(x) + {1}(x); }}"
    pre = one.format("a", "+=", 1) + one.format("b", "-=", 1) + user.format("a", "b")
    post = one.format("d", "-=", 2) + one.format("c", "+=", 2) + user.format("c", "d")
    d = compare(tmp_path, pre, post)
    assert [r.symbol.split(".")[0] for r in d.refusals] == ["count"] * 2


def test_a_variable_that_another_function_gets(tmp_path: Path) -> None:
    """One goes and one comes; a new function may have taken the old code with its variable."""
    has, has_not = "static int count; return hidden(count += x);", "return hidden(x);"
    source = "int f(int x) {{ {} }} int g(int x) {{ {} }}"
    d = compare(tmp_path, source.format(has, has_not), source.format(has_not, has))
    assert [r.symbol.split(".")[0] for r in d.refusals] == ["count"]
    post = "static noinline int helper(int x) {{ {} }} int f(int x) {{ return helper(x) + 1; }}"
    d = compare(tmp_path, "int f(int x) {" + has + "}", post.format(has))
    assert d.refusals == ()
    assert ".klp.sym.vmlinux.count.0,0" in undefined(cut(d))


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_variable_moves_into_a_function_or_out_of_it(tmp_path: Path, is_inside: bool) -> None:  # noqa: FBT001
    inside = "int f(int x) {{ static int count; return hidden(count += x) + {}; }}"
    outside = "static int count; int f(int x) {{ return hidden(count += x) + {}; }}"
    sources = (outside, inside) if is_inside else (inside, outside)
    d = compare(tmp_path, *(s.format(i) for i, s in enumerate(sources)))
    assert changed(d) == ["f"]
    name = "count" if is_inside else "count.0"
    assert f".klp.sym.vmlinux.{name},0" in undefined(cut(d))


@pytest.mark.parametrize("name", ["_rs", "__key"])
def test_state_that_may_be_lost(tmp_path: Path, name: str) -> None:
    """A rate limit begins to count anew; that is not worth a refusal."""
    one = f"{{ static int {name}; if ({name}++ < 5) x += hidden(x); }}"
    two = f"int f(int x) {{ {one} {one} return x; }}"
    three = f"int f(int x) {{ x = exported(x); {one} x++; {one} x--; {one} return x; }}"
    d = compare(tmp_path, two, three)
    assert changed(d) == ["f"]
    assert d.refusals == ()


def test_alike_constants_that_are_not_told_apart(tmp_path: Path) -> None:
    """``__compound_literal.4`` and others of its kind, of which one more comes between."""
    source = """
struct list {{ const int *v; }};
{0}
const struct list lists[] = {{ {1} {{ (const int[]){{ 4, 5 }} }}, {{ (const int[]){{ 4, 7 }} }} }};
int f(int x) {{ return lists[x].v[x] + hidden(x); }}
int g(int x) {{ return x + {2}; }}
"""
    d = compare(tmp_path, source.format("", "", 1),
                source.format("const int *other = (const int[]){ 9, 8, 7 };"
                              "int h(void) { return other[1]; }", "", 2))  # fmt: skip
    assert changed(d) == ["g"]
    assert d.refusals == ()


def test_constant_that_the_kernels_data_point_to(tmp_path: Path) -> None:
    """As ``veth_policy``, which ``veth_link_ops`` has: the reason is who keeps it."""
    source = """
    struct policy {{ int type, len; }};
    static const struct policy policy[] = {{ {{ 0, 3 }}, {{ {0}, 8 }} }};
    struct ops {{ const char *kind; const struct policy *policy; }} ops = {{ "x", policy }};
    int f(int x) {{ return policy[x].len; }}
    """
    (refusal,) = compare(tmp_path, source.format(0), source.format(5)).refusals
    assert refusal.reason.endswith(", and the kernel's ops has its address")
    assert "what has the address goes on with the old content" in refusal.hint


# --- values that are exchanged in place ---------------------------------------------------------

POLICY = """
struct policy {{ unsigned char type, kind; unsigned short len; union {{ long low; void *p; }}; char
    name[12]; unsigned wide : 3, more : 5; unsigned char key[6]; int (*check)(int); }};
static noinline int one(int x) {{ return hidden(x); }}
{0} struct policy policies[3] = {{ [1] = {{ {1} }}, [2] = {{ .check = one }} }};
"""


def values(
    tmp_path: Path, before: str, after: str, how: str = "const", *flags: str
) -> list[tuple[int, bytes, bytes]] | None:
    """Return the values that are exchanged; None when the change is refused."""
    sources = (POLICY.format(how, x) for x in (before, after))
    d = compare(tmp_path, *sources, *(flags or ("-g",)))
    assert d.pointers == ()
    assert d.changed == {}
    assert bool(d.values) is not bool(d.refusals)
    assert d.is_needed
    return None if d.refusals else [(v.offset, v.old, v.new) for v in d.values]


START = 48
"""Where the second of the rows begins."""


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        (".len = 4", ".len = 8", [(2, b"\4\0", b"\x08\0")]),
        ("", ".type = 3, .len = 8", [(0, b"\0", b"\3"), (2, b"\0\0", b"\x08\0")]),
        (".low = 1", ".low = -1", [(8, b"\1" + bytes(7), b"\xff" * 8)]),
        (".wide = 1", ".wide = 2", [(28, b"\1", b"\2")]),
        ('.name = "ab"', '.name = "cb"', [(16, b"a", b"c")]),
        ('.name = "abcd"', '.name = "efgh"', [(16, b"abcd", b"efgh")]),
        (".key = { 1, 2 }", ".key = { 1, 3 }", [(30, b"\2", b"\3")]),
    ],
)
def test_values_of_a_constant_table(
    tmp_path: Path, before: str, after: str, found: list[tuple[int, bytes, bytes]]
) -> None:
    expected = [(START + at, old, new) for at, old, new in found]
    assert values(tmp_path, before, after) == expected
    assert values(tmp_path, before, after, "") == expected, "it has a function, and no const"


@pytest.mark.parametrize(
    ("before", "after", "how", "flags"),
    [
        ('.name = "abcdefgh"', '.name = "abcdefghij"', "const", ("-g",)),  # more than one store
        (".len = 4", ".len = 8", "const", ("-g0",)),
        (".len = 4", ".len = 8", '__attribute__((section(".data..read_mostly")))', ("-g",)),
    ],
)
def test_values_that_are_no_fields(
    tmp_path: Path, before: str, after: str, how: str, flags: tuple[str, ...]
) -> None:
    if before.startswith(".name"):
        after = '.name = "bbcdefghi"'
    assert values(tmp_path, before, after, how, *flags) is None


def test_values_and_pointers_of_a_table(tmp_path: Path) -> None:
    before = POLICY.format("const", ".len = 4")
    d = compare(tmp_path, before, before.replace(".len = 4", ".len = 5, .check = one"), "-g")
    assert [(c.offset, c.new.name) for c in d.pointers] == [(START + 40, "one")]
    assert [v.offset for v in d.values] == [START + 2]


def test_state_is_no_constant(tmp_path: Path) -> None:
    source = "struct state {{ int n; }} state = {{ {0} }}; int f(void) {{ return state.n++; }}"
    d = compare(tmp_path, source.format(1), source.format(2), "-g")
    assert [r.symbol for r in d.refusals] == ["state"]


def test_constants_of_numbers(tmp_path: Path) -> None:
    source = "const int lens[4] = {{ 1, {0}, 3 }};"
    source += "const char __attribute__((aligned(4))) text[] = {1};"
    pre, post = source.format(2, '"one"'), source.format(5, '"two"')
    d = compare(tmp_path, pre, post, "-g")
    assert sorted((v.datum.name, v.offset, v.new) for v in d.values) == [
        ("lens", 4, b"\5\0\0\0"), ("text", 0, b"two\0"),
    ]  # fmt: skip


def test_values_of_a_table_that_a_header_declares_without_size(tmp_path: Path) -> None:
    """The definition has a type of its own in the debug information, and no name."""
    declared = "struct row { char c; short n; }; extern const struct row rows[];"
    source = declared + "int f(int x) { return rows[x].n; } const struct row rows[] = { { 1, N } };"
    d = compare(tmp_path, source.replace("N", "4"), source.replace("N", "5"), "-g")
    assert [(v.datum.name, v.offset, v.new) for v in d.values] == [("rows", 2, b"\5\0")]
