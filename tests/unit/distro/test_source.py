# SPDX-License-Identifier: GPL-2.0-only
import pytest

from ksplicd.distro.model import ChangelogEntry
from ksplicd.distro.source import parse_changelog, series
from ksplicd.errors import DistroError

CHANGELOG = """\
linux (6.1.192-2) bookworm-security; urgency=high

  * ext4: fix NULL folio dereference in mballoc (Closes: #1154101)

 -- A Maintainer <a@example.org>  Mon, 16 Nov 2026 11:17:40 +0100

linux (6.1.192-1) bookworm-security; urgency=high

  * New upstream stable update:
    https://www.example.org/ChangeLog-6.1.191
    - apparmor: fix out-of-bounds write when null terminating a label
      (CVE-2026-89761)
    - fcntl: one line

  [ Somebody Else ]
  * Bump ABI to 55

 -- A Maintainer <a@example.org>  Sun, 15 Nov 2026 11:17:40 +0100
"""


def test_changelog_lines_are_unfolded() -> None:
    assert parse_changelog(CHANGELOG) == (
        ChangelogEntry(
            version="6.1.192-2",
            changes=("ext4: fix NULL folio dereference in mballoc (Closes: #1154101)",),
        ),
        ChangelogEntry(
            version="6.1.192-1",
            changes=(
                "New upstream stable update: https://www.example.org/ChangeLog-6.1.191",
                "apparmor: fix out-of-bounds write when null terminating a label (CVE-2026-89761)",
                "fcntl: one line",
                "Bump ABI to 55",
            ),
        ),
    )


def test_series_is_read_from_the_version() -> None:
    assert series("6.1.176-1") == "6.1"
    assert series("6.12.107-1+deb12u1") == "6.12"
    with pytest.raises(DistroError, match="'bookworm' is no version"):
        series("bookworm")
