# SPDX-License-Identifier: GPL-2.0-only
"""A good result is broken in every way there is, one after the other: each must be found.

Each reference of the new code is led to each other thing, each addend is changed, each byte of the
code, each constant and each text, and each entry of the tables about code is taken away.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.elf.model import SHN_LIVEPATCH, STT_FILE, STT_FUNC, Object, Relocation, Section, Symbol
from ksplicd.elf.write import write_object
from tests.support.objects.judged import Update, link_module, make_update

SOURCE = """
struct static_key key;
static int count = 1, limit = 2, spare = 3;
static const int steps[] = {{ 1, 2, 3, {1} }};
static noinline int kept(int x) {{ count += x; return hidden(x) + spare; }}
static noinline int helper(int x) {{ static int calls; calls++; return kept(x) + calls + {0}; }}
static int late(int x) {{ return x; }}
extern int take(int (*)(int));
int entry(int x)
{{
    static int calls;
    calls += x;
    if (BRANCH(key))
        BUG_ENTRY(3);
    if (x > {0})
        printk("far %s", __func__);
    return helper(x) + limit + exported(calls) + steps[x & 3] + take(late);
}}
int take(int (*f)(int)) {{ static int calls; calls++; return f(calls); }}
{2}
"""
PRE = SOURCE.format(7, 4, "")
POST = SOURCE.format(
    8, 5, "static int fresh; noinline int brought(int x) { return fresh += x; }"
).replace("exported(calls)", "exported(brought(calls))").replace(
    "int entry(int x)", "int brought(int); int entry(int x)"
)  # fmt: skip

_NOP = re.compile(rb"\x0f\x1f[\x40-\x84]\0+")
_OTHERS = 8
"""Of all that a reference may be led to, tried for each."""

Mutation = Callable[[Object], None]


@pytest.fixture(scope="module")
def update(tmp_path_factory: pytest.TempPathFactory) -> Update:
    made = make_update(tmp_path_factory.mktemp("update"), PRE, POST)
    assert made.judge() == []
    return made


def new_sections(obj: Object) -> list[Section]:
    """Return the sections of new code: what has a symbol of its own there."""
    own = {s.section for s in obj.symbols if s.name.startswith("ksplice_new_")}
    own |= {s.section for s in obj.symbols if s.name.partition(".")[0] in ("brought", "helper")}
    return [s for s in obj.sections if s in own and s.is_text]


def references(obj: Object) -> Iterator[tuple[Section, Relocation]]:
    """Yield every reference of the new code, livepatch's too."""
    for section in new_sections(obj):
        for r in section.relocations:
            yield section, r
        for klp in obj.livepatch:
            if klp.target is section:
                for r in klp.relocations:
                    yield section, r


def others(obj: Object, r: Relocation) -> list[Symbol]:
    """Return some of what a reference may be led to instead."""
    found = [
        s for s in obj.symbols
        if s is not r.symbol and s.name and s.type != STT_FILE
        and not (s.section is r.symbol.section and s.value == r.symbol.value and s.section)
    ]  # fmt: skip
    return random.Random(r.offset).sample(found, _OTHERS)


def broken(update: Update, mutate: Mutation) -> list[str]:
    obj = update.module()
    mutate(obj)
    return update.judge(write_object(obj))


def test_each_reference_led_to_each_other_thing(update: Update) -> None:
    count = 0
    whole = update.module()
    for i, (section, r) in enumerate(references(whole)):
        for k, other in enumerate(others(whole, r)):

            def mutate(obj: Object, i: int = i, k: int = k) -> None:
                _, mine = list(references(obj))[i]
                mine.symbol = others(obj, mine)[k]

            where = f"{section.name}+{r.offset:#x}: {other.name} instead of {r.symbol.name}"
            assert broken(update, mutate), where
            count += 1
    assert count >= 128


@pytest.mark.parametrize(("name", "matters"), [("_rs", "no"), ("limit", "yes")])
def test_one_of_several_in_a_function_led_to_another(
    tmp_path: Path, name: str, matters: str
) -> None:
    """Which ``_rs`` of a function limits which message does not matter; of others it does."""
    blocks = "".join(
        f'{{ static int {name} = 5; if (hidden({name}++)) printk("{text}", x); }}\n'
        for text in "ab"
    )
    pre = f"int f(int x) {{ {blocks} return x; }}"
    swapped = make_update(tmp_path, pre, pre.replace("return x", "return x + 1"))

    def mutate(obj: Object) -> None:
        mine = [r for _, r in references(obj) if f".{name}." in r.symbol.name]
        one, other = {r.symbol for r in mine}
        for r in mine:
            r.symbol = other if r.symbol is one else one

    assert swapped.judge() == []
    assert bool(broken(swapped, mutate)) == (matters == "yes")


@pytest.mark.parametrize("by", [-4, 1, 64])
def test_each_addend_changed(update: Update, by: int) -> None:
    for i, (section, r) in enumerate(references(update.module())):

        def mutate(obj: Object, i: int = i) -> None:
            list(references(obj))[i][1].addend += by

        assert broken(update, mutate), f"{section.name}+{r.offset:#x} {r.symbol.name}"


def test_each_byte_of_code_changed(update: Update) -> None:
    for n, section in enumerate(new_sections(update.module())):
        relocated = {
            at for owner, r in references(update.module()) if owner.name == section.name
            for at in range(r.offset, r.offset + 4)
        }  # fmt: skip
        # A nop with another operand is a nop.
        relocated |= {at for m in _NOP.finditer(section.data) for at in range(*m.span())}
        # Between functions nothing runs.
        code = {
            at for s in update.module().symbols if s.type == STT_FUNC and s.section is not None
            and s.section.name == section.name for at in range(s.value, s.value + s.size)
        }  # fmt: skip
        assert len(code) > 0.9 * section.size
        for at in sorted(code):

            def mutate(obj: Object, n: int = n, at: int = at) -> None:
                mine = new_sections(obj)[n]
                mine.data = mine.data[:at] + bytes([mine.data[at] ^ 1]) + mine.data[at + 1 :]

            assert at in relocated or broken(update, mutate), f"{section.name}+{at:#x}"


@pytest.mark.parametrize("name", ["__jump_table", "__bug_table"])
def test_each_table_taken_away(update: Update, name: str) -> None:
    def mutate(obj: Object) -> None:
        section = obj.find_section(name)
        assert section is not None
        section.data, section.relocations = b"", []
        obj.livepatch = [klp for klp in obj.livepatch if klp.target is not section]

    assert any(name in line for line in broken(update, mutate))


def test_each_constant_and_text_changed(update: Update) -> None:
    texts = [b"far %s", b"entry\0"]
    found = 0
    for n, section in enumerate(update.module().sections):
        is_steps = section.name.startswith(".rodata.steps")
        places = [section.data.find(text) for text in texts if text in section.data]
        for at in [*places, *(range(0, section.size, 4) if is_steps else ())]:

            def mutate(obj: Object, n: int = n, at: int = at) -> None:
                mine = obj.sections[n]
                mine.data = mine.data[:at] + bytes([mine.data[at] ^ 1]) + mine.data[at + 1 :]

            assert broken(update, mutate), f"{section.name}+{at:#x}"
            found += 1
    assert found >= 6


def test_each_livepatch_symbol_of_another_position(update: Update) -> None:
    names = [s.name for s in update.module().symbols if s.shndx == SHN_LIVEPATCH]
    assert len(names) >= 5
    for name in names:

        def mutate(obj: Object, name: str = name) -> None:
            (s,) = (s for s in obj.symbols if s.name == name)
            s.name = f"{name.rpartition(',')[0]},2"

        assert broken(update, mutate), name


# --- pointers -----------------------------------------------------------------------------------

OPS = """
static int a(int x) { return x; }
static int b(int x) { return hidden(x); }
static int c(int x) { return exported(x); }
struct ops { int (*one)(int), (*two)(int), (*three)(int); } ops = { ONE, TWO, c };
int (*kept[])(int) = { a, b, c };
int caller(int x) { return a(x) + b(x) + c(x); }
"""


@pytest.fixture(scope="module")
def pointers(tmp_path_factory: pytest.TempPathFactory) -> Update:
    pre, post = (
        OPS.replace("ONE", one).replace("TWO", two) for one, two in (("a", "a"), ("b", "c"))
    )
    made = make_update(tmp_path_factory.mktemp("pointers"), pre, post)
    assert made.judge() == []
    assert len(made.new_code[0].redirects) == 2
    return made


def in_table(obj: Object) -> list[Relocation]:
    """Return the relocations of the table of what is redirected without livepatch."""
    (table,) = (s for s in obj.symbols if s.name == "redirects" and s.size)
    assert table.section is not None
    found = [r for klp in obj.livepatch if klp.target is table.section for r in klp.relocations]
    inside = range(table.value, table.value + table.size)
    return sorted((r for r in found if r.offset in inside), key=lambda r: r.offset)


def test_each_exchanged_pointer_led_elsewhere(pointers: Update) -> None:
    count = len(in_table(pointers.module()))
    assert count == 6  # place, old and new of both
    for i in range(count):
        for by in (8, 16, -8):

            def move(obj: Object, i: int = i, by: int = by) -> None:
                in_table(obj)[i].addend += by

            assert broken(pointers, move), f"{i} by {by}"

        def exchange(obj: Object, i: int = i) -> None:
            r = in_table(obj)[i]
            r.symbol = next(
                s for s in obj.symbols if s.shndx == SHN_LIVEPATCH and s.name != r.symbol.name
            )

        assert broken(pointers, exchange), i


def test_an_exchanged_pointer_left_out(pointers: Update, tmp_path: Path) -> None:
    (code,) = pointers.new_code
    ko = link_module(tmp_path, [replace(code, redirects=code.redirects[:1])])
    assert pointers.judge(ko) != []


# --- values -------------------------------------------------------------------------------------

POLICIES = """
struct policy { unsigned char type; unsigned short len; int (*check)(int); };
static int one(int x) { return hidden(x); }
const struct policy policies[2] = { { 1, LEN }, { 2, 8, CHECK } };
"""


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Update:
    pre, post = (
        POLICIES.replace("LEN", n).replace("CHECK", f) for n, f in (("4", "0"), ("6", "one"))
    )
    made = make_update(tmp_path_factory.mktemp("values"), pre, post)
    assert made.judge() == []
    assert [r.kind.value for r in made.new_code[0].redirects] == ["pointer", "value"]
    return made


def table_bytes(obj: Object, at: int, new: bytes) -> None:
    """Change the second entry of the table of what is redirected without livepatch."""
    (table,) = (s for s in obj.symbols if s.name == "redirects" and s.size)
    assert table.section is not None
    data, start = bytearray(table.section.data), table.value + table.size // 2 + at
    data[start : start + len(new)] = new
    table.section.data = bytes(data)


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (16, b"\5"),  # another old value
        (24, b"\7"),  # another new one
        (6, b"\4"),
        (6, b"\3"),
    ],
)
def test_each_exchanged_value(values: Update, at: int, new: bytes) -> None:
    assert broken(values, lambda obj: table_bytes(obj, at, new))


def test_an_exchanged_value_elsewhere(values: Update) -> None:
    def move(obj: Object) -> None:
        in_table(obj)[-1].addend += 2

    assert broken(values, move)


def test_an_exchanged_value_left_out(values: Update, tmp_path: Path) -> None:
    (code,) = values.new_code
    ko = link_module(tmp_path, [replace(code, redirects=code.redirects[:1])])
    assert values.judge(ko) != []
