# SPDX-License-Identifier: GPL-2.0-only
"""Runs alone in the guest: keeps both processors busy in the functions that the update replaces.

load.py KIND counts the work in /run/load-KIND: ``net`` sends over TCP and receives, ``file`` writes
and reads files, ``call`` starts programs and asks for descriptors' flags, ``stress`` runs
stress-ng.  While there is /run/load-pause it rests, with no socket or file open, and says so with
/run/load-KIND.idle.
"""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

BLOCK = bytes(65536)
PAUSE = Path("/run/load-pause")


def net() -> Iterator[None]:
    """Send 64 KiB over a TCP connection of this host, each time."""
    server = socket.create_server(("127.0.0.1", 0))

    def sink() -> None:
        with server.accept()[0] as peer:
            while peer.recv(len(BLOCK)):
                pass

    threading.Thread(target=sink, daemon=True).start()
    with socket.create_connection(server.getsockname()) as connection:
        while True:
            os.write(connection.fileno(), BLOCK)
            yield


def file() -> Iterator[None]:
    """Write a file of 1 MiB, have it on the disk, read it and delete it, each time."""
    path = Path("/root/load")
    while True:
        with path.open("wb") as f:
            for _ in range(16):
                f.write(BLOCK)
            f.flush()
            os.fsync(f.fileno())
        path.read_bytes()
        path.unlink()
        yield


def call() -> Iterator[None]:
    """Start a program and ask for a descriptor's flags a thousand times, each time."""
    while True:
        subprocess.run(["/bin/true"], check=True)
        for _ in range(1000):
            fcntl.fcntl(0, fcntl.F_GETFD)
        yield


def stress() -> Iterator[None]:
    """Stress descriptors, pipes, sockets, files, faults and forks for ten seconds, each time."""
    while True:
        stressors = [f"--{name}=1" for name in ("fcntl", "pipe", "sock", "hdd", "fault", "fork")]
        bounds = ["--timeout=10", "--temp-path=/root", "--hdd-bytes=16M"]
        subprocess.run(["stress-ng", "--quiet", *stressors, *bounds], check=True)
        yield


def work(kind: str) -> None:
    """Work until there is a pause."""
    new = Path(f"/run/load-{kind}.new")
    for done, _ in enumerate({"net": net, "file": file, "call": call, "stress": stress}[kind](), 1):
        new.write_text(f"{done}\n")
        new.replace(f"/run/load-{kind}")
        if PAUSE.exists():
            break


if __name__ == "__main__":
    KIND = sys.argv[1]
    IDLE = Path(f"/run/load-{KIND}.idle")
    while True:
        work(KIND)
        IDLE.touch()
        while PAUSE.exists():
            time.sleep(0.1)
        IDLE.unlink()
