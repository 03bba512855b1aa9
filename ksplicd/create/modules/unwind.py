# SPDX-License-Identifier: GPL-2.0-only
"""Whether the finished modules can be unwound: objtool gives up an object without an error.

It warns, leaves the object as the compiler made it, and ends with 0 (``objtool_run()`` of
tools/objtool/builtin-check.c, before Linux 6.16).  A task that sleeps in code without unwind data
has no reliable stack, so that it holds up every later transition; calls and returns of such code
are not patched either.
"""

from ksplicd.create.messages import names_of
from ksplicd.elf.model import STT_FUNC, Object
from ksplicd.errors import BuildError

_PLACES = ".orc_unwind_ip"


def check_unwind_data(module: Object, words: str) -> None:
    """Refuse a module with a section of functions for which there is no unwind data.

    ``words``: what the build said.  Raises ``BuildError``.
    """
    table = module.find_section(_PLACES)
    covered = {r.symbol.section for r in table.relocations} if table is not None else set()
    bare = [
        s.name
        for s in module.symbols
        if s.type == STT_FUNC and s.size and s.section is not None and s.section not in covered
    ]
    if not bare:
        return
    told = "".join(f"\n  {x}" for x in words.splitlines() if "objtool" in x)
    raise BuildError(
        f"{module.name}: objtool made no unwind data for {names_of(bare)}, so that stacks with this"
        f" code would not be reliable; please report this with the patch{told and ':' + told}"
    )
