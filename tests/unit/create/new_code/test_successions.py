# SPDX-License-Identifier: GPL-2.0-only
"""Functions that tables no longer name: which are led to the new one, and which are not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.diff.difference import Succession, UnitChange
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.exchanged import lead_tables
from ksplicd.create.new_code.extract import extract
from ksplicd.create.new_code.successions import NoSuccessionError, Successions, by_old
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.stock.system_map import write_system_map
from tests.support.kernels.build_tree import empty_tree
from tests.support.objects.judged import successions_in
from tests.support.objects.link import link
from tests.support.objects.pair import PRELUDE, SIZES, FakeUnit, compare

FLAGS = ("-g", "-pg", "-mfentry", "-mrecord-mcount")
STUBS = """
void __fentry__(void) {} int hidden(int x) { return x; } int exported(int x) { return x; }
int printk(const char *f, ...) { return 0; }
struct door_ops { int (*a)(int), (*b)(int); }; extern struct door_ops doors;
int (*kept)(int); void boot_keeps(int (*f)(int)) { kept = f; }
int through(int x) { return doors.a(x); }
extern char __start___mcount_loc[], __stop___mcount_loc[];
char *lists[] = { __start___mcount_loc, __stop___mcount_loc };
"""
BANNER = 'const char linux_banner[] = "Linux version 6.1.0 (gcc) #1 SMP";'
UNIT = """
struct door_ops {{ int (*a)(int), (*b)(int); }};
void boot_keeps(int (*)(int));
{linkage} noinline int old(int x) {{ return hidden(x) {more}; }}
static noinline int other(int x) {{ return hidden(x) + 2; }}
{new}
struct door_ops doors = {{ .a = {a}, .b = {b} }};
{rest}
int use(int x) {{ return doors.b(x) + other(x); }}
"""
NEW = "static noinline int fresh(int x) { return exported(x); }"
WRAPPER = "int old(int); static noinline int fresh(int x) { return old(x) + exported(x); }"


def unit(**words: str) -> str:
    """Return the unit; words that are not given are those before any change."""
    given = {"linkage": "", "more": "", "new": "", "a": "old", "b": "other", "rest": ""}
    return UNIT.format(**{**given, **words})


@dataclass
class Made:
    """A change of the unit in a tiny kernel."""

    change: UnitChange
    successions: Successions

    def find(self) -> Succession:
        """Return what is decided for the only function that tables no longer name."""
        ((old, pointers),) = by_old(self.change).items()
        return self.successions.find(self.change, old, pointers)

    def why_not(self) -> str:
        try:
            return f"led to {self.find().new.name}"
        except NoSuccessionError as e:
            return str(e)


def make(
    tmp_path: Path,
    pre: str,
    post: str,
    more: str = "",
    symvers: str = "",
    before: Mapping[str, str] | None = None,
) -> Made:
    """Make a change of a unit; ``more``: another one, ``before``: what earlier updates change."""
    sources = {"banner": BANNER, "stubs": STUBS, "unit": PRELUDE + pre, "more": more}
    linked = link(tmp_path, sources, *FLAGS)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/Module.symvers").write_text(symvers)
    (tmp_path / "System.map").write_text(
        write_system_map(s._replace(name=s.name.replace("___m", "_m")) for s in linked.symbols)
    )
    (tmp_path / "vmlinuz").write_bytes(linked.elf)
    kernel = StockKernel(ConfigDir(
        path=tmp_path, text="", release="6.1.0", compiler="gcc", compiler_text="gcc", flags=()
    ))  # fmt: skip
    for name in ("unit", "more"):
        if name == "unit" or "old(int x) {" in more:
            kernel.add_unit(f"{name}.c", ObjectIndex(linked.objects[name], SIZES), None)
    (tmp_path / "tree").mkdir()
    tree = empty_tree(tmp_path / "tree")
    (tree.output / "ksplice-units").touch()
    files = tuple(PatchedFile(Path(n), t.encode()) for n, t in (before or {}).items())
    pre_state = PreState(kbuild=Kbuild(tree), before=files, folder=tmp_path / "objects")
    change = UnitChange.of("unit.c", compare(tmp_path, pre, post, *FLAGS))
    assert not change.refusals
    return Made(change, Successions([change], pre_state, kernel))


@pytest.mark.parametrize(
    ("pre", "post", "new"),
    [
        # a static one, for another that the kernel has
        (unit(linkage="static"), unit(linkage="static", a="other"), "other"),
        # a global one that stays, for a new one
        (unit(), unit(a="fresh", new=NEW), "fresh"),
        # two pointers
        (unit(b="old"), unit(a="fresh", b="fresh", new=NEW), "fresh"),
        # another file's
        (unit(linkage="static"), unit(linkage="static", a="exported"), "exported"),
    ],
)
def test_function_that_only_tables_name_is_redirected(
    tmp_path: Path, pre: str, post: str, new: str
) -> None:
    made = make(tmp_path, pre, post)
    found = made.find()
    assert (found.old, found.new.name, found.tables) == ("old", new, ("doors",))
    led = lead_tables(made.change, made.successions, made.successions.pre_state.kbuild.tree)
    assert (led.difference.pointers, led.successions, led.refusals) == ((), (found,), ())


def test_function_of_another_unit_is_redirected(tmp_path: Path) -> None:
    pre = unit().replace("noinline int old(int x) { return hidden(x) ; }", "int old(int);")
    post = pre.replace(".a = old", ".a = other")
    found = make(tmp_path, pre, post, more="int old(int x) { return x + 5; }").find()
    assert (found.old, found.sympos, found.unit, found.new.name) == ("old", 0, "more.c", "other")


CALLS = "int calls(int x) { return old(x) + 3; }"
BOOT = '__attribute__((section(".init.text"))) int boot(void) { boot_keeps(old); return 0; }'
SECOND = "struct door_ops more = {{ .a = {} }}; int third(int x) {{ return more.a(x); }}"


@pytest.mark.parametrize(
    ("pre", "post", "why"),
    [
        (unit(), unit(a="fresh", new=WRAPPER), "with the patch fresh still leads to old"),
        (unit(rest=CALLS), unit(rest=CALLS, a="fresh", new=NEW), "calls leads to old, too"),
        (unit(rest=CALLS), unit(a="fresh", new=NEW), "calls leads to old, too"),
        (unit(rest=BOOT), unit(rest=BOOT, a="fresh", new=NEW), "boot leads to old, too"),
        (unit(b="old"), unit(b="old", a="fresh", new=NEW), "doors leads to old, too"),
        (
            unit(rest=SECOND.format("old")),
            unit(rest=SECOND.format("other"), a="fresh", new=NEW),
            "tables name different functions in its place: other, fresh",
        ),
        (unit(), unit(a="fresh", new=NEW, more="+ 4"), "old itself changes, too"),
    ],
)
def test_function_that_more_leads_to_is_not(tmp_path: Path, pre: str, post: str, why: str) -> None:
    assert make(tmp_path, pre, post).why_not() == why


ELSEWHERE = "extern int old(int);"


@pytest.mark.parametrize(
    ("more", "user"),
    [
        ("int elsewhere(int x) { return old(x) + 1; }", "elsewhere"),
        ("int (*pointer)(int) = old;", "pointer"),
        ("int elsewhere(int (*f)(int)) { return f == old; }", "elsewhere"),
    ],
)
def test_function_that_the_stock_kernel_leads_to(tmp_path: Path, more: str, user: str) -> None:
    made = make(tmp_path, unit(), unit(a="fresh", new=NEW), more=more.join((ELSEWHERE, "")))
    assert made.why_not().startswith(f"{user} of the stock kernel (0xffffffff81")


def test_exported_function(tmp_path: Path) -> None:
    symvers = "0x1\told\tvmlinux\tEXPORT_SYMBOL\t\n"
    made = make(tmp_path, unit(), unit(a="fresh", new=NEW), symvers=symvers)
    assert made.why_not() == "old is exported, and any module may call it"


def test_function_without_fentry(tmp_path: Path) -> None:
    linkage = "__attribute__((no_instrument_function))"
    made = make(tmp_path, unit(linkage=linkage), unit(linkage=linkage, a="fresh", new=NEW))
    assert made.why_not() == "old begins without fentry"


def test_function_that_an_earlier_update_names(tmp_path: Path) -> None:
    before = {"net/b.c": "int g(int x) { return old(x); }"}
    made = make(tmp_path, unit(), unit(a="fresh", new=NEW), before=before)
    assert made.why_not() == "an earlier update changes net/b.c, which names old"


def test_what_is_not_redirected_is_exchanged_or_refused(tmp_path: Path) -> None:
    made = make(tmp_path, unit(rest=CALLS), unit(rest=CALLS, a="fresh", new=NEW))
    tree = made.successions.pre_state.kbuild.tree
    led = lead_tables(made.change, made.successions, tree)
    assert len(led.difference.pointers) == 1
    assert (led.successions, led.refusals) == ((), ())
    copy = "void f(const struct door_ops *d) { h->mine = *d; }\n"
    (tree.source.root / "include/door.h").write_text(copy)
    again = BuildTree(tree.source, tree.config, tmp_path / "tree/cache")  # it searches once
    (refusal,) = lead_tables(made.change, made.successions, again).refusals
    assert "the kernel copies it from such a struct door_ops: include/door.h:1" in refusal.reason
    assert refusal.reason.endswith("; old cannot be redirected instead: calls leads to old, too")


def test_of_a_module_the_new_function_is_copied(tmp_path: Path) -> None:
    """Livepatch wants its address before the module is there."""
    d = compare(tmp_path, unit(linkage="static"), unit(linkage="static", a="other"), *FLAGS)
    change = UnitChange.of("unit.c", d)
    change = change.with_successions(successions_in(change), ())
    of_vmlinux, of_module = (
        extract(
            FakeUnit(functions=frozenset({"old"}), target=target), change, Aliases()
        ).redirected[0]
        for target in ("vmlinux", "romfs")
    )
    assert (of_vmlinux.name, of_vmlinux.alias) == ("old", ".klp.sym.vmlinux.other,0")
    assert (of_module.name, of_module.alias) == ("old", "ksplice_new_0")
