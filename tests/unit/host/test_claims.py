# SPDX-License-Identifier: GPL-2.0-only
"""Who replaces, excludes or re-uses an update must be allowed to sign it; else it has no effect.

``A`` may sign vmlinux, ``B`` the modules.  The fix is A's, of vmlinux; the claim is in a bundle of
B's that patches a module.
"""

from pathlib import Path

import pytest

from ksplicd import minisign
from ksplicd.config import Settings, SignerRule
from ksplicd.errors import (
    AlreadyStagedError,
    ExcludedError,
    InUseError,
    KeyFileError,
    KspliceError,
    ReplayedError,
    SignerNotAllowedError,
    StoreError,
    SupersededError,
)
from ksplicd.host.stages import UpdateInfo
from ksplicd.model import Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID, OTHER_KID
from tests.support.host.host import ALICE, ROOT, Host

A, B = samples.KEY, samples.STRANGER
RULES = tuple(
    SignerRule(what=what, keys=frozenset({key.public.name}))
    for what, key in (("vmlinux", A), ("*", B))
)
NO_RIGHT = f"key {B.public.name} may not sign target vmlinux (vmlinux in [signers] of ksplicd.conf)"
FIX = samples.bundle(KID)
MODULE = ("ext4",)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    (host.keys / "b.pub").write_text(minisign.write_public_key(B.public))
    (host.keys / "b.pub").chmod(0o644)
    host.settings = Settings(signers=RULES)
    host.engine = host.new_engine()
    host.engine.reconcile()
    return host


def stage(host: Host, data: bytes, key: minisign.SecretKey = A) -> UpdateInfo:
    return host.engine.stage(data, samples.signature(data, key), ROOT)


def claim(word: str) -> bytes:
    """Return B's bundle with a claim on the fix."""
    return samples.bundle(OTHER_KID, MODULE, **{word: (KID,)})  # type: ignore[arg-type]


def restart(host: Host) -> None:
    host.engine = host.new_engine()
    host.engine.reconcile()


# --- replaces and excludes ------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["replaces", "excludes"])
@pytest.mark.parametrize("order", ["fix first", "claim first", "both staged"])
def test_claim_without_the_right_has_no_effect(host: Host, word: str, order: str) -> None:
    match order:
        case "fix first":
            stage(host, FIX)
            host.apply(KID)
            stage(host, claim(word), B)
            host.apply(OTHER_KID)
        case "claim first":
            stage(host, claim(word), B)
            host.apply(OTHER_KID)
            stage(host, FIX)
            host.apply(KID)
        case _:
            stage(host, FIX)
            stage(host, claim(word), B)
            host.apply(OTHER_KID)
            host.apply(KID)
    assert host.engine.get_update(KID).stage is Stage.APPLIED
    assert host.engine.get_update(OTHER_KID).stage is Stage.APPLIED
    assert host.engine.order.superseded_by(OTHER_KID) == []
    restart(host)
    assert host.engine.order.superseded_by(OTHER_KID) == []
    assert host.engine.get_update(KID).stage is Stage.APPLIED


@pytest.mark.parametrize("word", ["replaces", "excludes"])
def test_void_claim_is_reported_whichever_comes_first(host: Host, word: str) -> None:
    verb = word.removesuffix("s")
    stage(host, FIX)
    host.apply(KID)
    stage(host, claim(word), B)
    assert f"it cannot {verb} update {KID}: {NO_RIGHT}" in host.last_event().detail
    host.apply(OTHER_KID)
    assert f"it cannot {verb} update {KID}: {NO_RIGHT}" in host.last_event().detail
    host.undo(KID)
    host.engine.remove(KID, ROOT)
    stage(host, FIX)
    told = f"that update {OTHER_KID} {word} it has no effect: {NO_RIGHT}"
    assert told in host.last_event().detail
    host.apply(KID)
    assert told in host.last_event().detail


def test_claim_with_the_right_has_its_effect(host: Host) -> None:
    """As without rules at all."""
    stage(host, FIX)
    host.apply(KID)
    stage(host, samples.bundle(OTHER_KID, replaces=(KID,)))
    host.apply(OTHER_KID)
    assert host.engine.order.superseded_by(OTHER_KID) == [KID]
    host.undo(KID)
    with pytest.raises(SupersededError, match="is replaced by update"):
        host.apply(KID)
    third = "third000"
    stage(host, samples.bundle(third, excludes=(OTHER_KID,)))
    with pytest.raises(ExcludedError, match="must not be applied together"):
        host.apply(third)


def test_who_may_sign_all_of_it_may_take_a_part(host: Host) -> None:
    """A fix of two targets takes both keys."""
    both = tuple(
        SignerRule(what=what, keys=frozenset({key.public.name for key in keys}))
        for what, keys in (("vmlinux", (A,)), ("ext4", (A, B)))
    )
    host.engine.doors.settings = Settings(signers=both)
    stage(host, samples.bundle(KID, ("vmlinux", "ext4")))
    host.apply(KID)
    stage(host, claim("replaces"), B)
    host.apply(OTHER_KID)
    assert host.engine.order.superseded_by(OTHER_KID) == []


def test_what_is_in_the_kernel_without_a_bundle_is_judged_by_its_targets(host: Host) -> None:
    stage(host, FIX)
    host.apply(KID)
    new = f"ksplice_{KID}_new"
    next((host.root / "updates" / KID).glob("*.tar.gz")).unlink()
    for target, of_b in (("vmlinux", []), ("ext4", [KID])):
        host.kernel.functions[new] = frozenset({(target, "do_fcntl", 1)})
        restart(host)
        if target == "vmlinux":
            stage(host, claim("replaces"), B)
            host.apply(OTHER_KID)
            restart(host)
        assert host.engine.order.superseded_by(OTHER_KID) == of_b


# --- the id ---------------------------------------------------------------------------------------

SQUAT = samples.bundle(KID, MODULE)


def test_id_that_was_taken_first_is_given_to_who_may_have_it(host: Host) -> None:
    stage(host, SQUAT, B)
    stage(host, FIX)
    assert host.stages() == ["staged", "removed", "staged"]
    removed = list(host.engine.records.events())[1]
    assert removed.detail == f"another update has this id: {NO_RIGHT}"
    host.apply(KID)
    assert host.engine.get_update(KID).manifest.targets[0].name == "vmlinux"


def test_id_of_a_fix_is_not_taken(host: Host) -> None:
    stage(host, FIX)
    with pytest.raises(SignerNotAllowedError, match="another bundle of this id is stored, and key"):
        stage(host, SQUAT, B)
    host.apply(KID)
    with pytest.raises(SignerNotAllowedError, match="another bundle of this id"):
        stage(host, SQUAT, B)
    assert host.engine.get_update(KID).stage is Stage.APPLIED


def test_id_of_what_is_applied(host: Host) -> None:
    stage(host, SQUAT, B)
    host.apply(KID)
    with pytest.raises(InUseError, match="is applied from another bundle of this id, though key"):
        stage(host, FIX)
    host.undo(KID)
    stage(host, FIX)
    host.engine.staging.check_not_undone(KID)  # that was another update


def test_what_became_of_another_bundle_is_forgotten_with_it(host: Host) -> None:
    """Also when the history was condensed."""
    host.engine.records._history._max_size = 400
    host.engine.records._history._keep = lambda: 1
    stage(host, SQUAT, B)
    host.apply(KID)
    host.undo(KID)
    stage(host, FIX)
    for n in range(20):
        kid = f"more{n:04}"
        stage(host, samples.bundle(kid, MODULE), B)
    host.engine.staging.check_not_undone(KID)
    host.apply(KID)
    host.undo(KID)
    with pytest.raises(ReplayedError, match="was undone here"):
        host.engine.staging.check_not_undone(KID)


def test_first_of_two_modules_keeps_the_id(host: Host) -> None:
    """Neither key may sign for the other, and neither is the greater one."""
    rules = (
        SignerRule(what="ext4", keys=frozenset({A.public.name})),
        SignerRule(what="xfs", keys=frozenset({B.public.name})),
    )
    host.engine.doors.settings = Settings(signers=rules)
    stage(host, samples.bundle(KID, ("ext4",)))
    with pytest.raises(SignerNotAllowedError, match="another bundle of this id"):
        stage(host, samples.bundle(KID, ("xfs",)), B)


def test_two_who_may_have_it_keep_what_they_have(host: Host) -> None:
    stage(host, FIX)
    with pytest.raises(AlreadyStagedError, match="another bundle of this id"):
        stage(host, samples.bundle(KID, description="another"))


@pytest.mark.parametrize("error", [StoreError("updates: EIO"), KeyFileError("keys.d: EIO")])
def test_claims_that_cannot_be_checked_cost_no_record(
    host: Host, monkeypatch: pytest.MonkeyPatch, error: KspliceError
) -> None:
    """The kernel has the update: that is what the next start must find written down."""
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.complete()

    def fail(_kid: str) -> list[str]:
        raise error

    monkeypatch.setattr(host.engine.order, "void_claims", fail)
    info = host.engine.finish(transition)
    assert info.stage is Stage.APPLIED
    assert f"not known whether it may replace what it names: {error}" in info.detail
    assert host.engine.get_update(KID).stage is Stage.APPLIED
