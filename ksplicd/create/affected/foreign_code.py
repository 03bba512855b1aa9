# SPDX-License-Identifier: GPL-2.0-only
"""Whether changed headers change code beside the units: vDSO, real mode, constants for assembly.

An update cannot change that, and what it leaves is half of a fix.

Proof obligation: where nothing is refused, the compiler made the same of each such source that the
headers can reach, before and after the change.
"""

from collections.abc import Collection

from ksplicd.create.affected.by_headers import Candidates
from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.fingerprint import fingerprint_foreign
from ksplicd.create.patch.states import TreeStates
from ksplicd.errors import UnsupportedChangeError


def check_foreign(
    kbuild: Kbuild, candidates: Candidates, states: TreeStates, accepted: Collection[str]
) -> dict[str, str]:
    """Return, by header that is ``accepted``, what of the change is not in effect.

    Raises ``UnsupportedChangeError`` when code changes that is no unit's, and a header is not
    accepted.
    """
    units = candidates.foreign
    if not units:
        return {}
    found = []
    for state in (states.before, states.after):
        with kbuild.tree.source.patched(state):
            found.append(list(kbuild.in_parallel(lambda u: fingerprint_foreign(kbuild, u), units)))
    before, after = found
    changed = [u for u, a, b in zip(units, before, after, strict=True) if a != b]
    lines = [
        f"{u.source}: {u.role}, and a change of {candidates.names} reaches it; leave that part out"
        " of the patch"
        for u in changed
    ]
    headers = [str(path) for path in candidates.headers]
    if lines and not set(headers) <= set(accepted):
        hint = "or leave it as it is, on your word, with --accept FILE, a header of the patch"
        raise UnsupportedChangeError("\n".join([*lines, hint]))
    return dict.fromkeys(headers, f"refused: {'; '.join(lines)}") if lines else {}
