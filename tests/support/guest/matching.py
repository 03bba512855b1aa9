# SPDX-License-Identifier: GPL-2.0-only
"""Old code that is matched with a guest's kernel, whole or damaged."""

import sys
from collections.abc import Callable, Iterator

from ksplicd.create.old_code.sites import SiteKind
from ksplicd.lab.running_guest import RunningGuest
from tests.support.guest.old_code import CORE, OldCode
from tests.support.old_code.blob import Blob, Function, Site

STATE = f"/sys/module/{CORE}/ksplice"


def load_core(guest: RunningGuest, update: OldCode) -> None:
    guest.put("/root/core.ko", update.core)
    guest.run("insmod /root/core.ko")


def match(guest: RunningGuest, old: bytes) -> int:
    """Load an old-code module; return insmod's exit status."""
    guest.put("/root/old.ko", old)
    return guest.run("insmod /root/old.ko", check=False).status


def state(guest: RunningGuest, name: str) -> str:
    return guest.read(f"{STATE}/{name}")


def mismatch(guest: RunningGuest) -> dict[str, str]:
    """Return the mismatch's keys and values."""
    return dict(word.split("=", 1) for word in state(guest, "mismatch").split())


def assert_matches(guest: RunningGuest, update: OldCode) -> None:
    load_core(guest, update)
    assert match(guest, update.old) == 0, state(guest, "mismatch")
    assert state(guest, "abort_cause") == "ok"
    assert state(guest, "mismatch") == ""
    assert state(guest, "stage") == "preparing"
    target, functions, size, took = state(guest, "matched").split()
    blob = Blob(update.tables)
    assert (target, int(functions)) == ("vmlinux", blob.nr_funcs)
    assert int(size) == sum(len(f.code) for f in blob.functions())
    assert "Call Trace" not in guest.kernel_log()
    sys.stdout.write(f"{functions} functions, {blob.nr_syms} symbols: {int(took) / 1000:.1f} ms\n")


Damage = Callable[[Blob], None]


def of_kind(blob: Blob, kind: SiteKind) -> Iterator[tuple[Function, Site]]:
    return ((f, s) for f in blob.functions() for s in f.sites if s.kind == kind)


def move_jump_labels(blob: Blob) -> None:
    """All of them, since only those that jump now can be told."""
    for _, s in of_kind(blob, SiteKind.JUMP_LABEL):
        blob.set_addend(s, s.addend + 1)


def change_replacements(blob: Blob) -> None:
    for at in {s.alt for _, s in of_kind(blob, SiteKind.ALT) if s.alt_size}:
        blob.data[at] ^= 1


def move_static_call_keys(blob: Blob) -> None:
    for _, s in of_kind(blob, SiteKind.STATIC_CALL):
        blob.set_addend(s, s.addend + 8)


def move_jump_label_keys(blob: Blob) -> None:
    """One of them, to the key's neighbour."""
    _, site = next(of_kind(blob, SiteKind.KEY))
    blob.set_addend(site, site.addend + 16)


def move_fixups(blob: Blob) -> None:
    _, site = next(of_kind(blob, SiteKind.FIXUP))
    blob.set_addend(site, site.addend + 1)


def change_site(kind: SiteKind) -> Damage:
    def damage(blob: Blob) -> None:
        for f, s in of_kind(blob, kind):
            blob.data[f.at + s.offset] ^= 0x10

    return damage
