# SPDX-License-Identifier: GPL-2.0-only
"""The daemon over a simulated kernel: ``python -m tests.support.bus.serve ADDRESS DIR [WAY]``.

The kernel is the file ``DIR/kernel``, so that it outlives the daemon and the test can reach into
it.  The rest is the real daemon; its journal is ``DIR/journal.jsonl``.
"""

import dataclasses
import errno
import fcntl
import json
import logging
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from systemd.daemon import notify

from ksplicd.bus.connection import connect
from ksplicd.bus.heartbeat import BEAT_SECONDS
from ksplicd.bus.service import Surroundings
from ksplicd.bus.stuck_watch import IDLE_SECONDS
from ksplicd.daemon import Daemon, run_boot, run_shutdown
from ksplicd.errors import KspliceError, UnexpectedError
from ksplicd.host.boot import why_disabled
from ksplicd.host.clock import SystemClock
from ksplicd.host.engine import Engine
from ksplicd.host.kernel.crash_traces import CrashTraces
from ksplicd.host.kernel.door import KernelDoor
from ksplicd.host.report.journal import Entry
from ksplicd.host.store.store import Store
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.trust.last_good import read_settings
from ksplicd.host.updates.doors import Doors
from tests.support.bus.loop_meter import LoopMeter
from tests.support.host.simulator import Simulator


class KernelFile:
    """A ``KernelDoor``: a ``Simulator`` kept in a file, shared by processes.

    A transition ends when it is looked at, unless ``hold()`` was called.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hold = path.with_suffix(".hold")
        self._slow = path.with_suffix(".slow")
        self._fault = path.with_suffix(".fault")
        self._stuck = path.with_suffix(".stuck")
        self._busy = path.with_suffix(".busy")
        self._read = b""
        self._simulator: Simulator

    def boot(self) -> None:
        self.path.write_bytes(pickle.dumps(Simulator()))

    def hold(self, *, on: bool = True) -> None:
        """Let transitions wait for ``complete()``."""
        self._hold.touch() if on else self._hold.unlink()

    def slow(self, *, on: bool = True) -> None:
        """Let every load and unload take half a second, the first half of it before the deed."""
        self._slow.touch() if on else self._slow.unlink()

    def stick(self, *, on: bool = True) -> None:
        """Let every load wait for ever, after the deed."""
        os.mkfifo(self._stuck) if on else self._stuck.unlink()

    def busy(self, seconds: float) -> None:
        """Let every load work for so long."""
        self._busy.write_text(str(seconds))

    def fail(self, name: str, module: str = "") -> None:
        """Have the next call of ``name`` fail, as when there is no free descriptor.

        With ``module``, the next one when that is loaded.
        """
        self._fault.write_text(f"{name} {module}")

    def will_fail(self) -> bool:
        """Tell whether the call that is to fail has not come yet."""
        return self._fault.exists()

    def heal(self) -> None:
        """Let no call fail any more."""
        self._fault.unlink(missing_ok=True)

    def _is_to_fail(self, name: str) -> bool:
        if not self._fault.exists():
            return False
        fault, _, module = self._fault.read_text().partition(" ")
        if fault != name:
            return False
        with self.open() as simulator:
            return not module or module in simulator.modules()

    @contextmanager
    def open(self) -> Iterator[Simulator]:
        """Change the kernel; who is killed meanwhile leaves it as it was."""
        with self.path.with_suffix(".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = self.path.read_bytes()
            if before != self._read:  # else it is as we left it
                self._read, self._simulator = before, pickle.loads(before)
            simulator = self._simulator
            try:
                yield simulator
            finally:
                if (after := pickle.dumps(simulator)) != before:
                    self.path.with_suffix(".new").write_bytes(after)
                    self.path.with_suffix(".new").replace(self.path)
                    self._read = after

    def listen(self, family: str) -> "DatagramListener":
        try:
            return DatagramListener(self.path.with_name(family))
        except OSError as e:
            raise UnexpectedError(f"{family}: cannot listen to tripwires: {e.strerror}") from e

    def __getattr__(self, name: str) -> Any:
        """Return what the engine calls."""
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._is_to_fail(name):
                self._fault.unlink()
                raise UnexpectedError(f"{name}: Too many open files")
            is_slow = name in {"load_module", "unload_module"} and self._slow.exists()
            if is_slow:
                time.sleep(0.25)
            with self.open() as simulator:
                answer = getattr(simulator, name)(*args, **kwargs)
                if name == "livepatch" and not self._hold.exists():
                    simulator.complete()
            if is_slow:
                time.sleep(0.25)
            if name == "load_module" and self._stuck.exists():
                os.close(os.open(self._stuck, os.O_RDONLY))  # nobody opens it for writing
            if name == "load_module" and self._busy.exists():
                end = time.monotonic() + float(self._busy.read_text())
                while time.monotonic() < end:
                    pass
            return answer

        return call


class DatagramListener:
    """A ``Listener``: what is sent to a Unix socket is what the kernel says.

    ``OVERRUN`` stands for messages that were lost.
    """

    OVERRUN: Final = b"overrun"
    family_id: Final = 0x1C

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(path))

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return None
        if data == self.OVERRUN:
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return data

    def close(self) -> None:
        self._socket.close()
        self._path.unlink()


class FileJournal:
    """One JSON object a line.

    After each the daemon rests for ``KSPLICE_JOURNAL_DELAY`` seconds: who looks at something right
    after an entry, which is written before that something is done, then fails each time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._delay = float(os.environ.get("KSPLICE_JOURNAL_DELAY", "0"))

    def write(self, entry: Entry) -> None:
        with self._path.open("a") as f:
            f.write(json.dumps({**dataclasses.asdict(entry), "name": entry.message_id.name}) + "\n")
        time.sleep(self._delay)


def main(address: str, folder: Path, way: str = "") -> int:
    """Serve; or with ``way`` ``boot`` or ``shutdown`` do what the daemon does then."""
    logging.basicConfig(level=logging.INFO)
    store = Store(folder / "store")
    try:
        settings, mistake = read_settings(
            folder / "ksplicd.conf", store.config_copy, or_defaults=way == "boot"
        )
        if mistake:
            logging.critical("%s", mistake)
        engine = Engine(
            Doors(
                store=store,
                kernel=cast(KernelDoor, KernelFile(folder / "kernel")),
                keyring=Keyring(folder / "keys", os.geteuid()),
                clock=SystemClock(),
                settings=settings,
                find_crash=CrashTraces(folder, has_journal=False, owner=os.getuid()).find,
                owner=os.geteuid(),
            )
        )
    except KspliceError as e:
        logging.critical("%s", e)
        return 1
    match way:
        case "boot":
            journal = FileJournal(folder / "journal.jsonl")
            return run_boot(engine, journal, why_disabled(folder))
        case "shutdown":
            return run_shutdown(engine)
        case _:
            pass

    def tell(state: str) -> None:
        notify(state)
        if state == "READY=1" and os.environ.get("KSPLICE_LOOP_METER"):
            LoopMeter(folder / "loop.json")

    surroundings = Surroundings(
        why_disabled=partial(why_disabled, folder),
        modules=folder / "modules",
        kmsg=folder / "kmsg",
        apply_retry_seconds=float(os.environ.get("KSPLICE_APPLY_SECONDS", "5")),
        idle_seconds=float(os.environ.get("KSPLICE_IDLE_SECONDS", IDLE_SECONDS)),
        beat_seconds=float(os.environ.get("KSPLICE_BEAT_SECONDS", BEAT_SECONDS)),
        drop_retry_seconds=float(os.environ.get("KSPLICE_RETRY_SECONDS", "60")),
    )
    daemon = Daemon(
        engine,
        connect(address),
        journal=FileJournal(folder / "journal.jsonl"),
        config=folder / "ksplicd.conf",
        notify=tell,
        surroundings=surroundings,
    )
    return daemon.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
