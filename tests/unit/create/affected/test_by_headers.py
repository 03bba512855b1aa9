# SPDX-License-Identifier: GPL-2.0-only
"""The units that are tried first when a header reaches very many."""

import itertools

import pytest

from ksplicd.create.affected.by_headers import FEW_UNITS, few_of
from ksplicd.create.build.units import Unit


@pytest.mark.parametrize("count", [65, 1405])
def test_the_header_s_own_unit_and_some_from_everywhere(count: int) -> None:
    sources = [f"fs/{i}.c" for i in range(count - 1)] + ["net/core/sock.c"]
    found = [u.source for u in few_of([Unit(s) for s in sources], {"sock"})]
    assert len(found) == len(set(found)) == FEW_UNITS
    assert found[0] == "net/core/sock.c"
    places = sorted(sources.index(s) for s in found[1:])
    assert places[0] == 0
    assert max(b - a for a, b in itertools.pairwise(places)) <= count // FEW_UNITS + 1
