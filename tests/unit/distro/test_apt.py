# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path

import pytest

from ksplicd.distro.apt import is_from_debian, parse_one_line, read_stanzas

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


def test_deb822_is_read_with_comments_and_continued_values(tmp_path: Path) -> None:
    first, second = read_stanzas(write_sources(tmp_path, debian_sources=DEB822))
    assert first["Types"] == "deb deb-src"
    assert first["Suites"] == "bookworm bookworm-updates bookworm-backports"
    assert second["URIs"] == "http://deb.example/debian-security"
    assert second["Signed-By"].splitlines()[1:] == [
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]
    assert is_from_debian(first)
    assert is_from_debian(second)


def test_one_line_style_is_read(tmp_path: Path) -> None:
    etc = write_sources(tmp_path)
    (etc / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [ arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg ]"
        " http://deb.example/debian bookworm main contrib # comment\n"
        "deb-src http://deb.example/debian bookworm main\n"
    )
    (stanza,) = read_stanzas(etc)
    assert stanza == {
        "Types": "deb",
        "URIs": "http://deb.example/debian",
        "Suites": "bookworm",
        "Components": "main contrib",
        "Signed-By": "/usr/share/keyrings/debian-archive-keyring.gpg",
    }
    assert is_from_debian(stanza)


@pytest.mark.parametrize(
    "line",
    [
        "deb https://apt.example/debian bookworm stable",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://apt.example/x bookworm main",
    ],
)
def test_other_vendors_are_not_debian(line: str) -> None:
    (stanza,) = parse_one_line(line)
    assert not is_from_debian(stanza)


def test_disabled_stanza_is_not_used(tmp_path: Path) -> None:
    text = "Enabled: no\nTypes: deb\nURIs: http://x/\nSuites: bookworm\nComponents: main\n"
    (stanza,) = read_stanzas(write_sources(tmp_path, debian_sources=text))
    assert not is_from_debian(stanza)
