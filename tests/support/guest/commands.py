# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice`` in a guest, run by a process that has imported it already.

Of the 2.5 seconds of a processor that a command takes in a guest, 2 are for starting Python and for
imports.  So a process waits in the snapshot that has done both, and forks for each command;
the child runs the installed ``main()`` with the words, standard output and standard error of
its own.  It is gone after a boot; commands are started as usual then.
"""

import shlex
from dataclasses import replace
from typing import Final

from ksplicd.lab.running_guest import Result, RunningGuest
from ksplicd.lab.snapshot import Layer

_FOLDER: Final = "/run/ksplice-commands"
_SERVER: Final = f"""\
import os, sys, traceback
import ksplicd.cli.bundle_files, ksplicd.cli.change, ksplicd.cli.client, ksplicd.cli.show
from ksplicd.cli.main import main

def run(words):
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.chdir("/")
    status = 1
    try:
        status = main(words)
    except SystemExit as e:
        status = e.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

os.chdir("{_FOLDER}")
os.mkfifo("done")
os.mkfifo("words")
while True:
    with open("words") as f:
        words = f.read().splitlines()
    child = os.fork()
    if not child:
        run(words)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open("done", "w") as f:
        print(status if status >= 0 else 128 - status, file=f)
"""
_START: Final = (
    f"mkdir {_FOLDER} && setsid -f /usr/bin/python3 -I /root/commands.py"
    f" </dev/null >/dev/null 2>&1 && until [ -p {_FOLDER}/words ]; do sleep 0.1; done"
)


def with_commands(layer: Layer) -> Layer:
    """Return the layer that installs ksplicd with a process for ``run_ksplice``."""
    assert layer.tree is not None
    file = layer.tree / "root/commands.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(_SERVER)
    return replace(layer, commands=(*layer.commands, _START))


def run_ksplice(guest: RunningGuest, command: str, *, check: bool = True) -> Result:
    """Run ``ksplice`` with the words of a command."""
    words = shlex.join(shlex.split(command))
    return guest.run(
        f"cd {_FOLDER} 2>/dev/null || exec ksplice {words};"
        f" printf '%s\\n' {words} >words; read status <done; cat out; cat err >&2; exit $status",
        check=check,
    )
