# SPDX-License-Identifier: GPL-2.0-only
"""Two machines that differ from the usual one, and from each other in everything.

``make test-matrix`` has more of them, and the kernels of the generic flavour.
"""

import pytest

from ksplicd.cache import Cache
from tests.matrix.check import Kernel
from tests.matrix.machines import Place, enough_places

PLACES = [
    Place("6.1-cloud", "Skylake-Client", "spectre_v2=off", 4),
    Place("6.12-cloud", "qemu64", "preempt=full", 1),
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_update_comes_and_goes(lab_cache: Cache, place: Place) -> None:
    """What passed before is not believed."""
    assert place in enough_places()
    kernel = Kernel(lab_cache, place.kernel)
    try:
        outcome = kernel.check(place, fresh=True)
    finally:
        kernel.close()
    assert outcome.functions > 500
    assert not outcome.warnings
