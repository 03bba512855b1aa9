# SPDX-License-Identifier: GPL-2.0-only
"""Which of the trusted keys may sign which update: the rules of ``[signers]`` in ksplicd.conf.

At most one rule holds for each target of an update and for each CVE that it fixes: the most
specific one.  Every rule that holds has to allow the signer.  Without a rule, any trusted key may
sign.

Whoever takes an update away, by replacing it, excluding it or using its id, has to be allowed to
sign it: else a key for one module could undo a fix of another one.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol

from ksplicd.config import SignerRule
from ksplicd.errors import SignerNotAllowedError
from ksplicd.model import Manifest

_NO_CVE: Final = "no-CVE"
_ANY_TARGET: Final = "*"
_CVE: Final = "CVE-"


class Signer(Protocol):
    """Who signed a bundle (``verify.Trusted``)."""

    @property
    def signer(self) -> str:
        """The key id as minisign prints it, empty for an unsigned bundle."""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key."""


def check_signer(
    manifest: Manifest, signer: str, rules: Sequence[SignerRule], fingerprint: str = ""
) -> None:
    """Raise ``SignerNotAllowedError`` unless every rule for this update allows ``signer``.

    ``signer`` is a key id as minisign prints it, empty for an unsigned bundle; ``fingerprint`` is
    of the same key.
    """
    for rule, what in _rules_for(manifest, rules):
        if rule.keys.isdisjoint({signer, fingerprint}):
            by = f"is signed by key {signer}" if signer else "is not signed"
            raise SignerNotAllowedError(
                f"{manifest.kid}: {by}, but only {', '.join(sorted(rule.keys))} may sign {what} "
                f"({rule.what} in [signers] of ksplicd.conf)"
            )


def why_no_claim(
    claimer: Signer | None,
    manifest: Manifest,
    rules: Sequence[SignerRule],
    *,
    is_whole: bool = True,
) -> str:
    """Return why the signer of ``claimer`` may not take an update away; empty when it may.

    ``is_whole``: otherwise only the targets of ``manifest`` are known, and every rule about CVEs
    holds.
    """
    signer, fingerprint = (claimer.signer, claimer.fingerprint) if claimer else ("", "")
    found = list(_rules_for(manifest, rules))
    if not is_whole:
        found += [(rule, "what may be a fix of a CVE") for rule in rules if _is_about_cve(rule)]
    for rule, what in found:
        if rule.keys.isdisjoint({signer, fingerprint}):
            by = f"key {signer}" if signer else "an unsigned bundle"
            return f"{by} may not sign {what} ({rule.what} in [signers] of ksplicd.conf)"
    return ""


def _rules_for(manifest: Manifest, rules: Sequence[SignerRule]) -> Iterator[tuple[SignerRule, str]]:
    """Yield each rule that holds for the update, with a name for its subject."""
    for is_also in (False, True):
        yield from _rules_among(manifest, [rule for rule in rules if rule.is_also is is_also])


def _rules_among(
    manifest: Manifest, rules: Sequence[SignerRule]
) -> Iterator[tuple[SignerRule, str]]:
    """Yield the most specific rules for the update."""
    known = {rule.what.replace("-", "_"): rule for rule in rules if not _is_about_cve(rule)}
    for target in manifest.targets:
        rule = known.get(target.name.replace("-", "_")) or known.get(_ANY_TARGET)
        if rule is not None:
            yield rule, f"target {target.name}"
    for rule in rules:
        if rule.what == _NO_CVE and not manifest.cves:
            yield rule, "an update without a CVE"
    for cve in manifest.cves:
        fitting = [r for r in rules if r.what.startswith(_CVE) and fnmatchcase(cve, r.what)]
        if fitting:
            yield max(fitting, key=lambda rule: len(rule.what)), f"a fix of {cve}"


def _is_about_cve(rule: SignerRule) -> bool:
    return rule.what == _NO_CVE or rule.what.startswith(_CVE)
