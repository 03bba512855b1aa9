# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.distro.mirror import Mirror
from ksplicd.errors import NoSuchSuiteError
from ksplicd.lab.root_archive import RootArchive

MIRROR = Mirror(main="http://deb.example/debian", security="http://deb.example/security")


def test_each_suite_comes_from_the_machines_mirror_with_its_updates() -> None:
    sources = RootArchive(mirror=MIRROR, suite="trixie").sources
    assert "URIs: http://deb.example/debian\nSuites: trixie\n" in sources
    assert "URIs: http://deb.example/security\nSuites: trixie-security\n" in sources
    assert "Suites: trixie-updates\n" in sources
    assert "bookworm" not in sources
    assert sources.count("Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n") == 3
    assert "Suites: sid\n" in RootArchive(mirror=MIRROR, suite="sid").sources


def test_archives_differ_by_suite_packages_and_mirror() -> None:
    no_security = Mirror(main=MIRROR.main, security=None)
    made = (
        RootArchive(mirror=MIRROR),
        RootArchive(mirror=MIRROR, suite="trixie"),
        RootArchive(mirror=MIRROR, suite="trixie", packages=["systemd"]),
        RootArchive(mirror=no_security, suite="trixie"),
    )
    assert len({root.digest() for root in made}) == 4


def test_suite_that_moves_is_made_anew_after_a_week(monkeypatch: pytest.MonkeyPatch) -> None:
    released, moving = (RootArchive(mirror=MIRROR, suite=suite) for suite in ("trixie", "sid"))
    monkeypatch.setattr("ksplicd.lab.root_archive.time.time", lambda: 1.8e9)
    before = released.digest(), moving.digest()
    monkeypatch.setattr("ksplicd.lab.root_archive.time.time", lambda: 1.8e9 + 8 * 24 * 3600)
    assert released.digest() == before[0]
    assert moving.digest() != before[1]


def test_unknown_suite_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(NoSuchSuiteError, match="buster: no suite of Debian that is known"):
        RootArchive(mirror=MIRROR, suite="buster").made(Cache(tmp_path))
