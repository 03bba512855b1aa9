# SPDX-License-Identifier: GPL-2.0-only
"""The kinds of files that a change touches."""

import logging
from pathlib import Path

import pytest

from ksplicd.create.affected.files import FilesByKind, KnownFiles, classify_files
from ksplicd.create.build.foreign import Role
from ksplicd.create.patch.change import ChangedFile
from ksplicd.errors import UnsupportedChangeError

ENABLED = {"fs/a.c", "fs/b.c", "tools/lib/bpf/relo_core.c", "arch/x86/entry/vdso/vma.c"}
INCLUDED = {"include/linux/a.h", "kernel/sched/rt.c", "fs/table.inc"}
TREE = KnownFiles(is_enabled=ENABLED.__contains__, is_included=INCLUDED.__contains__)


def changed(path: str, before: str | None = "old\n", after: str | None = "new\n") -> ChangedFile:
    def encode(text: str | None) -> bytes | None:
        return None if text is None else text.encode()

    return ChangedFile(path=Path(path), before=encode(before), after=encode(after))


def sort(*files: ChangedFile) -> FilesByKind:
    return classify_files(files, TREE)


@pytest.mark.parametrize("path", sorted(ENABLED))
def test_units(path: str) -> None:
    assert [str(f.path) for f in sort(changed(path)).units] == [path]


@pytest.mark.parametrize("path", [*sorted(INCLUDED), "include/linux/nobody.h", "fs/ext4/ext4.h"])
def test_parts_of_units(path: str) -> None:
    assert [str(f.path) for f in sort(changed(path)).parts] == [path]


def test_unit_that_others_include_is_part_of_them_too() -> None:
    known = KnownFiles(is_enabled=ENABLED.__contains__, is_included={"fs/a.c"}.__contains__)
    out = classify_files([changed("fs/a.c"), changed("fs/b.c")], known)
    assert [str(f.path) for f in out.units] == ["fs/a.c", "fs/b.c"]
    assert [str(f.path) for f in out.parts] == ["fs/a.c"]


def test_unit_that_is_compiled_into_other_code_too() -> None:
    roles = {"fs/a.c": Role.PURGATORY}
    known = KnownFiles(
        is_enabled=ENABLED.__contains__, is_included=INCLUDED.__contains__, role=roles.get
    )
    out = classify_files([changed("fs/a.c"), changed("fs/b.c")], known)
    assert [str(f.path) for f in out.units] == ["fs/a.c", "fs/b.c"]
    assert [str(f.path) for f in out.parts] == ["fs/a.c"]


@pytest.mark.parametrize(
    "path", ["tools/lib/bpf/relo_core.h", "arch/x86/realmode/rm/wakeup.h", "tools/x.txt"]
)
def test_what_units_include_counts_in_any_folder(path: str) -> None:
    known = KnownFiles(is_enabled=ENABLED.__contains__, is_included={path}.__contains__)
    out = classify_files([changed("fs/a.c"), changed(path)], known)
    assert [str(f.path) for f in out.parts] == [path]


def test_generated_file_that_would_be_another_one() -> None:
    made = {"tools/map.txt": ("arch/x86/lib/tables.c",)}
    known = KnownFiles(
        is_enabled=ENABLED.__contains__,
        is_included=INCLUDED.__contains__,
        other_generated=lambda path: made.get(path, ()),
    )
    with pytest.raises(UnsupportedChangeError, match=r"tables\.c: generated from it"):
        classify_files([changed("tools/map.txt")], known)


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("kernel/bounds.c", Role.OFFSETS),
        ("arch/x86/entry/vdso/vgetcpu.c", Role.VDSO),
        ("arch/x86/realmode/rm/wakemain.c", Role.REAL_MODE),
    ],
)
def test_code_beside_the_units(path: str, role: Role) -> None:
    known = KnownFiles(
        is_enabled=ENABLED.__contains__, is_included=INCLUDED.__contains__, role=lambda _: role
    )
    with pytest.raises(UnsupportedChangeError, match=f"^{path}: {role}; leave it out"):
        classify_files([changed(path)], known)
    out = classify_files([changed("fs/a.c"), changed(path, "int a;\n", "int  a; // A\n")], known)
    assert "no effect" in out.notes[path]


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("Documentation/x.c", "not part of the running kernel"),
        ("MAINTAINERS", "not part of the running kernel"),
        ("scripts/mod/modpost.c", "not part of the running kernel"),
        ("scripts/Makefile", "not part of the running kernel"),
        ("scripts/Makefile.clean", "not part of the running kernel"),
        ("fs/.gitignore", "not part of the running kernel"),
        ("arch/arm64/kernel/smp.c", "of another architecture, arm64"),
        ("arch/arm64/Kconfig", "of another architecture, arm64"),
        ("arch/x86/um/x.c", "of another architecture, um"),
        ("arch/x86/boot/main.c", "runs before the kernel"),
        ("drivers/firmware/efi/libstub/x86-stub.c", "runs before the kernel"),
        ("kernel/configs/hardening.config", "keeps its own"),
        ("fs/bfs/dir.c", "configured without"),
    ],
)
def test_what_is_left_alone_is_noted(path: str, note: str) -> None:
    out = sort(changed("fs/a.c"), changed(path))
    assert note in out.notes[path]
    assert [str(f.path) for f in out.units] == ["fs/a.c"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (changed("arch/x86/entry/vdso/vclock_gettime.c"), "vDSO, .*; leave it out"),
        (changed("lib/vdso/gettimeofday.c"), "vDSO, .*; leave it out"),
        (changed("arch/x86/entry/entry_64.S"), "assembly, .*; change its callers"),
        (changed("fs/Kconfig"), "configuration stays .*; leave the file out"),
        (changed("fs/Makefile", "obj-y += a.o\n", "obj-y += a.o b.o\n"), "how units are built"),
        (changed("scripts/Makefile.lib"), "how units are built"),
        (changed("scripts/Kbuild.include"), "how units are built"),
        (changed("fs/new.c", before=None), "new source file, .*; put its functions into"),
        (changed("fs/a.c", after=None), "removes the file; .* leave the file in place"),
        (changed("arch/x86/entry/syscalls/syscall_64.tbl"), "not known what .*; leave it out"),
        (changed("include/asm-generic/vmlinux.lds.h"), "not known what"),
    ],
)
def test_refused_by_name(file: ChangedFile, message: str) -> None:
    with pytest.raises(UnsupportedChangeError, match=rf"^{file.path}: .*{message}"):
        sort(changed("fs/b.c"), file)


def test_all_refusals_at_once() -> None:
    with pytest.raises(UnsupportedChangeError, match=r"^x\.S: .*\nfs/Kconfig: ") as e:
        sort(changed("x.S"), changed("fs/Kconfig"))
    *_, hint = lines = str(e.value).splitlines()
    assert (len(lines), "--accept FILE" in hint) == (3, True)


def test_refused_files_are_left_out_on_the_authors_word() -> None:
    files = (changed("fs/a.c"), changed("x.S"), changed("fs/Kconfig"))
    out = classify_files(files, TREE, {"x.S", "fs/Kconfig"})
    assert out.left_out == (Path("x.S"), Path("fs/Kconfig"))
    assert out.notes["x.S"].startswith("refused: assembly")
    with pytest.raises(UnsupportedChangeError, match=r"^fs/Kconfig: "):
        classify_files(files, TREE, {"x.S"})


@pytest.mark.parametrize(
    ("path", "before", "after"),
    [
        ("Makefile", "VERSION = 6\nSUBLEVEL = 176\nx\n", "VERSION = 6\nSUBLEVEL = 177\nx\n"),
        ("fs/Makefile", "obj-y += a.o\n", "# what is always there\nobj-y += a.o # a\n\n"),
        ("scripts/Makefile.build", "x = y\n", "# why\nx = y\n"),
        (
            "fs/Kconfig",
            "config A\n\tbool\n\thelp\n\t  Old words.\n\nconfig B\n",
            "config A\n\tbool\n\thelp\n\t  New\n\n\t    words.\n# B\nconfig B\n",
        ),
    ],
)
def test_recipes_that_mean_the_same(path: str, before: str, after: str) -> None:
    out = sort(changed("fs/a.c"), changed(path, before, after))
    assert "no effect" in out.notes[path]


def test_kconfig_after_a_help_text_counts() -> None:
    before = "config A\n\thelp\n\t  Words.\n\tdefault y\n"
    with pytest.raises(UnsupportedChangeError, match="fs/Kconfig: "):
        sort(changed("fs/Kconfig", before, before.replace("default y", "default n")))


def test_debug_says_what_a_file_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ksplice.affected")
    sort(changed("fs/a.c"), changed("include/linux/a.h"), changed("MAINTAINERS"))
    assert caplog.messages == [
        "fs/a.c: in: this kernel compiles it",
        "include/linux/a.h: units include it: they are looked for",
        "MAINTAINERS: out: not part of the running kernel",
    ]
