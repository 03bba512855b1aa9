# SPDX-License-Identifier: GPL-2.0-only
"""A shell in a kept guest: ``python -m tests.tools.login CONSOLE``.

At a terminal, Ctrl-] or the end of the shell leaves.  Without a terminal, the lines of standard
input are run and their output is printed.
"""

import contextlib
import os
import select
import shutil
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

from tests.support.guest.keep import LOGGED_OUT

LEAVE: Final = b"\x1d"
END: Final = f"{LOGGED_OUT}\r\n".encode()


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Have a terminal hand each key on."""
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def relay(console: socket.socket, *, keys: int | None) -> None:
    """Show what the console says until its shell ends; ``keys`` is where the user types."""
    last = b""
    while END not in last:
        ends = [console.fileno(), *([] if keys is None else [keys])]
        ready = select.select(ends, [], [])[0]
        if console.fileno() in ready:
            data = console.recv(4096)
            if not data:
                return
            last = (last + data)[-4096:]
            os.write(sys.stdout.fileno(), data)
        if keys is not None and keys in ready:
            typed = os.read(keys, 1024)
            if LEAVE in typed:
                return
            console.sendall(typed)


def main(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(path)
        if not sys.stdin.isatty():
            console.sendall(sys.stdin.buffer.read() + b"\nexit\n")
            relay(console, keys=None)
            return
        columns, lines = shutil.get_terminal_size()
        sys.stdout.write("Ctrl-] leaves; the guest stays.\n")
        console.sendall(f"stty rows {lines} cols {columns}\n".encode())
        with raw_terminal(sys.stdin.fileno()):
            relay(console, keys=sys.stdin.fileno())
        sys.stdout.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
