# SPDX-License-Identifier: GPL-2.0-only
"""Updates that are right, and what is wrong with updates that create would make no more."""

from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.create.referee.judge import judge
from ksplicd.errors import ContradictionError
from tests.support.objects.judged import Update, link_module, make_update
from tests.support.objects.pair import FakeUnit

STATE = """
static int count = 1, limit = 2;
static noinline int helper(int x) {{ count += x; return hidden(x) + 1; }}
int entry(int x) {{ static int calls; calls++; return helper(x) + limit + exported({0}) + calls; }}
int other(int x) {{ static int calls; calls += 2; return calls * x; }}
"""

NEW_FUNCTION = """
static int seen;
static noinline int g(int x) { seen += x; return seen; }
int f(int x) { return hidden(g(x)); }
"""
WARNING = """
int f(int x)
{
    static int WARN_ONCE_FLAG done;
    if (x > AT && !done) { done = 1; printk("once"); }
    return x;
}
"""
ADDRESS = """
static int g(int x) { return x; }
noinline int take(int (*f)(int)) { return f(1); }
int f(void) { return take(g) + 1; }
"""
TABLES = """
struct static_key key;
int f(int x) { if (BRANCH(key)) BUG_ENTRY(3); return x + 1; }
"""
POINTER = """
static int a(int x) { return x; }
static int b(int x) { return hidden(x); }
struct ops { int (*one)(int), (*two)(int); } ops = { a, b };
"""
LOOP = """
int f(int x)
{
    for (int i = 0; i < x; i++) {
        if (hidden(i)) continue;
        exported(x);
        if (hidden(x)) break;
    }
    return x;
}
int g(int x) { return f(x); }
"""
CONSTANT = "noinline int f(int x) { return x + 1; } int g(int x) { return f(x) * 2; }"
OLD_NAME = "static int old(int x) { return x; } int (*const t[])(int) = { old };"
TABLE = "static const int t[] = { 1, 2, 3, 4 }; int f(int x) { return t[x]; }"
NUL = """
static const char t[] = { 1, 2, 3, 4 };
int f(int x) { return printk("i686\\0") + t[x] + 1; }
"""
"""A text with a NUL has no name, and lies beside what has one."""
TEXT = 'int f(void) { return printk("one %s", __func__); }'

RIGHT = {
    "a constant": (CONSTANT, CONSTANT.replace("x + 1", "x + 2")),
    "state": (STATE.format("x"), STATE.format("x + 1")),
    "a new function, a new variable": ("int f(int x) { return hidden(x); }", NEW_FUNCTION),
    "a text": (TEXT, TEXT.replace("one", "two")),
    "a text with a NUL": (NUL, NUL.replace("+ 1", "+ 2")),
    "a warning": (WARNING.replace("AT", "1"), WARNING.replace("AT", "2")),
    "a constant table": (TABLE, TABLE.replace("3", "5")),
    "the address of a function": (ADDRESS, ADDRESS.replace("+ 1", "+ 2")),
    "tables about code": (TABLES, TABLES.replace("+ 1", "+ 2")),
    "a pointer": (POINTER, POINTER.replace("{ a, b }", "{ b, b }")),
    "jumps of other lengths": (LOOP, LOOP.replace("exported(x)", "exported(i)")),
    "renamed": (OLD_NAME, OLD_NAME.replace("old", "new").replace("return x", "return x + 1")),
}


@pytest.mark.parametrize("pair", RIGHT.values(), ids=RIGHT)
def test_no_false_contradiction(tmp_path: Path, pair: tuple[str, str]) -> None:
    assert make_update(tmp_path, *pair).judge() == []


def test_a_text_with_a_nul_is_compared(tmp_path: Path) -> None:
    update = make_update(tmp_path, *RIGHT["a text with a NUL"])
    assert update.ko.count(b"i686\0") == 1
    [found] = update.judge(update.ko.replace(b"i686\0", b"i586\0"))
    assert "the new code of f leads to .rodata" in found


IN_PLACE_OF = """
LINKAGE noinline int old(int x) { return hidden(x) + 1; }
static noinline int other(int x) { return hidden(x) + 2; }
NEW
struct ops { int (*a)(int), (*b)(int); } ops = { A, other };
int use(int x) { return other(x) + 1; }
REST
"""
FRESH = "static noinline int fresh(int x) { return exported(x); }"
CALLS_OLD = "static noinline int fresh(int x) { return old(x) + exported(x); }"


def in_place_of(a: str, new: str = "", linkage: str = "", rest: str = "") -> str:
    words = {"LINKAGE": linkage, "NEW": new, "{ A": f"{{ {a}", "REST": rest}
    text = IN_PLACE_OF
    for word, by in words.items():
        text = text.replace(word, by)
    return text


SUCCESSIONS = {
    "to a new one": (in_place_of("old"), in_place_of("fresh", FRESH)),
    "to one of the kernel's": (
        in_place_of("old", linkage="static"), in_place_of("other", linkage="static"),
    ),
    "to another file's": (
        in_place_of("old", linkage="static"), in_place_of("exported", linkage="static"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", SUCCESSIONS.values(), ids=SUCCESSIONS)
def test_a_function_that_is_led_to_what_a_table_names(
    tmp_path: Path, pair: tuple[str, str]
) -> None:
    update = make_update(tmp_path, *pair, succeeds=True)
    assert [r.name for r in update.new_code[0].redirected] == ["old"]
    assert update.judge() == []
    left_out = link_module(tmp_path, [replace(update.new_code[0], redirected=())])
    assert update.judge(left_out) != []


@pytest.mark.parametrize(
    ("pre", "post", "why"),
    [
        (
            in_place_of("old"), in_place_of("fresh", CALLS_OLD),
            "old is led to fresh, and fresh of unit.c leads to it in plain post",
        ),
        (
            in_place_of("old", rest="int f(int x) { return old(x) * 3; }"),
            in_place_of("fresh", FRESH, rest="int f(int x) { return old(x) * 3; }"),
            "old is led to fresh, and f of unit.c stays and leads there",
        ),
        (
            in_place_of("old").replace("old", "called_elsewhere"),
            in_place_of("fresh", FRESH).replace("old", "called_elsewhere"),
            "of the stock kernel leads to it",
        ),
        (
            in_place_of("old", rest="int (*kept)(int) = old;"),
            in_place_of("fresh", FRESH, rest="int (*kept)(int) = old;"),
            "old is led to fresh, and kept of unit.c names another in plain post",
        ),
    ],
)  # fmt: skip
def test_a_function_that_more_than_a_table_leads_to(
    tmp_path: Path, pre: str, post: str, why: str
) -> None:
    found = make_update(tmp_path, pre, post, succeeds=True).judge()
    assert any(why in sentence for sentence in found), found


def test_a_function_that_is_led_to_another_than_the_table_names(tmp_path: Path) -> None:
    update = make_update(tmp_path, *SUCCESSIONS["to one of the kernel's"], succeeds=True)
    (code,) = update.new_code
    wrong = replace(code.redirected[0], alias="exported")
    found = update.judge(link_module(tmp_path, [replace(code, redirected=(wrong,))]))
    assert "unit.c: old is led to exported, and ops of unit.c names another in plain post" in found


@pytest.mark.parametrize("name", ["state", "a warning", "a constant table"])
def test_without_debug_information(tmp_path: Path, name: str) -> None:
    assert make_update(tmp_path, *RIGHT[name], "-g0").judge() == []


def test_a_function_that_a_kprobe_redirects(tmp_path: Path) -> None:
    unit = FakeUnit(untraceable=frozenset({"f"}), probeable=frozenset({"f"}))
    update = make_update(tmp_path, *RIGHT["a constant"], unit=unit)
    assert update.judge() == []
    without = link_module(tmp_path, [replace(update.new_code[0], redirects=())])
    (found,) = update.judge(without)
    assert found.endswith("yet g stays and leads to it")


def without(update: Update, tmp_path: Path, name: str) -> list[str]:
    """Return the contradictions of an update that does not redirect a function."""
    (code,) = update.new_code
    left = tuple(r for r in code.redirected if r.name != name)
    assert left != code.redirected
    return update.judge(link_module(tmp_path, [replace(code, redirected=left)]))


def test_a_function_left_out(tmp_path: Path) -> None:
    pre = "static noinline int g(int x) { return x; } int f(int x) { return g(x) + hidden(x); }"
    update = make_update(tmp_path, pre, pre.replace("return x;", "return x + 1;"))
    assert update.judge() == []
    (found,) = without(update, tmp_path, "g")
    assert found.startswith("unit.c: g has ")
    assert found.endswith("in plain post, yet f stays and leads to it")


def test_a_global_left_out(tmp_path: Path) -> None:
    update = make_update(tmp_path, *RIGHT["a constant"])
    (found,) = without(update, tmp_path, "f")
    assert found.endswith("yet g stays and leads to it")


def test_a_global_left_out_that_other_units_call(tmp_path: Path) -> None:
    pre = "int called_elsewhere(int x) { return x; }"
    update = make_update(tmp_path, pre, pre.replace("return x", "return x + 1"))
    (found,) = without(update, tmp_path, "called_elsewhere")
    assert "in plain post, nothing redirects it, and 0x" in found
    assert found.endswith(" leads to it")


def test_a_global_that_goes_while_others_call_it(tmp_path: Path) -> None:
    """No kernel of the patched source links; whoever calls it goes on with the old one."""
    pre = "int called_elsewhere(int x) { return x; } int f(int x) { return hidden(x) + 1; }"
    post = "int f(int x) { return hidden(x) + 2; }"
    update = make_update(tmp_path, pre, post)
    assert update.judge() == []


def test_who_has_inlined_what_changes(tmp_path: Path) -> None:
    """The split objects inline otherwise than those that run."""
    pre = """
    static int g(int x) { return x > 3 ? hidden(x) : 0; }
    int f(int x) { return g(x) + 1; }
    int (*const t[])(int) = { g, f };
    """
    post = pre.replace("x > 3", "x > 4")
    assert make_update(tmp_path, pre, post).judge() == []
    update = make_update(tmp_path, pre, post, split_flags=("-fno-inline",))
    (found,) = update.judge()
    assert "f has " in found
    assert found.endswith("yet t stays and leads to it")


def test_new_code_that_is_of_another_source(tmp_path: Path) -> None:
    pre, post = RIGHT["a constant"]
    update = make_update(tmp_path, pre, post, post_plain=post.replace("x + 2", "x + 3"))
    (found,) = update.judge()
    assert found.startswith("unit.c: the new code of f has ")


def test_static_locals_of_one_name(tmp_path: Path) -> None:
    """One function loses its variable, and its neighbour keeps another of that name."""
    pre = """
    int f(int x) { static int count; count += x; return hidden(count); }
    int g(int x) { static int count; count -= x; return hidden(count); }
    """
    post = """
    int f(int x) { return hidden(x); }
    int g(int x) { static int count; count -= x + 1; return hidden(count); }
    """
    assert make_update(tmp_path, pre, post).judge() == []


def test_constants_that_lead_to_constants(tmp_path: Path) -> None:
    """The kernel's own table goes on leading to the old content, but nothing leads to the table."""
    pre = """
    static const int low[] = { 1, 2, 3 }, high[] = { 4, 5, 6 };
    static const int *const all[] = { low, high };
    int f(int x) { return all[x][1]; }
    """
    assert make_update(tmp_path, pre, pre.replace("5", "7")).judge() == []


def test_a_caller_that_nothing_calls_any_more(tmp_path: Path) -> None:
    """Neither of both begins with fentry: new code calls a copy of each."""
    pre = """
    static noinline int g(int x) { return x; }
    static noinline int h(int x) { return g(x) + hidden(x); }
    int f(int x) { return h(x) * 2; }
    """
    unit = FakeUnit(untraceable=frozenset({"g", "h"}))
    update = make_update(tmp_path, pre, pre.replace("return x;", "return x + 1;"), unit=unit)
    assert update.judge() == []
    (found,) = without(update, tmp_path, "f")
    assert found.endswith("in plain post, yet h stays and leads to it")


def test_the_end_of_an_array_and_the_variable_behind_it(tmp_path: Path) -> None:
    pre = """
    __attribute__((section(".data.mine"))) int t[4] = { 1 }, behind = 7;
    int f(int x) { for (int *p = t; p < t + 4; p++) x += *p + hidden(x); return x; }
    int g(int x) { return behind + x; }
    """
    post = pre.replace("x += *p", "x += 2 * *p").replace("behind + x", "behind + x + 1")
    assert make_update(tmp_path, pre, post).judge() == []


def test_a_lock_class_and_the_variable_at_its_place(tmp_path: Path) -> None:
    """Without lockdep a lock class is empty: in a plain object it lies where the next begins."""
    pre = """
    struct lock_class_key {};
    static int before, behind;
    int f(int x) { static struct lock_class_key __key; return hidden((long)&__key) + x; }
    int g(int x) { static struct lock_class_key __key; return hidden((long)&__key) + before; }
    int h(int x) { return behind += x; }
    int i(int x) { return before -= x; }
    """
    post = pre.replace("+ x;", "- x;").replace("behind +=", "behind -=")
    assert make_update(tmp_path, pre, post).judge() == []


def test_where_create_finds_no_change(tmp_path: Path) -> None:
    pre, post = RIGHT["a constant"]
    (unit,) = make_update(tmp_path, pre, post).units
    unit = replace(unit, kernel=None)
    judge([replace(unit, post=unit.pre)], None)
    with pytest.raises(ContradictionError, match=r"unit\.c: f has .* yet g stays") as e:
        judge([unit], None)
    assert e.value.exit_status == 70
    assert len(e.value.found) == 1


KEYED = """
#ifdef READS_KEYS
#define TEST(key) ((key).enabled != 0)
#else
#define TEST(key) BRANCH(key)
#endif
struct static_key key;
static int count = 1;
int other = 2;
static inline int g(int x) { return TEST(key) ? hidden(x) : 0; }
int f(int x) { count += x; return g(count) + g(x) + 1; }
int user(int x) { return other + f(x); }
"""


def make_keyed(tmp_path: Path, post_plain: str | None = None, *, has_unsplit: bool) -> Update:
    post = KEYED.replace("+ 1;", "+ 2;")
    return make_update(
        tmp_path, KEYED, post, split_flags=("-DREADS_KEYS",), post_plain=post_plain,
        has_unsplit=has_unsplit,
    )  # fmt: skip


def test_new_code_that_reads_its_keys(tmp_path: Path) -> None:
    assert make_keyed(tmp_path, has_unsplit=True).judge() == []
    wrong = KEYED.replace("+ 1;", "+ 2;").replace("count += x", "count += x + other")
    found = make_keyed(tmp_path, wrong, has_unsplit=True).judge()
    assert found == [
        "unit.c: the new code of f lacks a reference to the datum other, unlike plain post"
    ]


def test_new_code_is_that_of_the_unsplit_object(tmp_path: Path) -> None:
    update = make_keyed(tmp_path, has_unsplit=False)
    assert any(line.startswith("unit.c: the new code of f has ") for line in update.judge())


STATIC_CALL = """
#ifdef IN_MODULE
#define KEY "%s"
#else
#define KEY "__SCK__op"
#endif
int f(int x)
{
    asm("1: call __SCT__op\\n.pushsection .static_call_sites,\\"aw\\"\\n"
        ".long 1b - ., " KEY " - .\\n.popsection");
    return x + 1;
}
"""


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("__SCK__op", 0), ("__SCT__op", 0), ("__SCT__other", 1), ("__SCK__other", 1),
        ("__SCT__op + 1", 1),
    ],
)  # fmt: skip
def test_a_module_names_a_static_calls_key_by_its_trampoline(
    tmp_path: Path, key: str, found: int
) -> None:
    pre, post = STATIC_CALL % key, STATIC_CALL.replace("x + 1", "x + 2") % key
    unit = FakeUnit(exports=frozenset({"__SCT__op", "__SCT__other"}))
    update = make_update(tmp_path, pre, post, split_flags=("-DIN_MODULE",), unit=unit)
    why = "unit.c: the new code of f has one more entry of .static_call_sites at instruction "
    assert [line.rstrip("0123456789") for line in update.judge()] == [why] * found


def test_static_call_by_way_of_its_trampoline(tmp_path: Path) -> None:
    """objtool does not know the trampoline of vmlinux by its livepatch name."""
    pre = """
    int f(int x)
    {
        asm("1: call __SCT__op\\n"
    #ifndef IN_MODULE
            ".pushsection .static_call_sites,\\"aw\\"\\n.long 1b - ., __SCK__op - .\\n.popsection"
    #endif
        );
        return x + 1;
    }
    """
    post = pre.replace("+ 1", "+ 2")
    assert make_update(tmp_path, pre, post, split_flags=("-DIN_MODULE",)).judge() == []


NEVER = "also has a reference to the text b'never taken\\x00', unlike plain post"
HIDDEN = "also has a reference to the name hidden, unlike plain post"


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ('printk("never taken");', 'printk("never taken");', []),
        ("", 'printk("never taken");', [NEVER]),
        ("x = hidden(x);", "x = hidden(x);", []),
        ("", "x = hidden(x);", [HIDDEN]),
    ],
)
def test_ways_that_are_never_taken(
    tmp_path: Path, before: str, after: str, found: list[str]
) -> None:
    """The compiler sees so in one of two objects, after the change as before; or it is new."""
    source = """
    int f(int x)
    {{
        printk("always");
    #ifdef READS_KEYS
        {0}
    #endif
        return exported(x) + {1};
    }}
    """
    pre, post = source.format(before, 1), source.format(after, 2)
    flags = ("-DREADS_KEYS",)
    update = make_update(tmp_path, pre, post, split_flags=flags, has_unsplit=True)
    assert update.judge() == [f"unit.c: the new code of f {text}" for text in found]


def test_the_descriptor_of_a_message_stays_with_its_function_gone(tmp_path: Path) -> None:
    """Both the descriptor and the name that it leads to are in memory until the next boot."""
    pre = """
    struct ddebug { const char *function; int line; };
    static noinline int gone(int x)
    {
        static struct ddebug message __attribute__((used, section("__dyndbg"))) = { __func__, 1 };
        return hidden(x) + message.line;
    }
    int f(int x) { return gone(x) + 1; }
    """
    post = "int f(int x) { return exported(x) + 1; }"
    assert make_update(tmp_path, pre, post).judge() == []


def test_entry_of_a_list_stays_as_it_was(tmp_path: Path) -> None:
    """Such as a parameter with another mode; the ledger has it, or the author's word for it."""
    source = """
    static int level = 3;
    struct parameter {{ const char *name; int *at; int mode; }};
    static const struct parameter __param_level
        __attribute__((used, section("__param"))) = {{ "level", &level, {0} }};
    int f(int x) {{ return level + x * {1}; }}
    void set(int x) {{ level = x; }}
    """
    update = make_update(tmp_path, source.format(0, 3), source.format(0o444, 4))
    assert update.judge() == []
