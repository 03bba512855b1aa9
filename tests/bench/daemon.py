# SPDX-License-Identifier: GPL-2.0-only
"""Cost of ksplicd on this machine, whose kernel it only reads.

An emulated guest is ten to thirty times as slow.  The bus is private; the updates are a hundred
small ones for another kernel, staged.
"""

import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gi.repository import Gio, GLib

from ksplicd import minisign
from ksplicd.bus import names
from ksplicd.cache import Cache, to_stderr
from ksplicd.distro.packages import KernelPackages
from tests.bench.figures import Figure, median
from tests.support.bundles import samples

_ROOT: Final = Path(__file__).parents[2]
_STARTS: Final = 5
_CALLS: Final = 20
_UPDATES: Final = 100
_MANY_CALLS: Final = 100_000
_SETTLE_SECONDS: Final = 1.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")

_BUS: Final = """<busconfig>
  <type>session</type>
  <listen>unix:path={folder}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
    <allow send_type="method_return"/><allow send_type="error"/>
    <allow receive_type="method_call"/><allow receive_type="signal"/>
    <allow receive_type="method_return"/><allow receive_type="error"/>
  </policy>
</busconfig>
"""


class Bench:
    """A private bus, a store, and the daemon on them."""

    def __init__(self, folder: Path, updates: int) -> None:
        """Stage ``updates`` updates."""
        self._folder = folder
        (folder / "keys").mkdir()
        key = folder / "keys/bench.pub"
        key.write_text(minisign.write_public_key(samples.KEY.public))
        key.chmod(0o644)
        (folder / "bus.conf").write_text(_BUS.format(folder=folder))
        (folder / "store").mkdir(mode=0o700)
        for number in range(updates):
            kid = f"kid{number:05}"
            stored = folder / "store/updates" / kid
            stored.mkdir(parents=True, mode=0o700)
            data = samples.bundle(kid)
            (stored / f"ksplice-{kid}.tar.gz").write_bytes(data)
            (stored / f"ksplice-{kid}.tar.gz.minisig").write_bytes(samples.signature(data))
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))

    @contextmanager
    def bus(self) -> Iterator[None]:
        """Run the bus."""
        argv = ["dbus-daemon", f"--config-file={self._folder}/bus.conf", "--nofork"]
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
            while not (self._folder / "bus").exists():
                time.sleep(0.01)
            yield
            process.terminate()
        self._notify.close()

    @contextmanager
    def daemon(self) -> Iterator[tuple[int, float]]:
        """Run the daemon; gives its process and the seconds that it took to be ready."""
        program = f"import sys; sys.path.insert(0, {str(_ROOT)!r})\n"
        program += "from ksplicd.daemon import main; sys.exit(main())"
        argv: list[str | Path] = [
            *("/usr/bin/python3", "-I", "-c", program, "--bus", f"unix:path={self._folder}/bus"),
            *("--store", self._folder / "store", "--keys", self._folder / "keys"),
            *("--config", self._folder / "ksplicd.conf"),
        ]
        env = {**os.environ, "NOTIFY_SOCKET": str(self._folder / "notify")}
        begin = time.monotonic()
        with subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL) as process:
            while b"READY=1" not in self._notify.recv(4096):
                pass
            yield process.pid, time.monotonic() - begin
            process.terminate()

    def list_updates(self, calls: int = 1) -> float:
        """Return the seconds that calls take which list all, one after the other."""
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            f"unix:path={self._folder}/bus",
            flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION,
            None,
            None,
        )
        begin = time.monotonic()
        for _ in range(calls):
            connection.call_sync(
                names.BUS_NAME, names.ROOT_PATH, names.MANAGER, "ListUpdates",
                GLib.Variant("(t)", (0,)), None, Gio.DBusCallFlags.NONE, -1, None,
            )  # fmt: skip
        seconds = time.monotonic() - begin
        connection.close_sync(None)
        return seconds


def measure(_cache: Cache, _kernel: KernelPackages) -> list[Figure]:
    """Return the figures about the daemon on this machine."""
    return [*_measure(0), *_measure(_UPDATES), _measure_leak()]


def _measure_leak() -> Figure:
    """Return by how much the daemon grows with each call."""
    to_stderr(f"daemon on this machine: {_MANY_CALLS} calls")
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as name:
        bench = Bench(Path(name), 0)
        with bench.bus(), bench.daemon() as (pid, _):
            bench.list_updates(_MANY_CALLS // 10)  # what it keeps is there then
            before = _memory(pid)["Rss"]
            seconds = bench.list_updates(_MANY_CALLS)
            grown = _memory(pid)["Rss"] - before
    return Figure(
        name="daemon grows per call", value=round(grown * (1 << 20) / _MANY_CALLS, 1), unit="B",
        floor=10, about=f"goal; {_MANY_CALLS} calls, {seconds / _MANY_CALLS * 1000:.2f} ms each",
    )  # fmt: skip


def _measure(updates: int) -> list[Figure]:
    to_stderr(f"daemon on this machine: {_STARTS} starts with {updates} updates")
    ready, processor, resident, share, listed = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as name:
        bench = Bench(Path(name), updates)
        with bench.bus():
            for _ in range(_STARTS):
                with bench.daemon() as (pid, seconds):
                    ready.append(seconds)
                    time.sleep(_SETTLE_SECONDS)
                    processor.append(_processor_time(pid))
                    memory = _memory(pid)
                    resident.append(memory["Rss"])
                    share.append(memory["Pss"])
                    listed += [bench.list_updates() * 1000 for _ in range(_CALLS)]
    what = f"here, {updates} updates" if updates else "here"
    about = f"goal; {median(processor, 2):.2f} s of processor time"
    figures = [
        Figure(
            name=f"daemon {what}, start to ready", value=median(ready), unit="s",
            floor=None if updates else 0.4, about=about if not updates else about[6:],
        ),
        Figure(
            name=f"daemon {what}, resident", value=median(resident, 1), unit="MB", floor=32,
            about=f"goal; Pss {median(share, 1):.1f}",
        ),
    ]  # fmt: skip
    if updates:
        figures.append(
            Figure(
                name=f"{updates} updates listed in one call", value=median(listed, 1), unit="ms",
                floor=50, about="goal",
            )
        )  # fmt: skip
    return figures


def _processor_time(pid: int) -> float:
    """Return utime and stime of a process (proc(5), /proc/PID/stat), in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(pid: int) -> dict[str, float]:
    """Return Rss and Pss of a process, in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.findall(r"^(Rss|Pss):\s+(\d+) kB$", text, re.MULTILINE)
    return {key: int(size) / 1024 for key, size in found}
