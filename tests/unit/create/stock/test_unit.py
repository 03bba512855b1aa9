# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's symbol that a name means, where several symbols have the name."""

from pathlib import Path

import pytest

from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.stock.config_dir import ConfigDir
from ksplicd.create.stock.kernel import StockKernel
from ksplicd.create.stock.system_map import write_system_map
from ksplicd.elf.model import SHF_ALLOC, SHF_EXECINSTR, STT_FUNC, Section, Symbol
from ksplicd.elf.write import write_object
from ksplicd.errors import ImageMismatchError
from tests.support.objects.compile import compile_object
from tests.support.objects.link import Linked, link
from tests.support.objects.pair import SIZES

BANNER = 'const char linux_banner[] = "Linux version 6.1.0 (gcc) #1 SMP";'
NOINLINE = "__attribute__((noinline)) "
SOURCES = {
    "banner": BANNER,
    "own": f"static {NOINLINE} int both(int x) {{ return x + 1; }}"
    "int own(int x) { return both(x) + both(x + 1); }",
    "other": f"static {NOINLINE} int one(int x) {{ return x + 2; }}"
    f"{NOINLINE} int both(int x) {{ return x * 2; }}"
    "int other(int x) { return one(x) + one(x + 1) + both(x); }",
}


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return link(tmp_path, SOURCES)


@pytest.fixture
def kernel(tmp_path: Path, linked: Linked) -> StockKernel:
    (tmp_path / "build").mkdir()
    (tmp_path / "build/Module.symvers").touch()
    (tmp_path / "System.map").write_text(write_system_map(linked.symbols))
    (tmp_path / "vmlinuz").write_bytes(linked.elf)
    config = ConfigDir(
        path=tmp_path, text="", release="6.1.0", compiler="gcc", compiler_text="gcc", flags=()
    )
    kernel = StockKernel(config)
    for unit in ("own", "other"):
        kernel.add_unit(f"{unit}.c", ObjectIndex(linked.objects[unit], SIZES), None)
    return kernel


def test_a_static_function_is_the_units_own(kernel: StockKernel, linked: Linked) -> None:
    addresses = linked.map.addresses("both")
    kinds = [s.type for s in linked.symbols if s.name == "both"]
    assert sorted(kinds) == ["T", "t"]
    position = 1 + kinds.index("t")
    assert len(addresses) == 2
    found = kernel.units["own.c", "vmlinux"].livepatch_symbol("both", is_local=True)
    assert found == f".klp.sym.vmlinux.both,{position}"


def test_a_global_function_is_not_the_units_static_one(kernel: StockKernel, linked: Linked) -> None:
    """Where a patch drops a file's own helper for the common one of that name."""
    kinds = [s.type for s in linked.symbols if s.name == "both"]
    found = kernel.units["own.c", "vmlinux"].livepatch_symbol("both", is_local=False)
    assert found == f".klp.sym.vmlinux.both,{1 + kinds.index('T')}"
    assert kernel.units["other.c", "vmlinux"].livepatch_symbol("both", is_local=False) == found


def test_a_static_function_is_not_another_files(kernel: StockKernel) -> None:
    """The stock kernel may have inlined it everywhere, and another file one of that name."""
    own, other = kernel.units["own.c", "vmlinux"], kernel.units["other.c", "vmlinux"]
    assert other.livepatch_symbol("one", is_local=True) == ".klp.sym.vmlinux.one,0"
    assert own.livepatch_symbol("one", is_local=True) is None
    assert own.livepatch_symbol("one", is_local=False) is None


def test_the_same_in_a_module(kernel: StockKernel, tmp_path: Path) -> None:
    (tmp_path / "modules/kernel").mkdir(parents=True)
    obj = compile_object(tmp_path, SOURCES["other"], name="other")
    (tmp_path / "modules/kernel/mod.ko").write_bytes(write_object(obj))
    unit = kernel.add_unit("mod.c", ObjectIndex(obj, SIZES), "mod")
    assert unit.livepatch_symbol("one", is_local=True) == ".klp.sym.mod.one,0"
    assert unit.livepatch_symbol("both", is_local=False) == ".klp.sym.mod.both,0"
    assert unit.livepatch_symbol("own", is_local=True) is None
    assert unit.livepatch_symbol("own", is_local=False) == ".klp.sym.vmlinux.own,0"
    assert unit.livepatch_symbol("one", is_local=False) is None
    assert kernel.has_global("mod", "both")
    assert not kernel.has_global("mod", "one")
    assert not kernel.has_global("mod", "own")
    assert kernel.has_global("vmlinux", "own")
    assert not kernel.has_global("vmlinux", "one")


def test_what_a_module_being_loaded_has_twice(kernel: StockKernel, tmp_path: Path) -> None:
    """``one`` stands behind an init symbol of its name, ``both`` before one."""
    (tmp_path / "modules/kernel").mkdir(parents=True)
    obj = compile_object(tmp_path, SOURCES["other"], name="other")
    plain = ObjectIndex(compile_object(tmp_path, SOURCES["other"], name="other"), SIZES)
    init = Section(".init.text", flags=SHF_ALLOC | SHF_EXECINSTR, data=b"\xc3", align=1)
    obj.sections.append(init)
    for name, behind in (("one", 0), ("both", 1)):
        at = next(i for i, s in enumerate(obj.symbols) if s.name == name) + behind
        bind = obj.symbols[at - behind].bind
        obj.symbols.insert(at, Symbol(name, bind=bind, section=init, type=STT_FUNC, size=1))
    (tmp_path / "modules/kernel/mod.ko").write_bytes(write_object(obj))
    unit = kernel.add_unit("mod.c", plain, "mod")
    assert unit.livepatch_symbol("both", is_local=False) == ".klp.sym.mod.both,1"
    with pytest.raises(ImageMismatchError, match="mod also has an init symbol of this name"):
        unit.livepatch_symbol("one", is_local=True)
    with pytest.raises(ImageMismatchError, match="leave what uses it as it is"):
        unit.sympos("one")
