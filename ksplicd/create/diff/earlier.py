# SPDX-License-Identifier: GPL-2.0-only
"""What earlier updates (``--series``) change of a unit and lead nothing to.

The state before the change has it as they made it, and the running kernel as it was: a function
without fentry, of which only their own new code calls the new form; a constant of which that has a
copy.  New code that uses such a thing brings one more copy of it.
"""

from collections.abc import Collection
from dataclasses import replace

from ksplicd.create.debug import phase
from ksplicd.create.diff.difference import Difference
from ksplicd.create.diff.unit import diff
from ksplicd.create.objects.index import ObjectIndex
from ksplicd.create.objects.names import is_read_only
from ksplicd.elf.model import STB_LOCAL, Symbol

LOG = phase("cut")


def with_stale(
    difference: Difference, stock: ObjectIndex, redirected: Collection[str]
) -> Difference:
    """Return the difference with what the kernel has otherwise than the pre object.

    ``stock``: the unit's object without the earlier updates, its numbered symbols named as in the
    kernel; ``redirected``: the functions that they redirect, as the kernel names them.
    """
    earlier = diff(stock, difference.pre)
    known = {s.name for s in stock.obj.symbols if s.section is not None}
    found: set[Symbol] = {
        s for s in earlier.changed if earlier.twins.pre_of[s].name not in redirected
    }
    # What was one function, and is several, may have a name that the kernel has.
    found |= {s for s in earlier.new if s.name in known}
    found |= {*earlier.copied_constants, *filter(_is_constant, earlier.new_data())}
    post_of = difference.twins.post_of
    stale = frozenset(post_of[s] for s in found if s in post_of)
    for s in stale:
        LOG.debug("%s: %s is in the kernel as no update made it", difference.post.obj.name, s.name)
    return replace(difference, stale=stale)


def _is_constant(s: Symbol) -> bool:
    return s.bind == STB_LOCAL and s.section is not None and is_read_only(s.section)
