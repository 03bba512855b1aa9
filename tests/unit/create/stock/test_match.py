# SPDX-License-Identifier: GPL-2.0-only
"""Static matching against an image linked on the fly."""

from pathlib import Path

import pytest

from ksplicd.create.stock.match import match_unit
from ksplicd.errors import ImageMismatchError
from tests.support.objects.link import Linked, link

FIRST = """
extern int printk(const char *, ...);
extern void hook(int);
static int count;
static __attribute__((noipa)) int helper(int x) { count += x; return printk("first %d", x); }
int first(int x) { hook(x); return helper(x + 1) + helper(x + 7); }
__attribute__((weak)) void hook(int x) { printk("weak"); }
int before(void) { return printk("before"); }
"""
SECOND = """
extern int printk(const char *, ...);
static int count = 3;
static __attribute__((noipa)) int helper(int x) { count -= x; return printk("second %d", x); }
int second(int x) { return helper(x + 2) * helper(x); }
void hook(int x) { printk("strong %d", x); }
int printk(const char *format, ...) { return *format; }
"""


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return link(tmp_path, {"first": FIRST, "second": SECOND})


def test_finds_each_function_and_section(linked: Linked) -> None:
    match = match_unit(linked.objects["first"], linked.image, linked.map)
    by_name = {f.name: address for f, address in match.functions.items()}
    assert by_name["first"] == linked.address("first")
    assert by_name["before"] == linked.address("before")
    text = match.obj.find_section(".text")
    assert text is not None
    first = next(s for s in match.obj.symbols if s.name == "first")
    assert match.bases[text] == linked.address("first") - first.value


def test_tells_equal_names_apart(linked: Linked) -> None:
    helpers = linked.map.addresses("helper")
    counts = linked.map.addresses("count")
    assert len(helpers) == len(counts) == 2
    found = []
    for unit in linked.objects.values():
        match = match_unit(unit, linked.image, linked.map)
        symbols = {s.name: s for s in unit.symbols}
        helper, count = (match.address_of(symbols[n]) for n in ("helper", "count"))
        assert helper in helpers
        assert count in counts
        found.append((helper, count))
    assert len(set(found)) == 2
    assert found[0][0] != found[1][0]


def test_reports_overridden_weak_functions(linked: Linked) -> None:
    match = match_unit(linked.objects["first"], linked.image, linked.map)
    assert [f.name for f in match.overridden] == ["hook"]
    assert "hook" not in {f.name for f in match.functions}
    assert match.address_of(match.overridden[0]) == linked.address("hook"), "where callers go"


def test_learns_undefined_symbols(linked: Linked) -> None:
    match = match_unit(linked.objects["first"], linked.image, linked.map)
    externals = {s.name: address for s, address in match.externals.items()}
    assert externals["printk"] == linked.address("printk")


def test_names_a_byte_that_differs(linked: Linked) -> None:
    image = linked.damaged(linked.address("second") + 1)
    with pytest.raises(ImageMismatchError, match=r"^second\.o: second\+0x1: expected [0-9a-f]+,"):
        match_unit(linked.objects["second"], image, linked.map)


def test_names_a_string_that_differs(linked: Linked) -> None:
    place = next(s for s in linked.image.segments if b"before\0" in bytes(s.data))
    image = linked.damaged(place.address + bytes(place.data).index(b"before\0"))
    with pytest.raises(ImageMismatchError, match=r"before\+0x\w+: expected a reference to b'befor"):
        match_unit(linked.objects["first"], image, linked.map)


def test_names_a_call_of_another_function(linked: Linked) -> None:
    before = next(f for f in linked.objects["first"].functions() if f.name == "before")
    assert before.section is not None
    call = next(
        r.offset - before.value
        for r in before.section.relocations
        if r.symbol.name == "printk" and before.value <= r.offset < before.value + before.size
    )
    image = linked.damaged(linked.address("before") + call)
    with pytest.raises(
        ImageMismatchError, match=rf"before\+{call:#x}: expected (the address of )?printk"
    ):
        match_unit(linked.objects["first"], image, linked.map)


def test_refuses_a_unit_that_is_not_in_the_image(linked: Linked, tmp_path: Path) -> None:
    other = link(tmp_path, {"other": "int unknown(int x) { return x * 5; }"})
    with pytest.raises(ImageMismatchError, match="unknown: the image has no symbol of this name"):
        match_unit(other.objects["other"], linked.image, linked.map)


def test_refuses_another_version_of_a_function(linked: Linked, tmp_path: Path) -> None:
    folder = tmp_path / "post"
    folder.mkdir()
    post = link(folder, {"second": SECOND.replace("count -= x", "count -= x * 3")})
    with pytest.raises(ImageMismatchError, match=r"second\.o: helper"):
        match_unit(post.objects["second"], linked.image, linked.map)


def test_a_weak_function_with_the_bytes_of_the_one_in_its_place(tmp_path: Path) -> None:
    """Alone in its section, it would be taken for it."""
    source = "{} int same(int x) {{ return x * 3; }}"
    linked = link(
        tmp_path,
        {"weak": source.format("__attribute__((weak))"), "strong": source.format("")},
    )
    match = match_unit(linked.objects["weak"], linked.image, linked.map)
    assert [f.name for f in match.overridden] == ["same"]
    assert not match.functions
    match = match_unit(linked.objects["strong"], linked.image, linked.map)
    assert [f.name for f in match.functions] == ["same"]


SPARE = """
__attribute__((noinline, noclone)) int {0}_own(int x) {{ return x + sizeof("{0}"); }}
static __attribute__((noinline, noclone, section(".text.spare"))) int spare(int x)
{{ return {1}x * 3 + 1; }}
{2}
"""


def of_three(tmp_path: Path, body: str, user: str) -> Linked:
    units = {n: SPARE.format(n, body.format(n), user.format(n)) for n in ("one", "two", "three")}
    return link(tmp_path, units)


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ("", "int {0}(int x) {{ return spare(x) + spare(x + 1); }}"),
        ("{0}_own(x) + ", "int (*{0})(int) = spare;"),
    ],
    ids=["by what refers to it", "by what it refers to"],
)
def test_section_whose_bytes_are_there_several_times(tmp_path: Path, body: str, user: str) -> None:
    """As of a static function in a header that is in .noinstr.text or .text.unlikely."""
    linked = of_three(tmp_path, body, user)
    spares = linked.map.addresses("spare")
    assert len(spares) == 3
    found = set()
    for obj in linked.objects.values():
        match = match_unit(obj, linked.image, linked.map)
        (address,) = (a for f, a in match.functions.items() if f.name == "spare")
        found.add(address)
    assert found == set(spares)


def test_section_that_cannot_be_told_from_others(tmp_path: Path) -> None:
    linked = of_three(tmp_path, "", "int (*{0})(int) = spare;")
    with pytest.raises(
        ImageMismatchError, match=r"\.text\.spare \(spare\) is in the image 3 times"
    ):
        match_unit(linked.objects["two"], linked.image, linked.map)
