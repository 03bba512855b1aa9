# SPDX-License-Identifier: GPL-2.0-only
"""``--prebuild``: the objects before any change, of all enabled units, made ahead in the cache.

No update needs it: what is missing is compiled when an update wants it.  With it even the first
update of a unit, or of a header, compiles the changed state only.  Objects that are there are kept,
so an interrupted run continues where it stopped.
"""

from dataclasses import dataclass
from typing import Final

from ksplicd.create.affected.include_graph import read_include_graph
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import TargetFilter, Unit
from ksplicd.errors import BuildError, NoChangesError, UnsupportedChangeError

_STEP: Final = 64
"""Units for one run of make: its own second is little beside their compilation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrebuiltObjects:
    """What a prebuild came to."""

    units: int
    """Whose objects are there now."""
    failed: dict[str, str]
    """By source, the words of the compiler, for units that cannot be made here."""


def prebuild(kbuild: Kbuild, targets: TargetFilter) -> PrebuiltObjects:
    """Compile what is missing of all enabled units of ``targets``.

    Raises ``NoChangesError`` when the kernel has no such target.
    """
    read_include_graph(kbuild.tree)
    wanted = [
        u.unit
        for u in kbuild.tree.listing.values()
        if u.source.endswith(".c") and any(map(targets.takes, u.targets))
    ]
    if not wanted:
        raise NoChangesError("--only-targets: no target of this kernel has such a name")
    failed: dict[str, str] = {}
    for at in range(0, len(wanted), _STEP):
        some = wanted[at : at + _STEP]
        try:
            compile_both(kbuild, some)
        except (BuildError, UnsupportedChangeError):
            for unit in some:
                try:
                    compile_both(kbuild, [unit])
                except (BuildError, UnsupportedChangeError) as e:
                    failed[unit.source] = str(e)
        kbuild.tree.progress(f"{min(at + _STEP, len(wanted))} of {len(wanted)} units are there")
    return PrebuiltObjects(units=len(wanted) - len(failed), failed=failed)


def compile_both(kbuild: Kbuild, units: list[Unit]) -> None:
    """Make the plain and the split objects that are missing.  Raises ``BuildError``."""
    kbuild.compile_plain(units)
    kbuild.compile_split_cached(units)
