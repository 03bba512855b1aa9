# SPDX-License-Identifier: GPL-2.0-only
"""One source compiled in two ways: what its functions refer to is the same."""

from pathlib import Path

import pytest

from ksplicd.create.referee.loosely import LooseComparison
from ksplicd.create.referee.pairs import pair
from ksplicd.create.referee.view import View
from tests.support.objects.compile import compile_object
from tests.support.objects.pair import PRELUDE, SIZES

CALLS = """
static noinline int g(int x) { return exported(x) + 1; }
int f(int x) { return g(x) * g(x + 1) + hidden(x); }
"""
INLINED_ONCE = CALLS.replace("g(x) *", "(exported(x) + 1) *")


def why_differs(tmp_path: Path, a: str, b: str) -> str | None:
    old, new = (
        View(compile_object(tmp_path, PRELUDE + text, name=name), SIZES)
        for text, name in ((a, "a"), (b, "b"))
    )
    pairs = pair(old, new)
    twin = next(s for s in new.symbols() if s.name == "f")
    found = LooseComparison(old, new, pairs).differences(pairs.pre_of[twin], twin)
    return "; ".join(map(str, found)) or None


@pytest.mark.parametrize(("a", "b"), [(CALLS, INLINED_ONCE), (INLINED_ONCE, CALLS)])
def test_inlined_in_one_place_and_called_in_another(tmp_path: Path, a: str, b: str) -> None:
    assert why_differs(tmp_path, a, b) is None


def test_what_no_called_function_refers_to(tmp_path: Path) -> None:
    other = INLINED_ONCE.replace("(exported(x) + 1)", '(printk("x") + 1)')
    why = why_differs(tmp_path, CALLS, other)
    assert why is not None
    assert "also has a reference to the name printk" in why


CONSTANT = """
int f(int x)
{
    long limit;
    asm("mov $0x123456789abcdef, %0\\n1:\\n"
        ".pushsection runtime_ptr_LIMIT, \\"a\\"\\n.long 1b - 8 - .\\n.popsection" : "=r" (limit));
    return x < limit;
}
"""
VARIABLE = "extern long LIMIT, OTHER; int f(int x) { return x < %s; }"


def test_runtime_constants(tmp_path: Path) -> None:
    """The kernel writes them into its own code; new code reads the variables."""
    assert why_differs(tmp_path, CONSTANT, VARIABLE % "LIMIT") is None
    why = why_differs(tmp_path, CONSTANT, VARIABLE % "OTHER")
    assert why == "also has a reference to the name OTHER"
    other = CONSTANT.replace("int f(", "int g(") + "int f(int x) { return x < 3; }"
    why = why_differs(tmp_path, other, "int g(int x) { return x; }" + VARIABLE % "LIMIT")
    assert why == "also has a reference to the name LIMIT"
