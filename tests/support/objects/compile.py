# SPDX-License-Identifier: GPL-2.0-only
"""Objects compiled on the fly, so that no compiler output is kept in the repository."""

from pathlib import Path

from ksplicd.elf.model import Object
from ksplicd.elf.read import read_object
from ksplicd.run import run

KERNEL_LIKE = (
    "-O2",
    "-mcmodel=kernel",
    "-fno-pic",
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-fcf-protection=none",
)
SPLIT = ("-ffunction-sections", "-fdata-sections")

SOURCE = """
extern int other(const char *);
static int counter;
int table[4] = {1, 2, 3};
static __attribute__((noinline)) int helper(int x) { counter += x; return other("helper %d"); }
int entry(int x) { return x > 3 ? helper(x) : table[x] + other("entry"); }
__attribute__((weak)) int weak_one(void) { return counter; }
inline __attribute__((section(".text.grouped"))) int g(void) { return 1; }
int *pointer = &table[2];
"""
"""A unit with something of each kind."""


def compile_c(tmp_path: Path, source: str, *flags: str, name: str = "unit") -> bytes:
    """Return the object file that gcc makes of ``source``."""
    c, o = tmp_path / f"{name}.c", tmp_path / f"{name}.o"
    c.write_text(source)
    run(["gcc", *KERNEL_LIKE, *flags, "-c", "-o", o, c])
    return o.read_bytes()


def compile_object(tmp_path: Path, source: str, *flags: str, name: str = "unit") -> Object:
    """Return the graph of the object that gcc makes of ``source``."""
    return read_object(compile_c(tmp_path, source, *flags, name=name), f"{name}.o")
