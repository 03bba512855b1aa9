# SPDX-License-Identifier: GPL-2.0-only
"""A file of FUSE that nobody can read: ``python -m tests.support.bus.fuse FD VICTIM DIR``.

It serves one file (include/uapi/linux/fuse.h, version 7.31) in mounts of its own, and sends an open
descriptor of it over the socket FD.  READ and STATFS are never answered, and nothing else that the
process VICTIM waits for.  When this process ends, the kernel ends all that waits.
"""

import contextlib
import ctypes
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from tests.support.bus.forks import ROOT

SIZE: Final = 100_000

_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS = 1, 2, 3, 14, 15, 17
_INIT, _BATCH_FORGET = 26, 42
_HEADER: Final = struct.Struct("<IIQQIIII")
_FILE: Final = 2
_FOREVER: Final = 1_000_000
_CLONE_NEWNS, _CLONE_NEWUSER, _MS_REC, _MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 0x40000


def _attributes(node: int) -> bytes:
    mode = stat.S_IFREG | 0o644 if node == _FILE else stat.S_IFDIR | 0o755
    size = SIZE if node == _FILE else 0
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _answer(opcode: int, node: int) -> bytes | None:
    """Return what a request gets; None: nothing, ever."""
    match opcode:
        case 26:  # INIT
            return struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 1 << 16, 1, 0, 0, 0)
        case 1:  # LOOKUP
            times = struct.pack("<QQII", _FOREVER, _FOREVER, 0, 0)
            return struct.pack("<QQ", _FILE, 0) + times + _attributes(_FILE)
        case 3:  # GETATTR
            return struct.pack("<QII", _FOREVER, 0, 0) + _attributes(node)
        case 14:  # OPEN
            return struct.pack("<QII", 1, 0, 0)
        case 2 | 42 | 15 | 17:  # FORGET, BATCH_FORGET, READ, STATFS
            return None
        case _:
            return b""


def _serve(device: int, victim: int) -> None:
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, node, _, _, pid, _ = _HEADER.unpack_from(request)
        answer = None if victim and pid == victim else _answer(opcode, node)
        if answer is not None:
            os.write(device, struct.pack("<IiQ", 16 + len(answer), 0, unique) + answer)


def _check(result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _mount(folder: str, victim: int) -> int:
    """Mount it where nobody else sees it; return an open descriptor of the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    uid = os.geteuid()
    _check(libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if uid else 0)))
    _check(libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    device = os.open("/dev/fuse", os.O_RDWR)
    ours = uid if not uid else 65534  # a user without a number in the new name space
    options = f"fd={device},rootmode=40000,user_id={ours},group_id={ours},allow_other"
    where = os.fsencode(folder)
    _check(libc.mount(b"test", where, b"fuse", ctypes.c_ulong(0), options.encode()))
    threading.Thread(target=_serve, args=(device, victim), daemon=True).start()
    return os.open(f"{folder}/bundle", os.O_RDONLY)


@contextmanager
def unreadable_file(victim: int) -> Iterator[int]:
    """Have a descriptor; it has to be closed after the end, when nobody waits for it any more.

    Skips the test where FUSE cannot be mounted.
    """
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, other, tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", __name__, str(other.fileno()), str(victim), folder]
        server = subprocess.Popen(argv, cwd=ROOT, pass_fds=[other.fileno()])
        other.close()
        fds: list[int] = []
        try:
            said, fds, _, _ = socket.recv_fds(ours, 1000, 1)
            if not fds:
                pytest.skip(f"FUSE cannot be mounted here: {said.decode()}")
            assert ours.recv(1000) == b"closed"
            yield fds[0]
        finally:
            server.kill()
            server.wait()
            for fd in fds:
                with contextlib.suppress(OSError):  # ENOTCONN
                    os.close(fd)


def main(number: str, victim: str, folder: str) -> None:
    with socket.socket(fileno=int(number)) as end:
        try:
            fd = _mount(folder, int(victim))
        except OSError as e:
            end.send(str(e).encode())
            return
        socket.send_fds(end, [b"here"], [fd])
        os.close(fd)  # else this process would wait for itself at its end
        end.send(b"closed")
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
