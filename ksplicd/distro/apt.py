# SPDX-License-Identifier: GPL-2.0-only
"""The host's own apt: where its packages come from, which versions there are, downloads.

It knows no mirror: it uses what the machine is configured with.
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache
from ksplicd.errors import DistroError, ToolError
from ksplicd.run import run, run_any

_AREAS: Final = frozenset({"main", "contrib", "non-free", "non-free-firmware"})

# sources.list(5), one-line style: deb [ option=value … ] uri suite component …
_ONE_LINE: Final = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<rest>\S.*)")


def read_stanzas(etc: Path) -> list[dict[str, str]]:
    """Return all sources below ``etc``, of both styles of sources.list(5), as deb822 fields."""
    stanzas: list[dict[str, str]] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]:
        if path.is_file():
            stanzas += parse_one_line(path.read_text())
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        stanzas += parse_deb822(path.read_text())
    return stanzas


def parse_one_line(text: str) -> list[dict[str, str]]:
    """Return the entries of a ``*.list`` file as deb822 fields."""
    stanzas = []
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.split("#")[0].strip())
        if match is None:
            continue
        suite, *components = match["rest"].split()
        stanza = {
            "Types": "deb",
            "URIs": match["uri"],
            "Suites": suite,
            "Components": " ".join(components),
        }
        for option in (match["options"] or "").split():
            name, _, value = option.partition("=")
            if name == "signed-by":
                stanza["Signed-By"] = value
        stanzas.append(stanza)
    return stanzas


def parse_deb822(text: str) -> list[dict[str, str]]:
    """Return the stanzas of a ``*.sources`` file; continued values keep their line breaks."""
    stanzas: list[dict[str, str]] = []
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                stanzas.append(fields)
            fields, last = {}, ""
        elif line[0] in " \t" and last:
            fields[last] += f"\n{line}"
        else:
            name, _, value = line.partition(":")
            last = name.strip()
            fields[last] = value.strip()
    return stanzas


def is_from_debian(stanza: Mapping[str, str]) -> bool:
    """Tell whether an enabled source of binary packages is Debian's, not another vendor's."""
    return (
        "deb" in stanza.get("Types", "").split()
        and stanza.get("Enabled", "yes").lower() not in {"no", "false", "without", "off", "disable"}
        and _AREAS.issuperset(stanza.get("Components", "").split())
        and _is_debian_key(stanza.get("Signed-By", ""))
    )


def _is_debian_key(signed_by: str) -> bool:
    """Tell other vendors' keyrings, such as /usr/share/keyrings/nodesource.gpg, from Debian's."""
    return not signed_by.startswith("/") or "debian" in Path(signed_by).name


def transport_options() -> list[str]:
    """Return apt.conf lines for how the host reaches its sources: proxies, certificates."""
    lines = run(["apt-config", "dump"]).decode().splitlines()
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Retries")
    return [line for line in lines if line.startswith(wanted) and not line.endswith('"";')]


def package_names(prefix: str) -> list[str]:
    """Return the names of all packages that start with ``prefix``."""
    return sorted(run(["apt-cache", "pkgnames", prefix]).decode().split())


def versions(package: str) -> list[str]:
    """Return the versions of ``package`` that the host's sources offer, newest first."""
    return versions_of([package])[package]


def versions_of(packages: Sequence[str]) -> dict[str, list[str]]:
    """Return the versions of each package that the host's sources offer, newest first."""
    found: dict[str, list[str]] = {package: [] for package in packages}
    if packages:
        for line in run(["apt-cache", "madison", *packages]).decode().splitlines():
            name, version, source = (part.strip() for part in line.split("|"))
            if name in found and source.endswith(" Packages") and version not in found[name]:
                found[name].append(version)
    return found


def _retry_after_update(cache: Cache, argv: list[str], *, why: Callable[[], str]) -> None:
    """Run apt; when that fails, because its lists are old or missing, update them and try again."""
    try:
        run(argv)
    except ToolError:
        cache.progress("updating apt's lists")
        with contextlib.suppress(ToolError):
            run([*sudo(), "apt-get", "update", "-qq", "-o", "DPkg::Lock::Timeout=300"])
        try:
            run(argv)
        except ToolError as e:
            raise DistroError(f"{why()}: {str(e).splitlines()[-1]}") from e


def _why(package: str, version: str) -> str:
    offered = versions(package)
    if version in offered:
        return f"{package} {version} could not be had from this machine's apt sources"
    there = f"they have {', '.join(offered)}" if offered else "they have no version of it"
    return f"{package} {version} is not in this machine's apt sources ({there})"


def sudo() -> list[str]:
    """Return what a command needs in front to run as root; sudo asks on the terminal."""
    return [] if os.geteuid() == 0 else ["sudo"]


def installed_version(package: str) -> str | None:
    """Return the installed version of ``package``, or None."""
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package]
    status, out, _ = run_any(query)
    state, _, version = out.decode().partition(" ")
    return version if status == 0 and state == "installed" else None


def install(cache: Cache, package: str, version: str) -> None:
    """Install exactly this version on the host, as root or through sudo.

    Raises ``DistroError`` when that fails.
    """
    if installed_version(package) == version:
        return
    cache.progress(f"installing {package} {version}")
    argv = [
        *(*sudo(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"),
        *("--no-install-recommends", "--allow-downgrades", "-o", "DPkg::Lock::Timeout=300"),
        f"{package}={version}",
    ]
    with cache.lock("apt-install"):
        _retry_after_update(cache, argv, why=lambda: _why(package, version))
