# SPDX-License-Identifier: GPL-2.0-only
"""Very many drops at once: none is lost, and none holds the others up for long."""

import json
import signal
import time
from pathlib import Path

import pytest

from ksplicd.bus.drop_watch import CALM_SECONDS
from tests.support.bundles import samples
from tests.support.bus.calls import SIGNATURE
from tests.support.bus.drops import drop, left, write
from tests.support.bus.host import Host
from tests.support.waiting import wait_for

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def freeze(host: Host) -> None:
    """Stop the daemon where it is, so that it reads no events."""
    host.daemon.send_signal(signal.SIGSTOP)
    status = Path(f"/proc/{host.daemon.pid}/stat")
    wait_for(lambda: status.read_text().rpartition(") ")[2].startswith("T"))


def test_queue_of_events_runs_over(bare_host: Host) -> None:
    size = int(QUEUE.read_text())
    if size > 100_000:
        pytest.skip(f"{QUEUE} is {size}: it takes too long to make more events")
    bare_host.start()
    drop(bare_host)
    wait_for(lambda: bare_host.outcomes() == ["STAGED"])
    time.sleep(CALM_SECONDS + 0.5)  # it has looked at all there was
    freeze(bare_host)
    here, there = bare_host.store / ".here", bare_host.store / ".there"
    here.touch()
    for _ in range(size // 4 + 1):  # four events each
        here.rename(there)
        there.rename(here)
    drop(bare_host, samples.bundle(samples.OTHER_KID), samples.OTHER_KID)
    bare_host.daemon.send_signal(signal.SIGCONT)
    wait_for(lambda: bare_host.stage_of(samples.OTHER_KID) == "staged")
    assert left(bare_host.store) == []
    assert bare_host.outcomes() == ["STAGED", "STAGED"]


def test_a_flood_of_drops(bare_host: Host) -> None:
    """Good and bad ones; the loop stays free, and each has its outcome."""
    bare_host.start(KSPLICE_LOOP_METER="yes")
    good = {f"good{number:04}" for number in range(20)}
    for number in range(500):
        if number % 25 == 0:
            kid = f"good{number // 25:04}"
            drop(bare_host, samples.bundle(kid), kid)
        name = f"ksplice-bad{number:05}.tar.gz"
        write(bare_host, name, b"no bundle")
        write(bare_host, f"{name}.minisig", SIGNATURE)
    wait_for(lambda: left(bare_host.store) == [], 600)
    wait_for(lambda: {u["Kid"] for u in bare_host.client().objects().updates} == good)
    assert sorted(set(bare_host.outcomes())) == ["REJECTED", "STAGED"]
    assert bare_host.outcomes().count("STAGED") == len(good)
    assert bare_host.outcomes().count("REJECTED") == 500
    assert len(list((bare_host.store / "rejected").iterdir())) == 3 * 500
    held = json.loads((bare_host.folder / "loop.json").read_text())["held"]
    assert held < 0.1


def test_many_bundles_before_their_signatures(bare_host: Host) -> None:
    """Who waits is told of once, and only when its signature does not follow."""
    bare_host.start()
    kids = [f"kid{number:05}" for number in range(30)]
    bundles = {kid: samples.bundle(kid) for kid in kids}
    signatures = {kid: samples.signature(bundles[kid]) for kid in kids[1:]}
    for kid, data in bundles.items():
        write(bare_host, f"ksplice-{kid}.tar.gz", data)
    for kid, data in signatures.items():  # at once: who looks in between finds more that wait
        write(bare_host, f"ksplice-{kid}.tar.gz.minisig", data)
    wait_for(lambda: bare_host.outcomes().count("STAGED") == len(kids) - 1)
    wait_for(lambda: "waits for its signature" in bare_host.log())
    write(
        bare_host, f"ksplice-{kids[0]}.tar.gz.minisig", b"a comment\n"
    )  # and it is looked at anew
    wait_for(lambda: "REJECTED" in bare_host.outcomes())
    assert bare_host.log().count("waits for its signature") == 1
