# SPDX-License-Identifier: GPL-2.0-only
"""Updates that a test makes, and machines that do not come from a snapshot."""

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ksplicd import bundle
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.loading import Update as Update
from ksplicd.lab.loading import has_complaint as has_complaint
from ksplicd.lab.loading import is_clean as is_clean
from ksplicd.lab.qemu import Machine, Qemu, make_overlay
from ksplicd.lab.running_guest import RunningGuest
from tests.support.guest.keep import kept
from tests.support.kernels import slice as sample
from tests.support.waiting import wait_in_guest

TAKE_BACK = """\
echo 65534 >/proc/sys/kernel/overflowgid
cd /run/systemd/transient 2>/dev/null && set -- *.service && [ -e "$1" ] && systemctl stop "$@"
"""
"""Ends what systemd-run has started, and sets the sysctl that tests steer by."""

# A core is in use as long as another module of its update is there; a live patch cannot be disabled
# while another one is in transition, and is in use until its own has ended.
UNLOAD = """\
cd /sys/module
rounds=0
while [ $((rounds += 1)) -lt 200 ] && set -- ksplice_* && [ -e "$1" ]; do
    for patch in /sys/kernel/livepatch/ksplice_*; do
        [ ! -e $patch ] || echo 0 >$patch/enabled
    done
    backwards=
    for module; do backwards="$module $backwards"; done
    rmmod $backwards || sleep 0.1
done 2>/dev/null
for module in romfs vfat fat; do
    [ ! -e $module ] || rmmod $module
done
"""
"""Undoes and unloads our updates, and the modules that they are for."""


class Edit(NamedTuple):
    """The first ``old`` in a file of the kernel's source becomes ``new``."""

    path: str
    old: str
    new: str


def write_patch(tree: Path, patch: Path, *edits: Edit, on: Sequence[Edit] = ()) -> Path:
    """Write the patch that makes ``edits``, on top of those of ``on``; return its path."""
    lines: list[str] = []
    for path in dict.fromkeys(edit.path for edit in edits):
        before = make_edits(sample.read_source(tree, path), [e for e in on if e.path == path])
        after = make_edits(before, [e for e in edits if e.path == path])
        lines += difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True),
            f"a/{path}", f"b/{path}",
        )  # fmt: skip
    patch.write_text("".join(lines))
    return patch


def make_edits(text: str, edits: Sequence[Edit]) -> str:
    """Return ``text`` with ``edits`` made."""
    for edit in edits:
        assert edit.old in text, f"{edit.path} has no {edit.old!r}"
        text = text.replace(edit.old, edit.new, 1)
    return text


def make_bundle(
    cache: Cache, kernel: KernelPackages, kid: str, patches: Sequence[Path]
) -> bundle.Bundle:
    """Build the update ``kid`` from patches."""
    request = sample.request_for(cache, kernel, patches[0], kid=kid)
    request = replace(request, patches=tuple(patches))
    return bundle.unpack(sample.made(cache, request, cache.progress))


def wait_for_stack(guest: RunningGuest, function: str) -> None:
    """Wait until a task is in a function of the kernel."""
    wait_in_guest(lambda: function in guest.run("cat /proc/[0-9]*/stack", check=False).out)


@contextlib.contextmanager
def booted(machine: Machine, folder: Path) -> Iterator[RunningGuest]:
    """Boot a machine that no snapshot is kept of."""
    disk = folder / "disk.qcow2"
    make_overlay(disk, machine.image.disk, "raw")
    qemu = Qemu(machine, disk=disk)
    try:
        guest = RunningGuest(qemu)
        guest.wait_booted()
        with kept(guest):
            yield guest
    finally:
        qemu.close()
