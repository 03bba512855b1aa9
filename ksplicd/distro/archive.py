# SPDX-License-Identifier: GPL-2.0-only
"""Debian's archive, read by an apt with a state of its own in the cache.

The machine's apt says how a mirror is reached (proxies, certificates, credentials); its lists and
its packages are neither read nor changed, so no root is needed.  Lists are verified with Debian's
keyring, packages by their digests in the lists; what cannot be verified is not used, whatever the
machine's settings allow.  What is there already is used without the network.
"""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NoReturn

from ksplicd.cache import Cache
from ksplicd.distro.mirror import Mirror, read_mirror
from ksplicd.distro.versions import by_version, compare
from ksplicd.errors import (
    DistroError,
    NoSpaceError,
    NoSuchSuiteError,
    UnreachableError,
    UntrustedError,
)
from ksplicd.run import run, run_any

FRESH: Final = 24 * 3600.0
"""Seconds after which lists are asked for again."""

_AGAIN: Final = 600.0
"""Seconds after which a mirror that did not answer is asked again."""
_OLD: Final = "is as it was when the mirror last answered"

_SCHEMA: Final = 1
_ROOM: Final = 256 << 20
"""Bytes that an update of the lists takes."""

KBUILD: Final = "linux-kbuild-"
"""Programs of the kernel's build; the headers depend on theirs or, in Debian 12, a newer one."""

_HELPER: Final = "/usr/lib/apt/apt-helper"
_WANTED: Final = re.compile(
    r"linux-(?:image|headers|binary|modules|base|kbuild|source)-\d\S*(?<!-dbg)(?<!-unsigned)"
    r"|gcc-\d+"
)
"""Names of the packages that are remembered: parts of kernels, and compilers."""
_FIELD: Final = re.compile(r"^(Package|Version|Depends|Size): (.*)$", re.MULTILINE)

# apt-get(8): what it prints of a suite that it could not have
_SUITE: Final = re.compile(r"/dists/([a-z-]+)/|\s([a-z-]+) (?:In)?Release\b")
_SAYS: Final[Sequence[tuple[type[DistroError], re.Pattern[str]]]] = (
    (NoSpaceError, re.compile(r"No space left|enough free space|Disk quota")),
    (
        UntrustedError,
        re.compile(
            r"GPG error|not signed|NO_PUBKEY|BADSIG|EXPKEYSIG|signatures?\b|Hash Sum mismatch"
            r"|unexpected size|unauthenticated|certificate"
        ),
    ),
    (
        UnreachableError,
        re.compile(
            r"Could not resolve|Could not connect|Unable to connect|[Tt]emporary failure"
            r"|timed out|Connection (?:refused|reset|failed)|Network is unreachable|Cannot initiate"
            r"|Bad Gateway|Service Unavailable|Proxy|  50[0-9]"
        ),
    ),
    (NoSuchSuiteError, re.compile(r"does not have a Release file|404|no longer has|not found")),
)
"""Its words → what is wrong; the first that fits.  A proxy's 404 is told from an unknown suite by
nobody."""

_SETTINGS: Final = """\
Dir::State "{root}";
Dir::State::status "{root}/status";
Dir::State::lists "{root}/lists";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
Dir::Cache::pkgcache "pkgcache.bin";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources.list.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{root}/none.d";
Dir::Etc::trusted "/dev/null";
Dir::Etc::trustedparts "{root}/none.d";
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
# apt's sandbox user cannot enter the cache of another user
_AS_ROOT: Final = 'APT::Sandbox::User "root";\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A version of a package, as a suite has it."""

    name: str
    version: str
    suite: str
    size: int
    """Bytes of the .deb."""
    depends: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What the suites had when they were last asked."""

    packages: tuple[Package, ...]
    notes: tuple[str, ...] = ()
    """A line for each suite that could not be had, or only as it was before."""
    _by_name: dict[str, list[Package]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for package in self.packages:
            self._by_name.setdefault(package.name, []).append(package)

    def names(self) -> Iterable[str]:
        """Return the names of all packages."""
        return self._by_name.keys()

    def of(self, name: str, version: str | None = None) -> list[Package]:
        """Return the versions of a package in the order of the suites."""
        found = self._by_name.get(name, [])
        return [p for p in found if version in (None, p.version)]

    def of_kernel(self, package: str, version: str) -> list[str]:
        """Return the versions of a package that go with a version of a kernel, the best first."""
        offered = {p.version for p in self.of(package)}
        if version in offered or not package.startswith(KBUILD):
            return [version] if version in offered else []
        newer = [v for v in offered if compare(v, version) > 0]
        return sorted(newer, key=by_version, reverse=True)


class Archive:
    """The archive of one mirror.  Methods raise ``DistroError`` and its leaves."""

    def __init__(self, cache: Cache, mirror: Mirror | None = None) -> None:
        """``mirror``: by default, that which the machine is configured with."""
        self.cache, self._mirror = cache, mirror
        self.root: Final = cache.root / "apt"

    @cached_property
    def mirror(self) -> Mirror:
        """The mirror."""
        return self._mirror or read_mirror()

    @cached_property
    def index(self) -> Index:
        """What the suites have; asked of the mirror when nothing fresh is there."""
        return self.read_index()

    def read_index(self, suites: Sequence[str] = (), *, fresh: float = FRESH) -> Index:
        """Return what the suites have; asked for again when that is older than ``fresh`` seconds.

        Without the network the last lists serve, with a note.  ``suites``: must be there.
        """
        self.mirror.check_suites(suites)
        kept = self._kept_index(fresh)
        if kept is None:
            with self.cache.lock("apt-lists"):
                kept = self._kept_index(fresh) or self._update()
        for suite in suites:
            for note in kept.notes:
                if note.startswith(f"{suite}: "):
                    raise NoSuchSuiteError(note)
        return kept

    def _kept_index(self, fresh: float) -> Index | None:
        """Return the index in the cache, None when it is not there, old, or of another mirror."""
        try:
            if time.time() - self._index_file.stat().st_mtime > fresh:
                return None
            return read_index(self._index_file.read_text(), self._made_from)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def _index_file(self) -> Path:
        return self.root / "index.json"

    @property
    def _made_from(self) -> str:
        return "".join(map(self.mirror.stanza, self.mirror.suites()))

    def _update(self) -> Index:
        """Ask the mirror for its lists, and keep what matters of them."""
        self.cache.progress("asking the mirror for its lists of packages")
        self._write_settings()
        check_room(self.root, _ROOM)
        argv = [*self._apt("apt-get"), "-q", "--error-on=any", "update"]
        status, out, err = run_any(argv)
        words = (out + err).decode(errors="replace")
        there = self._lists()
        notes = list(self._judge(words, there)) if status else []
        if not there:
            raise UnreachableError(f"{self._where()}: has no list of packages\n{_tail(words)}")
        packages = tuple(p for suite in self.mirror.suites() for p in self._read(suite, there))
        index = Index(packages=packages, notes=tuple(notes))
        temporary = self._index_file.with_suffix(".new")
        temporary.write_text(write_index(index, self._made_from))
        temporary.replace(self._index_file)
        if any(note.endswith(_OLD) for note in notes):  # ask again before the day is over
            asked = time.time() - FRESH + _AGAIN
            os.utime(self._index_file, (asked, asked))
        return index

    def _judge(self, words: str, there: Mapping[str, Path]) -> Iterator[str]:
        """Yield a note for each suite that cannot be had; raise what is no matter of one suite."""
        failed: dict[str, type[DistroError]] = {}
        for line in words.splitlines():
            if not line.startswith(("E:", "W:", "Err:")):
                continue
            cause = _cause(line)
            if cause is NoSpaceError:
                raise NoSpaceError(f"{self.root}: the disk is full; see `ksplice cache`")
            suite = next((a or b for a, b in _SUITE.findall(line)), None)
            if cause is UntrustedError:
                raise UntrustedError(
                    f"{self._where()}: {suite or 'a suite'} is not signed by a key of"
                    f" {self.mirror.keyring}, and nothing of it is used: {line}"
                )
            if suite in self.mirror.suites() and cause is not None:
                failed.setdefault(suite, cause)
        if not failed:
            raise DistroError(f"apt-get update: failed\n{_tail(words)}")
        if not there:
            cause = next(iter(failed.values()))
            raise cause(
                f"{self._where()}: does not answer, and the cache has no list of packages"
                f"\n{_tail(words)}"
            )
        for suite, cause in failed.items():
            if cause is NoSuchSuiteError:
                yield f"{suite}: the mirror has no such suite"
            elif suite in there:
                yield f"{suite} {_OLD}"
            else:
                yield f"{suite}: the mirror does not answer"

    def _where(self) -> str:
        """Name the mirror by where it is written down; its name is nobody's business."""
        return "the mirror that apt is configured with"

    def _write_settings(self) -> None:
        try:
            for folder in ("lists/partial", "archives/partial", "sources.list.d", "none.d"):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            text = _SETTINGS.format(root=self.root) + (_AS_ROOT if os.geteuid() == 0 else "")
            sources = "\n".join(map(self.mirror.stanza, self.mirror.suites()))
            for name, wanted in (
                ("status", ""), ("apt.conf", text), ("sources.list.d/debian.sources", sources),
            ):  # fmt: skip
                path = self.root / name
                if not path.exists() or path.read_text() != wanted:
                    path.write_text(wanted)  # apt reads all lists again after each change
        except OSError as e:
            raise space_or(e, self.root) from e

    def _apt(self, program: str) -> list[str]:
        return [program, "-c", str(self.root / "apt.conf")]

    def _lists(self) -> dict[str, Path]:
        """Return the verified lists by suite."""
        line = "$(SUITE)\t$(CODENAME)\t$(FILENAME)"
        out = run([*self._apt("apt-get"), "indextargets", "--format", line, "Created-By: Packages"])
        found = {}
        for row in out.decode().splitlines():
            suite, codename, name = row.split("\t")
            found[codename if codename in self.mirror.suites() else suite] = Path(name)
        return found

    def _read(self, suite: str, lists: Mapping[str, Path]) -> Iterator[Package]:
        if suite in lists:
            text = run([*self._apt(_HELPER), "cat-file", lists[suite]]).decode(errors="replace")
            yield from parse_packages(text, suite)

    # --- packages -------------------------------------------------------------------------------

    def download(self, package: str, version: str) -> Path:
        """Return the .deb of exactly this version, from the cache or the mirror; it is verified.

        Of a download that was interrupted nothing is left, or the next one removes it.
        """
        folder = self.cache.root / "dl"
        with self.cache.lock(f"dl-{package}-{version}"):
            for path in deb_files(folder, package, version):
                os.utime(path)
                return path
            offered = self.index.of(package)
            if version not in {p.version for p in offered}:
                self._refuse(package, version, [p.version for p in offered])
            size = next(p.size for p in offered if p.version == version)
            self.cache.progress(f"downloading {package} {version} ({size / 1e6:.0f} MB)")
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for stale in folder.glob(f".{package}_{version}-*"):  # its maker was killed
                    shutil.rmtree(stale, ignore_errors=True)
                prefix = f".{package}_{version}-"
                with tempfile.TemporaryDirectory(prefix=prefix, dir=folder) as new:
                    return self._download_to(Path(new), package, version, size)
            except OSError as e:
                raise space_or(e, folder) from e

    def version_for(self, package: str, version: str) -> str:
        """Return the version of a kernel's package that goes with a version of the kernel.

        The same; of linux-kbuild a newer one, where that is no longer there.
        """
        if not package.startswith(KBUILD) or deb_files(self.cache.root / "dl", package, version):
            return version
        return next(iter(self.index.of_kernel(package, version)), version)

    def _download_to(self, new: Path, package: str, version: str, size: int) -> Path:
        self._write_settings()
        argv = [*self._apt("apt-get"), "-q", "download", f"{package}={version}"]
        status, out, err = run_any(argv, cwd=new)
        words = (out + err).decode(errors="replace")
        if status == 0:
            for path in deb_files(new, package, version):
                if path.stat().st_size == size:
                    return path.rename(new.parent / path.name)
            words = f"E: {package} {version}: unexpected size of the file\n{words}"
        cause = next((c for c in map(_cause, words.splitlines()) if c is not None), DistroError)
        if cause is NoSpaceError:
            raise NoSpaceError(f"{new.parent}: the disk is full; see `ksplice cache`")
        if cause is NoSuchSuiteError:
            cause = DistroError  # the list is older than the mirror's files
        raise cause(f"{package} {version}: could not be had from {self._where()}\n{_tail(words)}")

    def _refuse(self, package: str, version: str, offered: Sequence[str]) -> NoReturn:
        there = f"it has {', '.join(dict.fromkeys(offered))}" if offered else "it has none of it"
        raise DistroError(f"{package} {version} is not on {self._where()} ({there})")


def deb_files(folder: Path, package: str, version: str) -> list[Path]:
    """Return the files of this version of a package in a folder; at most one, in practice."""
    return sorted(folder.glob(f"{package}_{version.replace(':', '%3a')}_*.deb"))


def check_room(folder: Path, needed: int) -> None:
    """Raise ``NoSpaceError`` unless a folder's disk has so many bytes: apt hangs on a full one."""
    if (free := shutil.disk_usage(folder).free) < needed:
        raise NoSpaceError(
            f"{folder}: {free >> 20} MB are free, and {needed >> 20} MB are needed; see"
            " `ksplice cache`"
        )


def space_or(e: OSError, where: Path) -> DistroError:
    """Return what an error of the file system means for somebody who wants packages."""
    if e.errno in (28, 122):  # ENOSPC, EDQUOT
        return NoSpaceError(f"{where}: the disk is full; see `ksplice cache`")
    return DistroError(f"{e.filename or where}: {e.strerror}")


def parse_packages(text: str, suite: str) -> Iterator[Package]:
    """Yield the packages of a list that are parts of kernels, or compilers."""
    for stanza in text.split("\n\n"):
        name = stanza.lstrip("\n").partition("\n")[0].removeprefix("Package: ")
        if _WANTED.fullmatch(name):
            fields = dict(_FIELD.findall(stanza))
            yield Package(
                name=name,
                version=fields["Version"],
                suite=suite,
                size=int(fields["Size"]),
                depends=fields.get("Depends", ""),
            )


def write_index(index: Index, made_from: str) -> str:
    """Return the index as JSON."""
    rows = [astuple(p) for p in index.packages]
    out = {"schema": _SCHEMA, "from": made_from, "notes": index.notes, "packages": rows}
    return json.dumps(out)


def read_index(text: str, made_from: str) -> Index | None:
    """Return the index that ``write_index`` wrote, None for one from elsewhere.

    Raises ``ValueError``, ``KeyError`` or ``TypeError`` for other text.
    """
    data = json.loads(text)
    if data["schema"] != _SCHEMA or data["from"] != made_from:
        return None
    rows = [
        Package(name=name, version=version, suite=suite, size=size, depends=depends)
        for name, version, suite, size, depends in data["packages"]
    ]
    return Index(packages=tuple(rows), notes=tuple(data["notes"]))


def _cause(line: str) -> type[DistroError] | None:
    return next((cause for cause, says in _SAYS if says.search(line)), None)


def _tail(words: str) -> str:
    lines = [line for line in words.splitlines() if line.startswith(("E:", "W:"))]
    return "\n".join(lines[-4:])
