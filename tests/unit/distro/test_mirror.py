# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.distro.mirror import Mirror, folder_of_apt, read_mirror
from ksplicd.errors import DistroError, NoSuchSuiteError
from tests.support.needs import needs

DEBIAN = """\
Types: deb deb-src
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.example/debian-security
Suites: bookworm-security
Components: main
"""


def write(etc: Path, text: str, name: str = "debian.sources") -> Path:
    (etc / "sources.list.d").mkdir(parents=True, exist_ok=True)
    (etc / "sources.list.d" / name).write_text(text)
    return etc


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "keyring.gpg"
    path.touch()
    return path


def test_suites_of_other_releases_come_from_the_same_mirror(tmp_path: Path, keyring: Path) -> None:
    mirror = read_mirror(write(tmp_path, DEBIAN), keyring)
    assert mirror == Mirror(
        main="http://deb.example/debian",
        security="http://deb.example/debian-security",
        keyring=keyring,
    )
    assert {"trixie", "trixie-backports", "sid", "trixie-security"} <= set(mirror.suites())
    stanza = mirror.stanza("trixie-security")
    assert "URIs: http://deb.example/debian-security\nSuites: trixie-security\n" in stanza
    assert f"Signed-By: {keyring}\n" in stanza
    assert "URIs: http://deb.example/debian\nSuites: sid\n" in mirror.stanza("sid")


@pytest.mark.parametrize(
    ("suite", "main"), [("stable", "http://a/"), ("trixie", "http://a/"), ("sid", "http://a/")]
)
def test_one_line_style_and_other_releases(
    tmp_path: Path, keyring: Path, suite: str, main: str
) -> None:
    text = f"deb [arch=amd64 trusted=yes] {main} {suite} main\n"
    mirror = read_mirror(write(tmp_path, text, "x.list"), keyring)
    assert (mirror.main, mirror.security) == (main, None)
    assert "bookworm-security" not in mirror.suites()
    assert "trusted" not in mirror.stanza("sid")


def test_other_vendors_and_disabled_sources_are_never_asked(tmp_path: Path, keyring: Path) -> None:
    vendor = "deb [signed-by=/usr/share/keyrings/vendor.gpg] http://vendor.example/ bookworm main\n"
    write(tmp_path, vendor, "a.list")
    write(tmp_path, "deb http://vendor.example/apt cloud-bookworm main\n", "b.list")
    write(tmp_path, DEBIAN.replace("Types:", "Enabled: no\nTypes:"))
    with pytest.raises(DistroError, match=r"no source of Debian among apt's; add one"):
        read_mirror(tmp_path, keyring)


def test_nothing_is_taken_without_a_keyring(tmp_path: Path) -> None:
    with pytest.raises(DistroError, match="install the package debian-archive-keyring"):
        read_mirror(write(tmp_path, DEBIAN), tmp_path / "missing.gpg")


def test_unknown_suite(keyring: Path) -> None:
    mirror = Mirror(main="x", security=None, keyring=keyring)
    mirror.check_suites(["sid", "bookworm"])
    with pytest.raises(NoSuchSuiteError, match="trixie-security: no suite"):
        mirror.check_suites(["trixie-security"])


@needs("apt-config")
def test_folder_of_settings_is_apts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / "apt.conf"
    settings.write_text(f'Dir::Etc "{tmp_path}/etc";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))
    assert folder_of_apt() == tmp_path / "etc"
