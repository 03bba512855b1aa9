# SPDX-License-Identifier: GPL-2.0-only
"""Updates on top of earlier ones: what these have changed and lead nothing to.

Three states of a unit: stock, before (with the earlier updates), and after.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ksplicd import bundle
from ksplicd.create.diff.as_built import name_as_built
from ksplicd.create.diff.difference import Difference, UnitChange
from ksplicd.create.diff.earlier import with_stale
from ksplicd.create.diff.unit import diff
from ksplicd.create.new_code.units import refuse_unreached
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.patch.series import Series, find_unreached
from ksplicd.errors import UnsupportedChangeError
from ksplicd.model import Kernel, Manifest, PatchedFunction, Target
from tests.support.objects.compile import SPLIT, compile_object
from tests.support.objects.judged import link_module
from tests.support.objects.pair import (
    PRELUDE,
    SIZES,
    FakeUnit,
    changed,
    compare,
    cut,
    kept,
    new_functions,
    undefined,
)


def index(tmp_path: Path, source: str) -> ObjectIndex:
    return index_separated(compile_object(tmp_path, PRELUDE + source, *SPLIT, "-g"), SIZES)


def on_top(
    tmp_path: Path, stock: str, before: str, after: str, redirected: tuple[str, ...] = ()
) -> Difference:
    """Compare two states, of which the first is the work of earlier updates."""
    objects = [index(tmp_path, source) for source in (stock, before, after)]
    name_as_built(objects[0], objects[1])
    return with_stale(diff(*objects[1:]), objects[0], redirected)


CALLED = """
static noinline int f(int x) {{ return hidden(x) + {0}; }}
int g(int x) {{ return f(x) * {1}; }}
"""


def test_function_that_only_an_earlier_update_calls(tmp_path: Path) -> None:
    """Of a function without fentry, the caller has the new form with it."""
    unit = FakeUnit(untraceable=frozenset({"f"}))
    states = CALLED.format(1, 3), CALLED.format(2, 3), CALLED.format(2, 5)
    d = on_top(tmp_path, *states, ("g",))
    assert changed(d) == ["g"]
    code = cut(d, unit)
    assert new_functions(code) == ["f"]
    assert not any(".f," in name for name in undefined(code))


def test_function_that_an_earlier_update_redirects(tmp_path: Path) -> None:
    states = CALLED.format(1, 3), CALLED.format(2, 3), CALLED.format(2, 5)
    code = cut(on_top(tmp_path, *states, ("f", "g")))
    assert new_functions(code) == []
    assert ".klp.sym.vmlinux.f,0" in undefined(code)


def test_function_that_no_update_has_changed(tmp_path: Path) -> None:
    states = CALLED.format(1, 3), CALLED.format(1, 4), CALLED.format(1, 5)
    code = cut(on_top(tmp_path, *states, ("g",)))
    assert ".klp.sym.vmlinux.f,0" in undefined(code)


def test_constant_of_which_an_earlier_update_has_a_copy(tmp_path: Path) -> None:
    source = """
    static const int table[] = {{ 1, 2, {0}, 4 }};
    int g(int x) {{ return table[x & 3] + {1}; }}
    """
    states = source.format(3, 1), source.format(7, 1), source.format(7, 2)
    d = on_top(tmp_path, *states, ("g",))
    assert changed(d) == ["g"]
    assert ".rodata.table" in kept(cut(d))
    states = source.format(3, 1), source.format(3, 2), source.format(3, 5)
    assert ".klp.sym.vmlinux.table,0" in undefined(cut(on_top(tmp_path, *states, ("g",))))


def test_constant_that_an_earlier_update_brings(tmp_path: Path) -> None:
    source = """
    {0}
    int g(int x) {{ return {1}; }}
    """
    table = "static const int table[] = { 1, 2, 3, 4 };"
    states = [source.format(*x) for x in (("", "x"), (table, "table[x & 3]"))]
    after = states[1].replace("x & 3", "x & 1")
    assert ".rodata.table" in kept(cut(on_top(tmp_path, states[0], states[1], after, ("g",))))


def test_function_that_was_one_with_another(tmp_path: Path) -> None:
    """The kernel's b is a, and the earlier update's is its own."""
    source = """
    static noinline int a(int x) {{ return hidden(x) * 3 + hidden(x + 1); }}
    static noinline int b(int x) {{ return hidden(x) * {0} + hidden(x + 1); }}
    int f(int x) {{ return a(x) + 1; }}
    int g(int x) {{ return b(x) + {1}; }}
    """
    states = source.format(3, 2), source.format(4, 2), source.format(4, 5)
    d = on_top(tmp_path, *states, ("g",))
    assert changed(d) == ["g"]
    assert new_functions(cut(d)) == ["b"]


def test_address_of_such_a_function(tmp_path: Path) -> None:
    source = CALLED.replace("return f(x)", "{2} return f(x)") + "int take(int (*f)(int));"
    source = "int take(int (*f)(int));" + source
    states = source.format(1, 3, ""), source.format(2, 3, ""), source.format(2, 3, "take(f);")
    unit = FakeUnit(untraceable=frozenset({"f"}))
    with pytest.raises(UnsupportedChangeError, match=r"f \(.text.f\): .text.g has its address"):
        cut(on_top(tmp_path, *states, ("g",)), unit)


def test_variables_have_the_numbers_of_the_kernel(tmp_path: Path) -> None:
    """An earlier update adds a counter, and gcc numbers all of that name anew."""
    count = "static int count; return count += x + {0};"
    f, g = (f"int {n}(int x) {{{{ {count} }}}}" for n in "fg")
    new = "int first(int x) { static int count; return count += x; }"
    stock = f.format(1) + g.format(2)
    before = new + stock
    after = new + f.format(9) + g.format(2)
    names = {
        s.name: s.value
        for s in index(tmp_path, stock).obj.symbols if s.name.startswith("count.")
    }  # fmt: skip
    assert len(names) == 2
    code = cut(on_top(tmp_path, stock, before, after))
    numbers = {n for n in undefined(code) if "count" in n}
    own = index(tmp_path, stock)
    (user,) = (s for s in own.obj.functions() if s.name == "f")
    assert user.section is not None
    (meant,) = {
        s.name
        for r in user.section.relocations
        if (s := own.locate(user.section, r).symbol) is not None and s.name.startswith("count")
    }
    assert numbers == {f".klp.sym.vmlinux.{meant},0"}


# --- other files --------------------------------------------------------------------------------


def earlier(tmp_path: Path) -> bundle.Bundle:
    """Return an update in which f has no fentry, and g is replaced."""
    d = compare(tmp_path, CALLED.format(1, 3), CALLED.format(2, 3), "-g")
    code = cut(d, FakeUnit(untraceable=frozenset({"f"})))
    ko = link_module(tmp_path, [code])
    functions = tuple(
        PatchedFunction(name=r.name, sympos=0, unit="unit.c") for r in code.redirected
    )
    target = Target(
        name="vmlinux", new_file="new.ko", old_file="old.ko", functions=functions, late=False
    )
    manifest = Manifest(
        kid="first000", kernel=Kernel(release="6.1.0", build_id="aa", version="#1"),
        core_file="core.ko", targets=(target,),
    )  # fmt: skip
    return cast(
        bundle.Bundle,
        SimpleNamespace(manifest=manifest, changes=[target], files={"new.ko": ko}),
    )


def test_caller_goes_back_to_what_an_earlier_update_has_mended(tmp_path: Path) -> None:
    first = earlier(tmp_path)
    unreached = dict.fromkeys(find_unreached(first), "first000")
    assert "f" in unreached
    assert "g" not in unreached
    assert Series(manifests=(first.manifest,)).redirected("unit.c", "vmlinux") == {"g"}
    source = "int f(int); int h(int x) {{ return f(x) + {0}; }}"
    d = compare(tmp_path, source.format(1), source.format(2))
    change, code = UnitChange.of("other.c", d), cut(d)
    with pytest.raises(UnsupportedChangeError, match=r"other\.c: f: update first000 has a form"):
        refuse_unreached(change, code, unreached)
    refuse_unreached(change, code, {"g": "first000"})
    own = compare(tmp_path, CALLED.format(2, 3), CALLED.format(2, 4))  # a static one of the name
    refuse_unreached(UnitChange.of("third.c", own), cut(own), unreached)
