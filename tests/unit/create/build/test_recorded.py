# SPDX-License-Identifier: GPL-2.0-only
"""Recorded commands: whose they are, and the commands run in their place."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.create.build.recorded import RecordedCommands
from ksplicd.create.build.units import Unit
from ksplicd.errors import BuildError
from tests.support.kernels.build_tree import empty_tree

UNIT = Unit("fs/romfs/super.c")
COMMAND = (
    "gcc-12 -Wp,-MMD,fs/romfs/.super.o.d -DMODULE -DKBUILD_MODNAME='\"romfs\"' -c -o"
    " fs/romfs/super.o ../fs/romfs/super.c; ./tools/objtool/objtool --orc fs/romfs/super.o"
)
RECORD = f"""\
savedcmd_fs/romfs/super.o := {COMMAND}

deps_fs/romfs/super.o := \\
  $(wildcard include/config/MMU) \\
  include/linux/fs.h \\
"""


@pytest.fixture
def recorded(tmp_path: Path) -> RecordedCommands:
    tree = empty_tree(tmp_path)
    source = tree.source.root / UNIT.source
    source.parent.mkdir(parents=True)
    source.touch()
    (tree.output / "fs/romfs").mkdir(parents=True)
    (tree.output / "include/linux").mkdir(parents=True)
    (tree.output / "include/linux/fs.h").touch()
    (tree.output / "ksplice-units").write_text(f"{UNIT.source}\t{UNIT.object}\tromfs\t{COMMAND}\n")
    return RecordedCommands(tree)


@pytest.mark.parametrize("by_make", [True, False])
def test_command_with_another_output(recorded: RecordedCommands, by_make: bool) -> None:  # noqa: FBT001
    """The same from make's record, and from the listing when make has not compiled the unit."""
    if by_make:
        (recorded.tree.output / "fs/romfs/.super.o.cmd").write_text(RECORD)
    compiler, objtool = recorded.programs(UNIT, Path("/x/out.o"))
    assert compiler == recorded.compiler(UNIT, Path("/x/out.o"))
    assert compiler[:2] == ["gcc-12", "-Wp,-MMD,/x/out.o.d"]
    assert compiler[-3:] == ["-o", "/x/out.o", "../fs/romfs/super.c"]
    assert objtool == ["./tools/objtool/objtool", "--orc", "/x/out.o"]
    assert recorded.has_objtool(UNIT)
    assert recorded.modules_of(UNIT) == ("romfs",)
    assert recorded.dependencies(UNIT) == (["include/linux/fs.h"] if by_make else [])


def test_record_of_another_object(recorded: RecordedCommands) -> None:
    text = RECORD.replace("savedcmd_fs/romfs/super.o", "savedcmd_fs/romfs/other.o")
    (recorded.tree.output / "fs/romfs/.super.o.cmd").write_text(text)
    with pytest.raises(BuildError, match=r"no compile command of fs/romfs/super\.o in it"):
        recorded.modules_of(UNIT)


@pytest.mark.parametrize("by_make", [True, False])
def test_object_is_fresh_until_something_is_newer(
    recorded: RecordedCommands,
    by_make: bool,  # noqa: FBT001
) -> None:
    output = recorded.tree.output
    assert not recorded.is_fresh(UNIT)
    if by_make:
        (output / "fs/romfs/.super.o.cmd").write_text(RECORD)
    else:
        (output / "fs/romfs/super.o.d").write_text("super.o: \\\n include/linux/fs.h\n")
    made = output / UNIT.object
    made.touch()
    assert recorded.is_fresh(UNIT)
    later = made.stat().st_mtime + 1
    os.utime(output / "include/linux/fs.h", (later, later))
    assert not recorded.is_fresh(UNIT)
    (output / "include/linux/fs.h").unlink()
    assert not recorded.is_fresh(UNIT)


def test_objtool_of_a_kernel_that_runs_it_on_linked_objects(recorded: RecordedCommands) -> None:
    assert recorded.late_objtool == ()
    tree = recorded.tree
    tree.config = replace(tree.config, text="CONFIG_X86_KERNEL_IBT=y\n")
    assert RecordedCommands(tree).late_objtool == ("./tools/objtool/objtool", "--orc")
    compiler = COMMAND.partition(";")[0]
    (tree.output / "ksplice-units").write_text(f"{UNIT.source}\t{UNIT.object}\t\t{compiler}\n")
    del tree.listing
    with pytest.raises(BuildError, match=r"/\.config: .* no such module; build the kernel"):
        _ = RecordedCommands(tree).late_objtool
