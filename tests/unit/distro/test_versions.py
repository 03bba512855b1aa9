# SPDX-License-Identifier: GPL-2.0-only
from itertools import product

from ksplicd.distro.versions import by_version, compare, made_for
from ksplicd.run import run_any
from tests.support.needs import needs

VERSIONS = [
    "6.1.176-1", "6.1.192-1", "6.1.192-2", "6.12.95-1~bpo12+1", "6.12.117-1~deb12u1",
    "6.12.117-1", "6.12.118-1", "7.2.9-1~bpo13+1", "7.2.9-1", "7.3~rc4-1~exp1", "7.3-1",
    "12.2.0-14+deb12u1", "12.2.0-14", "1:0.1-1", "1.0", "1.0a", "1.0+b", "1.0-0",
]  # fmt: skip


@needs("dpkg")
def test_order_is_dpkgs() -> None:
    for a, b in product(VERSIONS, VERSIONS):
        is_older = run_any(["dpkg", "--compare-versions", a, "lt", b])[0] == 0
        assert (compare(a, b) < 0) == is_older, (a, b)


def test_newest_comes_last() -> None:
    assert sorted(["6.1.9-1", "6.1.176-1", "6.1.20-1"], key=by_version)[-1] == "6.1.176-1"


def test_release_that_a_version_was_made_for() -> None:
    assert made_for("6.12.117-1~deb12u1") == made_for("6.12.95-1~bpo12+1") == 12
    assert made_for("7.2.9-1~bpo13+1") == 13
    assert made_for("6.1.176-1") is None
