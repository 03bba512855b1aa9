# SPDX-License-Identifier: GPL-2.0-only
"""A module as target: its symbols are told from vmlinux's wherever they lie."""

import lzma
import re
from pathlib import Path

import pytest

from ksplicd.create.old_code.tables import REF_SYM, OldUnit, write_old_code
from ksplicd.create.stock.match import match_unit
from ksplicd.create.stock.module import (
    IN_TARGET,
    StockModule,
    find_stock_module,
    read_stock_module,
    stock_modules,
)
from ksplicd.create.stock.system_map import MapSymbol, SymbolMap
from ksplicd.elf.model import SHF_ALLOC, SHF_EXECINSTR, STT_FUNC, Object, Section, Symbol
from ksplicd.elf.write import write_object
from ksplicd.errors import ConfigDirError
from tests.support.needs import require
from tests.support.objects.compile import compile_object
from tests.support.old_code.blob import Blob

SOURCE = """
extern int imported(int);
static const int table[4] = { 4, 3, 2, 1 };
int limits[2] = { 1, 2 };
static int counter;
static __attribute__((noinline)) int next(int x) { return imported(x + counter++); }
int user(int x) { return next(table[x & 3]) + limits[x & 1]; }
"""


@pytest.fixture
def obj(tmp_path: Path) -> Object:
    return compile_object(tmp_path, SOURCE)


@pytest.fixture
def module(obj: Object) -> StockModule:
    vmlinux = SymbolMap([MapSymbol(0x1000, "T", "imported")])
    return read_stock_module(write_object(obj), "unit", vmlinux)


def test_tables_tell_own_symbols_from_those_of_vmlinux(obj: Object, module: StockModule) -> None:
    match = match_unit(obj, module.image, module.symbols)
    blob = Blob(write_old_code("unit", [OldUnit(match=match, sites={})], module.symbols))
    symbols = dict(blob.sym(i) for i in range(blob.nr_syms))
    assert symbols == {
        "counter": IN_TARGET, "imported": 0, "limits": IN_TARGET, "next": IN_TARGET,
        "table": IN_TARGET, "user": IN_TARGET,
    }  # fmt: skip
    assert {r.kind for f in blob.functions() for r in f.relocs} == {REF_SYM}


@pytest.mark.parametrize(("is_first", "position"), [(True, None), (False, 1)])
def test_position_is_that_of_a_module_being_loaded_too(
    obj: Object, *, is_first: bool, position: int | None
) -> None:
    """There an init symbol of the same name is counted, and gone a moment later."""
    init = Section(".init.text", flags=SHF_ALLOC | SHF_EXECINSTR, data=b"\xc3", align=1)
    obj.sections.append(init)
    at = next(i for i, s in enumerate(obj.symbols) if s.name == "next") + (not is_first)
    obj.symbols.insert(at, Symbol("next", section=init, type=STT_FUNC, size=1))
    module = read_stock_module(write_object(obj), "unit", SymbolMap([]))
    (address,) = module.symbols.addresses("next")
    assert module.symbols.own_position("next", address) == position
    assert module.symbols.position("next", address) == IN_TARGET, "the core counts no init symbols"
    (other,) = module.symbols.addresses("user")
    assert module.symbols.own_position("user", other) == 0
    assert module.symbols.own_position("next", other) is None


def test_symbol_near_an_address_is_of_its_section(module: StockModule) -> None:
    (counter,) = module.symbols.addresses("counter")
    assert module.symbols.nearest_unique(counter) == ("counter", counter)
    # the addend of a PC-relative field makes it point before the section
    assert module.symbols.nearest_unique(counter - 4) == ("counter", counter)
    assert module.symbols.nearest_unique(counter + 2) == ("counter", counter)
    assert module.symbols.nearest_unique(0x1000) is None


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    """Nothing depends on such a module, and nothing of it is asked for."""
    modinfo = '__attribute__((section(".modinfo"))) static const char d[] = "depends=a-b,\\xff";'
    data = write_object(compile_object(tmp_path, f"{modinfo} const char *f(void) {{ return d; }}"))
    assert read_stock_module(data, "x", SymbolMap([])).depends == {
        "a_b",
        "\N{REPLACEMENT CHARACTER}",
    }


@pytest.mark.parametrize(
    ("name", "data"),
    [("x.ko.xz", lzma.compress(b"x" * 99)[:-9]), ("x.ko.xz", b"x"), ("x.ko.zst", b"x")],
)
def test_damaged_archives(tmp_path: Path, name: str, data: bytes) -> None:
    require("zstd")
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / name).write_bytes(data)
    with pytest.raises(ConfigDirError, match=rf"/kernel/{re.escape(name)}: cannot be unpacked: "):
        find_stock_module(tmp_path, "x")
    with pytest.raises(ConfigDirError, match="cannot be unpacked"):
        list(stock_modules(tmp_path))


def test_module_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "kernel/x.ko").mkdir(parents=True)
    with pytest.raises(ConfigDirError, match=r"/kernel/x\.ko: Is a directory"):
        find_stock_module(tmp_path, "x")
