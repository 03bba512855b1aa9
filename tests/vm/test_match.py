# SPDX-License-Identifier: GPL-2.0-only
"""Run-pre matching in the stock kernel: the right old code matches, and nothing else does.

The old code is compiled from a dozen of the kernel's own units.
"""

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.create.old_code.sites import ROWS, SiteKind
from ksplicd.create.old_code.tables import REF_BYTES, REF_SYM, SYM
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.qemu import Machine
from tests.support.guest.hand import booted
from tests.support.guest.matching import (
    Damage,
    assert_matches,
    change_replacements,
    change_site,
    load_core,
    match,
    mismatch,
    move_fixups,
    move_jump_label_keys,
    move_jump_labels,
    move_static_call_keys,
    state,
)
from tests.support.guest.old_code import CORE, OLD, OldCode, make_old_code
from tests.support.old_code.blob import Blob, Function, Reloc

pytestmark = pytest.mark.usefixtures("golden_log")


@pytest.fixture(scope="session")
def update(lab_cache: Cache, kernel: KernelPackages) -> OldCode:
    return make_old_code(lab_cache, kernel)


def test_enough_is_compared(update: OldCode) -> None:
    functions = list(Blob(update.tables).functions())
    assert len(functions) >= 500
    assert {s.kind for f in functions for s in f.sites} == {
        *list(SiteKind)[: SiteKind.ENDBR],
        *ROWS,
    }
    assert {r.kind for f in functions for r in f.relocs} == {REF_SYM, REF_BYTES}


def test_stock_kernel_matches(shared_guest: Guest, update: OldCode) -> None:
    assert_matches(shared_guest, update)
    shared_guest.run(["rmmod", OLD])
    assert state(shared_guest, "matched").startswith("vmlinux "), "the core remembers"
    shared_guest.run(["rmmod", CORE])


@pytest.mark.parametrize(
    ("cpu", "smp", "arguments"),
    [
        ("max", 2, ()),
        ("max", 1, ("mitigations=off",)),
        ("qemu64", 2, ("spectre_v2=retpoline,lfence",)),
        ("EPYC-Milan", 4, ("spectre_v2=retpoline", "retbleed=unret", "preempt=full")),
        ("max", 2, ("spectre_v2=off", "indirect_target_selection=force")),
    ],
)
def test_other_machines_match(
    machine: Machine,
    update: OldCode,
    tmp_path: Path,
    cpu: str,
    smp: int,
    arguments: tuple[str, ...],
) -> None:
    other = replace(machine, cpu=cpu, smp=smp, arguments=arguments, is_bare=True)
    with booted(other, tmp_path) as guest:
        assert_matches(guest, update)


# --- what must not match ------------------------------------------------------------------------


def outside_sites(f: Function) -> Iterator[Reloc]:
    sites = [s for s in f.sites if s.kind not in ROWS]
    return (r for r in f.relocs if not any(0 <= r.offset - s.offset < s.size for s in sites))


def move_reference(blob: Blob) -> None:
    """Let a reference to data be to the byte behind it."""
    f = blob.function("do_fcntl")
    data = next(r for r in outside_sites(f) if r.kind == REF_SYM and f.code[r.offset - 1] != 0xE8)
    blob.set_addend(data, data.addend + 1)


def move_call(blob: Blob) -> None:
    f = blob.function("do_fcntl")
    call = next(r for r in outside_sites(f) if f.code[r.offset - 1] == 0xE8)
    blob.set_addend(call, call.addend + 16)


def change_string(blob: Blob) -> None:
    string = next(r for f in blob.functions() for r in outside_sites(f) if r.kind == REF_BYTES)
    blob.data[string.ref] ^= 1


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (move_reference, "relocation"),
        (move_call, "relocation"),
        (change_string, "content"),
        (move_jump_labels, "jump_label"),
        (change_replacements, "alternative"),
        (move_static_call_keys, "static_call"),
        (move_jump_label_keys, "jump_label_key"),
        (move_fixups, "fixup"),
        (change_site(SiteKind.FENTRY), "fentry"),
        (change_site(SiteKind.LOCK), "lock"),
        (change_site(SiteKind.RETURN), "return"),
        (change_site(SiteKind.RETPOLINE), "retpoline"),
        (change_site(SiteKind.STATIC_CALL), "static_call"),
    ],
)
def test_old_code_that_differs_is_refused(
    shared_guest: Guest, update: OldCode, damage: Damage, kind: str
) -> None:
    blob = Blob(update.tables)
    damage(blob)
    load_core(shared_guest, update)
    assert match(shared_guest, update.with_tables(bytes(blob.data))) != 0
    assert state(shared_guest, "abort_cause") == "no_match"
    found = mismatch(shared_guest)
    assert found["kind"] == kind
    assert found["target"] == "vmlinux"
    assert found["function"] in {f.name for f in blob.functions()}
    assert OLD not in shared_guest.read("/proc/modules")
    assert state(shared_guest, "matched") == ""


def test_one_byte_is_named_exactly(shared_guest: Guest, update: OldCode) -> None:
    blob = Blob(update.tables)
    f = blob.function("do_fcntl")
    offset = next(i for i in range(len(f.code) // 2, len(f.code)) if f.is_plain(i))
    blob.data[f.at + offset] ^= 0x40
    load_core(shared_guest, update)
    assert match(shared_guest, update.with_tables(bytes(blob.data))) != 0
    found = mismatch(shared_guest)
    assert found["function"] == "do_fcntl"
    assert int(found["offset"], 16) == offset
    assert found["kind"] == "bytes"
    expected, seen = bytes.fromhex(found["expected"]), bytes.fromhex(found["found"])
    assert expected[0] == seen[0] ^ 0x40 == f.code[offset] ^ 0x40
    assert expected[1:] == seen[1:]
    where, _, _ = state(shared_guest, "mismatch").partition(" expected=")
    log = shared_guest.kernel_log()
    assert where in log
    assert "expected=" not in log, "only root may see the kernel's bytes"
    # ... and the whole old code still matches afterwards.
    assert match(shared_guest, update.old) == 0
    assert state(shared_guest, "abort_cause") == "ok"
    assert state(shared_guest, "mismatch") == ""


def test_a_running_kernel_that_was_changed_is_refused(guest: Guest, update: OldCode) -> None:
    load_core(guest, update)
    guest.run(
        "cd /sys/kernel/tracing && echo 'p:probe do_fcntl+0x20' >kprobe_events"
        " && echo 1 >events/kprobes/probe/enable"
    )
    assert match(guest, update.old) != 0
    found = mismatch(guest)
    assert (found["function"], found["offset"]) == ("do_fcntl", "0x20")
    guest.run(
        "cd /sys/kernel/tracing && echo 0 >events/kprobes/probe/enable && echo >kprobe_events"
    )
    guest.run("echo do_fcntl >/sys/kernel/tracing/set_ftrace_filter")
    guest.run("echo function >/sys/kernel/tracing/current_tracer")
    assert match(guest, update.old) == 0, "a tracer's call of fentry changes nothing"


# --- symbols ------------------------------------------------------------------------------------


def rename_last(blob: Blob) -> None:
    name = struct.unpack_from("<I", blob.data, blob.syms_at + (blob.nr_syms - 1) * SYM.size)[0]
    blob.data[blob.data.index(b"\0", name) - 1] = ord("~")


def ambiguous_index(blob: Blob) -> int:
    names = [blob.sym(i)[0] for i in range(blob.nr_syms)]
    return next(i for i, name in enumerate(names) if blob.sym(i)[1] > 0 and names.count(name) == 1)


def forget_position(blob: Blob) -> None:
    struct.pack_into("<I", blob.data, blob.syms_at + ambiguous_index(blob) * SYM.size + 4, 0)


def raise_position(blob: Blob) -> None:
    struct.pack_into("<I", blob.data, blob.syms_at + ambiguous_index(blob) * SYM.size + 4, 60000)


@pytest.mark.parametrize(
    ("damage", "cause", "kind"),
    [
        (rename_last, "failed_to_find", "missing"),
        (forget_position, "bad_system_map", "ambiguous"),
        (raise_position, "bad_system_map", "missing"),
    ],
)
def test_symbols_must_be_where_the_map_says(
    shared_guest: Guest, update: OldCode, damage: Damage, cause: str, kind: str
) -> None:
    blob = Blob(update.tables)
    damage(blob)
    load_core(shared_guest, update)
    assert match(shared_guest, update.with_tables(bytes(blob.data))) != 0
    assert state(shared_guest, "abort_cause") == cause
    assert mismatch(shared_guest).keys() == {"target", "symbol", "kind"}
    assert mismatch(shared_guest)["kind"] == kind
