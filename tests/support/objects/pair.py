# SPDX-License-Identifier: GPL-2.0-only
"""Object pairs: two versions of a source, compiled on the fly as the kernel's units are."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from ksplicd.create.diff.difference import Difference, UnitChange
from ksplicd.create.diff.unit import diff
from ksplicd.create.new_code.aliases import Aliases
from ksplicd.create.new_code.extract import extract
from ksplicd.create.new_code.model import NewCode
from ksplicd.create.objects.names import is_cold_part
from ksplicd.create.objects.separate import index_separated
from ksplicd.create.objects.special import TABLES
from ksplicd.elf.model import STB_LOCAL, Object
from ksplicd.elf.read import read_object
from tests.support.objects.compile import SPLIT, compile_c

SIZES = dict.fromkeys((t.section for t in TABLES), 4) | {
    "__mcount_loc": 8,
    ".altinstructions": 12,
    "__jump_table": 16,
    ".static_call_sites": 8,
    ".parainstructions": 16,
    "__bug_table": 12,
    "__ex_table": 12,
    ".orc_unwind": 6,
}
"""Linux 6.1."""

PRELUDE = """
#define noinline __attribute__((__noinline__))
#define WARN_ONCE_FLAG __attribute__((section(".data.once")))
extern int printk(const char *, ...);
extern int exported(int);
extern int hidden(int);
struct static_key { long enabled; void *entries; };
/* asm goto of arch/x86/include/asm/jump_label.h, written anew */
#define BRANCH(key) ({ __label__ yes, out; int taken = 0; \\
    asm goto("1: .byte 0x0f,0x1f,0x44,0,0\\n" \\
        ".pushsection __jump_table,\\"aw\\"\\n.balign 8\\n" \\
        ".long 1b - .\\n.long %l[yes] - .\\n.quad %c0 - .\\n.popsection" \\
        :: "i" (&(key)) :: yes); goto out; yes: taken = 1; out: taken; })
#define BUG_ENTRY(line) asm volatile("1: ud2\\n" \\
    ".pushsection __bug_table,\\"aw\\"\\n" \\
    ".long 1b - .\\n.long %c0 - .\\n.word %c1\\n.word 0\\n.popsection" \\
    :: "i" (__FILE__), "i" (line))
"""


@dataclass
class FakeUnit:
    """A unit of a kernel with one exported function, and positions as given."""

    source: str = "unit.c"

    exports: frozenset[str] = frozenset({"exported", "printk"})
    positions: dict[str, int] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    untraceable: frozenset[str] = frozenset()
    probeable: frozenset[str] = frozenset()
    """Those of them that a kprobe may redirect."""
    functions: frozenset[str] = frozenset()
    """Set by ``cut``: the pre object's functions."""

    target: str = "vmlinux"
    sealed: frozenset[str] = frozenset()
    """Functions without landing pad."""

    @property
    def traceable(self) -> frozenset[str]:
        return self.functions - self.untraceable

    def is_exported(self, name: str) -> bool:
        return name in self.exports

    def livepatch_symbol(self, name: str, *, is_local: bool) -> str | None:
        if name in self.missing:
            return None
        return f".klp.sym.{self.target}.{name},{self.positions.get(name, 0) if is_local else 0}"

    def sympos(self, name: str) -> int:
        return self.positions.get(name, 0)

    def is_sealed(self, symbol: str) -> bool:
        return symbol in {f".klp.sym.vmlinux.{name},0" for name in self.sealed}

    def is_function(self, name: str) -> bool:
        return name in self.exports


def keep_pair(folder: Path, pre: bytes, post: bytes) -> None:
    """Keep two objects for ``tests.same``, in a folder that is named by what they are."""
    pair = folder / hashlib.sha256(pre + post).hexdigest()[:16]
    pair.mkdir(exist_ok=True)
    (pair / "pre.o").write_bytes(pre)
    (pair / "post.o").write_bytes(post)


def compare(tmp_path: Path, pre: str, post: str, *flags: str) -> Difference:
    """Compile both sources one section a symbol and compare them."""
    objects = [compile_c(tmp_path, PRELUDE + c, *SPLIT, *flags) for c in (pre, post)]
    if "KSPLICE_KEEP_PAIRS" in os.environ:
        keep_pair(Path(os.environ["KSPLICE_KEEP_PAIRS"]), *objects)
    a, b = (read_object(data, "unit.o") for data in objects)
    return compare_pair(a, b)


def compare_pair(pre: Object, post: Object) -> Difference:
    """Compare two objects of a unit."""
    return diff(index_separated(pre, SIZES), index_separated(post, SIZES))


def changed(difference: Difference) -> list[str]:
    """Return the names of the changed functions."""
    return sorted(s.name for s in difference.changed)


def cut(difference: Difference, unit: FakeUnit | None = None) -> NewCode:
    """Extract the new code of a difference."""
    unit = unit or FakeUnit()
    unit.functions = frozenset(s.name for s in difference.pre.obj.functions())
    return extract(unit, UnitChange.of(unit.source, difference), Aliases())


def undefined(code: NewCode) -> set[str]:
    """Return the names that the new code needs from the kernel."""
    return {s.name for s in code.obj.symbols if s.is_undefined}


def new_functions(code: NewCode) -> list[str]:
    """Return the functions of the new code to which nothing but other new code leads."""
    redirected = {r.name for r in code.redirected}
    return [
        s.name for s in code.obj.symbols
        if s.is_function and s.bind == STB_LOCAL
        and s.name not in redirected and not is_cold_part(s.name)
    ]  # fmt: skip


def kept(code: NewCode) -> set[str]:
    """Return the names of the new code's sections."""
    return {s.name for s in code.obj.sections}
