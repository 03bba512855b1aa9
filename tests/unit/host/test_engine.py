# SPDX-License-Identifier: GPL-2.0-only
"""The engine's arrows on the simulator, and every way in which they end."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.config import LateMismatch, Settings
from ksplicd.errors import (
    AlreadyAppliedError,
    AlreadyReversedError,
    AlreadyStagedError,
    BadBundleError,
    BadSignatureError,
    BadSystemMapError,
    ExcludedError,
    FailedToFindError,
    InUseError,
    KeyFileError,
    KspliceError,
    MissingDependencyError,
    ModulePresentError,
    ModuleRefusedError,
    NoMatchError,
    NoSuchUpdateError,
    OutOfMemoryError,
    ReplayedError,
    StoreError,
    SupersededError,
    TargetNotLoadedError,
    UnexpectedError,
    WrongKernelError,
)
from ksplicd.host.state import Conflict, Direction
from ksplicd.model import Kernel, Stage
from tests.bundles import samples
from tests.bundles.samples import KID, OTHER_KID
from tests.unit.host.host import ALICE, ROOT, Host
from tests.unit.host.simulator import NO_MATCH, Simulator

CORE, OLD, NEW = f"ksplice_{KID}", f"ksplice_{KID}_vmlinux_old", f"ksplice_{KID}_new"


# --- the way that everything goes well ----------------------------------------------------------


def test_apply_and_undo(host: Host) -> None:
    assert host.stage().stage is Stage.STAGED
    transition = host.engine.start_apply(KID, ALICE)
    assert transition.direction is Direction.APPLY
    assert host.engine.get_update(KID).stage is Stage.TRANSITIONING
    assert not host.engine.is_finished(transition)
    assert host.kernel.leftovers() == [CORE, NEW, OLD]
    host.engine.tidy(transition)
    assert host.kernel.leftovers() == [CORE, NEW]

    host.clock.now += 1.2
    host.kernel.complete()
    assert host.engine.is_finished(transition)
    info = host.engine.finish(transition)
    assert (info.stage, info.abort_cause, info.detail) == (Stage.APPLIED, "", "after 1.2 s")
    assert info.manifest.cves == ("CVE-2026-12345",)

    transition = host.engine.start_undo(KID, ALICE)
    assert host.engine.get_update(KID).stage is Stage.REVERSING
    host.kernel.complete()
    assert host.engine.finish(transition).stage is Stage.REVERSED
    assert host.kernel.leftovers() == []
    assert host.kernel.calls == [
        *(f"load {CORE}", f"load {OLD}", f"load {NEW}", f"unload {OLD}"),
        *(f"enable {NEW}=0", f"unload {NEW}", f"unload {CORE}"),
    ]


def test_history_tells_every_stage_with_time_and_actor(host: Host) -> None:
    host.stage()
    host.apply()
    host.undo()
    events = host.engine.history()[::-1]
    assert [event.stage.value for event in events] == [
        *("staged", "loading", "matched", "transitioning", "applied", "reversing", "reversed"),
    ]
    assert {event.actor for event in events} == {ALICE}
    assert {event.boot_id for event in events} == {host.kernel.boot_id()}
    assert {event.time for event in events} == {host.clock.now}
    assert events[2].detail == "2 functions, 812 bytes, 5.1 ms"
    assert events == host.events
    assert host.engine.history(2) == [events[-1], events[-2]]


def test_apply_again_after_undo(host: Host) -> None:
    host.stage()
    host.apply()
    host.undo()
    assert host.apply().stage is Stage.APPLIED


def test_every_target_is_matched(host: Host) -> None:
    host.kernel.insert("nf_tables")
    host.stage(samples.bundle(targets=("vmlinux", "nf-tables")))
    assert host.apply().stage is Stage.APPLIED
    assert f"unload ksplice_{KID}_nf_tables_old" in host.kernel.calls


def test_describe(host: Host) -> None:
    host.stage()
    host.apply()
    told = host.engine.describe(KID)
    assert told["Stage"] == "applied"
    assert told["Functions"] == ["vmlinux:do_fcntl (fs/fcntl.c)"]
    assert told["SignedBy"] == samples.KEY.public.name
    assert told["Modules"] == [NEW, CORE]


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


def test_unsigned(host: Host) -> None:
    with pytest.raises(BadSignatureError, match="signature: missing"):
        host.engine.stage(samples.bundle(), None, ALICE)
    host.engine.settings = Settings(require_signature=False)
    assert host.engine.stage(samples.bundle(), None, ALICE).stage is Stage.STAGED
    assert host.engine.describe(KID)["SignedBy"] == ""
    host.engine.settings = Settings(require_signature=True)
    with pytest.raises(BadSignatureError, match="signature: missing"):
        host.engine.start_apply(KID, ALICE)


def test_a_signature_that_comes_later(host: Host) -> None:
    host.engine.settings = Settings(require_signature=False)
    host.engine.stage(samples.bundle(), None, ALICE)
    host.engine.settings = Settings()
    host.stage()
    assert host.apply().stage is Stage.APPLIED


def test_bad_signature_is_refused_even_where_none_is_required(host: Host) -> None:
    host.engine.settings = Settings(require_signature=False)
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
    with pytest.raises(ModulePresentError, match=f"/sys/module/{name}: is there"):
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
    with pytest.raises(ModulePresentError, match=f"/sys/module/{CORE}: is there"):
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
    assert sorted(p.name for p in host.root.iterdir()) == ["history.jsonl", "updates"]
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
    event = host.engine.history()[0]
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
    """A kernel during whose first answer something else happens."""

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


def test_drop_writable_by_others(host: Host) -> None:
    data = samples.bundle()
    path, sig = drop(host, data, samples.signature(data))
    path.chmod(0o666)
    with pytest.raises(BadBundleError, match="mode 0666 lets others write"):
        host.engine.stage_file(path, sig, ROOT)


def test_drop_stays_when_the_fault_is_ours(host: Host) -> None:
    data = samples.bundle()
    path, sig = drop(host, data, samples.signature(data))
    (host.keys / "broken.pub").write_text("no key")
    with pytest.raises(KeyFileError, match=r"broken\.pub: "):
        host.engine.stage_file(path, sig, ROOT)
    assert path.exists()
    assert host.stages() == []


# --- refusals -----------------------------------------------------------------------------------


def test_unknown_kid(host: Host) -> None:
    for call in (host.engine.start_apply, host.engine.start_undo, host.engine.remove):
        with pytest.raises(NoSuchUpdateError, match="nonesuch: no update of this id"):
            call("nonesuch", ALICE)


def test_already(host: Host) -> None:
    host.stage()
    with pytest.raises(AlreadyReversedError, match="is staged, not applied"):
        host.engine.start_undo(KID, ALICE)
    host.apply()
    with pytest.raises(AlreadyAppliedError, match=f"{KID}: is applied"):
        host.engine.start_apply(KID, ALICE)
    host.undo()
    with pytest.raises(AlreadyReversedError, match="is reversed, not applied"):
        host.engine.start_undo(KID, ALICE)


def test_one_update_at_a_time(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID))
    host.engine.start_apply(KID, ALICE)
    with pytest.raises(InUseError, match=f"{KID}: is transitioning; one update at a time"):
        host.engine.start_apply(OTHER_KID, ALICE)
    with pytest.raises(InUseError, match=f"{KID}: is transitioning; one update at a time"):
        host.engine.start_undo(KID, ALICE)


def test_dependencies(host: Host) -> None:
    host.stage()
    host.stage(samples.bundle(OTHER_KID, depends=(KID,)))
    with pytest.raises(MissingDependencyError, match=f"depends on update {KID}, which is not app"):
        host.engine.start_apply(OTHER_KID, ALICE)
    host.apply(KID)
    host.apply(OTHER_KID)
    with pytest.raises(InUseError, match=f"update {OTHER_KID} depends on it"):
        host.engine.start_undo(KID, ALICE)
    host.undo(OTHER_KID)
    assert host.undo(KID).stage is Stage.REVERSED


def test_update_goes_on_top_of_what_it_is_instead_of(host: Host) -> None:
    host.stage()
    host.apply()
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    assert host.engine.in_the_way_of(OTHER_KID) == []
    assert host.apply(OTHER_KID).stage is Stage.APPLIED
    assert host.engine.superseded_by(OTHER_KID) == [KID]
    transition = host.engine.start_undo(KID, ALICE, f"superseded by update {OTHER_KID}")
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert info.stage is Stage.REVERSED
    assert info.detail.startswith(f"superseded by update {OTHER_KID}; after ")
    assert host.engine.superseded_by(OTHER_KID) == []


def test_successor_takes_nothing_away_that_others_need(host: Host) -> None:
    third = "third000"
    host.stage()
    host.stage(samples.bundle(third, depends=(KID,)))
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    host.stage(samples.bundle("fourth00", replaces=(KID, third)))
    for kid in (KID, third, OTHER_KID):
        host.apply(kid)
    assert host.engine.superseded_by(OTHER_KID) == []
    assert host.engine.superseded_by("fourth00") == [third, KID]
    host.undo(third)
    assert host.engine.superseded_by(OTHER_KID) == [KID]


def test_update_that_has_a_kprobe_is_undone_before_its_successor_comes(host: Host) -> None:
    host.stage(samples.bundle(how="kprobe"))
    host.apply()
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    assert host.engine.in_the_way_of(OTHER_KID) == [KID]
    with pytest.raises(InUseError, match=f"replaces update {KID}, which is applied .* undo that"):
        host.engine.start_apply(OTHER_KID, ALICE)


@pytest.mark.parametrize("who", [KID, OTHER_KID])
def test_updates_that_exclude_each_other(host: Host, who: str) -> None:
    """Whichever of them says so."""
    host.stage(samples.bundle(excludes=(OTHER_KID,) if who == KID else ()))
    host.stage(samples.bundle(OTHER_KID, excludes=(KID,) if who == OTHER_KID else ()))
    host.apply(OTHER_KID)
    why = rf"^{KID}: must not be applied together with update {OTHER_KID}, .* manifest of {who}\)"
    with pytest.raises(ExcludedError, match=why):
        host.apply()
    host.undo(OTHER_KID)
    host.apply()
    with pytest.raises(ExcludedError, match=f"^{OTHER_KID}: "):
        host.apply(OTHER_KID)


def test_function_that_another_update_replaces(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
    calls = list(host.kernel.calls)
    host.stage(samples.bundle(OTHER_KID))
    other = f"vmlinux: do_fcntl is replaced by the live patch ksplice_{KID}_new"
    with pytest.raises(NoMatchError, match=other):
        host.engine.start_apply(OTHER_KID, ALICE)
    assert host.kernel.calls == calls
    host.undo()
    assert host.apply(OTHER_KID).stage is Stage.APPLIED


def test_update_on_top_of_another(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
    host.stage(samples.bundle(OTHER_KID, depends=(KID,)))
    assert host.apply(OTHER_KID).stage is Stage.APPLIED
    host.kernel.start_foreign_transition("kpatch_fix")
    host.kernel.complete()
    host.kernel.functions["kpatch_fix"] = frozenset({("vmlinux", "do_fcntl", 2)})
    assert host.undo(OTHER_KID).stage is Stage.REVERSED
    assert host.apply(OTHER_KID).stage is Stage.APPLIED, "another function of the same name"


def test_target_not_loaded(host: Host) -> None:
    host.stage(samples.bundle(targets=("vmlinux", "nf_tables")))
    with pytest.raises(TargetNotLoadedError, match="patches module nf_tables, which is not loaded"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.calls == []


@pytest.mark.parametrize("policy", LateMismatch)
def test_target_that_may_be_loaded_later(host: Host, policy: LateMismatch) -> None:
    host.engine.settings = Settings(late_mismatch=policy)
    host.stage(samples.bundle(targets=("vmlinux", "nf_tables"), late="nf_tables"))
    assert host.apply().stage is Stage.APPLIED
    matched = next(e for e in host.engine.history() if e.stage is Stage.MATCHED)
    assert matched.detail == "2 functions, 812 bytes, 5.1 ms; waits for nf_tables"
    leave = " leave_unmatched=1" if policy is LateMismatch.LEAVE else ""
    assert host.kernel.calls[:3] == [
        f"load ksplice_{KID}{leave}",
        f"load ksplice_{KID}_vmlinux_old",
        f"load ksplice_{KID}_nf_tables_old late=1",
    ]
    assert host.kernel.leftovers() == [f"ksplice_{KID}", f"ksplice_{KID}_new"]


def test_target_that_is_unloaded_meanwhile(host: Host) -> None:
    """The check before said that it was there."""
    host.kernel.insert("nf_tables")
    host.stage(samples.bundle(targets=("nf_tables",)))
    host.kernel.gone_after_check = "nf_tables"
    with pytest.raises(TargetNotLoadedError, match="a module that it patches is not loaded"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []


def test_altered_in_the_store(host: Host) -> None:
    host.stage()
    path = host.root / "updates" / KID / f"ksplice-{KID}.tar.gz"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(BadSignatureError, match="did not sign"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.calls == []


def test_withdrawn_key(host: Host) -> None:
    host.stage()
    (host.keys / "test.pub").unlink()
    with pytest.raises(BadSignatureError, match="not trusted here"):
        host.engine.start_apply(KID, ALICE)
    engine = host.new_engine()
    engine.reconcile()
    info = engine.get_update(KID)
    assert info.stage is Stage.REJECTED
    assert "not trusted here" in info.detail
    assert info.manifest.targets == ()


# --- the kernel says no -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "line", "error", "message"),
    [
        (
            *("no_match", NO_MATCH, NoMatchError),
            r"vmlinux: do_fcntl\+0x1c: expected 0f1f4400, found 90909090 \(bytes\): .*; build it f",
        ),
        (
            "no_match",
            "target=vmlinux function=f offset=0x0 kind=fentry expected= found=",
            NoMatchError,
            r"vmlinux: f\+0x0: expected other code, found nothing \(fentry\): a tracer, a kprobe",
        ),
        (
            *("failed_to_find", "target=vmlinux symbol=foo kind=missing", FailedToFindError),
            "vmlinux: foo: missing: this kernel has no such symbol",
        ),
        (
            *("bad_system_map", "target=vmlinux symbol=foo kind=ambiguous", BadSystemMapError),
            "vmlinux: foo: ambiguous: this kernel has more symbols",
        ),
        ("out_of_memory", "", OutOfMemoryError, "the kernel has no memory for it"),
        ("unexpected", "", UnexpectedError, "the kernel part failed; dmesg tells more"),
        ("something_new", "", UnexpectedError, "something_new; dmesg tells more"),
    ],
)
def test_no_match(
    host: Host, cause: str, line: str, error: type[KspliceError], message: str
) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = (cause, line)
    with pytest.raises(error, match=message):
        host.engine.start_apply(KID, ALICE)
    info = host.engine.get_update(KID)
    assert (info.stage, info.abort_cause) == (Stage.FAILED, error.abort_cause)
    assert host.kernel.leftovers() == []
    assert host.stages() == ["staged", "loading", "failed"]
    host.kernel.mismatches.clear()
    assert host.apply().stage is Stage.APPLIED


def test_mismatch_is_recorded_in_parts(host: Host) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    with pytest.raises(NoMatchError, match="do_fcntl"):
        host.engine.start_apply(KID, ALICE)
    assert host.engine.history()[0].mismatch == {
        "target": "vmlinux",
        "function": "do_fcntl",
        "offset": "0x1c",
        "kind": "bytes",
        "expected": "0f1f4400",
        "found": "90909090",
    }


def test_one_of_two_targets_does_not_match(host: Host) -> None:
    host.kernel.insert("loop")
    host.stage(samples.bundle(targets=("vmlinux", "loop")))
    host.kernel.mismatches["loop"] = ("no_match", NO_MATCH.replace("vmlinux", "loop"))
    with pytest.raises(NoMatchError, match="loop: do_fcntl"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("error", [ModuleRefusedError, OutOfMemoryError, InUseError])
def test_fault_at_every_call_of_apply(host: Host, call: int, error: type[KspliceError]) -> None:
    host.stage()
    host.kernel.fault = (call, error("not now"))
    with pytest.raises(error, match="not now"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []
    info = host.engine.get_update(KID)
    assert info.stage is Stage.FAILED
    assert info.abort_cause == (error.abort_cause or "in_use")
    host.kernel.fault = None
    assert host.apply().stage is Stage.APPLIED


def test_fault_of_ours_leaves_nothing_loaded_either(host: Host) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    host.kernel.fault = (3, InUseError("the core is in use"))
    with pytest.raises(NoMatchError, match="do_fcntl"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == [CORE]
    assert "the core is in use" in host.engine.get_update(KID).detail
    host.kernel.fault = None
    host.kernel.mismatches.clear()
    assert host.apply().stage is Stage.APPLIED


def test_core_that_talks_nonsense(host: Host) -> None:
    host.stage()
    host.kernel.core_error = UnexpectedError("matched: not a line of ours")
    with pytest.raises(UnexpectedError, match="not a line of ours"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.leftovers() == []


def test_a_transition_of_somebody_else_runs(host: Host) -> None:
    host.stage()
    host.kernel.start_foreign_transition("kpatch_1")
    with pytest.raises(InUseError, match=r"another transition runs \(that of kpatch_1\)"):
        host.engine.start_apply(KID, ALICE)
    assert host.engine.get_update(KID).abort_cause == "in_use"
    assert host.kernel.leftovers() == []


@pytest.mark.parametrize("call", [1, 2, 3])
def test_fault_at_every_call_of_undo(host: Host, call: int) -> None:
    host.stage()
    host.apply()
    host.kernel.fault = (4 + call, InUseError("not now"))
    if call == 1:
        with pytest.raises(InUseError, match="not now"):
            host.engine.start_undo(KID, ALICE)
        assert host.engine.get_update(KID).stage is Stage.APPLIED
    else:
        info = host.undo()
        assert info.stage is Stage.REVERSED
        assert "not now" in info.detail
    host.kernel.fault = None
    if call == 1:
        assert host.undo().stage is Stage.REVERSED
    assert host.apply().stage is Stage.APPLIED


def test_full_disk_before_anything_is_loaded(host: Host) -> None:
    host.stage()
    history = host.root / "history.jsonl"
    history.unlink()
    history.mkdir()
    with pytest.raises(StoreError, match=r"history\.jsonl: Is a directory"):
        host.engine.start_apply(KID, ALICE)
    assert host.kernel.calls == []
    history.rmdir()
    assert host.apply().stage is Stage.APPLIED


# --- transitions that do not end ----------------------------------------------------------------

CAT = Conflict(pid=812, command="cat", stack="do_fcntl < __x64_sys_fcntl")
HELD_UP = "held up by cat[812] in do_fcntl < __x64_sys_fcntl"


def test_apply_is_held_up_and_cancelled(host: Host) -> None:
    host.stage()
    host.kernel.holders = [CAT]
    transition = host.engine.start_apply(KID, ALICE)
    assert host.engine.conflicts(transition) == [CAT]
    cancelled = host.engine.cancel(transition, "code_busy")
    assert cancelled.cancelled == "code_busy"
    assert host.engine.cancel(cancelled, "cancelled") is cancelled
    assert host.engine.get_update(KID).stage is Stage.REVERSING
    assert not host.engine.is_finished(cancelled)
    host.kernel.complete()
    info = host.engine.finish(cancelled)
    assert (info.stage, info.abort_cause) == (Stage.FAILED, "code_busy")
    assert HELD_UP in info.detail
    assert host.kernel.leftovers() == []
    assert host.engine.conflicts(cancelled) == []
    assert host.apply().stage is Stage.APPLIED


def test_undo_is_held_up_and_cancelled(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.holders = [CAT]
    transition = host.engine.start_undo(KID, ALICE)
    cancelled = host.engine.cancel(transition, "code_busy")
    host.kernel.complete()
    info = host.engine.finish(cancelled)
    assert (info.stage, info.abort_cause) == (Stage.APPLIED, "code_busy")
    assert HELD_UP in info.detail
    assert host.undo().stage is Stage.REVERSED


def test_function_that_is_stayed_in_is_named(host: Host) -> None:
    host.engine.settings = Settings(signal_after=5)
    host.stage()
    host.apply()
    assert f"load ksplice_{KID}_new signal_after=5" in host.kernel.calls
    host.kernel.functions[f"ksplice_{KID}_new"] = frozenset({("vmlinux", "do_fcntl", 1)})
    stack = "fcntl_setlk < do_fcntl.ksplice < __x64_sys_fcntl"
    host.kernel.holders = [replace(CAT, stack=stack), replace(CAT, pid=813, stack="schedule")]
    transition = host.engine.start_undo(KID, ALICE)
    assert [c.function for c in host.engine.conflicts(transition)] == ["do_fcntl", ""]
    cancelled = host.engine.cancel(transition, "code_busy")
    host.kernel.complete()
    detail = host.engine.finish(cancelled).detail
    assert f"held up by cat[812] in do_fcntl ({stack}); cat[813] in schedule" in detail


def test_code_that_may_be_pointed_to_stays_after_undo(host: Host) -> None:
    host.kernel.keeps_code = True
    host.stage()
    host.apply()
    info = host.undo()
    assert info.stage is Stage.REVERSED
    assert f"{NEW}: stays loaded until the next boot" in info.detail
    assert host.kernel.leftovers() == [CORE, NEW]
    with pytest.raises(ModulePresentError, match="can be applied again after the next boot"):
        host.apply()
    assert host.engine.get_update(KID).stage is Stage.REVERSED
    host.kernel.reboot()
    assert host.apply().stage is Stage.APPLIED


def test_cancel_comes_too_late(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.complete()
    assert host.engine.cancel(transition, "cancelled") is transition
    assert host.engine.finish(transition).stage is Stage.APPLIED


def test_somebody_else_turns_it_around(host: Host) -> None:
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    host.kernel.set_enabled(NEW, enabled=False)
    host.kernel.complete()
    info = host.engine.finish(transition)
    assert info.stage is Stage.REVERSED
    assert "turned around by somebody else" in info.detail
    assert host.kernel.leftovers() == []


def test_the_kernels_truth_is_shown(host: Host) -> None:
    host.stage()
    host.apply()
    host.kernel.set_enabled(NEW, enabled=False)
    assert host.engine.get_update(KID).stage is Stage.REVERSING
    with pytest.raises(InUseError, match="is reversing; one update at a time"):
        host.engine.start_undo(KID, ALICE)
    host.kernel.complete()
    info = host.engine.get_update(KID)
    assert (info.stage, info.detail) == (Stage.REVERSED, "undone by somebody else")
    assert host.apply().stage is Stage.APPLIED


def test_many_who_hold_it_up_are_no_lost_line(host: Host) -> None:
    """Whoever has a machine full of tasks cannot make an event too long to be written."""
    host.stage()
    transition = host.engine.start_apply(KID, ALICE)
    stack = " < ".join(["do_fcntl"] * 16)
    host.kernel.holders = [
        Conflict(pid=pid, command="sleeper", stack=stack) for pid in range(10_000)
    ]
    host.engine.cancel(transition, "code_busy")
    event = host.engine.history(1)[0]
    assert (event.stage, event.cause) == (Stage.REVERSING, "code_busy")
    assert event.detail.startswith("held up by sleeper[0]")
    assert len(event.detail) < 20_000


# --- what was taken out stays out ----------------------------------------------------------------


def test_superseded_update_is_refused_while_its_successor_is_applied(host: Host) -> None:
    host.stage(samples.bundle(OTHER_KID, replaces=(KID,)))
    host.apply(OTHER_KID)
    host.stage()
    with pytest.raises(SupersededError, match=f"^{KID}: is replaced by update {OTHER_KID}, which"):
        host.apply(KID)
    assert host.kernel.leftovers() == [f"ksplice_{OTHER_KID}", f"ksplice_{OTHER_KID}_new"]
    host.undo(OTHER_KID)
    assert host.apply(KID).stage is Stage.APPLIED


def test_undone_update_is_for_a_person_to_apply(host: Host) -> None:
    host.stage()
    host.engine.check_not_undone(KID)
    host.apply()
    host.engine.check_not_undone(KID)
    host.undo()
    with pytest.raises(ReplayedError, match=f"`ksplice apply {KID}` applies it"):
        host.engine.check_not_undone(KID)
    host.engine.remove(KID, ALICE)
    host.stage()  # the old bundle comes back
    with pytest.raises(ReplayedError, match="was undone here"):
        host.engine.check_not_undone(KID)
    host.apply()
    host.engine.check_not_undone(KID)
