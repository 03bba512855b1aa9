# SPDX-License-Identifier: GPL-2.0-only
"""Which mirror of Debian this machine is configured with, and the suites to ask it for.

The machine's sources name suites of its own release; the same mirror has those of the others.  No
other place is ever asked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.distro.apt import is_from_debian, read_stanzas
from ksplicd.errors import DistroError, NoSuchSuiteError
from ksplicd.run import run

MAIN_SUITES: Final = (
    *("bookworm", "bookworm-updates", "bookworm-backports"),
    *("trixie", "trixie-updates", "trixie-backports"),
    *("forky", "sid"),
)
SECURITY_SUITES: Final = ("bookworm-security", "trixie-security")
"""They are in an archive of their own."""

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Of the package debian-archive-keyring; it has the keys of all releases."""

_ALIASES: Final = frozenset({"oldoldstable", "oldstable", "stable", "testing", "unstable"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Where Debian's archives are, as the field ``URIs`` of sources.list(5) has it."""

    main: str
    security: str | None
    """None: the machine's sources name no archive of security updates."""
    keyring: Path = KEYRING

    def suites(self) -> tuple[str, ...]:
        """Return the names of all suites that this mirror may have."""
        return (*MAIN_SUITES, *(SECURITY_SUITES if self.security else ()))

    def check_suites(self, names: Sequence[str]) -> None:
        """Raise ``NoSuchSuiteError`` for a suite that nobody knows."""
        for name in names:
            if name not in self.suites():
                known = ", ".join(self.suites())
                raise NoSuchSuiteError(f"{name}: no suite of Debian that is known here: {known}")

    def stanza(self, suite: str) -> str:
        """Return the source of a suite in deb822 style: its list of packages, nothing else."""
        uri = self.security if suite in SECURITY_SUITES else self.main
        return (
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n"
            f"Targets: Packages\nSigned-By: {self.keyring}\n"
        )


def read_mirror(etc: Path | None = None, keyring: Path = KEYRING) -> Mirror:
    """Return the mirror that apt is configured with; ``etc``: apt's folder, by default its own.

    Raises ``DistroError`` when there is none, or without the keyring.
    """
    etc = etc or folder_of_apt()
    found = list(_debian_uris(etc))
    main = next((uri for uri, is_security in found if not is_security), None)
    if main is None:
        raise DistroError(
            f"{etc}: no source of Debian among apt's; add one to {etc}/sources.list.d, as"
            " sources.list(5) has it"
        )
    if not keyring.is_file():
        raise DistroError(
            f"{keyring}: missing, and nothing is taken from an archive without it; install the"
            " package debian-archive-keyring"
        )
    security = next((uri for uri, is_security in found if is_security), None)
    return Mirror(main=main, security=security, keyring=keyring)


def folder_of_apt() -> Path:
    """Return apt's folder of settings, /etc/apt unless apt.conf(5) names another."""
    line = run(["apt-config", "shell", "etc", "Dir::Etc/d"]).decode().strip()
    return Path(line.partition("=")[2].strip("'") or "/etc/apt")


def _debian_uris(etc: Path) -> Iterator[tuple[str, bool]]:
    """Yield each URI of Debian, and whether it is that of the security updates."""
    codenames = {suite.partition("-")[0] for suite in MAIN_SUITES} | _ALIASES
    for stanza in read_stanzas(etc):
        suites = stanza.get("Suites", "").split()
        known = [s for s in suites if s.partition("-")[0].partition("/")[0] in codenames]
        if is_from_debian(stanza) and known:
            yield stanza["URIs"], known[0].endswith(("-security", "/updates"))
