# SPDX-License-Identifier: GPL-2.0-only
"""The owner of a kprobe that is in the way of a match."""

from pathlib import Path

import pytest

from ksplicd.errors import NoMatchError
from ksplicd.host.kernel.linux import LinuxKernel
from ksplicd.host.kernel.probes import Probe, probe_at
from tests.support.bundles.samples import KID
from tests.support.host.host import ALICE, Host
from tests.support.host.simulator import NO_MATCH

LIST = """\
ffffffff9df61c60  k  do_fcntl+0x20    [OPTIMIZED]
ffffffff9df61c40  r  do_fcntl+0x0    [FTRACE]
ffffffff9df61d00  k  f_getown+0x13    [DISABLED]
ffffffffc0a01000  k  romfs_statfs+0x9  romfs
"""
EVENTS = """\
p:test/x do_fcntl+32 fd=%di
r16:kprobes/back do_fcntl
u:uprobes/y /usr/bin/python3:0x1000
"""
UNNAMED = "a kprobe of perf, BPF or a module"


def test_read_from_debugfs_and_tracefs(tmp_path: Path) -> None:
    for path, text in (("debug/kprobes/list", LIST), ("tracing/dynamic_events", EVENTS)):
        file = tmp_path / "sys/kernel" / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert LinuxKernel(tmp_path).probes() == (
        Probe(function="do_fcntl", offset=0x20, user="the kprobe event test/x"),
        Probe(function="do_fcntl", offset=0, user="the kprobe event kprobes/back"),
        Probe(function="f_getown", offset=0x13, user=UNNAMED),
        Probe(function="romfs_statfs", offset=9, user=UNNAMED),
    )


def test_nothing_is_shown(tmp_path: Path) -> None:
    assert LinuxKernel(tmp_path).probes() == ()


@pytest.mark.parametrize(
    ("offset", "is_there"), [(0x1F, False), (0x20, True), (0x24, True), (0x25, False)]
)
def test_place(offset: int, is_there: bool) -> None:  # noqa: FBT001
    probe = Probe(function="do_fcntl", offset=0x20, user=UNNAMED)
    assert probe_at((probe,), "do_fcntl", offset) == (probe if is_there else None)
    assert probe_at((probe,), "f_getown", offset) is None


def test_named_in_the_error(host: Host) -> None:
    host.stage()
    host.kernel.mismatches["vmlinux"] = ("no_match", NO_MATCH)
    host.kernel.kprobes.append(Probe(function="do_fcntl", offset=0x1B, user=UNNAMED))
    with pytest.raises(NoMatchError, match=rf"\+0x1c: .*; {UNNAMED} is at do_fcntl\+0x1b: remove"):
        host.engine.start_apply(KID, ALICE)
    assert UNNAMED in host.engine.get_update(KID).detail
