# SPDX-License-Identifier: GPL-2.0-only
"""What answers inside the guest, and the frames that both ends speak.

This file is copied into the guest and runs there by itself as a service, so it imports nothing of
ours.  A frame is a big-endian header (``>III``: magic, length of the head, length of the body),
the head in JSON and the body as bytes.  Requests carry ``id`` and ``op``; a reply carries the same
``id``, and ``error`` when the request could not be carried out.

==========  ==================================  =============================  ===============
op          head                                body                           reply
==========  ==================================  =============================  ===============
``hello``   ``time`` in seconds since 1970      bytes for the random pool      -
``exec``    ``argv``, ``cwd``, ``timeout`` (s)  standard input                 ``status``,
                                                                               ``out``; output
``put``     ``path``, ``mode``                  contents                       -
``get``     ``path``, ``if_there``              -                              contents
==========  ==================================  =============================  ===============

The reply to ``exec`` has standard output and standard error one after the other in its body;
``out`` is the length of the first.  ``status`` is negative for a signal, None after ``timeout``.
With ``if_there``, a file that cannot be read is empty.
"""

import fcntl
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

PORT_NAME: Final = "org.ksplice.lab"
PORT_PATH: Final = f"/dev/virtio-ports/{PORT_NAME}"

HEADER: Final = struct.Struct(">III")
MAGIC: Final = 0x6B73_706C  # "kspl"
MAX_HEAD: Final = 1 << 20
MAX_BODY: Final = 1 << 30

# include/uapi/linux/random.h: mix the pool into the generator now, not within minutes
_RNDRESEEDCRNG: Final = 0x5207
_CHUNK: Final = 1 << 16


class FrameError(Exception):
    """The bytes are not a frame."""


def pack_frame(head: Mapping[str, object], body: bytes = b"") -> bytes:
    """Return the frame for ``head`` and ``body``."""
    text = json.dumps(head).encode()
    return HEADER.pack(MAGIC, len(text), len(body)) + text + body


def read_frame(read_exactly: Callable[[int], bytes]) -> tuple[dict[str, Any], bytes]:
    """Read one frame; ``read_exactly(n)`` returns n bytes.  Raises ``FrameError``."""
    magic, head_size, body_size = HEADER.unpack(read_exactly(HEADER.size))
    if magic != MAGIC or head_size > MAX_HEAD or body_size > MAX_BODY:
        raise FrameError(f"not a frame: magic {magic:#x}, sizes {head_size} and {body_size}")
    head = json.loads(read_exactly(head_size))
    if not isinstance(head, dict):
        raise FrameError("the head of a frame is not an object")
    return head, read_exactly(body_size)


def answer(head: Mapping[str, Any], body: bytes) -> tuple[dict[str, object], bytes]:
    """Carry out one request and return the head and body of its reply."""
    match head.get("op"):
        case "hello":
            time.clock_settime(time.CLOCK_REALTIME, float(head["time"]))
            _stir_random_pool(body)
            return {}, b""
        case "exec":
            return _execute(head, body)
        case "put":
            _write_file(str(head["path"]), body, int(head["mode"]))
            return {}, b""
        case "get":
            return {}, _read_file(str(head["path"]), if_there=bool(head.get("if_there")))
        case other:
            raise ValueError(f"unknown op {other!r}")


def _execute(head: Mapping[str, Any], body: bytes) -> tuple[dict[str, object], bytes]:
    process = subprocess.Popen(
        [str(arg) for arg in head["argv"]],
        cwd=head.get("cwd"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    status: int | None
    try:
        out, err = process.communicate(body, timeout=head.get("timeout"))
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        status = None
    return {"status": status, "out": len(out)}, out + err


def _read_file(path: str, *, if_there: bool) -> bytes:
    try:
        with open(path, "rb") as f:  # noqa: PTH123 - pathlib costs start-up time
            return f.read()
    except OSError:
        if if_there:
            return b""
        raise


def _write_file(path: str, data: bytes, mode: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as f:
        os.fchmod(fd, mode)
        f.write(data)


def _stir_random_pool(seed: bytes) -> None:
    """Make this guest's random numbers its own: every restored guest has the same pool."""
    fd = os.open("/dev/urandom", os.O_WRONLY)
    try:
        os.write(fd, seed)
        fcntl.ioctl(fd, _RNDRESEEDCRNG)
    finally:
        os.close(fd)


class _Port:
    """The guest's end of the channel.  A read returns nothing while no host is connected."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR)

    def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = os.read(self._fd, min(size - len(data), _CHUNK))
            if chunk:
                data += chunk
            else:
                time.sleep(0.01)
        return bytes(data)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest[:_CHUNK]) :]


def serve(path: str = PORT_PATH) -> None:
    """Answer requests until killed."""
    port = _Port(path)
    while True:
        head, body = read_frame(port.read_exactly)
        try:
            reply, data = answer(head, body)
        except Exception as e:
            reply, data = {"error": f"{type(e).__name__}: {e}"}, b""
        port.write(pack_frame({**reply, "id": head.get("id")}, data))


if __name__ == "__main__":
    serve()
