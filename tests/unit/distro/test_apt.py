# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.distro.apt import debian_sources, parse_deb822, parse_one_line
from ksplicd.errors import DistroError

DEB822 = """\
Types: deb deb-src
# a comment inside
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""


def write_sources(etc: Path, **files: str) -> Path:
    (etc / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (etc / "sources.list.d" / f"{stem}.{suffix}").write_text(text)
    return etc


def test_deb822_is_restricted_to_the_suites_of_the_guest(tmp_path: Path) -> None:
    text = debian_sources(write_sources(tmp_path, debian_sources=DEB822))
    first, second = parse_deb822(text)
    assert first["Types"] == "deb"
    assert first["Suites"] == "bookworm bookworm-updates"
    assert second["URIs"] == "http://deb.example/debian-security"
    assert second["Signed-By"].splitlines()[1:] == [
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


def test_one_line_style_is_read(tmp_path: Path) -> None:
    etc = write_sources(tmp_path)
    (etc / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ]"
        " http://deb.example/debian bookworm main contrib # comment\n"
        "deb-src http://deb.example/debian bookworm main\n"
    )
    assert parse_deb822(debian_sources(etc)) == [
        {
            "Types": "deb",
            "URIs": "http://deb.example/debian",
            "Suites": "bookworm",
            "Components": "main contrib",
            "Signed-By": "/usr/share/keyrings/debian-archive-keyring.gpg",
        }
    ]


@pytest.mark.parametrize(
    "line",
    [
        "deb https://packages.example/apt cloud-sdk-bookworm main",
        "deb https://apt.example/debian bookworm stable",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://apt.example/x bookworm main",
        "deb http://deb.example/debian trixie main",
        "deb https://apt.example/flat ./",
    ],
)
def test_other_vendors_and_suites_are_left_out(tmp_path: Path, line: str) -> None:
    etc = write_sources(tmp_path, debian_sources=DEB822, vendor_list=line)
    assert len(parse_one_line(line)) == 1
    assert len(parse_deb822(debian_sources(etc))) == 2


def test_disabled_stanza_is_left_out_and_nothing_left_is_an_error(tmp_path: Path) -> None:
    stanza = "Enabled: no\nTypes: deb\nURIs: http://x/\nSuites: bookworm\nComponents: main\n"
    with pytest.raises(DistroError, match="no source of Debian's bookworm suite"):
        debian_sources(write_sources(tmp_path, debian_sources=stanza))
