# SPDX-License-Identifier: GPL-2.0-only
"""From a module that kbuild made to one that livepatch links.

Symbols that the kernel does not export are undefined ``.klp.sym.*`` symbols until the very end:
then the finished .ko gets its livepatch relocations, because a later ``ld -r`` would destroy them
(Documentation/livepatch/module-elf-format.rst).  Up to Linux 6.1 livepatch walks all of kallsyms
for each: there a new-code module has those to vmlinux that can wait filled in by its core, and they
are in sections that livepatch passes over (``filled.py``).
"""

import re
from collections import defaultdict
from typing import Final

from ksplicd.create.modules.filled import OBJECT, Filled, has_filled
from ksplicd.create.modules.one_text import join_text
from ksplicd.create.new_code.aliases import is_function_alias
from ksplicd.elf.model import (
    SHN_LIVEPATCH,
    STB_LOCAL,
    STT_FUNC,
    STT_NOTYPE,
    LivepatchRelocations,
    Object,
    Relocation,
    Symbol,
)
from ksplicd.elf.read import read_object
from ksplicd.elf.write import write_object
from ksplicd.model import NEW_SUFFIX, VMLINUX

_KLP_SYMBOL: Final = re.compile(r"\.klp\.sym(?:@(?P<target>[^@]+)@|\.)(?P<object>[^.]+)\.")
"""``.klp.sym.OBJECT.NAME,POS``.  With ``@TARGET@`` for the second ``.`` its relocations go with
another object's: what a module depends on is sure to be there only when the module is."""


def write_livepatch_module(ko: bytes, name: str) -> bytes:
    """Turn the undefined ``.klp.sym.*`` symbols of a .ko into livepatch symbols.

    Their relocations move to ``.klp.rela.OBJECT.SECTION`` sections
    (Documentation/livepatch/module-elf-format.rst).  The functions' sections become one.

    Raises ``ElfError``.
    """
    obj = read_object(ko, name)
    join_text(obj)
    filled = Filled(obj) if has_filled(obj) else ()
    _rename_new_functions(obj)
    owners: dict[Symbol, str] = {}
    for s in obj.symbols:
        m = _KLP_SYMBOL.match(s.name) if s.is_undefined else None
        if m is not None:
            owners[s] = m["target"] or m["object"]
            s.name = s.name.replace(f"@{m['target']}@", ".", 1) if m["target"] else s.name
            s.shndx, s.type = SHN_LIVEPATCH, STT_NOTYPE
    for section in obj.sections:
        moved: dict[str, list[Relocation]] = defaultdict(list)
        kept = []
        for r in section.relocations:
            if r.symbol.shndx == SHN_LIVEPATCH:
                owner = owners[r.symbol]
                waits = owner == VMLINUX and (section, r) in filled
                moved[OBJECT if waits else owner].append(r)
            else:
                kept.append(r)
        if not section.is_alloc:
            continue
        section.relocations = kept
        for owner, relocations in moved.items():
            obj.livepatch.append(
                LivepatchRelocations(f".klp.rela.{owner}.{section.name}", section, relocations)
            )
    return write_object(obj)


def _rename_new_functions(obj: Object) -> None:
    """Let no function have the name of the one that it replaces: ``do_fcntl.ksplice``.

    Since 6.6 (b022f0c7e404, also in 6.1.60), a name that two functions have is refused for a
    kprobe: nobody could probe the old one while the update is applied.
    """
    aliased = {(s.section, s.value) for s in obj.symbols if is_function_alias(s.name)}
    for s in obj.symbols:
        if s.bind == STB_LOCAL and s.type == STT_FUNC and (s.section, s.value) in aliased:
            s.name += NEW_SUFFIX
