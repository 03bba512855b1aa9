# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel's build makes beside the units, and whether generated files would be others."""

from pathlib import Path

import pytest

from ksplicd.create.build.foreign import (
    ForeignUnit,
    Recipe,
    Role,
    parse_foreign,
    parse_recipes,
    read_foreign,
    read_recipes,
    write_foreign,
    write_recipes,
)
from ksplicd.create.build.generated import find_other_generated
from ksplicd.create.patch.source_tree import PatchedFile
from ksplicd.create.patch.states import TreeStates
from tests.support.kernels.build_tree import empty_tree

ROOT = Path("/source")


def printed(target: str, command: str) -> str:
    """Return a line as make prints it for a rule of kbuild's."""
    quoted = command.replace("'", "'\\''")
    return f"set -e;  echo '  {quoted}';    trap 'rm -f {target}; trap - HUP; x' HUP; {command}\n"


@pytest.mark.parametrize(
    ("made", "source", "flags", "role"),
    [
        ("kernel/bounds.s", "kernel/bounds.c", "-mcmodel=kernel -S", Role.OFFSETS),
        ("arch/x86/entry/vdso/vgetcpu.o", "arch/x86/entry/vdso/vgetcpu.c",
         "-mcmodel=kernel -mcmodel=small -c", Role.VDSO),
        ("arch/x86/entry/vdso/vdso32/note.o", "arch/x86/entry/vdso/vdso32/note.S",
         "-D__ASSEMBLY__ -m32 -c", Role.VDSO),
        ("arch/x86/realmode/rm/regs.o", "arch/x86/realmode/rm/regs.c", "-m16 -c", Role.REAL_MODE),
        ("arch/x86/purgatory/sha256.o", "lib/crypto/sha256.c", "-mcmodel=small -c",
         Role.PURGATORY),
        ("arch/x86/kernel/vmlinux.lds", "arch/x86/kernel/vmlinux.lds.S", "-E", Role.LINKER),
        ("fs/fcntl.o", "fs/fcntl.c", "-mcmodel=kernel -c", None),
        ("arch/x86/entry/vdso/vma.o", "arch/x86/entry/vdso/vma.c", "-mcmodel=kernel -c", None),
        ("scripts/mod/devicetable-offsets.s", "scripts/mod/x.c", "-S", None),
        ("drivers/firmware/efi/libstub/gop.o", "drivers/x.c", "-mcmodel=small -c", None),
    ],
)  # fmt: skip
def test_roles(made: str, source: str, flags: str, role: Role | None) -> None:
    command = f"gcc-12 -Wp,-MMD,x.d {flags} -o {made} {ROOT}/{source}"
    found = list(parse_foreign(printed(made, command), ROOT, "gcc-12"))
    assert [(u.source, u.object, u.role) for u in found] == ([(source, made, role)] if role else [])
    assert read_foreign(write_foreign(found)) == found


def test_recipes() -> None:
    output = printed("lib/gen", f"gcc -O2 -o lib/gen {ROOT}/lib/gen.c")
    output += printed("lib/table.h", "lib/gen > lib/table.h")
    output += printed("a/caps.c", f"sh {ROOT}/a/mkcaps.sh a/caps.c {ROOT}/a/../include/caps.h")
    record = (
        f"cmd_a/flask.h := a/genheaders a/flask.h {ROOT}/a/classes.h\n"
        f"deps_a/flask.h := \\\n  {ROOT}/include/types.h \\\n"
    )
    found = parse_recipes(output, [record], ROOT)
    assert {r.target: set(r.inputs) for r in found} == {
        "lib/table.h": {"lib/gen.c"},
        "a/caps.c": {"a/mkcaps.sh", "include/caps.h"},
        "a/flask.h": {"a/classes.h", "include/types.h"},
    }
    assert found[0].programs == (("lib/gen", f"gcc -O2 -o lib/gen {ROOT}/lib/gen.c"),)
    assert read_recipes(write_recipes(found)) == found


def test_generated_files_are_made_before_and_after(tmp_path: Path) -> None:
    tree = empty_tree(tmp_path)
    root = tree.source.root
    (root / "caps.h").write_text("#define A 1\n#define B 2 /* shown */\n")
    recipe = Recipe(
        target="caps.c",
        command=f"sed -n 's,/[*] \\(.*\\) [*]/,\\1,p' {root}/caps.h > caps.c",
        inputs=frozenset({"caps.h"}),
    )
    fails = Recipe(target="x.h", command="false > x.h", inputs=frozenset({"other.h"}))
    (tree.output / "ksplice-recipes").write_text(write_recipes([recipe, fails]))

    def other(path: str, content: str) -> dict[str, list[str]]:
        states = TreeStates(after=(PatchedFile(Path(path), content.encode()),))
        return find_other_generated(tree, {path}, states)

    assert other("caps.h", "#define A 7\n#define B 2 /* shown */\n") == {}
    assert other("caps.h", "#define A 1\n#define B 2 /* other */\n") == {"caps.h": ["caps.c"]}
    assert other("other.h", "") == {"other.h": ["x.h"]}
    assert other("none.h", "") == {}
    assert not (tree.output / "caps.c").exists()


def test_foreign_unit_is_one_of_the_include_graph() -> None:
    unit = ForeignUnit(source="a.c", object="a.s", role=Role.OFFSETS, command="gcc -S a.c")
    assert unit.as_unit().source == "a.c"
