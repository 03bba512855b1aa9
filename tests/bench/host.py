# SPDX-License-Identifier: GPL-2.0-only
"""Cost of ksplicd on a host, measured in one guest.

The floor of an apply is ``insmod`` of the same three modules and the transition that this starts;
the two take turns.  Livepatch determines how long a transition takes: it looks at the remaining
tasks once a second.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ksplicd import bundle
from ksplicd.cache import Cache, to_stderr
from ksplicd.distro.packages import KernelPackages
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from ksplicd.model import Stage
from ksplicd.run import run
from tests.bench import in_guest
from tests.bench.boot import measure_boot
from tests.bench.figures import UPSTREAM, Figure, median
from tests.support.guest.install import package_layer
from tests.support.kernels.slice import FCNTL, cut_patch, make_update, signature_of, throwaway_key

_ROUNDS: Final = 7
_STARTS: Final = 5
_IDLE_SECONDS: Final = 60
_SETTLE_SECONDS: Final = 3
_IMPORTS: Final = "import gi, pydbus, pyudev, systemd.daemon; from gi.repository import Gio, GLib"
_BUS, _PATH = "org.ksplice.Ksplicd1", "/org/ksplice/Ksplicd1"
_CONFIG: Final = b"[ksplicd]\non-drop = apply\n"

# F_GET_RW_HINT takes the way that the update changes.
_CALLS: Final = 20_000
_BATCHES: Final = 10
_CALL_PROGRAM: Final = f"""\
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
int main(void)
{{
	double ns, least = 1e9;
	struct timespec a, b;
	unsigned long hint;
	int fd = open("/root", O_RDONLY);

	for (int batch = 0; batch < {_BATCHES}; batch++) {{
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (int i = 0; i < {_CALLS}; i++)
			if (fcntl(fd, F_GET_RW_HINT, &hint))
				return 1;
		clock_gettime(CLOCK_MONOTONIC, &b);
		ns = ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / {_CALLS};
		least = ns < least ? ns : least;
	}}
	printf("%f", least);
	return 0;
}}
"""


class Host:
    """A guest with ksplicd in it and one update, and what is measured there."""

    def __init__(self, guest: Guest, bundle_file: Path) -> None:
        self.guest, self.file = guest, f"/root/{bundle_file.name}"
        opened = bundle.unpack(bundle_file.read_bytes())
        self.kid = opened.manifest.kid
        change = opened.changes[0]
        self.modules = [f"/root/{f}" for f in (opened.core.file, change.old_file, change.new_file)]
        guest.put(self.file, bundle_file)
        guest.put(f"{self.file}.minisig", signature_of(bundle_file))
        for path in self.modules:
            guest.put(path, opened.files[Path(path).name])
        guest.put("/root/in_guest.py", Path(in_guest.__file__))

    def do(self, action: str, *args: str) -> dict[str, float]:
        """Run an action of in_guest.py."""
        argv = ["/usr/bin/python3", "-I", "-S", "/root/in_guest.py", action, *args]
        answer: dict[str, float] = json.loads(self.guest.run(argv).out)
        return answer

    def seconds(self, action: str, *args: str) -> float:
        """Return the seconds between the begin and the end of an action."""
        answer = self.do(action, *args)
        return answer["done"] - answer["begin"]

    def journal_time(self, stage: Stage, since: float) -> float:
        """Return the seconds from ``since`` until the journal told of ``stage``."""
        argv = ["journalctl", "-q", "-o", "json", f"KSPLICE_KID={self.kid}"]
        lines = self.guest.run([*argv, f"KSPLICE_STAGE={stage.value}"]).out.splitlines()
        times = [int(json.loads(line)["__MONOTONIC_TIMESTAMP"]) / 1e6 for line in lines]
        return min(t for t in times if t >= since) - since

    def wait_for_stage(self, stage: Stage) -> None:
        """Wait until the daemon has the stage on record, a moment after the kernel got there."""
        get = f"busctl get-property {_BUS} {_PATH}/update/{self.kid} {_BUS}.Update Stage"
        self.guest.run(f"until {get} | grep -q {stage.value}; do sleep 0.1; done")

    def call_ns(self) -> float:
        """Return the nanoseconds of one call of what the update changes, in the best batch."""
        return float(self.guest.run(["/root/calls"]).out)

    def memory(self) -> tuple[float, float]:
        """Return what the daemon holds in memory, and its fair share of it (Pss), in MB."""
        pid = self.pid()
        text = self.guest.run(["cat", f"/proc/{pid}/status", f"/proc/{pid}/smaps_rollup"]).out
        found = dict(re.findall(r"^(VmRSS|Pss):\s+(\d+) kB$", text, re.MULTILINE))
        return int(found["VmRSS"]) / 1024, int(found["Pss"]) / 1024

    def pid(self) -> str:
        """Return the daemon's process."""
        return self.guest.run(["systemctl", "show", "-P", "MainPID", "ksplicd"]).out.strip()


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures about the host."""
    image = build_image(kernel)
    machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
    patch = cut_patch(cache, FCNTL.old, FCNTL.new, [FCNTL.file])
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as folder:
        scratch = Path(folder)
        key = throwaway_key(scratch)
        # One a round: an update that was undone is only staged when it is dropped again.
        updates = [
            make_update(cache, kernel, patch, key.secret, out=scratch) for _ in range(_ROUNDS)
        ]
        (scratch / "calls.c").write_text(_CALL_PROGRAM)
        run(["gcc-12", "-O2", "-static", "-o", scratch / "calls", scratch / "calls.c"])
        snapshot = take_snapshot(cache, machine, package_layer(scratch / "install"))
        with Guest(snapshot) as guest:
            guest.put("/etc/ksplicd/keys.d/bench.pub", key.public)
            guest.put("/etc/ksplicd/ksplicd.conf", _CONFIG)
            guest.put("/root/calls", scratch / "calls")
            hosts = [Host(guest, update) for update in updates]
            return [
                *measure_idle(hosts[0]), *measure_apply(hosts),
                *measure_boot(guest, updates[0], key.secret),
            ]  # fmt: skip


def measure_idle(host: Host) -> list[Figure]:
    """Return what the daemon takes to start, and what it costs while nothing happens."""
    to_stderr(f"daemon: {_STARTS} starts, then {_IDLE_SECONDS} s idle")
    floors, starts = [], []
    for _ in range(_STARTS):
        floors.append(host.seconds("imports", _IMPORTS))
        starts.append(host.seconds("start"))
    about = "start of Python with its libraries, in the same guest"
    ready = Figure(
        name="daemon, start to ready",
        value=median(starts), unit="s", floor=median(floors), about=about,
    )  # fmt: skip
    host.guest.run(["sleep", str(_SETTLE_SECONDS)])
    answer = host.do("idle", host.pid(), str(_IDLE_SECONDS))
    wakeups = round(answer["wakeups"] * 60 / _IDLE_SECONDS, 1)
    resident, share = host.memory()
    watchdog = 60 / (_read_watchdog(host.guest) / 2)
    return [
        ready,
        Figure(
            name="daemon, idle, resident",
            value=round(resident, 1), unit="MB", floor=32, about=f"goal; Pss {share:.1f}",
        ),
        Figure(
            name="daemon, idle, wake-ups",
            value=wakeups, unit="1/min", floor=watchdog, about="the watchdog's",
        ),
    ]  # fmt: skip


def measure_apply(hosts: Sequence[Host]) -> list[Figure]:
    """Return apply and undo, against insmod of the same modules, in turn; one update a round."""
    to_stderr(f"apply: {_ROUNDS} rounds of drop, undo, plain insmod")
    applied, floors, loading, plain_loading, transitions = ([] for _ in range(5))
    undone, replies = [], []
    calls: dict[str, list[float]] = {"before": [], "applied": [], "undone": []}
    for host in hosts:
        calls["before"].append(host.call_ns())
        begin = host.do("drop", host.file, host.kid)["begin"]
        host.wait_for_stage(Stage.APPLIED)
        applied.append(host.journal_time(Stage.APPLIED, begin))
        loading.append(host.journal_time(Stage.TRANSITIONING, begin))
        calls["applied"].append(host.call_ns())
        begin = host.do("undo", host.kid)["begin"]
        host.wait_for_stage(Stage.REVERSED)
        undone.append(host.journal_time(Stage.REVERSED, begin))
        calls["undone"].append(host.call_ns())
        replies.append(host.seconds("reply", host.kid))
        host.wait_for_stage(Stage.APPLIED)
        host.do("undo", host.kid)
        host.wait_for_stage(Stage.REVERSED)
        host.guest.run(["ksplice", "remove", host.kid])
        host.guest.run("systemctl kill -s STOP ksplicd")  # it would look at what is loaded
        answer = host.do("plain", UPSTREAM, *host.modules)
        floors.append(answer["done"] - answer["begin"])
        plain_loading.append(answer["loaded"] - answer["begin"])
        transitions.append(answer["done"] - answer["loaded"])
        host.do("take-out", *host.modules)
        host.guest.run(f"systemctl kill -s CONT ksplicd; sleep {_SETTLE_SECONDS}")
    floor, floor_loading = median(floors), median(plain_loading)
    value = median(applied)
    # what else the machine does only adds to these
    before, during, after = (round(min(calls[k])) for k in ("before", "applied", "undone"))
    about = f"insmod of the same modules, and upstream's transition of {median(transitions)} s"
    return [
        Figure(name="apply, drop to applied", value=value, unit="s", floor=floor, about=about),
        Figure(
            name="apply, of its floor",
            value=median([a / f for a, f in zip(applied, floors, strict=True)]),
            unit="", floor=0.6, about="goal; round by round",
        ),
        Figure(
            name="apply, drop to transition",
            value=median(loading), unit="s", floor=floor_loading, about="insmod of the same",
        ),
        Figure(
            name="apply, call to reply",
            value=median(replies), unit="s", floor=round(1.3 * floor_loading, 3),
            about="goal: 1.3 of insmod of the same",
        ),
        Figure(name="undo, call to reversed", value=median(undone), unit="s"),
        Figure(
            name="a call, applied", value=during, unit="ns", floor=before,
            about=f"before; {after} after undo; fcntl() with its system call, the best batch",
        ),
    ]  # fmt: skip


def _read_watchdog(guest: Guest) -> float:
    """Return WatchdogSec= of the service."""
    text = guest.run(["systemctl", "cat", "ksplicd"]).out
    found = re.search(r"^WatchdogSec=(\d+)$", text, re.MULTILINE)
    assert found, "WatchdogSec= in seconds"
    return float(found[1])
