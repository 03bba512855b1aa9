# SPDX-License-Identifier: GPL-2.0-only
import re
from pathlib import Path

import pytest

from ksplicd.create.modules.unwind import check_unwind_data
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError
from tests.support.objects.compile import SPLIT, compile_c

SOURCE = """
int f(int x) { return x; }
int g(int x) { return x + 1; }
asm(".pushsection .orc_unwind_ip,\\"a\\"\\n.long f - .\\n.popsection");
"""
WORDS = "  LD [M] m.o\nm.o: warning: objtool: .text.g+0x4: unannotated intra-function call\n"


def test_code_without_unwind_data(tmp_path: Path) -> None:
    told = (
        "m.ko: objtool made no unwind data for g, so that stacks with this code would not be"
        " reliable; please report this with the patch:\n"
        "  m.o: warning: objtool: .text.g+0x4: unannotated intra-function call"
    )
    with pytest.raises(BuildError, match=f"^{re.escape(told)}$"):
        check_unwind_data(read_object(compile_c(tmp_path, SOURCE, *SPLIT), "m.ko"), WORDS)


def test_one_entry_of_a_section_will_do(tmp_path: Path) -> None:
    """Neighbours that are unwound alike share their entries."""
    check_unwind_data(read_object(compile_c(tmp_path, SOURCE), "m.ko"), "")


def test_no_table_at_all(tmp_path: Path) -> None:
    ko = read_object(compile_c(tmp_path, "int f(int x) { return x; }"), "m.ko")
    with pytest.raises(BuildError, match=r"no unwind data for f, .*report this with the patch$"):
        check_unwind_data(ko, "")
    check_unwind_data(read_object(compile_c(tmp_path, "int data = 1;"), "m.ko"), "")
