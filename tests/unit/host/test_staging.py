# SPDX-License-Identifier: GPL-2.0-only
"""Bundles that the engine stages, handed over or dropped as files."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import minisign
from ksplicd.config import Settings
from ksplicd.errors import (
    AlreadyStagedError,
    BadBundleError,
    BadSignatureError,
    InUseError,
    KeyFileError,
    ModulePresentError,
    NoMatchError,
    NoSuchUpdateError,
    WrongKernelError,
)
from ksplicd.host.store.drop_dir import DropDir
from ksplicd.model import Kernel, Stage
from tests.support.bundles import samples
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, CORE, NEW, OLD, ROOT, Host
from tests.support.host.simulator import NO_MATCH, Simulator

# --- staging ------------------------------------------------------------------------------------


def test_staging_the_same_again_changes_nothing(host: Host) -> None:
    host.stage()
    host.apply()
    assert host.stage().stage is Stage.APPLIED
    assert host.stages()[-1] == "applied"


def test_staging_another_bundle_of_the_same_id(host: Host) -> None:
    host.stage()
    with pytest.raises(AlreadyStagedError, match=f"{KID}: another bundle of this id is stored"):
        host.stage(samples.bundle(description="another"))


def test_signature_by_a_stranger(host: Host) -> None:
    data = samples.bundle()
    with pytest.raises(BadSignatureError, match=r"made by key .*, which is not trusted here"):
        host.engine.stage(data, samples.signature(data, samples.STRANGER), ALICE)


def test_nothing_is_parsed_before_the_signature_holds(host: Host) -> None:
    with pytest.raises(BadSignatureError, match="did not sign these bytes"):
        host.engine.stage(b"no archive at all", samples.signature(b"other"), ALICE)
    with pytest.raises(BadBundleError, match=r"not a \.tar\.gz file"):
        host.stage(b"no archive at all")


@pytest.mark.parametrize(
    "comment",
    [
        "ksplice-8c4o6ucj.tar.gz",
        "file:ksplice-8c4o6ucj.tar.gz",
        "timestamp:1764547200\tfile:ksplice-8c4o6ucj.tar.gz\thashed",
    ],
)
def test_comments_that_exist_name_the_bundle(host: Host, comment: str) -> None:
    data = samples.bundle()
    text = minisign.sign(data, samples.KEY, trusted_comment=comment)
    assert host.engine.stage(data, text.encode(), ALICE).kid == samples.KID


@pytest.mark.parametrize(
    ("comment", "why"),
    [
        ("", "names no bundle"),
        ("file:release.iso", "names no bundle"),
        ("file:xksplice-8c4o6ucj.tar.gz", "names no bundle"),
        ("file:ksplice-zzzz9999.tar.gz", "names ksplice-zzzz9999.tar.gz, and this is ksplice-8c4"),
    ],
)
def test_signature_that_was_made_for_something_else(host: Host, comment: str, why: str) -> None:
    data = samples.bundle()
    text = minisign.sign(data, samples.KEY, trusted_comment=comment)
    with pytest.raises(BadSignatureError, match=why):
        host.engine.stage(data, text.encode(), ALICE)


def test_unsigned(host: Host) -> None:
    with pytest.raises(BadSignatureError, match="signature: missing"):
        host.engine.stage(samples.bundle(), None, ALICE)
    host.engine.doors.settings = Settings(require_signature=False)
    assert host.engine.stage(samples.bundle(), None, ALICE).stage is Stage.STAGED
    assert host.engine.describe(KID)["SignedBy"] == ""
    host.engine.doors.settings = Settings(require_signature=True)
    with pytest.raises(BadSignatureError, match="signature: missing"):
        host.engine.start_apply(KID, ALICE)


def test_a_signature_that_comes_later(host: Host) -> None:
    host.engine.doors.settings = Settings(require_signature=False)
    host.engine.stage(samples.bundle(), None, ALICE)
    host.engine.doors.settings = Settings()
    host.stage()
    assert host.apply().stage is Stage.APPLIED


def test_bad_signature_is_refused_even_where_none_is_required(host: Host) -> None:
    host.engine.doors.settings = Settings(require_signature=False)
    with pytest.raises(BadSignatureError, match="did not sign these bytes"):
        host.engine.stage(samples.bundle(), samples.signature(b"other"), ALICE)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (replace(samples.KERNEL, release="6.1.0-51-amd64"), r"is for kernel 6\.1\.0-51-amd64, but"),
        (replace(samples.KERNEL, build_id="00" * 20), r"is for another build of 6\.1.*id 0{40}, b"),
    ],
)
def test_wrong_kernel(host: Host, kernel: Kernel, message: str) -> None:
    with pytest.raises(WrongKernelError, match=message):
        host.stage(samples.bundle(kernel=kernel))
    assert host.engine.list_updates() == []


@pytest.mark.parametrize("name", [CORE, OLD, NEW])
def test_module_already_there(host: Host, name: str) -> None:
    host.stage()
    host.kernel.insert(name)
    with pytest.raises(ModulePresentError, match=f"/sys/module/{name}: .* `rmmod {name}` first"):
        host.engine.start_apply(KID, ALICE)
    assert host.engine.get_update(KID).stage is Stage.STAGED
    assert host.kernel.leftovers() == [name]
    host.engine.remove(KID, ALICE)
    with pytest.raises(ModulePresentError, match=f"/sys/module/{name}: is loaded"):
        host.stage()


@pytest.mark.parametrize("stage", [Stage.FAILED, Stage.REVERSED])
def test_module_of_somebody_else_after_we_were_there(host: Host, stage: Stage) -> None:
    host.stage()
    if stage is Stage.FAILED:
        host.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
        with pytest.raises(NoMatchError, match="do_fcntl"):
            host.engine.start_apply(KID, ALICE)
    else:
        host.apply()
        host.undo()
    host.kernel.insert(CORE)
    with pytest.raises(ModulePresentError, match=f"/sys/module/{CORE}: is loaded"):
        host.engine.start_apply(KID, ALICE)
    host.engine.reconcile()
    assert host.kernel.leftovers() == [CORE]
    assert host.engine.get_update(KID).stage is stage


def test_remove(host: Host) -> None:
    host.stage()
    host.apply()
    with pytest.raises(InUseError, match="is applied; undo it before it is removed"):
        host.engine.remove(KID, ALICE)
    host.undo()
    host.engine.remove(KID, ALICE)
    assert host.engine.list_updates() == []
    with pytest.raises(NoSuchUpdateError, match=KID):
        host.engine.get_update(KID)
    assert host.stages()[-1] == "removed"
    assert host.stage().stage is Stage.STAGED


# --- dropped files ------------------------------------------------------------------------------


def drop(host: Host, data: bytes, signature: bytes) -> tuple[Path, Path]:
    path = host.root / f"ksplice-{KID}.tar.gz"
    sig = host.root / f"ksplice-{KID}.tar.gz.minisig"
    path.write_bytes(data)
    sig.write_bytes(signature)
    path.chmod(0o644)
    sig.chmod(0o644)
    return path, sig


def test_drop(host: Host) -> None:
    data = samples.bundle()
    path, sig = drop(host, data, samples.signature(data))
    assert host.engine.stage_file(path, sig, ROOT).stage is Stage.STAGED
    assert sorted(p.name for p in host.root.iterdir()) == ["history.jsonl", "reserve", "updates"]
    assert (host.root / "updates" / KID / path.name).read_bytes() == data


def test_drop_refused(host: Host) -> None:
    path, sig = drop(host, samples.bundle(), samples.signature(b"other"))
    with pytest.raises(BadSignatureError, match="did not sign"):
        host.engine.stage_file(path, sig, ROOT)
    rejected = host.root / "rejected"
    assert sorted(p.name.removeprefix(path.name) for p in rejected.iterdir()) == [
        *("", ".minisig", ".reason"),
    ]
    assert "BadSignature: signature: key" in (rejected / f"{path.name}.reason").read_text()
    assert not path.exists()
    event = host.last_event()
    assert (event.kid, event.stage, event.cause) == (KID, Stage.REJECTED, "bad_signature")
    assert f"(moved to {rejected / path.name})" in event.detail
    assert host.kernel.calls == []


def test_refused_drop_tells_nothing_about_the_update_of_that_name(host: Host) -> None:
    host.stage()
    host.apply()
    path, sig = drop(host, samples.bundle(), b"rubbish")
    with pytest.raises(BadSignatureError, match="four"):
        host.engine.stage_file(path, sig, ROOT)
    assert host.engine.get_update(KID).stage is Stage.APPLIED
    engine = host.new_engine()
    engine.reconcile()
    assert engine.get_update(KID).detail == "after 0.0 s"


class Meanwhile(Simulator):
    """A kernel whose first answer comes while something else happens."""

    happens: Callable[[], object] | None = None

    def release(self) -> str:
        if self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        return super().release()


@pytest.mark.parametrize("first", ["good", "bad"])
@pytest.mark.parametrize("what", ["bundle", "signature"])
def test_drop_of_the_same_name_meanwhile_is_not_lost(host: Host, first: str, what: str) -> None:
    data, newer = samples.bundle(), samples.bundle(description="newer")
    kernel = samples.KERNEL if first == "good" else replace(samples.KERNEL, build_id="ff" * 20)
    host.kernel = simulator = Meanwhile(kernel)
    engine = host.new_engine()
    path, sig = drop(host, data, samples.signature(data))

    def come() -> None:
        came, content = (path, newer) if what == "bundle" else (sig, samples.signature(newer))
        copy = host.root / ".copy"
        copy.write_bytes(content)
        copy.rename(came)

    simulator.happens = come
    with contextlib.suppress(WrongKernelError):
        engine.stage_file(path, sig, ROOT)
    if what == "bundle":
        assert path.read_bytes() == newer
    else:
        assert not path.exists()
        assert sig.read_bytes() == samples.signature(newer)


@pytest.mark.parametrize("which", [0, 1], ids=["bundle", "signature"])
def test_drop_that_is_gone_again_is_not_rejected(host: Host, which: int) -> None:
    """The file of this name a moment later is another one, which may have the same inode."""
    data = samples.bundle()
    files = drop(host, data, samples.signature(data))
    files[which].unlink()
    with pytest.raises(FileNotFoundError, match=files[which].name):
        host.engine.stage_file(*files, ROOT)
    assert files[1 - which].exists()
    assert not (host.root / "rejected").exists()
    assert host.stages() == []


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("is_good", [True, False])
def test_drop_that_is_being_overwritten_is_not_lost(
    host: Host, which: int, *, is_good: bool
) -> None:
    """In place: its inode is the same, and its first byte comes after we have looked."""
    data = samples.bundle()
    paths = drop(host, data, samples.signature(data) if is_good else b"none")
    with paths[which].open("r+b") as writer:
        if is_good:
            host.engine.stage_file(*paths, ROOT)
        else:
            with pytest.raises(BadSignatureError, match="signature: 1 lines"):
                host.engine.stage_file(*paths, ROOT)
        writer.write(b"another")
    if is_good or which == 0:
        assert paths[which].read_bytes().startswith(b"another")
    assert not list(host.root.glob(".*"))


def test_kill_while_a_signature_is_deleted(host: Host) -> None:
    taken = host.root / ".a.tar.gz.minisig.taken"
    for is_newer in (False, True):
        taken.write_bytes(b"signature")
        if is_newer:
            (host.root / "a.tar.gz").write_bytes(b"bundle")
        DropDir(host.root, require_signature=True).scan()
        assert not taken.exists()
        assert (host.root / "a.tar.gz.minisig").exists() is is_newer


def test_drop_writable_by_others(host: Host) -> None:
    data = samples.bundle()
    path, sig = drop(host, data, samples.signature(data))
    path.chmod(0o666)
    with pytest.raises(BadBundleError, match="mode 0666 lets others write"):
        host.engine.stage_file(path, sig, ROOT)


def test_drop_stays_when_the_fault_is_ours(host: Host) -> None:
    data = samples.bundle()
    path, sig = drop(host, data, samples.signature(data))
    key = host.keys / "test.pub"
    key.write_text("no key")
    with pytest.raises(KeyFileError, match=r"test\.pub: "):
        host.engine.stage_file(path, sig, ROOT)
    assert path.exists()
    assert host.stages() == []
