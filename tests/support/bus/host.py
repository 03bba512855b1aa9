# SPDX-License-Identifier: GPL-2.0-only
"""A host without a kernel: a private bus with our policy, a polkit, and the daemon."""

import json
import os
import pwd
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.cli.client import Client
from tests.support.bundles import samples
from tests.support.bus.forks import DAEMON, POLKIT, ROOT, Fork, forks
from tests.support.bus.serve import KernelFile
from tests.support.waiting import PATIENCE, wait_for

BUS: Final = """<busconfig>
  <type>system</type>
  <listen>unix:path={folder}/bus</listen>
  <listen>{for_users}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <allow own="org.freedesktop.PolicyKit1"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <include>{folder}/policy.conf</include>
</busconfig>
"""

USERS: Final = tuple(pwd.getpwnam(name).pw_uid for name in ("nobody", "daemon", "bin"))
"""The bus lets in only users that there are."""


def wait_for_bus(connection: Gio.DBusConnection) -> None:
    """Wait until the bus has seen what was sent so far."""
    connection.call_sync(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId",
        None, None, Gio.DBusCallFlags.NONE, -1, None,
    )  # fmt: skip


class Host:
    """The private bus, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:path={folder}/bus"
        self.address_for_users = f"unix:abstract=ksplice-{os.getpid()}-{folder.name}"
        """The folder is the test's alone."""
        self.kernel = KernelFile(folder / "kernel")
        self.store = folder / "store"
        self.env = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.address}
        self._processes: list[subprocess.Popen[bytes] | Fork] = []
        self._connections: list[Gio.DBusConnection] = []
        self._notices: queue.Queue[str] = queue.Queue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._reader = threading.Thread(target=self._read_notices)
        self._reader.start()
        self.daemon: Fork

    # --- processes ------------------------------------------------------------------------------

    def start_bus(self) -> None:
        policy = (ROOT / "units" / f"{names.BUS_NAME}.conf").read_text()
        mine = policy.replace('user="root"', f'user="{pwd.getpwuid(os.getuid()).pw_name}"')
        (self.folder / "policy.conf").write_text(mine)
        (self.folder / "bus.conf").write_text(
            BUS.format(folder=self.folder, for_users=self.address_for_users)
        )
        self._spawn(["dbus-daemon", f"--config-file={self.folder}/bus.conf", "--nofork"])
        wait_for((self.folder / "bus").exists)

    def start_polkit(self) -> Fork:
        process = self._fork(POLKIT, self.address, str(self.folder))
        wait_for((self.folder / "ready").exists)
        return process

    def start(self, **env: str) -> None:
        """Start the daemon and wait until it is ready."""
        self.start_unready(**env)
        self.hear("READY=1")

    def start_unready(self, **env: str) -> None:
        self.daemon = self._fork(
            DAEMON,
            self.address,
            str(self.folder),
            NOTIFY_SOCKET=str(self.folder / "notify"),
            **env,
        )

    def reboot(self, *, crash: bool = False, leaves_trace: bool = True, status: int = 0) -> None:
        """Stop the daemon, go down and come up to where systemd starts it again."""
        self.go_down(crash=crash, leaves_trace=leaves_trace)
        assert self.start_boot().wait(PATIENCE) == status

    def go_down(self, *, crash: bool = False, leaves_trace: bool = True) -> None:
        """Stop the daemon and have the kernel start anew; a power cut leaves no trace."""
        if crash:
            self.kill()
            if leaves_trace:
                (self.folder / "var/crash").mkdir(parents=True, exist_ok=True)
                (self.folder / "var/crash/dmesg.202311142213").touch()
        else:
            self.stop()
            assert self._start_way("shutdown").wait(PATIENCE) == 0
        with self.kernel.open() as kernel:
            kernel.reboot()

    def start_boot(self) -> Fork:
        """Start what ksplicd-boot.service does."""
        return self._start_way("boot")

    def _start_way(self, way: str) -> Fork:
        return self._fork(DAEMON, self.address, str(self.folder), way)

    def hear(self, state: str) -> None:
        """Wait until the daemon notifies ``state``."""
        while self._notices.get(timeout=PATIENCE) != state:
            pass

    def _read_notices(self) -> None:
        """Read at once, as systemd does: the daemon waits for room in the socket."""
        while data := self._socket.recv(4096):
            for state in data.decode().split("\n"):
                self._notices.put(state)

    def stop(self) -> int:
        self.daemon.terminate()
        return self.daemon.wait(PATIENCE)

    def kill(self) -> None:
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(PATIENCE)

    def _fork(self, module: str, *argv: str, **env: str) -> Fork:
        with (self.folder / "log").open("ab") as log:
            process = forks().start(module, argv, {**self.env, **env}, log.fileno())
        self._processes.append(process)
        return process

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, env=self.env)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for connection in self._connections:
            if not connection.is_closed():
                connection.close_sync(None)
        for process in reversed(self._processes):
            process.kill()
            process.wait(PATIENCE)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.folder / "notify"))
        self._reader.join()
        self._socket.close()

    # --- callers --------------------------------------------------------------------------------

    def connect(self) -> Gio.DBusConnection:
        return self._connect(self.address)

    def _connect(self, address: str) -> Gio.DBusConnection:
        flags = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            address,
            flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION,
            None,
            None,
        )
        self._connections.append(connection)
        return connection

    def connect_user(self, uid: int = USERS[0]) -> Gio.DBusConnection:
        """Connect as another user, where the tests are run by root; polkit is asked about it.

        Meanwhile the other threads are that user too.
        """
        if os.geteuid() != 0:
            return self.connect()
        os.setresuid(uid, uid, 0)
        try:
            return self._connect(self.address_for_users)
        finally:
            os.setresuid(0, 0, 0)

    def client(self) -> Client:
        return Client(self.connect())

    def user(self, uid: int = USERS[0]) -> Client:
        return Client(self.connect_user(uid))

    def subscribe(self, signal: str | None, then: Callable[..., None]) -> Callable[[], None]:
        """Have a function called for the daemon's signals, from now on; return what ends it.

        Gio does not wait until the bus has heard of a subscription, and on a busy machine a signal
        is faster: a call on the same connection, which comes after it, is waited for.
        """
        connection = self.connect()
        number = connection.signal_subscribe(
            names.BUS_NAME, None, signal, None, None, Gio.DBusSignalFlags.NONE, then
        )
        wait_for_bus(connection)
        return lambda: connection.signal_unsubscribe(number)

    def busctl(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["busctl", f"--address={self.address}", *argv],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )

    def ksplice(self, *argv: str) -> subprocess.CompletedProcess[str]:
        program = "import sys; from ksplicd.cli.main import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", program, *argv],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=self.env,
            timeout=PATIENCE,
        )

    # --- what is so -----------------------------------------------------------------------------

    def stage_of(self, kid: str = samples.KID) -> str:
        """Return the Stage property; empty when the update is not on the bus, or not yet."""
        args = GLib.Variant("(ss)", (names.UPDATE, "Stage"))
        place = names.BUS_NAME, names.update_path(kid), names.PROPERTIES
        try:
            reply = self.connect().call_sync(
                *place, "Get", args, None, Gio.DBusCallFlags.NONE, -1, None
            )
        except GLib.Error as e:
            if not e.matches(Gio.dbus_error_quark(), Gio.DBusError.UNKNOWN_METHOD):
                raise
            return ""
        return str(reply.unpack()[0])

    def journal(self) -> list[dict[str, Any]]:
        return _read_lines(self.folder / "journal.jsonl")

    def outcomes(self) -> list[str]:
        """Return the names of the journal's messages, but for that of the start."""
        return [entry["name"] for entry in self.journal() if entry["name"] != "STARTED"]

    def asked(self) -> list[dict[str, Any]]:
        """Return what polkit was asked."""
        return _read_lines(self.folder / "asked.jsonl")

    def answer(self, **answers: str) -> None:
        """Have polkit say ``yes``, ``no`` or ``challenge`` to each action, named by its end."""
        known = {f"org.ksplice.ksplicd1.{name}": answer for name, answer in answers.items()}
        (self.folder / "answers.json").write_text(json.dumps(known))

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def configure(self, **settings: str) -> None:
        lines = [f"{key.replace('_', '-')} = {value}" for key, value in settings.items()]
        (self.folder / "ksplicd.conf").write_text("\n".join(["[ksplicd]", *lines, ""]))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
