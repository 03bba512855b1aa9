# SPDX-License-Identifier: GPL-2.0-only
"""Time of ``ksplice-create`` from an empty cache, and for a header of many files; its memory.

From an empty cache it starts with the source package.  The header is ``net/sock.h``, which
1,400 units of a cloud kernel include: an inline function that some of them call changes, and then
the layout of ``struct sock``, which is refused.
"""

import json
import re
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from ksplicd.cache import Cache, to_stderr
from ksplicd.create.request import Request
from ksplicd.distro.packages import KernelPackages
from ksplicd.distro.source import KernelSource
from ksplicd.errors import LabError
from ksplicd.run import run_any
from tests.bench.figures import Cost, Figure, cost
from tests.support.guest.hand import Edit, write_patch
from tests.support.kernels.slice import FCNTL, cut_patch, request_for

_COMMAND: Final = """\
import resource, sys
from ksplicd.cli.main import main_create
try:
    status = main_create()
finally:
    print("memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""
_INLINE: Final = Edit(
    "include/net/sock.h",
    "return READ_ONCE(sk->sk_ack_backlog) > READ_ONCE(sk->sk_max_ack_backlog);",
    "return READ_ONCE(sk->sk_ack_backlog) >= READ_ONCE(sk->sk_max_ack_backlog);",
)
_LAYOUT: Final = Edit(
    "include/net/sock.h", "\tstruct sock_common\t__sk_common;\n",
    "\tstruct sock_common\t__sk_common;\n\tint\t\t\tksplice_bench;\n",
)  # fmt: skip
_COUNTS: Final = re.compile(r"(\d+) units depend on it, the change can reach (\d+), .* of (\d+) ")


def run_create(request: Request) -> tuple[Cost, int, str, int]:
    """Run the command; return its cost, exit status, output, and its own memory in KiB."""
    said: list[bytes] = []
    status = 0

    def act() -> None:
        nonlocal status
        with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as out:
            argv = [sys.executable, "-c", _COMMAND, "-q", "--json", "-o", out, "-j2", "--patch",
                    *map(str, request.patches), "--config", str(request.config),
                    str(request.source)]  # fmt: skip
            status, *found = run_any(argv, env={"XDG_CACHE_HOME": str(request.cache.parent)})
            said.extend(found)

    spent = cost(act)
    out, err = (text.decode() for text in said)
    memory = re.search(r"^memory (\d+)$", err, re.MULTILINE)
    assert memory is not None, err
    return spent, status, out or err, int(memory[1])


def from_nothing(cache: Cache, kernel: KernelPackages, patch: Path) -> list[Figure]:
    """Return the figures of a first update."""
    request = request_for(cache, kernel, patch)
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-", dir=cache.root) as folder:
        empty = Cache(Path(folder) / "ksplice", progress=cache.progress)
        empty.root.mkdir()
        deb = KernelSource(cache=cache, version=FCNTL.old).deb()
        shutil.copytree(deb.parent, empty.root / deb.parent.relative_to(cache.root))
        unpacking = cost(lambda: KernelSource(cache=empty, version=FCNTL.old).tree())
        source = KernelSource(cache=empty, version=FCNTL.old).tree()
        made, status, out, memory = run_create(replace(request, source=source, cache=empty.root))
    if status:
        raise LabError(f"create from nothing: {out}")
    return [
        Figure(
            name="create from a source package", value=round(unpacking.wall + made.wall, 1),
            unit="s", floor=90, about=f"goal; unpacking {unpacking.wall:.1f}, an empty cache",
        ),
        Figure(name="create, memory", value=memory // 1024, unit="MiB", floor=1024, about="goal"),
    ]  # fmt: skip


def header(cache: Cache, kernel: KernelPackages, folder: Path) -> list[Figure]:
    """Return the figures of a header."""
    source = KernelSource(cache=cache, version=FCNTL.old).tree()
    request = request_for(cache, kernel, write_patch(source, folder / "inline.patch", _INLINE))
    spent, status, out, memory = run_create(request)
    if status:
        raise LabError(f"create with a header: {out}")
    counts = _COUNTS.search(json.loads(out)["files"][_INLINE.path])
    assert counts is not None
    depend, reached, changed = map(int, counts.groups())
    layout = replace(request, patches=(write_patch(source, folder / "layout.patch", _LAYOUT),))
    refused, status, out, _ = run_create(layout)
    if status != 1 or "layout" not in out:
        raise LabError(f"a changed struct sock was not refused: {out}")
    return [
        Figure(
            name="create, a header", value=round(spent.wall, 1), unit="s",
            about=f"{depend} units depend on it, {reached} compiled, {changed} change",
        ),
        Figure(
            name="create, a header, compiled", value=reached, unit="units", floor=changed,
            about="those whose code changes",
        ),
        Figure(name="create, a header, memory", value=memory // 1024, unit="MiB", floor=1024,
               about="goal"),
        Figure(
            name="create, a header's layout", value=round(refused.wall, 1), unit="s",
            about="until it is refused",
        ),
    ]  # fmt: skip


def measure(cache: Cache, kernel: KernelPackages) -> list[Figure]:
    """Return the figures."""
    to_stderr("create: from nothing, and a header that 1,400 units include")
    patch = cut_patch(cache, FCNTL.old, FCNTL.new, [FCNTL.file])
    with tempfile.TemporaryDirectory(prefix="ksplice-bench-") as folder:
        return [*from_nothing(cache, kernel, patch), *header(cache, kernel, Path(folder))]
