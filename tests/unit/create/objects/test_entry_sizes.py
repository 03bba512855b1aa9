# SPDX-License-Identifier: GPL-2.0-only
"""The sizes of the special sections' entries, as read from the objects."""

from pathlib import Path
from typing import Final

import pytest

from ksplicd.create.objdiff import read_sizes
from ksplicd.create.objects.entry_sizes import infer_sizes
from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.errors import BuildError, ElfError
from ksplicd.run import run


def tables(tmp_path: Path, text: str) -> Object:
    """Assemble special sections about three places in a function."""
    source = ".text\nf: nop\n1: nop\n2: nop\n3: nop\n" + text
    (tmp_path / "x.s").write_text(source + "\n")
    run(["as", "-o", tmp_path / "x.o", tmp_path / "x.s"])
    return read_object((tmp_path / "x.o").read_bytes(), "x.o")


def section(name: str, *entries: str) -> str:
    return f'.section {name},"a"\n' + "\n".join(entries) + "\n"


ENTRIES = {
    # (section, size): one entry, whose code is {0}
    (".altinstructions", 12): ".long {0}b - ., {0}b - .\n.word 3\n.byte 5, 5",
    (".altinstructions", 13): ".long {0}b - ., {0}b - .\n.word 3\n.byte 5, 5, 2",
    (".altinstructions", 14): ".long {0}b - ., {0}b - ., 3\n.byte 5, 5",
    ("__jump_table", 16): ".long {0}b - ., {0}b - .\n.quad key - .",
    ("__jump_table", 24): ".quad {0}b, {0}b, key",
    ("__bug_table", 8): ".long {0}b - .\n.word 1, 0",
    ("__bug_table", 12): ".long {0}b - ., f - .\n.word 7, 1",
    ("__bug_table", 16): ".long {0}b - ., f - ., f - .\n.word 7, 1",
    ("__bug_table", 24): ".quad {0}b, f\n.word 7, 1, 0, 0",
    ("__ex_table", 8): ".long {0}b - ., f - .",
    ("__ex_table", 12): ".long {0}b - ., f - ., 3",
    ("__ex_table", 16): ".quad {0}b, f",
    (".parainstructions", 16): ".quad {0}b\n.byte 1, 2\n.balign 8",
    (".static_call_sites", 8): ".long {0}b - ., key - .",
    ("__mcount_loc", 8): ".quad {0}b",
    (".smp_locks", 4): ".long {0}b - .",
    (".return_sites", 4): ".long {0}b - .",
}


@pytest.mark.parametrize(("name", "size"), list(ENTRIES))
def test_sizes_of_past_and_present(tmp_path: Path, name: str, size: int) -> None:
    """One entry tells as much as three; twelve are a multiple of many sizes."""
    for count in (1, 3, 12):
        entries = [ENTRIES[name, size].format(1 + i % 3) for i in range(count)]
        assert infer_sizes([tables(tmp_path, section(name, *entries))]) == {name: size}


def test_an_exceptions_handler_may_be_an_address(tmp_path: Path) -> None:
    """Before 5.16 the third field was the handler's address; an entry of eight bytes has two."""
    entries = [".long 1b - ., f - ., handler - ."] * 2
    assert infer_sizes([tables(tmp_path, section("__ex_table", *entries))]) == {"__ex_table": 12}


def test_unwind_data_have_one_entry_for_each_address(tmp_path: Path) -> None:
    text = section(".orc_unwind_ip", *[".long 1b - ."] * 5) + section(".orc_unwind", ".skip 30")
    sizes = infer_sizes([tables(tmp_path, text)])
    assert sizes == {".orc_unwind_ip": 4, ".orc_unwind": 6}
    with pytest.raises(ElfError, match="not one entry for each"):
        infer_sizes([tables(tmp_path, text + ".skip 1\n")])


def test_all_objects_count(tmp_path: Path) -> None:
    """A table of zeros, as the compiler leaves before objtool, tells nothing by itself."""
    known = tables(tmp_path, section("__bug_table", ENTRIES["__bug_table", 12].format(1)))
    assert infer_sizes([tables(tmp_path, ""), known]) == {"__bug_table": 12}


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    obj = tables(tmp_path, section("__bug_table", ".quad 1b", ".quad 0", ".quad 0"))
    with pytest.raises(ElfError, match=r"x\.o: __bug_table: cannot tell .*--source"):
        infer_sizes([obj])


HEADERS: Final = sorted(Path("/usr/src").glob("linux-headers-*-amd64"))
MODULE = """
#include <linux/module.h>
#include <linux/jump_label.h>
#include <linux/uaccess.h>
static DEFINE_STATIC_KEY_FALSE(key);
long f(void __user *p, void *q, int n);
long f(void __user *p, void *q, int n)
{
	if (static_branch_unlikely(&key))
		return 0;
	might_sleep();
	if (cpu_feature_enabled(X86_FEATURE_ERMS))
		n++;
	WARN_ON(n > 7);
	if (get_user(n, (int __user *)p))
		return n;
	return copy_to_user(p, q, n);
}
MODULE_LICENSE("GPL");
"""


@pytest.mark.parametrize(
    "headers",
    HEADERS or [pytest.param(None, marks=pytest.mark.skip("no kernel headers are installed"))],
    ids=str,
)
def test_objects_tell_what_the_headers_say(tmp_path: Path, headers: Path) -> None:
    (tmp_path / "unit.c").write_text(MODULE)
    (tmp_path / "Makefile").write_text("obj-m := unit.o\n")
    run(["make", "-C", headers, f"M={tmp_path}", "unit.o"])
    said = read_sizes(headers)
    told = infer_sizes([read_object((tmp_path / "unit.o").read_bytes())])
    assert {".altinstructions", "__bug_table", "__jump_table", "__mcount_loc"} <= told.keys()
    assert told == {name: said[name] for name in told}


def test_a_folder_without_headers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="a probe does not compile there; give the headers"):
        read_sizes(tmp_path)
