# SPDX-License-Identifier: GPL-2.0-only
"""Which updates a key may sign, and until when."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import minisign
from ksplicd.config import Settings, SignerRule, parse_settings
from ksplicd.errors import BadSignatureError, KeyFileError, SignerNotAllowedError
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.trust.signers import check_signer
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, Host

A, B = "AAAA", "BBBB"
MINE = samples.KEY.public.name
SIGNED = samples.signature(samples.bundle())


def rules(*lines: str) -> tuple[SignerRule, ...]:
    words = [line.partition(" = ") for line in lines]
    return tuple(SignerRule(what=w, keys=frozenset(keys.split())) for w, _, keys in words)


@pytest.mark.parametrize(
    ("lines", "who_may"),
    [
        ((), {A, B, ""}),
        (("vmlinux = AAAA",), {A}),
        (("* = AAAA",), {A}),
        (("vmlinux = AAAA BBBB", "* = CCCC"), set()),  # of the other target
        (("vmlinux = AAAA BBBB", "nf-tables = BBBB", "* = CCCC"), {B}),
        (("xfs = AAAA",), {A, B, ""}),
        (("CVE-* = AAAA",), {A}),
        (("CVE-* = AAAA", "CVE-2026-* = BBBB"), {B}),
        (("CVE-2026-* = BBBB", "CVE-2026-12345 = AAAA", "CVE-* = BBBB"), {A}),
        (("CVE-2025-* = AAAA",), {A, B, ""}),
        (("no-CVE = AAAA",), {A, B, ""}),
        (("vmlinux = AAAA", "CVE-* = BBBB"), set()),
    ],
)
def test_rules(lines: tuple[str, ...], who_may: set[str]) -> None:
    manifest = samples.manifest(targets=("vmlinux", "nf_tables"))
    for signer in (A, B, ""):
        if signer in who_may:
            check_signer(manifest, signer, rules(*lines))
        else:
            with pytest.raises(SignerNotAllowedError, match="may sign"):
                check_signer(manifest, signer, rules(*lines))


def test_rule_by_fingerprint_holds_for_one_key() -> None:
    """The owner of a key chooses its id, and may choose another one's."""
    mine = samples.KEY.public
    impostor = replace(samples.STRANGER.public, key_id=mine.key_id)
    assert impostor.name == mine.name
    found = parse_settings(f"[signers]\nvmlinux = {mine.fingerprint.lower()}\n", "x.conf").signers
    check_signer(samples.manifest(), mine.name, found, mine.fingerprint)
    with pytest.raises(SignerNotAllowedError, match="only SHA256:"):
        check_signer(samples.manifest(), impostor.name, found, impostor.fingerprint)


def test_rule_by_fingerprint_on_a_host(host: Host) -> None:
    host.settings = Settings(signers=rules(f"vmlinux = {samples.KEY.public.fingerprint}"))
    host.engine = host.new_engine()
    assert host.stage().stage is Stage.STAGED
    host.apply()


def test_of_two_keys_with_one_id_neither_is_trusted(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    impostor = replace(samples.STRANGER, key_id=samples.KEY.key_id)
    path = host.root.parent / "keys/impostor.pub"
    path.parent.mkdir(exist_ok=True)
    keyring = Keyring(path.parent, os.getuid())
    for name, key in (("a.pub", samples.KEY), ("b.pub", samples.KEY), ("c.pub", samples.STRANGER)):
        (path.parent / name).write_text(minisign.write_public_key(key.public))
        (path.parent / name).chmod(0o644)
    ids = {key.key_id for key in keyring.read().trusted}
    assert ids == {samples.KEY.key_id, samples.STRANGER.key_id}  # the same key twice is one
    path.write_text(minisign.write_public_key(impostor.public))
    path.chmod(0o644)
    found = keyring.read()
    assert {key.key_id for key in found.trusted} == {samples.STRANGER.key_id}
    assert {"a.pub", "b.pub", "impostor.pub"} <= set(found.ignored)
    assert "another key has the id" in caplog.text


def test_update_without_a_cve() -> None:
    manifest = replace(samples.manifest(), cves=())
    check_signer(manifest, A, rules("no-CVE = AAAA", "CVE-* = BBBB"))
    why = (
        r"^8c4o6ucj: is signed by key BBBB, but only AAAA may sign an update without a CVE "
        r"\(no-CVE in \[signers\] of ksplicd.conf\)$"
    )
    with pytest.raises(SignerNotAllowedError, match=why):
        check_signer(manifest, B, rules("no-CVE = AAAA"))


def test_rule_holds_when_staging_and_when_applying(host: Host) -> None:
    host.engine.doors.settings = Settings(signers=rules("vmlinux = AAAA"))
    with pytest.raises(
        SignerNotAllowedError, match=f"signed by key {MINE}, but only AAAA may sign target vmlinux"
    ):
        host.stage()
    host.engine.doors.settings = Settings(signers=rules(f"vmlinux = {MINE}"))
    host.stage()
    host.engine.doors.settings = Settings(signers=rules("CVE-* = AAAA"))
    with pytest.raises(SignerNotAllowedError, match="only AAAA may sign a fix of CVE-2026-12345"):
        host.apply()
    assert host.kernel.calls == []
    host.engine.doors.settings = Settings(signers=rules("* = AAAA"), require_signature=False)
    with pytest.raises(SignerNotAllowedError, match="is not signed"):
        host.engine.stage(samples.bundle(samples.OTHER_KID), None, ALICE)


# --- until when ---------------------------------------------------------------------------------

DAY = 86400
TODAY = "2023-11-14"  # by the stopped clock


def write_key(host: Host, comment: str) -> None:
    path = host.keys / "test.pub"
    path.write_text(minisign.write_public_key(replace(samples.KEY.public, comment=comment)))
    path.chmod(0o644)


def test_key_expires_while_we_run(host: Host) -> None:
    write_key(host, f"minisign public key {MINE} expires {TODAY}")
    host.stage()
    host.clock.now += DAY
    why = f"made by key {MINE}, which has expired on {TODAY}, and now it is 2023-11-15; "
    with pytest.raises(BadSignatureError, match=why):
        host.apply()
    with pytest.raises(BadSignatureError, match=why):
        host.stage()
    host.engine = host.new_engine()
    host.engine.reconcile()
    assert host.engine.get_update(samples.KID).stage is Stage.REJECTED
    write_key(host, f"minisign public key {MINE} expires 2099-12-31")
    host.apply()


@pytest.mark.parametrize("knows", ["history", "package"])
def test_key_stays_expired_where_the_clock_is_dead(host: Host, knows: str) -> None:
    """It begins anew at each boot; the history and the package know that it is later."""
    write_key(host, f"minisign public key {MINE} expires {TODAY}")
    host.stage()
    if knows == "history":
        host.clock.now += DAY
        host.engine.records.record(samples.OTHER_KID, Stage.REMOVED, ALICE)
    else:
        host.clock.built = host.clock.now + DAY
    host.kernel.reboot()
    host.clock.wrong = -host.clock.now
    assert host.clock.time() == 0
    host.engine = host.new_engine()
    host.engine.reconcile()
    assert host.engine.get_update(samples.KID).stage is Stage.REJECTED
    with pytest.raises(BadSignatureError, match="expired on 2023-11-14, and now it is 2023-11-15"):
        host.apply()


def test_what_is_applied_outlives_its_key(host: Host) -> None:
    write_key(host, f"expires {TODAY}")
    host.stage()
    host.apply()
    host.clock.now += DAY
    assert host.undo().stage is Stage.REVERSED
    assert host.engine.get_update(samples.KID).stage is Stage.REVERSED


@pytest.mark.parametrize(
    "comment", ["expires", "expires soon", "expires 2027-02-30", "expires 1 x"]
)
def test_day_that_is_none(host: Host, comment: str) -> None:
    write_key(host, comment)
    with pytest.raises(KeyFileError, match=r"test.pub: its comment says expires .*; use a date"):
        host.stage()


def test_keys_that_come_and_go_while_we_run(host: Host, tmp_path: Path) -> None:
    away = tmp_path / "away.pub"
    (host.keys / "test.pub").rename(away)
    with pytest.raises(BadSignatureError, match=f"made by key {MINE}, which is not trusted here"):
        host.stage()
    away.rename(host.keys / "test.pub")
    host.stage()
    (host.keys / "test.pub").unlink()
    with pytest.raises(BadSignatureError, match=f"made by key {MINE}, which is not trusted here"):
        host.apply()


def test_key_of_what_is_applied_is_deleted(host: Host) -> None:
    """Its updates are reported, still described, and can be undone."""
    host.stage()
    host.apply()
    before = host.engine.get_update(KID)
    (host.keys / "test.pub").unlink()
    host.engine.reconcile()
    info = host.engine.get_update(KID)
    assert (info.stage, info.abort_cause) == (Stage.APPLIED, "bad_signature")
    assert f"no longer verifies: signature: made by key {MINE}, which is not" in info.detail
    assert info.manifest == before.manifest
    assert host.engine.describe(KID)["SignedBy"] == MINE
    host.engine = host.new_engine()  # after a restart the key is all that is known
    host.engine.reconcile()
    assert f"made by key {MINE}" in host.engine.get_update(KID).detail
    undone = host.undo()
    assert (undone.stage, undone.abort_cause) == (Stage.REVERSED, "")
    assert host.engine.get_update(KID).stage is Stage.REJECTED
