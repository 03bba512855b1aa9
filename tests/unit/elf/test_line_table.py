# SPDX-License-Identifier: GPL-2.0-only
"""Line tables with their files, of each version of the format that compilers write."""

from pathlib import Path

import pytest

from ksplicd.elf.line_table import read_line_table
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.errors import ElfError
from ksplicd.run import run

SOURCE = """\
#include "sub/inner.h"
int plain(int x)
{
	return x + 1;
}
int with_inline(int x)
{
	return inner(x);
}
"""
INNER = "static inline int inner(int x)\n{\n\treturn x * 7;\n}\n"


def compiled(folder: Path, *flags: str) -> Object:
    (folder / "sub").mkdir()
    (folder / "sub/inner.h").write_text(INNER)
    (folder / "unit.c").write_text(SOURCE)
    out = folder / "unit.o"
    run(["gcc", "-O2", "-g", "-ffunction-sections", *flags, "-c", "-o", out, folder / "unit.c"])
    return read_object(out.read_bytes(), "unit.o")


def lines_of(obj: Object) -> dict[str, dict[str, set[int]]]:
    table = read_line_table(obj)
    assert table is not None
    return {
        section.name: {Path(path).name: lines for path, lines in by_file.items()}
        for section, by_file in table.items()
    }


@pytest.mark.parametrize("flag", ["-gdwarf-2", "-gdwarf-3", "-gdwarf-4", "-gdwarf-5", "-gz=zlib"])
def test_each_line_has_its_file(tmp_path: Path, flag: str) -> None:
    found = lines_of(compiled(tmp_path, flag))
    assert found[".text.plain"].keys() == {"unit.c"}
    assert 4 in found[".text.plain"]["unit.c"]
    assert found[".text.with_inline"].keys() == {"unit.c", "inner.h"}
    assert 3 in found[".text.with_inline"]["inner.h"]


def test_paths_are_whole(tmp_path: Path) -> None:
    table = read_line_table(compiled(tmp_path, "-gdwarf-5"))
    assert table is not None
    paths = {path for by_file in table.values() for path in by_file}
    assert paths == {f"{tmp_path}/unit.c", f"{tmp_path}/sub/inner.h"}


def test_object_without_debug_information(tmp_path: Path) -> None:
    assert read_line_table(compiled(tmp_path, "-g0")) is None


def test_damaged_table(tmp_path: Path) -> None:
    obj = compiled(tmp_path)
    section = obj.find_section(".debug_line")
    assert section is not None
    section.data = section.data[: len(section.data) // 2]
    with pytest.raises(ElfError, match=r"^unit\.o: \.debug_line is damaged"):
        read_line_table(obj)
