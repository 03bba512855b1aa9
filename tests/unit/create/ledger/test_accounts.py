# SPDX-License-Identifier: GPL-2.0-only
"""What a change of each kind of line comes to, on small units that are compiled on the fly."""

from pathlib import Path

import pytest

from ksplicd.create.ledger.accepted import Accepted, read_accepted
from ksplicd.create.ledger.patch_ledger import Entry, check_accounts, ledger_of
from ksplicd.errors import CreateError, UnaccountedError
from ksplicd.model import Account
from tests.support.objects.ledger import accounts

UNIT = """\
#include "a.h"
#define LIMIT 3
#define TWICE(x) ((x) * 2)

extern int printk(const char *, ...);
struct range { int low, high; };
enum mode { OFF, ON = 4 };
static int seen;
static const int steps[4] = { 1, 2, 3, 4 };

/* how far */
static inline int clamp_it(int x)
{
	return x > LIMIT ? LIMIT : x;
}

__attribute__((noinline)) int first(int x)
{
	seen += x;
	return clamp_it(x) + steps[x & 3];
}

int second(int x)
{
	return first(x) + TWICE(x);
}

__attribute__((section(".init.text"))) int setup(void)
{
	printk("set up");
	return seen;
}
#ifdef NEVER
int never(void)
{
	return 1;
}
#endif
int third(int x)
{
	struct range r = { x, 9 };
#ifdef NEVER
	seen = 1;
#endif
	return printk("%d", r.high) + seen;
}
"""
HEADER = """\
#define IN_HEADER 5
static inline int of_header(int x)
{
	return x + 1;
}
"""
BEFORE = {"fs/unit.c": UNIT, "fs/a.h": HEADER}


def change(tmp_path: Path, old: str, new: str, file: str = "fs/unit.c") -> list[Entry]:
    assert old in BEFORE[file]
    after = {**BEFORE, file: BEFORE[file].replace(old, new, 1)}
    return accounts(tmp_path, BEFORE, after, "fs/unit.c")


def summary(entries: list[Entry]) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [
        (e.place, e.verdict.account, tuple(r.split(":")[1].split()[0] for r in e.verdict.by))
        for e in entries
    ]


ONE_HUNK = [
    # a statement
    ("\tseen += x;", "\tseen += x + 1;", "in_effect", ("first",)),
    # an inline function has effect where its code is
    ("x > LIMIT ? LIMIT : x", "x > LIMIT ? 7 : x", "in_effect", ("first",)),
    # a macro, by its users; also by way of another one
    ("#define LIMIT 3", "#define LIMIT 4", "in_effect", ("first",)),
    ("((x) * 2)", "((x) * 3)", "in_effect", ("second",)),
    ("#define TWICE(x)", "#define IT 3\n#define TWICE(x)", "same_code", ()),
    # a constant that only these functions read
    ("{ 1, 2, 3, 4 }", "{ 1, 2, 3, 5 }", "in_effect", ("first",)),
    # boot code
    ('"set up"', '"set up!"', "boot_only", ()),
    # comments, and the same on other lines
    ("/* how far */", "/* how far\n * it goes */", "comment", ()),
    ("int second(int x)\n", "int\nsecond(int x)\n", "same_code", ()),
    # the same code
    ("\treturn first(x) + TWICE(x);", "\treturn TWICE(x) + first(x);", None, ()),
    ("{ OFF, ON = 4 }", "{ OFF, ON = 4, MORE }", "same_code", ()),
    ("struct range {", "struct other { int a; };\nstruct range {", "same_code", ()),
    # what is in no object
    ("\treturn 1;", "\treturn 2;", "not_built", ()),
    # a declaration
    ("extern int printk", "extern int new_one(int);\nextern int printk", "same_code", ()),
    # a function more, with its user
    ("\treturn first(x) + TWICE(x);", "\tint y = x;\n\n\treturn first(y) + y * 2;", None, ()),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "account", "by"), ONE_HUNK)
def test_one_hunk(
    tmp_path: Path, old: str, new: str, account: str | None, by: tuple[str, ...]
) -> None:
    (entry,) = change(tmp_path, old, new)
    if account is None:  # as the compiler likes it
        assert entry.verdict.account in (Account.SAME_CODE, Account.IN_EFFECT)
        return
    assert summary([entry]) == [(entry.place, account, by)]
    assert not entry.is_missing


def test_inlined_copies_are_all_seen(tmp_path: Path) -> None:
    unit = UNIT.replace("\treturn first(x) + TWICE(x);", "\treturn first(x) + clamp_it(x);")
    before = {**BEFORE, "fs/unit.c": unit}
    after = {**before, "fs/unit.c": unit.replace("? LIMIT : x", "? 8 : x")}
    (entry,) = accounts(tmp_path, before, after, "fs/unit.c")
    assert summary([entry]) == [("fs/unit.c:14", "in_effect", ("first", "second"))]


def test_new_function_is_in_effect_by_its_callers(tmp_path: Path) -> None:
    new = "static __attribute__((noinline)) int fresh(int x)\n{\n\treturn seen * x;\n}\n\n"
    after = UNIT.replace("int second(int x)", f"{new}int second(int x)")
    after = after.replace("first(x) + TWICE(x)", "first(x) + fresh(x)")
    entries = accounts(tmp_path, BEFORE, {**BEFORE, "fs/unit.c": after}, "fs/unit.c")
    assert summary(entries) == [
        ("fs/unit.c:23", "in_effect", ("second",)),
        ("fs/unit.c:30", "in_effect", ("second",)),
    ]


def test_new_function_does_not_take_the_lines_of_the_next_one(tmp_path: Path) -> None:
    """Its lines are numbered on from those before it, and third() has these numbers, too."""
    lines = "".join(f"\tseen ^= x + {i};\n" for i in range(20))
    new = f"__attribute__((noinline)) int fresh(int x)\n{{\n{lines}\treturn seen * x;\n}}\n\n"
    after = UNIT.replace("int second(int x)", f"{new}int second(int x)")
    after = after.replace(
        "clamp_it(x) + steps", "clamp_it(x) + ({ extern int fresh(int); fresh(2); }) + steps"
    )
    after = after.replace('"%d", r.high', '"%u", r.high')
    entries = accounts(tmp_path, BEFORE, {**BEFORE, "fs/unit.c": after}, "fs/unit.c")
    assert [by for _, _, by in summary(entries)] == [("first",), ("third",)]


def test_removed_function(tmp_path: Path) -> None:
    before = UNIT.replace("int second", "static int gone(int x)\n{\n\treturn -x;\n}\n\nint second")
    before = before.replace("first(x) + TWICE(x)", "first(x) + gone(x)")
    after = {**BEFORE, "fs/unit.c": UNIT}
    entries = accounts(tmp_path, {**BEFORE, "fs/unit.c": before}, after, "fs/unit.c")
    assert [(a, by) for _, a, by in summary(entries)] == [("in_effect", ("second",))] * 2


def test_function_of_several_names(tmp_path: Path) -> None:
    """The one that the difference names is redirected, and stands for all."""
    more = 'int alias_of(int x) __attribute__((alias("third")));\n'
    more += 'int a_third(int x) __attribute__((alias("third")));\n'
    before = {**BEFORE, "fs/unit.c": UNIT + more}
    after = {**before, "fs/unit.c": before["fs/unit.c"].replace('"%d", r.high', '"%u", r.high')}
    (entry,) = accounts(tmp_path, before, after, "fs/unit.c")
    assert (entry.verdict.account, len(entry.verdict.by)) == (Account.IN_EFFECT, 1)


# --- what leads to new code besides livepatch ---------------------------------------------------

HOOK = """
#define ksplice_apply(fn) static int (*const \\
	__attribute__((used, section(".ksplice_call_apply"))) __ksplice_apply_##fn)(void) = fn
"""


def test_hooks(tmp_path: Path) -> None:
    code = "static int set_up(void)\n{\n\tseen = 7;\n\treturn 0;\n}\n\nksplice_apply(set_up);\n"
    before = {**BEFORE, "fs/unit.c": UNIT + HOOK}
    after = {**BEFORE, "fs/unit.c": UNIT + HOOK + code}
    (entry,) = accounts(tmp_path, before, after, "fs/unit.c")
    assert (entry.verdict.account, entry.verdict.by) == (Account.IN_EFFECT, ("hook apply",))
    (hunk,) = ledger_of([entry], []).hunks
    assert (hunk.by, hunk.note.endswith("called by the hook apply")) == ((), True)


TABLE = """\
struct operations { int (*open)(int); int (*release)(int); };
extern int keep(const struct operations *);
__attribute__((noinline)) int open_it(int x)
{
	return x;
}
const struct operations ops = {
	.open = open_it,
};
int user(void)
{
	return keep(&ops);
}
"""


def test_pointer_in_a_table(tmp_path: Path) -> None:
    release = "__attribute__((noinline)) int release_it(int x)\n{\n\treturn x * 3;\n}\n"
    text = TABLE.replace("const struct operations ops", f"{release}const struct operations ops")
    text = text.replace("= open_it,\n", "= open_it,\n\t.release = release_it,\n")
    entries = accounts(tmp_path, {"t.c": TABLE}, {"t.c": text}, "t.c")
    assert [(e.verdict.account, e.verdict.by) for e in entries] == [
        (Account.IN_EFFECT, ("vmlinux:ops+0x8 by pointer",))
    ] * 2


def test_pointer_in_a_table_to_what_the_kernel_has(tmp_path: Path) -> None:
    release = "__attribute__((noinline)) int release_it(int x)\n{\n\treturn x * 3;\n}\n"
    before = TABLE.replace("const struct operations ops", f"{release}const struct operations ops")
    after = before.replace("= open_it,\n", "= open_it,\n\t.release = release_it,\n")
    (entry,) = accounts(tmp_path, {"t.c": before}, {"t.c": after}, "t.c")
    assert (entry.verdict.account, entry.verdict.by) == (
        Account.IN_EFFECT, ("vmlinux:ops+0x8 by pointer",),
    )  # fmt: skip


@pytest.mark.parametrize("how", ["livepatch", "kprobe"])
def test_function_that_takes_anothers_place_in_a_table(tmp_path: Path, how: str) -> None:
    probed = ["open_it"] if how == "kprobe" else []
    before = TABLE.replace("__attribute__((noinline)) int", "static int")
    after = before.replace("open_it", "open_safely").replace("return x;", "return x + 1;")
    entries = accounts(tmp_path, {"t.c": before}, {"t.c": after}, "t.c", probed=probed)
    assert [(e.verdict.account, e.verdict.by) for e in entries] == [
        (Account.IN_EFFECT, (f"vmlinux:open_it by {how}",))
    ] * len(entries)
    assert len(entries) > 1


@pytest.mark.parametrize("caller", ["", '__attribute__((section(".init.text"))) '])
def test_function_without_fentry_is_in_effect_by_its_callers(tmp_path: Path, caller: str) -> None:
    """By none, when only boot code calls it."""
    before = f"""\
static __attribute__((noinline)) int callee(int x)
{{
	return x;
}}
int other(int x)
{{
	return x + 5;
}}
{caller}int user(int x)
{{
	return callee(x) + 1;
}}
"""
    after = before.replace("return x;", "return x * 7;").replace("+ 5", "+ 6")
    first, second = accounts(tmp_path, {"t.c": before}, {"t.c": after}, "t.c")
    assert (first.verdict.account, first.verdict.by) == (
        (Account.BOOT_ONLY, ()) if caller else (Account.IN_EFFECT, ("vmlinux:user by livepatch",))
    )
    assert (second.verdict.account, second.is_missing) == (Account.IN_EFFECT, False)


def test_value_in_a_table(tmp_path: Path) -> None:
    before = TABLE.replace("= open_it,\n", "= open_it,\n\t.flags = 1,\n")
    before = before.replace("struct operations {", "struct operations {\n\tint flags;", 1)
    (entry,) = accounts(
        tmp_path, {"t.c": before}, {"t.c": before.replace(".flags = 1", ".flags = 3")}, "t.c"
    )
    assert (entry.verdict.account, entry.verdict.by) == (
        Account.IN_EFFECT, ("vmlinux:ops+0x0 by value",),
    )  # fmt: skip


def test_constant_that_only_boot_code_reads(tmp_path: Path) -> None:
    unit = UNIT.replace('printk("set up");', "seen = steps[seen & 3];")
    unit = unit.replace("clamp_it(x) + steps[x & 3]", "clamp_it(x)")
    before, after = (
        {**BEFORE, "fs/unit.c": unit},
        {**BEFORE, "fs/unit.c": unit.replace(", 4 }", ", 5 }")},
    )
    (entry,) = accounts(tmp_path, before, after, "fs/unit.c")
    assert (entry.verdict.account, entry.is_missing) == (Account.BOOT_ONLY, False)


# --- headers ------------------------------------------------------------------------------------


def test_header_is_in_effect_in_each_unit_that_uses_it(tmp_path: Path) -> None:
    a = '#include "a.h"\nint of_a(int x)\n{\n\treturn of_header(x);\n}\n'
    b = '#include "a.h"\nint of_b(int x)\n{\n\treturn of_header(x) * IN_HEADER;\n}\n'
    before = {"fs/a.h": HEADER, "fs/a.c": a, "fs/b.c": b}
    after = {**before, "fs/a.h": HEADER.replace("x + 1", "x + 2").replace("5", "6")}
    entries = accounts(tmp_path, before, after, "fs/a.c", "fs/b.c")
    assert summary(entries) == [
        ("fs/a.h:1", "in_effect", ("of_b",)),
        ("fs/a.h:4", "in_effect", ("of_a", "of_b")),
    ]


def test_header_that_changes_no_unit(tmp_path: Path) -> None:
    after = {**BEFORE, "fs/a.h": HEADER.replace("x + 1", "x + 2")}
    note = {"fs/a.h": "7 units depend on it, the change can reach 0"}
    (entry,) = accounts(tmp_path, BEFORE, after, notes=note, dependants=7)
    assert entry.verdict.account is Account.SAME_CODE
    assert "7 units include it" in entry.verdict.note
    (entry,) = accounts(tmp_path, BEFORE, after, notes=note)
    assert entry.verdict.account is Account.NOT_BUILT


def test_header_of_which_nothing_is_known_has_no_account(tmp_path: Path) -> None:
    after = {**BEFORE, "fs/a.h": HEADER.replace("x + 1", "x + 2")}
    (entry,) = accounts(tmp_path, BEFORE, after)
    assert entry.is_missing
    with pytest.raises(
        UnaccountedError, match=r"(?s)  fs/a\.h:4: no account: .*--accept FILE:LINE"
    ):
        check_accounts([entry])


def test_accepted_header_that_the_vdso_shares(tmp_path: Path) -> None:
    """A hunk in effect in the kernel is only half of it; a comment is not missing anywhere."""
    unit = '#include "a.h"\nint of_a(int x)\n{\n\treturn of_header(x);\n}\n'
    before = {"fs/a.h": HEADER, "fs/a.c": unit}
    text = HEADER.replace("x + 1", "x + 2").replace("#define IN", "/* five */\n#define IN")
    note = {"fs/a.h": "refused: arch/x86/entry/vdso/v.c: code of the vDSO"}
    comment, hunk = accounts(
        tmp_path, before, {**before, "fs/a.h": text}, "fs/a.c", notes=note,
        accepted=read_accepted(["fs/a.h"]),
    )  # fmt: skip
    assert (comment.verdict.account, comment.is_accepted) == (Account.COMMENT, False)
    assert (hunk.verdict.account, hunk.is_accepted) == (Account.REFUSED, True)
    assert hunk.verdict.by == ("vmlinux:of_a by livepatch",)
    assert "code of the vDSO" in hunk.verdict.note


def test_condition_of_a_header_that_the_vdso_shares(tmp_path: Path) -> None:
    """``#ifdef BUILD_VDSO``: units do not have the lines, and were the only ones to be asked."""
    before = {"fs/a.h": HEADER, "fs/a.c": '#include "a.h"\nint of_a;\n'}
    text = HEADER.replace("x + 1", "x + 2")
    note = {"fs/a.h": "refused: arch/x86/entry/vdso/v.c: code of the vDSO"}
    (entry,) = accounts(tmp_path, before, {**before, "fs/a.h": text}, notes=note)
    assert entry.is_missing
    assert entry.verdict.account is Account.REFUSED


# --- other files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("note", "account", "is_missing"),
    [
        ("ignored: not part of the running kernel", Account.NOT_BUILT, False),
        ("ignored: it runs before the kernel does", Account.BOOT_ONLY, False),
        ("ignored: the change has no effect on what is built", Account.SAME_CODE, False),
        ("skipped: this kernel is configured without the file", Account.NOT_BUILT, False),
        ("refused: assembly, which is not compared", Account.REFUSED, True),
        ("", None, True),
    ],
)
def test_file_that_leads_to_no_unit(
    tmp_path: Path, note: str, account: Account | None, *, is_missing: bool
) -> None:
    before = {"fs/x.S": "a\n"}
    (entry,) = accounts(tmp_path, before, {"fs/x.S": "b\n"}, notes={"fs/x.S": note})
    assert (entry.verdict.account, entry.is_missing) == (account, is_missing)


def test_one_of_two_modules_that_is_not_wanted(tmp_path: Path) -> None:
    """The object of both is compiled, and its change is in effect in one of them."""
    before = {"fs/a.c": "int f(int x) { return x + 1; }\n"}
    note = {"fs/a.c": "skipped: part of two, not of --only-targets"}
    after = {"fs/a.c": "int f(int x) { return x + 2; }\n"}
    (entry,) = accounts(tmp_path, before, after, "fs/a.c", notes=note)
    assert (entry.verdict.account, entry.is_accepted) == (Account.LEFT_OUT, True)
    assert entry.verdict.by == ("vmlinux:f by livepatch",)
    assert "part of two" in entry.verdict.note
    assert not ledger_of([entry], ["vmlinux:f by livepatch"]).is_complete


def test_target_that_is_not_wanted_is_left_out_on_the_authors_word(tmp_path: Path) -> None:
    note = {"fs/unit.c": "skipped: part of vmlinux, not of --only-targets"}
    after = {**BEFORE, "fs/unit.c": UNIT.replace("seen += x", "seen += 2")}
    (entry,) = accounts(tmp_path, BEFORE, after, notes=note)
    assert (entry.verdict.account, entry.is_missing) == (Account.LEFT_OUT, False)
    assert not ledger_of([entry], []).is_complete


# --- lists that the linker makes ----------------------------------------------------------------

PARAMETER = """\
struct kernel_param { const char *name; void *ops; unsigned short perm; void *arg; };
#define module_param(n, mode) \\
	static const char __param_str_##n[] = #n; \\
	static struct kernel_param const __param_##n \\
	__attribute__((used, section("__param"), aligned(8))) \\
	= { __param_str_##n, 0, mode, &n }
#define MODULE_LICENSE(x) \\
	static const char info_license[] __attribute__((used, section(".modinfo"))) = "license=" x
static int level = 3;
module_param(level, 0644);
MODULE_LICENSE("GPL");

int user(int x)
{
	return x * level;
}
"""


def of_parameters(tmp_path: Path, old: str, new: str) -> list[Entry]:
    assert old in PARAMETER
    after = {"net/p.c": PARAMETER.replace(old, new, 1)}
    return accounts(tmp_path, {"net/p.c": PARAMETER}, after, "net/p.c")


def test_new_parameter_is_left_out_and_said(tmp_path: Path) -> None:
    more = "static int cap = 9;\nmodule_param(cap, 0600);\nstatic int level"
    entries = of_parameters(tmp_path, "static int level", more)
    (entry,) = entries
    assert entry.verdict.account is Account.LEFT_OUT
    assert "the parameter cap does not appear in the running kernel" in entry.verdict.note
    assert not entry.is_missing


def test_new_parameter_whose_variable_is_used(tmp_path: Path) -> None:
    text = PARAMETER.replace(
        "int user", "static int cap = 9;\nmodule_param(cap, 0600);\n\nint user"
    )
    text = text.replace("x * level", "x * level + cap")
    entries = accounts(tmp_path, {"net/p.c": PARAMETER}, {"net/p.c": text}, "net/p.c")
    first, second = entries
    assert first.verdict.account is Account.LEFT_OUT
    assert first.verdict.by == second.verdict.by == ("vmlinux:user by livepatch",)


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("module_param(level, 0644);\n", "", "the parameter level stays in the running kernel"),
        ("0644", "0444", "the parameter level stays as it is in the running kernel"),
    ],
)
def test_changed_parameter_must_be_accepted(tmp_path: Path, old: str, new: str, note: str) -> None:
    (entry,) = of_parameters(tmp_path, old, new)
    assert entry.is_missing
    with pytest.raises(UnaccountedError, match=rf"net/p\.c:\d+: left out: {note}") as caught:
        check_accounts([entry])
    assert caught.value.exit_status == 1
    assert caught.value.places == (("net/p.c", entry.lines.after.first),)


def test_modinfo_line_is_left_out_and_said(tmp_path: Path) -> None:
    (entry,) = of_parameters(tmp_path, '"GPL"', '"GPL v2"')
    assert (entry.verdict.account, entry.is_missing) == (Account.LEFT_OUT, False)
    assert "“license=GPL v2” comes" in entry.verdict.note


DEVICES = """\
#define MODULE_DEVICE_TABLE(type, n) \\
	extern typeof(n) __mod_##type##__##n##_device_table __attribute__((unused, alias(#n)))
static const int pci_ids[] = { 1, 2, 3 };
MODULE_DEVICE_TABLE(pci, pci_ids);
int user(int x)
{
	return pci_ids[x];
}
"""


def test_device_table_is_left_out_and_said(tmp_path: Path) -> None:
    """The kernel has a second name for the same datum, modpost an alias for each row."""
    before = DEVICES.replace("MODULE_DEVICE_TABLE(pci, pci_ids);\n", "")
    (entry,) = accounts(tmp_path, {"net/t.c": before}, {"net/t.c": DEVICES}, "net/t.c")
    assert (entry.verdict.account, entry.is_missing) == (Account.LEFT_OUT, False)
    assert entry.verdict.note == "the aliases of pci_ids come in the module's file at the next boot"


FIXUP = """\
#define DECLARE_FIXUP(f) \\
	static void *__fixup_##f __attribute__((used, section(".pci_fixup_final"))) = f
void quirk(int *x)
{
	*x = 1;
}
DECLARE_FIXUP(quirk);
void other(int *x)
{
	*x = 2;
}
"""


def test_entry_of_another_list_must_be_accepted(tmp_path: Path) -> None:
    after = FIXUP + "DECLARE_FIXUP(other);\n"
    (entry,) = accounts(tmp_path, {"p.c": FIXUP}, {"p.c": after}, "p.c")
    assert entry.is_missing
    assert "__fixup_other comes in the list .pci_fixup_final" in entry.verdict.note


def test_changed_entry_of_another_list_must_be_accepted(tmp_path: Path) -> None:
    place = '__attribute__((used, section(".pci_fixup_final")))'
    before = f"{FIXUP}static void *__fixup_x {place} = quirk;\n"
    after = before.replace("= quirk", "= other")
    (entry,) = accounts(tmp_path, {"p.c": before}, {"p.c": after}, "p.c")
    assert (entry.verdict.account, entry.is_missing) == (Account.LEFT_OUT, True)


def test_datum_that_only_a_list_has_must_be_accepted(tmp_path: Path) -> None:
    """Nobody refers to it by name, so that the difference leaves it out."""
    ids = '__attribute__((used, section(".data.ids"))) static int ids[] = { 1, 2 };\n'
    before = {"p.c": ids + "int f(int x)\n{\n\treturn x;\n}\n"}
    after = {"p.c": before["p.c"].replace("1, 2", "1, 3")}
    (entry,) = accounts(tmp_path, before, after, "p.c")
    assert (entry.verdict.account, entry.is_missing) == (Account.LEFT_OUT, True)
    assert "ids changes, and the running kernel's stays as it is" in entry.verdict.note


def test_another_name_of_the_same_is_no_change(tmp_path: Path) -> None:
    """A driver's table gains the alias that MODULE_DEVICE_TABLE makes."""
    table = "static int ids[2] = { 1, 2 };\n"
    alias = 'extern int other[2] __attribute__((alias("ids")));\n'
    driver = "int *driver[] = { ids };\nint *get(void)\n{\n\treturn driver[0];\n}\n"
    after = table + alias + driver.replace("{ ids }", "{ other }")
    entries = accounts(tmp_path, {"p.c": table + driver}, {"p.c": after}, "p.c")
    assert not any(e.is_missing for e in entries)


# --- --accept -----------------------------------------------------------------------------------


def test_accepted_hunk_makes_the_update_incomplete(tmp_path: Path) -> None:
    after = FIXUP + "DECLARE_FIXUP(other);\n"
    for word in ("p.c", "p.c:12"):
        (entry,) = accounts(
            tmp_path, {"p.c": FIXUP}, {"p.c": after}, "p.c", accepted=read_accepted([word])
        )
        check_accounts([entry])
        ledger = ledger_of([entry], [])
        assert not ledger.is_complete
        assert ledger.hunks[0].is_accepted
        assert ledger.hunks[0].account is Account.LEFT_OUT


def test_accept_names_a_hunk(tmp_path: Path) -> None:
    after = FIXUP + "DECLARE_FIXUP(other);\n"
    for word in ("p.c:11", "p.c:13", "q.c"):
        with pytest.raises(CreateError, match=rf"^--accept {word}: the patch has no hunk there"):
            accounts(
                tmp_path, {"p.c": FIXUP}, {"p.c": after}, "p.c", accepted=read_accepted([word])
            )


def test_what_needs_no_acceptance_does_not_become_incomplete(tmp_path: Path) -> None:
    after = {**BEFORE, "fs/unit.c": UNIT.replace("seen += x", "seen += 2")}
    taken = (Accepted(file="fs/unit.c"),)
    entries = accounts(tmp_path, BEFORE, after, "fs/unit.c", accepted=taken)
    assert ledger_of(entries, ["vmlinux:first by livepatch"]).is_complete


def test_gap_is_named_by_the_lines_on_both_sides() -> None:
    (gap,) = read_accepted(["a/b.c:7"])
    assert [gap.takes("a/b.c", first, 0) for first in (5, 6, 7, 8)] == [False, True, True, False]
    assert [gap.takes("a/b.c", first, 2) for first in (5, 6, 7, 8)] == [False, True, True, False]


@pytest.mark.parametrize("word", ["", "/a.c:1", "../a.c", "a/../b.c:1"])
def test_bad_places(word: str) -> None:
    with pytest.raises(CreateError, match=r"--accept .*: give FILE:LINE or FILE"):
        read_accepted([word])


# --- the ledger ---------------------------------------------------------------------------------


def test_ledger_numbers_redirects(tmp_path: Path) -> None:
    (entry,) = change(tmp_path, "\tseen += x;", "\tseen += x + 1;")
    (hunk,) = ledger_of([entry], ["vmlinux:other by livepatch", "vmlinux:first by livepatch"]).hunks
    assert (hunk.file, hunk.before, hunk.after) == ("fs/unit.c", (19, 1), (19, 1))
    assert (hunk.account, hunk.by) == (Account.IN_EFFECT, (1,))
