# SPDX-License-Identifier: GPL-2.0-only
"""Where the debug information places variables, held against the symbol table."""

from pathlib import Path

import pytest

from ksplicd.elf.debug_variables import read_placed_variables
from ksplicd.elf.model import STT_OBJECT
from ksplicd.errors import ElfError
from tests.support.objects.compile import compile_object

SOURCE = """
int hidden(int);
static int count;
int shown = 1;
extern int elsewhere;
static inline int inlined(int x) { static int inner; inner += x; return hidden(inner); }
static __attribute__((noinline)) int h(int x)
{
    static int inner;
    { static int inner = 7; inner *= x; hidden(inner); }
    inner += inlined(x);
    return hidden(inner) + count++ + elsewhere;
}
int f(int x) { int local = inlined(x); return hidden(local) + h(x) + shown; }
"""
FLAGS = ["-gdwarf-5", "-gdwarf-4", "-gdwarf-3", "-gdwarf-5 -gz", "-gdwarf-5 -O0"]


@pytest.mark.parametrize("flags", FLAGS)
def test_every_variable_with_its_function_and_line(tmp_path: Path, flags: str) -> None:
    obj = compile_object(tmp_path, SOURCE, *flags.split(), "-fno-common")
    found = read_placed_variables(obj)
    assert found is not None
    assert sorted((v.function, v.name, v.line) for v in found) == [
        ("", "count", 3), ("", "shown", 4), ("h", "inner", 9), ("h", "inner", 10),
        ("inlined", "inner", 6),
    ]  # fmt: skip
    places = {(s.section, s.value) for s in obj.symbols if s.type == STT_OBJECT}
    assert {(v.section, v.offset) for v in found} == places
    initialised = next(v for v in found if v.line == 10)
    assert initialised.section.name == ".data"


def test_an_object_without_debug_information(tmp_path: Path) -> None:
    assert read_placed_variables(compile_object(tmp_path, SOURCE, "-g0")) is None


def test_damage_is_an_error(tmp_path: Path) -> None:
    obj = compile_object(tmp_path, SOURCE, "-g")
    info = obj.find_section(".debug_info")
    assert info is not None
    info.data = info.data[:40]
    with pytest.raises(ElfError, match=r"unit\.o: debug information cannot be read"):
        read_placed_variables(obj)
