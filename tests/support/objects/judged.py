# SPDX-License-Identifier: GPL-2.0-only
"""A small update as the referee sees it: plain objects, a kernel, and a finished module.

The module is made as an update's is, but for kbuild: the new code of the split pair, linked with
the generated tables over structures that are like the kernel's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.create.diff.difference import Succession, UnitChange
from ksplicd.create.diff.unit import diff
from ksplicd.create.modules.c_tables import headers_of
from ksplicd.create.modules.livepatch import write_livepatch_module
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.extract import extract
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.new_code.successions import by_old
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.referee.judge import contradictions
from ksplicd.create.referee.unit import PlainUnit
from ksplicd.create.stock.image import KernelImage
from ksplicd.create.stock.match import UnitMatch, match_unit
from ksplicd.create.stock.references import references_to
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.elf.model import Object, Symbol
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.run import run
from tests.support.objects.compile import SPLIT, compile_c
from tests.support.objects.link import TEXT, link
from tests.support.objects.pair import PRELUDE, SIZES, FakeUnit

# The first fields are those of include/linux/livepatch.h and kmodsrc/redirect.c.
_TABLES: Final = """
#define NULL ((void *)0)
#define KSPLICE_CALLBACKS { 0 }
#define KSPLICE_CORE "core"
struct klp_func { const char *old_name; void *new_func; unsigned long old_sympos, rest[4]; };
struct klp_object { const char *name; struct klp_func *funcs; struct { void *all[4]; } callbacks; };
enum { HOOK_apply = 1, HOOK_check_apply };
struct hook { int kind; int (*check)(void); void (*act)(void); };
#include "update.h"
void *uses[] = { objects, (void *)hooks, (void *)must_match };
"""
_REDIRECTS: Final = """
#define NULL ((void *)0)
enum redirect_kind { REDIRECT_PROBE, REDIRECT_POINTER, REDIRECT_VALUE, REDIRECT_EXIT };
struct redirect {
    unsigned int object; unsigned short kind, size; void *place, *old, *new, **cell, *probe[12];
    unsigned char is_on;
};
#include "redirects.h"
void *uses_redirects = redirects;
"""
STUBS: Final = """
int printk(const char *f, ...) { return 0; }
int exported(int x) { return x; }
int hidden(int x) { return x; }
int begun = 1;
int called_elsewhere(int) __attribute__((weak));
int calls(int x) { return called_elsewhere(x) + 1; }
#define WEAK __attribute__((weak))
WEAK int f(int); WEAK int g(int); WEAK int user(int); WEAK int entry(int); WEAK int other(int);
WEAK extern void *ops[];
int (*all[])(int) = { f, g, user, entry, other };
void **table(void) { return ops; }
asm(".globl __SCT__op, __SCK__op, __SCT__other, __SCK__other\\n__SCT__op: ret\\n"
    "__SCT__other: ret\\n.data\\n__SCK__op: .quad 0\\n__SCK__other: .quad 0\\n.text");
"""


@dataclass
class LinkedUnit:
    """A unit in a tiny kernel."""

    match: UnitMatch
    symbols: SymbolMap
    image: KernelImage
    overridden: frozenset[str] = frozenset()

    def address_of(self, symbol: Symbol) -> int | None:
        return self.match.address_of(symbol)

    def addresses(self, where: str, name: str) -> list[int] | None:
        return self.symbols.addresses(name)

    def global_address(self, where: str, name: str) -> int | None:
        return self.symbols.global_address(name)

    def references_to(self, address: int) -> list[int]:
        # ld maps the file's headers, in which the beginning of .text stands
        return [at for at in references_to(self.image, address) if at >= TEXT]

    def importers(self, name: str) -> list[str]:
        return []


@dataclass
class Update:
    """What the referee is given."""

    units: list[PlainUnit]
    ko: bytes
    new_code: list[NewCode] = field(default_factory=list)

    def judge(self, ko: bytes | None = None) -> list[str]:
        """Return the contradictions."""
        return contradictions(self.units, self.ko if ko is None else ko)

    def module(self) -> Object:
        """Return the module, to be damaged."""
        return read_object(self.ko, "new.ko")


def make_update(
    tmp_path: Path,
    pre: str,
    post: str,
    *flags: str,
    unit: FakeUnit | None = None,
    post_plain: str | None = None,
    split_flags: Sequence[str] = (),
    has_unsplit: bool = False,
    succeeds: bool = False,
) -> Update:
    """Make an update of one unit.

    ``post_plain``: what plain post is made of instead; ``split_flags``: of the compiler, for the
    split objects alone; ``has_unsplit``: whether one more is made with these, but not split;
    ``succeeds``: whether functions that tables no longer name are redirected.
    """
    pre, post = PRELUDE + pre, PRELUDE + post
    flags = ("-g", "-fno-common", *flags)
    texts = {"pre": pre, "post": PRELUDE + post_plain if post_plain is not None else post}
    # One name for all: it is in what __FILE__ says.
    linked = link(tmp_path, {"unit": pre, "stubs": STUBS}, *flags)
    plain = {
        n: read_object(compile_c(tmp_path, text, *flags), "unit.o") for n, text in texts.items()
    }
    compiled = [
        compile_c(tmp_path, text, *flags, *SPLIT, *split_flags) for text in (pre, post)
    ]  # fmt: skip
    split = [index_separated(read_object(data, "unit.o"), SIZES) for data in compiled]
    unsplit = None
    if has_unsplit:
        unsplit = read_object(compile_c(tmp_path, post, *flags, *split_flags), "unit.o")
    kernel = LinkedUnit(
        match_unit(plain["pre"], linked.image, linked.map), linked.map, linked.image
    )
    difference = diff(*split)
    unit = unit or FakeUnit()
    unit.functions = frozenset(s.name for s in plain["pre"].functions())
    change = UnitChange.of(unit.source, difference)
    if succeeds:
        change = change.with_successions(successions_in(change), ())
    code = extract(unit, change, Aliases())
    plain_unit = PlainUnit(
        source="unit.c", target="vmlinux", sizes=SIZES, running=plain["pre"], pre=plain["pre"],
        post=plain["post"], unsplit=unsplit,
        split_pre=split[0].obj if has_unsplit else None, kernel=kernel,
    )  # fmt: skip
    return Update([plain_unit], link_module(tmp_path, [code]), [code])


def successions_in(change: UnitChange) -> list[Succession]:
    """Return all pointers of tables that change as functions to redirect, whoever uses these."""
    return [
        Succession(
            old=old.name, sympos=0, unit=change.unit, new=pointers[0].new,
            tables=tuple(dict.fromkeys(p.datum.name for p in pointers)), reason="a table names it",
        )
        for old, pointers in by_old(change).items()
    ]  # fmt: skip


def link_module(tmp_path: Path, new_code: list[NewCode]) -> bytes:
    """Return the module of new code, without the kernel's own part of it."""
    folder = tmp_path / "module"
    folder.mkdir(exist_ok=True)
    for header, text in headers_of(new_code).items():
        (folder / header).write_text(text)
    sources = {"new_code": _TABLES}
    if any(code.redirects for code in new_code):
        sources["redirect"] = _REDIRECTS
    for name, text in sources.items():
        compile_c(folder, text, "-w", name=name)
    objects = [folder / f"{name}.o" for name in sources]
    for i, code in enumerate(new_code):
        objects.append(folder / f"unit{i}.o")
        objects[-1].write_bytes(write_object(code.obj))
    run(["ld", "-r", "-o", folder / "new.ko", *objects])
    return write_livepatch_module((folder / "new.ko").read_bytes(), "new.ko")
