# SPDX-License-Identifier: GPL-2.0-only
"""Updates that are wrong on purpose: the kernel part alone refuses them, without a fault.

No digest or signature is checked here: the modules of a real update are damaged and loaded.
``tests.support.old_code.oracle`` derives the right outcome from the guest's memory.
``make fuzz-kernel`` tries many more; a failure names its seed, which can be given again.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import pytest

from ksplicd import bundle
from ksplicd.create.stock.module import find_stock_module
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.model import new_module, old_module
from tests.support.guest.hand import has_complaint, is_clean
from tests.support.guest.hostile import KID, MUTATIONS
from tests.support.guest.victim import Damage, Outcome, Victim
from tests.support.old_code.blob import Blob
from tests.support.old_code.mutate import mutate_new_code, mutate_tables
from tests.support.old_code.oracle import Verdict, judge

pytestmark = pytest.mark.kernels("6.1", "6.12")

TARGETS: Final = ("vmlinux", "romfs")
SEED: Final = os.environ.get("KSPLICE_SEED", "2011")
LATE: Final = max(30, MUTATIONS // 4)
CHUNK: Final = 100
REPEATED: Final = 40
ROUNDS: Final = 4
FEW: Final = 2
"""Objects by which a cache may grow in each of the rounds."""
NEW_CODE: Final = 4
"""One mutation of so many is of the new code."""

CAUSES: Final = {
    Verdict.DAMAGED: {"unexpected"},
    Verdict.ABSENT: {"target_not_loaded"},
    Verdict.NO_SYMBOL: {"failed_to_find", "bad_system_map"},
    Verdict.DIFFERENT: {"no_match"},
    Verdict.SAME: {"ok"},
    Verdict.EITHER: {"ok", "no_match"},
}


@pytest.fixture
def victim(guest: Guest, hostile_bundle: bundle.Bundle) -> Victim:
    return Victim(guest, hostile_bundle)


def damage_tables(victim: Victim, number: int, target: str = "") -> Damage:
    """Damage the tables of ``target``, or of one or the other."""
    name = old_module(KID, target or TARGETS[number % 2])
    ko = victim.update.bundle.files[f"{name}.ko"]
    tables = tables_in(ko)
    kind, damaged = mutate_tables(tables, f"{SEED}-{number}")
    return Damage(kind, name, ko, ko.replace(tables, damaged), damaged)


def damage_new_code(victim: Victim, number: int) -> Damage:
    """Damage the new code, which has no tables."""
    name, manifest = new_module(KID), victim.update.bundle.manifest
    ko = victim.update.bundle.files[f"{name}.ko"]
    functions = [f.name for target in manifest.targets for f in target.functions]
    strangers = ["do_rmdir", "do_mkdirat"]
    kind, damaged = mutate_new_code(ko, f"{SEED}-new-{number}", functions, strangers)
    return Damage(kind, name, ko, damaged, b"")


def check_old_code(victim: Victim, numbers: Sequence[int]) -> Counter[str]:
    """Damage the tables of both targets in turn; return how often each verdict was given."""
    names = [old_module(KID, target) for target in TARGETS]
    memories = dict(zip(names, victim.memories(*TARGETS), strict=True))
    damages = [damage_tables(victim, number) for number in numbers]
    expected = [
        judge(
            damage.tables, tables_in(damage.good), memories[damage.module],
            is_module=damage.module != old_module(KID, "vmlinux"),
        )
        for damage in damages
    ]  # fmt: skip
    wrong = [
        f"{number} ({damage.kind} in {damage.module}): should {verdict}, is {outcome}"
        for number, damage, verdict, outcome in zip(
            numbers, damages, expected, victim.load(damages), strict=True
        )
        if outcome.cause not in CAUSES[verdict]
        or (outcome.error == 0) is not (outcome.cause == "ok")
        or outcome.left
    ]
    assert not wrong, "\n".join(wrong)
    return Counter(expected)


def check_new_code(victim: Victim, numbers: Sequence[int]) -> Counter[str]:
    """Damage the new code; return how often each kind of damage was done."""
    damages = [damage_new_code(victim, number) for number in numbers]
    wrong = [
        f"new code {number} ({damage.kind}): {outcome}"
        for number, damage, outcome in zip(numbers, damages, victim.load(damages), strict=True)
        if not outcome.error or outcome.left
    ]
    assert not wrong, "\n".join(wrong)
    return Counter(damage.kind for damage in damages)


def tables_in(ko: bytes) -> bytes:
    start = ko.index(b"KOLD")
    return ko[start : start + Blob(ko[start:]).size]


def test_damage_is_refused_and_nothing_stays(victim: Victim) -> None:
    guest, counts = victim.guest, Counter[str]()
    files = victim.update.bundle.files
    names = [old_module(KID, target) for target in TARGETS]
    good = [(name, files[f"{name}.ko"]) for name in names]
    undamaged = [Damage("none", name, ko, ko, b"") for name, ko in good]
    for first in range(0, MUTATIONS, CHUNK):
        numbers = range(first, min(first + CHUNK, MUTATIONS))
        counts += check_old_code(victim, [n for n in numbers if n % NEW_CODE])
        for outcome in victim.load(undamaged):
            assert (outcome.error, outcome.cause) == (0, "ok"), "undamaged, it still matches"
        counts += check_new_code(victim, [n for n in numbers if not n % NEW_CODE])
        log = guest.run("dmesg --notime --read-clear").out
        assert not has_complaint(log), log
    sys.stdout.write(f"{MUTATIONS} mutations: {dict(counts)}\n")

    victim.update.rmmod(victim.core)
    assert is_clean(guest)
    victim.update.apply()
    victim.update.undo()
    assert is_clean(guest)
    assert not has_complaint(guest.kernel_log())


def test_damage_is_found_in_a_target_that_may_come_later(
    victim: Victim, kernel: KernelPackages
) -> None:
    """When it is there already, and when it comes to an update that is applied.

    Then the core has a copy of the tables, and of the old code nothing is loaded any more.
    """
    [memory] = victim.memories("romfs")
    name = old_module(KID, "romfs")
    stock = find_stock_module(kernel.modules(), "romfs")
    victim.guest.put("/root/romfs.ko", stock)
    comes = Damage("none", "romfs", stock, stock, b"")
    damages = [
        damage_tables(victim, number, "romfs")._replace(parameters="late=1")
        for number in range(LATE)
    ]
    good = damages[0].good
    damages.append(Damage("none", name, good, good, tables_in(good), "late=1"))
    verdicts = [judge(d.tables, tables_in(good), memory, is_module=True) for d in damages]
    counts = Counter(verdicts)
    assert {Verdict.DAMAGED, Verdict.DIFFERENT, Verdict.SAME} <= set(counts), counts
    cases = list(zip(range(len(damages)), damages, verdicts, strict=True))

    outcomes = victim.load(damages)
    wrong = [
        f"{number} ({damage.kind}): should {verdict}, is {outcome}"
        for (number, damage, verdict), outcome in zip(cases, outcomes, strict=True)
        if outcome.cause not in ({"ok"} if verdict == Verdict.ABSENT else CAUSES[verdict])
        or (outcome.error == 0) is not (outcome.cause == "ok")
        or outcome.left
    ]
    assert not wrong, "\n".join(wrong)

    update = victim.update
    victim.guest.run("rmmod romfs")
    update.rmmod(victim.core)
    update.apply(late=True)
    jobs = [job for damage in damages for job in (damage, comes)]
    outcomes = victim.load(jobs, update.new)
    wrong = [
        f"{number} ({damage.kind}): should {verdict}, is {loaded} and then {came}"
        for (number, damage, verdict), (loaded, came) in zip(
            cases, zip(outcomes[::2], outcomes[1::2], strict=True), strict=True
        )
        if not is_right_when_it_comes(verdict, loaded, came)
    ]
    assert not wrong, "\n".join(wrong)
    update.undo()
    assert is_clean(victim.guest)
    assert not has_complaint(victim.guest.kernel_log())


def is_right_when_it_comes(verdict: Verdict, loaded: Outcome, came: Outcome) -> bool:
    """Judge old code of a module that is not there, and the module when it comes."""
    if loaded.left or came.left:
        return False
    if verdict == Verdict.DAMAGED:
        return loaded.error != 0 and loaded.cause in CAUSES[verdict]
    if verdict == Verdict.ABSENT:  # it is another module's, and this one has the tables it had
        return (loaded.error, loaded.cause) == (0, "ok")
    return (loaded.error, loaded.cause) == (0, "ok") and (
        came.cause in CAUSES[verdict] and (came.error == 0) is (came.cause == "ok")
    )


def test_refusals_leave_no_memory(victim: Victim) -> None:
    """The same modules again and again: what each time leaves, however little, shows."""
    damages = [
        (damage_tables if number % NEW_CODE else damage_new_code)(victim, number)
        for number in range(REPEATED)
    ]
    counts = []
    for _ in range(1 + ROUNDS):
        victim.load(damages)
        counts.append(victim.memory_in_use())
    growth = {
        name: [after[name] - before[name] for before, after in pairwise(counts)]
        for name in counts[0]
    }
    grown = {name: rounds for name, rounds in growth.items() if max(rounds) > FEW}
    sys.stdout.write(f"grown for a while: {grown}\n")
    assert not {name: rounds for name, rounds in growth.items() if min(rounds) > FEW}
