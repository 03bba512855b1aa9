# SPDX-License-Identifier: GPL-2.0-only
"""Updates that the service applies to the stock kernel and undoes, one after the other."""

import random
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from ksplicd import bundle, minisign
from ksplicd.cache import Cache
from ksplicd.distro.packages import KernelPackages
from ksplicd.errors import GuestPanicError, KspliceError, LabError
from ksplicd.lab.guest import Guest
from ksplicd.lab.image import build_image
from ksplicd.lab.qemu import Machine, probe_accelerator
from ksplicd.lab.snapshot import take_snapshot
from tests.support.guest.install import package_layer
from tests.support.kernels.slice import throwaway_key

A_GUEST: Final = 10
"""Updates that are tried before the guest is restored."""

_TIMEOUT: Final = 240.0
_COMPLAINT: Final = re.compile(
    r"BUG|WARNING|Oops|Call Trace|general protection|refcount_t|rcu.*(?:stall|detected)|UBSAN"
    r"|hung task|soft lockup|[Ii]nvalid relocation|unexpected"
)

# What a machine does all day, in a second or two: files, memory, processes, sockets.
_EXERCISE: Final = """\
import mmap, os, socket, subprocess, tempfile, threading
with tempfile.TemporaryDirectory(dir="/root") as d:
    for i in range(20):
        with open(f"{d}/{i}", "wb") as f:
            f.write(os.urandom(5000)); f.flush(); os.fsync(f.fileno())
        os.rename(f"{d}/{i}", f"{d}/x{i}")
        os.setxattr(f"{d}/x{i}", "user.k", b"v")
    os.listdir(d)
m = mmap.mmap(-1, 1 << 22); m[::4096] = bytes(1024); m.close()
for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET6, ("::1", 0))):
    try:
        s = socket.create_server(address, family=family)
    except OSError:
        continue
    t = threading.Thread(target=lambda: s.accept()[0].sendall(b"x" * 100000)); t.start()
    c = socket.socket(family); c.connect(s.getsockname()[:2])
    while c.recv(65536): pass
    t.join(); c.close(); s.close()
    u = socket.socket(family, socket.SOCK_DGRAM); u.bind(address)
    u.sendto(b"hello", u.getsockname()[:2]); u.recv(10); u.close()
a, b = socket.socketpair(); a.send(b"1"); b.recv(1)
subprocess.run(["cat", "/proc/meminfo", "/proc/vmstat", "/proc/net/dev", "/proc/self/maps"],
               stdout=subprocess.DEVNULL, check=True)
"""


def choose(targets: dict[str, str], seed: int) -> Iterator[str]:
    """Yield files in the order in which to try them: of three, one of a module while there are.

    ``targets``: the target by file.
    """
    rng = random.Random(seed)
    modules = sorted(f for f, t in targets.items() if t != "vmlinux")
    built_in = sorted(f for f, t in targets.items() if t == "vmlinux")
    rng.shuffle(modules)
    rng.shuffle(built_in)
    while modules or built_in:
        for pool in (built_in, modules, built_in):
            if pool:
                yield pool.pop()


class Trial:
    """Guests in which updates are tried, restored from one snapshot."""

    def __init__(self, cache: Cache, kernel: KernelPackages, folder: Path) -> None:
        image = build_image(kernel)
        machine = Machine(image=image, accelerator=probe_accelerator(cache, image.kernel))
        self._key = throwaway_key(folder)
        self._secret = minisign.read_secret_key(self._key.secret.read_text())
        with tempfile.TemporaryDirectory(prefix="ksplice-install-") as tree:
            snapshot = take_snapshot(cache, machine, package_layer(Path(tree)))
        self._guest = Guest(snapshot)
        self._tried = 0

    def __enter__(self) -> Self:
        self._guest.__enter__()
        self._prepare()
        return self

    def __exit__(self, *_: object) -> None:
        self._guest.close()

    def _prepare(self) -> None:
        self._tried = 0
        self._guest.put("/etc/ksplicd/keys.d/coverage.pub", self._key.public, mode=0o644)
        self._guest.put("/root/exercise.py", _EXERCISE.encode())

    def load(self, modules: Sequence[str]) -> str:
        """Load target modules; return why not, empty when they are there."""
        if self._tried >= A_GUEST:
            self._guest.reset()
            self._prepare()
        for name in modules:
            done = self._guest.run(["modprobe", name], check=False, timeout=_TIMEOUT)
            if done.status:
                return f"skipped: modprobe {name}: {done.err.strip().splitlines()[-1:]}"
        return ""

    def run(self, data: bytes) -> str:
        """Apply and undo a bundle; return ``ok``, or what went wrong."""
        self._tried += 1
        try:
            fault = self._run(data)
        except GuestPanicError as e:
            fault = f"panic: {e}"
        except LabError as e:
            fault = f"guest: {e}"
        if fault:
            self._guest.reset()
            self._prepare()
        return fault or "ok"

    def _run(self, data: bytes) -> str:
        guest = self._guest
        manifest = bundle.unpack(data).manifest
        name = bundle.file_name(manifest.kid)
        signature = minisign.sign(data, self._secret, trusted_comment=name)
        guest.put(f"/root/{name}", data)
        guest.put(f"/root/{name}.minisig", signature.encode())
        before = len(guest.kernel_log())
        steps = (
            ("apply", ["ksplice-apply", f"/root/{name}"]),
            ("exercise", ["python3", "/root/exercise.py"]),
            ("undo", ["ksplice-undo", manifest.kid]),
            ("exercise after undo", ["python3", "/root/exercise.py"]),
            ("remove", ["ksplice", "remove", manifest.kid]),
        )
        for what, argv in steps:
            done = guest.run(argv, check=False, timeout=_TIMEOUT)
            if done.status:
                return f"{what}: {(done.out + done.err).strip()}"
            if complaint := complaints(guest.kernel_log()[before:]):
                return f"{what}: the kernel complains: {complaint}"
            if what == "apply" and (fault := self._not_applied(manifest.kid)):
                return fault
        left = guest.run("cut -d' ' -f1 /proc/modules | grep ^ksplice", check=False).out.split()
        kept = guest.run("grep -l Y /sys/module/ksplice_*/parameters/keeps_code", check=False).out
        left = [name for name in left if name.removesuffix("_new") not in kept]
        return f"left behind: {', '.join(left)}" if left else ""

    def _not_applied(self, kid: str) -> str:
        path = f"/sys/kernel/livepatch/ksplice_{kid}_new/enabled"
        enabled = self._guest.run(["cat", path], check=False).out.strip()
        return "" if enabled == "1" else f"apply: {path} is {enabled or 'missing'}"


def complaints(log: str) -> str:
    """Return the first lines of a kernel log that tell of trouble, empty when none does."""
    found = [line for line in log.splitlines() if _COMPLAINT.search(line)]
    return "; ".join(found[:4])


def modules_of(data: bytes) -> list[str]:
    """Return the target modules of a bundle.  Raises ``KspliceError`` for a bad one."""
    try:
        return [t.name for t in bundle.unpack(data).manifest.targets if t.name != "vmlinux"]
    except KspliceError as e:
        raise LabError(f"our own bundle: {e}") from e
