# SPDX-License-Identifier: GPL-2.0-only
"""Changed headers that reach code beside the units: refused, or said to be missing there."""

from pathlib import Path

import pytest

from ksplicd.create.affected.by_headers import Candidates
from ksplicd.create.affected.foreign_code import check_foreign
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.foreign import ForeignUnit, Role
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.patch.states import TreeStates
from ksplicd.errors import UnsupportedChangeError
from tests.support.kernels.build_tree import empty_tree

HEADER = Path("include/a.h")
OLD = "#define USED 1\n#define UNUSED 2\n"


def check(folder: Path, new: str, *accepted: str, role: Role = Role.VDSO) -> dict[str, str]:
    """Change the header, which one source of a role includes."""
    tree = empty_tree(folder)
    root = tree.source.root
    (root / HEADER).write_text(OLD)
    (root / "v.c").write_text('#include "include/a.h"\nint f(void) { return USED; }\n')
    unit = ForeignUnit(source="v.c", object="v.o", role=role, command=f"gcc -c -o v.o {root}/v.c")
    found = Candidates(headers=(HEADER,), foreign=(unit,))
    states = TreeStates(after=(PatchedFile(HEADER, new.encode()),))
    return check_foreign(Kbuild(tree), found, states, accepted)


@pytest.mark.parametrize("role", list(Role))
def test_accepted_header_is_missing_in_each_kind_of_code(tmp_path: Path, role: Role) -> None:
    notes = check(tmp_path, OLD.replace("1", "3"), str(HEADER), role=role)
    assert notes[str(HEADER)].startswith(f"refused: v.c: {role}")


def test_header_that_nobody_accepts(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedChangeError, match=r"v\.c: code of the vDSO.*(?s:.*)--accept"):
        check(tmp_path, OLD.replace("1", "3"), "include/b.h")


def test_code_that_stays_the_same(tmp_path: Path) -> None:
    assert check(tmp_path, OLD.replace("2", "3")) == {}
