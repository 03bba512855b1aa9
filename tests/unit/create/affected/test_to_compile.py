# SPDX-License-Identifier: GPL-2.0-only
"""What a change can reach in a tree that earlier updates have changed before."""

from pathlib import Path

import pytest

from ksplicd.create.affected.to_compile import (
    Reachable,
    ToCompile,
    find_changed,
    find_half,
    find_reachable,
)
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.foreign import ForeignUnit, Role, write_foreign
from ksplicd.create.build.tree import BuildTree
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.create.patch.change import Change, ChangedFile
from ksplicd.create.patch.states import read_states
from ksplicd.errors import UnsupportedChangeError
from tests.support.kernels.build_tree import empty_tree

PART = Path("fs/part.c")
CHANGED = ChangedFile(path=PART, before=b"int f(void) { return 1; }\n", after=b"int f(void);\n")


@pytest.fixture
def tree(tmp_path: Path) -> BuildTree:
    """A tree with one unit, which includes nothing."""
    tree = empty_tree(tmp_path)
    (tree.source.root / "fs").mkdir()
    (tree.source.root / "fs/a.c").write_text("int a(void) { return 2; }\n")
    command = f"gcc -c -o fs/a.o {tree.source.root}/fs/a.c"
    (tree.output / "ksplice-units").write_text(f"fs/a.c\tfs/a.o\t\t{command}\n")
    return tree


def reach(tree: BuildTree, earlier: dict[Path, bytes | None]) -> Reachable:
    change = Change(files=(CHANGED,), patch=b"", timestamp=0)
    return find_reachable(tree, change, read_states(change, earlier))


def test_file_that_an_earlier_update_has_a_unit_include(tree: BuildTree) -> None:
    """By the untouched tree it would be one that this kernel is configured without."""
    found = reach(tree, {PART: CHANGED.before, Path("fs/a.c"): b'#include "part.c"\n'})
    assert [f.path for f in found.files.parts] == [PART]
    assert found.by_headers.units == (Unit("fs/a.c"),)
    assert not (tree.source.root / PART).exists()


def test_file_that_an_earlier_update_has_nobody_include(tree: BuildTree) -> None:
    (tree.source.root / PART).write_bytes(CHANGED.before or b"")
    (tree.source.root / "fs/a.c").write_text('#include "part.c"\n')
    assert reach(tree, {}).by_headers.units == (Unit("fs/a.c"),)
    assert reach(tree, {Path("fs/a.c"): b"int a;\n"}).files.disabled == (str(PART),)


def test_tree_is_given_back_when_a_file_is_refused(tree: BuildTree) -> None:
    change = Change(
        files=(ChangedFile(path=Path("fs/a.S"), before=b"", after=b"x"),), patch=b"", timestamp=0
    )
    with pytest.raises(UnsupportedChangeError, match="assembly"):
        find_reachable(tree, change, read_states(change, {PART: b"int f;\n"}))
    assert sorted(p.name for p in (tree.source.root / "fs").iterdir()) == ["a.c"]


def test_new_text_that_a_changed_unit_includes(tree: BuildTree) -> None:
    before = (tree.source.root / "fs/a.c").read_bytes()
    files = (
        ChangedFile(path=Path("fs/a.c"), before=before, after=b'#include "new.c"\n'),
        ChangedFile(path=Path("fs/new.c"), before=None, after=b'#include "new.h"\n'),
        ChangedFile(path=Path("fs/new.h"), before=None, after=b"int x;\n"),
    )
    change = Change(files=files, patch=b"", timestamp=0)
    found = find_reachable(tree, change, read_states(change, {}))
    assert [str(f.path) for f in found.files.parts] == ["fs/new.c", "fs/new.h"]


def test_text_that_only_other_code_includes(tree: BuildTree) -> None:
    """lib/vdso/gettimeofday.c: whether the vDSO is another one the compiler says."""
    root = tree.source.root
    (root / "fs/v.c").write_text('#include "part.c"\n')
    (root / PART).write_bytes(CHANGED.before or b"")
    unit = ForeignUnit(
        source="fs/v.c", object="fs/v.o", role=Role.VDSO, command=f"gcc -c -o fs/v.o {root}/fs/v.c"
    )
    (tree.output / "ksplice-foreign").write_text(write_foreign([unit]))
    found = reach(tree, {})
    assert [f.path for f in found.files.parts] == [PART]
    assert (found.by_headers.units, found.by_headers.foreign) == ((), (unit,))


MODULES = "one:two"
"""As kbuild names those of an object that two have: liquidio:liquidio_vf."""


def changed(tree: BuildTree, module: str, *targets: str) -> ToCompile:
    """Return what is compiled of a change of fs/a.c, which is part of modules."""
    listing = f"fs/a.c\tfs/a.o\t{module}\tgcc -DMODULE -c -o fs/a.o fs/a.c\n"
    (tree.output / "ksplice-units").write_text(listing)
    for name in ("one", "two"):
        (tree.config.modules / "kernel").mkdir(parents=True, exist_ok=True)
        (tree.config.modules / f"kernel/{name}.ko").touch()
    before = (tree.source.root / "fs/a.c").read_bytes()
    file = ChangedFile(path=Path("fs/a.c"), before=before, after=b"int a;\n")
    change = Change(files=(file,), patch=b"", timestamp=0)
    found = find_reachable(tree, change, read_states(change, {}))
    kbuild = Kbuild(tree)
    return find_changed(kbuild, found, TargetFilter.parse(targets), find_half(kbuild, found))


def test_object_that_is_in_two_modules(tree: BuildTree) -> None:
    found = changed(tree, MODULES)
    assert found.units == (Unit("fs/a.c"),)
    assert not found.notes


def test_one_of_the_two_modules_is_wanted(tree: BuildTree) -> None:
    found = changed(tree, MODULES, "one")
    assert found.units == (Unit("fs/a.c"),)
    assert found.notes == {"fs/a.c": "skipped: part of two, not of --only-targets"}
    assert changed(tree, MODULES, "vmlinux").units == ()


def test_object_of_a_module_that_vmlinux_has_too(tree: BuildTree) -> None:
    """kbuild does not say which of the two is built in."""
    with pytest.raises(UnsupportedChangeError, match=r"fs/a\.c: is part of one, built, and "):
        changed(tree, "one:built")


def test_unit_that_includes_itself_is_no_part_of_others(tree: BuildTree) -> None:
    """kernel/locking/qspinlock.c: once more, for paravirtual machines."""
    before = b'#ifndef AGAIN\n#define AGAIN\n#include "a.c"\n#endif\n'
    (tree.source.root / "fs/a.c").write_bytes(before)
    file = ChangedFile(path=Path("fs/a.c"), before=before, after=before + b"int b;\n")
    change = Change(files=(file,), patch=b"", timestamp=0)
    found = find_reachable(tree, change, read_states(change, {}))
    assert (found.named, found.files.parts) == ((Unit("fs/a.c"),), ())
