# SPDX-License-Identifier: GPL-2.0-only
"""An object that is linked into two modules, as octeon_device.o into liquidio and liquidio_vf.

Each module has a copy of its own, of code and of variables.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ksplicd.create.build.pre_state import PreState
from ksplicd.create.build.units import Unit
from ksplicd.create.ledger.evidence import find_redirects
from ksplicd.create.new_code.units import cut_new_code
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.old_code.tables import old_code_of
from ksplicd.create.referee.judge import contradictions
from ksplicd.create.referee.unit import InStock, PlainUnit
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.stock.system_map import write_system_map
from ksplicd.create.unit_objects import UnitObjects, compare_units, match_units
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.run import run
from tests.support.objects.compile import SPLIT, compile_c
from tests.support.objects.judged import link_module
from tests.support.objects.link import link
from tests.support.objects.pair import PRELUDE, SIZES
from tests.support.old_code.blob import Blob

VMLINUX = """
const char linux_banner[] = "Linux version 6.1.0 (gcc) #1 SMP";
int printk(const char *f, ...) { return 0; }
int exported(int x) { return x; }
int hidden(int x) { return x; }
void __fentry__(void) { }
"""
FLAGS = "-g", "-pg", "-mfentry", "-mrecord-mcount"
SHARED = """
extern int own(int);
static int calls = 1;
static noinline int helper(int x) {{ calls += x; return own(x) + hidden(x) {0}; }}
int lookup(int x) {{ {1} return helper(x) * 2; }}
int count(void) {{ return calls; }}
"""
OWN = {
    "one": "int own(int x) { return hidden(x) + 1; } int use(int x) { return lookup(x) + own(x); }",
    "two": "static int before = 7; int own(int x) { return before += x; }"
    " int use(int x) { return lookup(own(x)); }",
}
"""What each module has besides."""


@pytest.fixture
def kernel(tmp_path: Path) -> StockKernel:
    """A kernel of which two modules have an object."""
    vmlinux = link(tmp_path, {"vmlinux": VMLINUX}, "-g")
    (tmp_path / "build").mkdir()
    (tmp_path / "build/Module.symvers").write_text(
        "0x1\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x1\texported\tvmlinux\tEXPORT_SYMBOL\t\n"
    )
    (tmp_path / "System.map").write_text(write_system_map(vmlinux.symbols))
    (tmp_path / "vmlinuz").write_bytes(vmlinux.elf)
    (tmp_path / "modules/kernel").mkdir(parents=True)
    compile_c(tmp_path, PRELUDE + SHARED.format("", ""), *FLAGS, name="unit")
    for name, text in OWN.items():
        compile_c(tmp_path, PRELUDE + "extern int lookup(int);" + text, *FLAGS, name=name)
        ko = tmp_path / f"modules/kernel/{name}.ko"
        run(["ld", "-r", "-o", ko, tmp_path / f"{name}.o", tmp_path / "unit.o"])
    return StockKernel(
        ConfigDir(
            path=tmp_path, text="", release="6.1.0", compiler="gcc", compiler_text="", flags=()
        )
    )


def compiled(tmp_path: Path, source: str, *flags: str) -> Object:
    return read_object(compile_c(tmp_path, PRELUDE + source, *FLAGS, *flags), "unit.o")


def objects_of(tmp_path: Path, module: str, post: str) -> UnitObjects:
    """Return the objects of the unit as part of a module, each read anew."""
    texts = SHARED.format("", ""), post
    plain = [compiled(tmp_path, text) for text in texts]
    split = [index_separated(compiled(tmp_path, text, *SPLIT), SIZES) for text in texts]
    apart = [index_separated(compiled(tmp_path, text), SIZES) for text in texts]
    return UnitObjects(
        unit=Unit("unit.c"), module=module, plain=ObjectIndex(plain[0], SIZES), pre=split[0],
        post=split[1], plain_post=plain[1], apart=(apart[0], apart[1]),
    )  # fmt: skip


class TwoModules:
    """The update of the unit in both."""

    def __init__(self, tmp_path: Path, kernel: StockKernel, post: str) -> None:
        objects = [objects_of(tmp_path, name, post) for name in OWN]
        self.changes = compare_units(objects, kernel.has_global)
        match_units(kernel, objects, self.changes)
        nothing = SimpleNamespace(
            kbuild=SimpleNamespace(tree=None), before=(), series=SimpleNamespace(unreached={})
        )
        self.new = cut_new_code("kid00000", self.changes, cast(PreState, nothing), kernel)
        self.old = old_code_of(kernel.units.values())
        self.plain = [
            PlainUnit(
                source="unit.c", target=o.target, sizes=SIZES, running=o.plain.obj,
                pre=o.plain.obj, post=o.plain_post, unsplit=None, split_pre=None,
                kernel=InStock(kernel, kernel.units[o.key]),
            )
            for o in objects
        ]  # fmt: skip
        self.ko = link_module(tmp_path, self.new)


def test_each_module_is_matched_and_redirected(tmp_path: Path, kernel: StockKernel) -> None:
    made = TwoModules(tmp_path, kernel, SHARED.format("+ 1", "if (x == 2) return 0;"))
    assert [c.key for c in made.changes] == [("unit.c", "one"), ("unit.c", "two")]
    assert list(made.old) == ["one", "two"]
    for blob in map(Blob, made.old.values()):
        assert {"helper", "lookup", "count"} <= {f.name for f in blob.functions()}
    for code in made.new:
        assert [r.name for r in code.redirected] == ["helper", "lookup"]
        names = {s.name for s in code.obj.symbols if s.is_undefined}
        # its own variable, and its own helper in the other file
        assert {f".klp.sym.{code.target}.calls,0", f".klp.sym.{code.target}.own,0"} <= names
        assert not any(f".{other}." in n for n in names for other in OWN if other != code.target)
    assert len({r.alias for code in made.new for r in code.redirected}) == 4
    assert contradictions(made.plain, made.ko) == []


def test_the_redirects_of_each_are_its_own(tmp_path: Path, kernel: StockKernel) -> None:
    made = TwoModules(tmp_path, kernel, SHARED.format("+ 1", ""))
    redirects = find_redirects(made.new)
    assert {key: dict(found)["helper"] for key, found in redirects.items()} == {
        ("unit.c", name): (f"{name}:helper by livepatch",) for name in OWN
    }


def test_new_variables_are_two(tmp_path: Path, kernel: StockKernel) -> None:
    """As the modules' own would be."""
    post = "static int tries;" + SHARED.format("+ ++tries", "")
    made = TwoModules(tmp_path, kernel, post)
    for code in made.new:
        assert [s.name for s in code.obj.symbols if s.section and s.name == "tries"] == ["tries"]
    assert contradictions(made.plain, made.ko) == []


def test_one_of_the_two_is_left_out(tmp_path: Path, kernel: StockKernel) -> None:
    """The referee sees that the new code of one module is led to from the other, or missing."""
    made = TwoModules(tmp_path, kernel, SHARED.format("+ 1", ""))
    half = link_module(tmp_path, made.new[:1])
    assert any("helper" in line for line in contradictions(made.plain, half))
    assert contradictions(made.plain[:1], half) == []
