# SPDX-License-Identifier: GPL-2.0-only
"""A small archive of Debian packages, made up: signed by a key of its own, reached as ``file:``."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache
from ksplicd.distro.archive import Archive
from ksplicd.distro.mirror import MAIN_SUITES, Mirror
from ksplicd.run import run

_DATE: Final = "Tue, 01 Dec 2026 00:00:00 UTC"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKey:
    """A key and its keyring."""

    home: Path
    keyring: Path
    _signed: dict[bytes, bytes] = field(default_factory=dict, compare=False)
    """What was signed before, by its text: most lists of most tests are empty."""

    @classmethod
    def make(cls, home: Path, name: str = "archive") -> "SigningKey":
        """Make a new key; ``home`` is created, and its path is short (gpg's socket)."""
        home.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
        run([*gpg, "--quick-gen-key", f"{name}@example.org", "ed25519", "sign", "never"])
        keyring = home / "keyring.gpg"
        keyring.write_bytes(run([*gpg, "--export"]))
        return cls(home=home, keyring=keyring)

    def sign(self, text: bytes) -> bytes:
        """Return the text, signed."""
        gpg = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--passphrase", ""]
        if text not in self._signed:
            argv = [*gpg, "--pinentry-mode", "loopback", "--clearsign"]
            self._signed[text] = run(argv, stdin=text)
        return self._signed[text]

    def end(self) -> None:
        """End the agent that gpg has started."""
        run(["gpgconf", "--homedir", self.home, "--kill", "gpg-agent"])


@dataclass(slots=True, kw_only=True)
class MadeUpArchive:
    """Packages by suite, which ``publish()`` writes."""

    folder: Path
    key: SigningKey
    packages: dict[str, list[str]] = field(default_factory=dict)
    """Stanzas of the list of each suite."""

    def mirror(self, uri: str = "") -> Mirror:
        """Return it as a mirror."""
        return Mirror(main=uri or f"file:{self.folder}", security=None, keyring=self.key.keyring)

    def open(self, cache: Path, uri: str = "") -> Archive:
        """Return it as the product sees it, with a new view of the cache."""
        return Archive(Cache(cache), self.mirror(uri))

    def add(
        self,
        suite: str,
        name: str,
        version: str,
        depends: str = "",
        files: Mapping[str, bytes | str] | None = None,
    ) -> Path:
        """Add a package; ``files``: what is in it, a text for a link.  Return the .deb."""
        content = self.folder / "content" / f"{name}_{version}"
        (content / "DEBIAN").mkdir(parents=True, exist_ok=True)
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x <x@x>\n"
            + (f"Depends: {depends}\n" if depends else "")
            + "Description: x\n"
        )
        (content / "DEBIAN/control").write_text(control)
        for path, data in (files or {}).items():
            (content / path).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(data, str):
                (content / path).symlink_to(data)
            else:
                (content / path).write_bytes(data)
        deb = self.folder / "pool" / f"{name}_{version}_amd64.deb"
        deb.parent.mkdir(exist_ok=True)
        if not deb.exists():
            run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", content, deb])
        data = deb.read_bytes()
        stanza = control.rstrip("\n") + (
            f"\nFilename: pool/{deb.name}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
        self.packages.setdefault(suite, []).append(stanza)
        return deb

    def publish(self, *, key: SigningKey | None = None, is_signed: bool = True) -> None:
        """Write the lists of all suites that are known; signed by ``key``, by default our own."""
        for suite in MAIN_SUITES:
            folder = self.folder / "dists" / suite
            binary = folder / "main/binary-amd64"
            binary.mkdir(parents=True, exist_ok=True)
            lists = {"Packages": "\n".join(self.packages.get(suite, [])).encode()}
            lists["Packages.gz"] = gzip.compress(lists["Packages"], mtime=0)
            lines = []
            for name, data in lists.items():
                (binary / name).write_bytes(data)
                digest = hashlib.sha256(data).hexdigest()
                lines.append(f" {digest} {len(data)} main/binary-amd64/{name}\n")
            release = (
                f"Origin: Debian\nSuite: {suite}\nCodename: {suite}\nDate: {_DATE}\n"
                "Architectures: amd64\nComponents: main\nSHA256:\n" + "".join(lines)
            ).encode()
            (folder / "Release").write_bytes(release)
            (folder / "InRelease").unlink(missing_ok=True)
            if is_signed:
                (folder / "InRelease").write_bytes((key or self.key).sign(release))
