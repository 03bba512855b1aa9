# SPDX-License-Identifier: GPL-2.0-only
from dataclasses import replace

from ksplicd.cli.kernels import select, to_json, to_table
from ksplicd.distro.model import Kernel

ONE = Kernel(
    release="6.1.0-50-cloud-amd64",
    version="6.1.176-1",
    suite="bookworm",
    newer="6.1.192-3",
    compiler="gcc-12",
    cached=True,
)
OTHER = replace(
    ONE, release="7.2.13+deb14-amd64", version="7.2.13-1", suite="sid", newer=None, cached=False
)


def test_words_and_suites_select() -> None:
    assert select([ONE, OTHER], [], []) == [ONE, OTHER]
    assert select([ONE, OTHER], ["6.1", "cloud"], []) == [ONE]
    assert select([ONE, OTHER], ["6.1", "deb14"], []) == []
    assert select([ONE, OTHER], [], ["sid", "trixie"]) == [OTHER]


def test_json() -> None:
    assert to_json(ONE, ONE.release) == {
        "release": "6.1.0-50-cloud-amd64",
        "version": "6.1.176-1",
        "suite": "bookworm",
        "newer_source": "6.1.192-3",
        "compiler": "gcc-12",
        "cached": True,
        "running": True,
    }
    assert to_json(OTHER, ONE.release)["newer_source"] is None


def test_table() -> None:
    head, one, other = to_table([ONE, OTHER], ONE.release)
    assert head.split() == ["RELEASE", "VERSION", "SUITE", "NEWER", "SOURCE", "COMPILER"]
    assert one.endswith("gcc-12    running, cached")
    assert other.split() == ["7.2.13+deb14-amd64", "7.2.13-1", "sid", "-", "gcc-12"]
