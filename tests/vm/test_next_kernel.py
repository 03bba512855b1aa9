# SPDX-License-Identifier: GPL-2.0-only
"""Matching and updates on Linux 6.12 of Debian's backports.

That kernel has landing pads, call thunks and runtime constants, other alternatives and no paravirt
sites; objtool runs on the linked kernel only, and modules are compressed.
"""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.create.old_code.sites import SiteKind
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.qemu import Machine
from tests.support.guest.hand import Update, booted, is_clean, make_bundle
from tests.support.guest.matching import (
    Damage,
    assert_matches,
    change_replacements,
    change_site,
    load_core,
    match,
    mismatch,
    move_jump_labels,
    move_static_call_keys,
    state,
)
from tests.support.guest.old_code import OldCode, make_old_code
from tests.support.kernels import slice as sample
from tests.support.old_code.blob import Blob

pytestmark = [pytest.mark.usefixtures("golden_log"), pytest.mark.kernels("6.12")]


@pytest.fixture(scope="session")
def old_code(lab_cache: Cache, kernel: KernelPackages) -> OldCode:
    return make_old_code(lab_cache, kernel)


def test_enough_is_compared(old_code: OldCode) -> None:
    functions = list(Blob(old_code.tables).functions())
    assert len(functions) >= 800
    assert {s.kind for f in functions for s in f.sites} == set(SiteKind) - {SiteKind.PARAVIRT}
    sys.stdout.write(f"{sum(len(f.sites) for f in functions)} patch sites\n")


@pytest.mark.parametrize(
    ("cpu", "smp", "arguments"),
    [
        ("max", 1, ("mitigations=off",)),
        ("qemu64", 2, ("spectre_v2=retpoline,lfence",)),
        ("EPYC-Milan", 2, ("spectre_v2=retpoline", "retbleed=unret")),
        ("Skylake-Client", 2, ()),
        ("Skylake-Client", 2, ("retbleed=stuff", "spectre_v2=retpoline")),
    ],
)
def test_machines_match(
    machine: Machine,
    old_code: OldCode,
    tmp_path: Path,
    cpu: str,
    smp: int,
    arguments: tuple[str, ...],
) -> None:
    other = replace(machine, cpu=cpu, smp=smp, arguments=arguments, is_bare=True)
    with booted(other, tmp_path) as guest:
        assert_matches(guest, old_code)


def test_stock_kernel_matches(shared_guest: Guest, old_code: OldCode) -> None:
    assert_matches(shared_guest, old_code)


def move_a_call(blob: Blob) -> None:
    f = blob.function("do_fcntl")
    site = next(s for s in f.sites if s.kind == SiteKind.CALL)
    call = next(r for r in f.relocs if r.offset == site.offset + 1)
    blob.set_addend(call, call.addend + 16)


def name_other_variables(blob: Blob) -> None:
    """Let runtime constants be of a byte behind their variable."""
    for f in blob.functions():
        for s in f.sites:
            if s.kind == SiteKind.RUNTIME_PTR:
                blob.set_addend(s, s.addend + 1)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (move_a_call, "call"),
        (name_other_variables, "runtime_const"),
        (move_jump_labels, "jump_label"),
        (change_replacements, "alternative"),
        (move_static_call_keys, "static_call"),
        (change_site(SiteKind.RETPOLINE), "retpoline"),
        (change_site(SiteKind.ENDBR), "endbr"),
        (change_site(SiteKind.CALL), "call"),
    ],
)
def test_old_code_that_differs_is_refused(
    shared_guest: Guest, old_code: OldCode, damage: Damage, kind: str
) -> None:
    blob = Blob(old_code.tables)
    damage(blob)
    load_core(shared_guest, old_code)
    assert match(shared_guest, old_code.with_tables(bytes(blob.data))) != 0
    assert (state(shared_guest, "abort_cause"), mismatch(shared_guest)["kind"]) == (
        "no_match",
        kind,
    )


@pytest.fixture(scope="module")
def made(lab_cache: Cache, kernel: KernelPackages, fix: sample.Fix) -> bundle.Bundle:
    patch = sample.cut_patch(lab_cache, fix.old, fix.new, [fix.file])
    return make_bundle(lab_cache, kernel, "dcache01", [patch])


def test_real_fix(guest: Guest, made: bundle.Bundle, fix: sample.Fix) -> None:
    update = Update(guest, made)
    guest.put("/root/reproducer.py", fix.reproducer.encode())

    def says() -> str:
        return guest.run("python3 /root/reproducer.py").out.strip()

    assert says() == fix.before
    update.apply()
    assert says() == fix.after
    update.undo()
    assert says() == fix.before
    assert is_clean(guest)


def test_fprobe_works_on(guest: Guest, made: bundle.Bundle, fix: sample.Fix) -> None:
    """Linux 6.1 has none."""
    update = Update(guest, made)
    guest.put("/root/reproducer.py", fix.reproducer.encode())
    tracing = "cd /sys/kernel/tracing"
    start = "echo f:test/f __dentry_kill >>dynamic_events && echo 1 >events/test/f/enable"
    stop = "echo 0 >events/test/f/enable && echo -:f >>dynamic_events"

    def check(wanted: str) -> None:
        guest.run(f"{tracing} && echo >trace")
        assert guest.run("python3 /root/reproducer.py").out.startswith(wanted)
        assert int(guest.run(f"{tracing} && grep -c ' f: ' trace").out) > 0

    guest.run(f"{tracing} && {start}")
    check(fix.before)
    update.apply()
    check(fix.after)
    guest.run(f"{tracing} && {stop} && {start}")
    check(fix.after)
    update.undo()
    check(fix.before)
    guest.run(f"{tracing} && {stop}")
    assert is_clean(guest)
