# SPDX-License-Identifier: GPL-2.0-only
"""What is said of the units of an update."""

from pathlib import Path

from ksplicd.create.affected.to_compile import ToCompile
from ksplicd.create.build.units import Unit
from ksplicd.create.bundle_parts import outcomes
from tests.support.objects.pair import compare, cut

TABLE = """
struct row {{ char c; short n; int (*f)(int); }};
static noinline int one(int x) {{ return hidden(x); }}
const struct row rows[] = {{ {{ 1, {0}, {1} }} }};
int g(int x) {{ return one(x) + {2}; }}
"""


def test_fields_that_are_exchanged(tmp_path: Path) -> None:
    pre, post = TABLE.format(4, 0, 1), TABLE.format(5, "one", 2)
    code = cut(compare(tmp_path, pre, post, "-g"))
    compiled = ToCompile(units=(Unit("unit.c"), Unit("b.c")), notes={"c.h": "reaches nothing"})
    assert outcomes(compiled, [code]) == {
        "c.h": "reaches nothing",
        "unit.c": "replaces g; exchanges rows+0x8, rows+0x2",
        "b.c": "its code is the same",
    }
