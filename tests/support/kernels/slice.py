# SPDX-License-Identifier: GPL-2.0-only
"""From two of Debian's source packages to a signed update: shared by demo, benchmarks and tests.

The patch is Debian's change of a file from one version of its kernel source to another, cut out
when needed; no line of the kernel is kept here.  What is slow to make stays in the cache.
"""

import difflib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ksplicd import bundle, minisign
from ksplicd.cache import Cache, Progress, digest_of, silent
from ksplicd.cli import config
from ksplicd.create.patch.source_tree import PRESRC, SourceTree
from ksplicd.create.pipeline import create
from ksplicd.create.request import Created, Request
from ksplicd.distro.model import ChangelogEntry
from ksplicd.distro.packages import KernelPackages
from ksplicd.distro.source import KernelSource
from ksplicd.errors import LabError
from ksplicd.model import new_kid
from tests.support.kernels.stock import NEXT_NEWER, NEXT_VERSION, VERSION
from tests.support.kernels.store import made_once

NEWER: Final = "6.1.192-2"
"""The newer source that the fixes come from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A change in Debian's kernel that a program in the guest can see."""

    file: str
    subject: str
    """Words of the changelog's line."""
    reproducer: str
    """A Python program; it prints one line."""
    before: str
    """How that line starts without the fix."""
    after: str
    """How it starts with the fix."""
    old: str = VERSION
    new: str = NEWER


FCNTL: Final = Fix(
    file="fs/fcntl.c",
    subject="F_SET_RW_HINT on an immutable inode",
    # FS_IOC_SETFLAGS and FS_IMMUTABLE_FL: include/uapi/linux/fs.h; F_SET_RW_HINT: fcntl.h there
    reproducer="""\
import fcntl, os, struct
FS_IOC_SETFLAGS, FS_IMMUTABLE_FL, F_SET_RW_HINT, RWH_WRITE_LIFE_SHORT = 0x40086602, 0x10, 1036, 2
fd = os.open("/root/immutable", os.O_CREAT | os.O_RDWR)
fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", FS_IMMUTABLE_FL))
try:
    fcntl.fcntl(fd, F_SET_RW_HINT, struct.pack("Q", RWH_WRITE_LIFE_SHORT))
    print("accepted")
except OSError as e:
    print("refused:", e.strerror)
finally:
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", 0))
""",
    before="accepted",
    after="refused",
)

AUXV: Final = Fix(
    file="kernel/sys.c",
    subject="PR_SET_MM_AUXV",
    # a vector of one pair without its end; what /proc shows after that pair was there before
    reproducer="""\
import ctypes, os, struct
PR_SET_MM, PR_SET_MM_AUXV, AT_PAGESZ = 35, 12, 6
pair = struct.pack("QQ", AT_PAGESZ, 4096)
libc = ctypes.CDLL(None, use_errno=True)
arguments = [ctypes.c_ulong(PR_SET_MM_AUXV), pair, ctypes.c_ulong(len(pair)), ctypes.c_ulong(0)]
if libc.prctl(PR_SET_MM, *arguments):
    raise OSError(ctypes.get_errno(), "prctl")
with open("/proc/self/auxv", "rb") as f:
    left = len(f.read()) // len(pair) - 2
print(f"left behind: {left} entries" if left > 0 else "replaced whole")
""",
    before="left behind",
    after="replaced whole",
)

DCACHE: Final = Fix(
    file="fs/dcache.c",
    subject="fsnotify_inoderemove() only once when inode is dead",
    # of an inode with two names: told while it is still open by the second one
    reproducer="""\
import ctypes, os, select
libc = ctypes.CDLL(None, use_errno=True)
IN_DELETE_SELF = 0x400
os.chdir("/root")
a = os.open("a", os.O_CREAT | os.O_RDWR)
os.link("a", "b")
b = os.open("b", os.O_RDWR)
fd = libc.inotify_init()
assert libc.inotify_add_watch(fd, b"a", IN_DELETE_SELF) > 0
os.unlink("a")
os.unlink("b")
os.close(a)
early = bool(select.select([fd], [], [], 0.2)[0])
os.close(b)
late = bool(select.select([fd], [], [], 0.2)[0])
print("told early" if early else "told in time" if late else "not told")
""",
    before="told early",
    after="told in time",
    old=NEXT_VERSION,
    new=NEXT_NEWER,
)

FIXES: Final = (FCNTL, AUXV)
"""Those of Linux 6.1; both were seen in the stock kernel: the fault, the cure, the fault again."""


class Key(NamedTuple):
    """Files of a throwaway key pair, made without a password."""

    secret: Path
    public: Path


def cut_patch(cache: Cache, old: str, new: str, paths: Sequence[str]) -> Path:
    """Return the patch that turns ``paths`` of the source package ``old`` into those of ``new``.

    Raises ``LabError`` when they do not differ, or a version cannot be had.
    """

    def make(folder: Path) -> None:
        before = KernelSource(cache=cache, version=old).files(paths)
        after = KernelSource(cache=cache, version=new).files(paths)
        lines: list[str] = []
        for path in paths:
            # latin-1: whatever the bytes, they come back as they were
            lines += difflib.unified_diff(
                before[path].decode("latin-1").splitlines(keepends=True),
                after[path].decode("latin-1").splitlines(keepends=True),
                fromfile=f"a/{path}",
                tofile=f"b/{path}",
            )
        if not lines:
            raise LabError(f"{', '.join(paths)}: the same in {old} and {new}")
        (folder / "fix.patch").write_bytes("".join(lines).encode("latin-1"))

    return cache.entry("patch", digest_of(old, new, paths), make) / "fix.patch"


def changelog_line(cache: Cache, fix: Fix) -> ChangelogEntry:
    """Return the line of Debian's changelog about ``fix``, with the version it came with.

    Raises ``LabError`` when no version after ``fix.old`` has one.
    """
    for entry in KernelSource(cache=cache, version=fix.new).changelog():
        if entry.version == fix.old:
            break
        for line in entry.changes:
            if fix.subject in line:
                return ChangelogEntry(version=entry.version, changes=(line,))
    raise LabError(f"no line of the changelog after {fix.old} has the words “{fix.subject}”")


def config_folder(cache: Cache, kernel: KernelPackages) -> Path:
    """Return a ``--config`` folder for ``kernel``, with the headers installed on this host."""
    kernel.install_headers()

    def make(folder: Path) -> None:
        cache.progress(f"recovering the symbols of {kernel.release} from its image")
        config.fill(folder, kernel)

    return cache.entry("config", digest_of(kernel.release, kernel.version), make)


def source_tree(cache: Cache, kernel: KernelPackages) -> Path:
    """Return the source tree of ``kernel``, which ``create`` patches for a while."""
    return KernelSource(cache=cache, version=kernel.version).tree()


def read_source(tree: Path, path: str) -> str:
    """Return a file of a source tree as its package has it, whoever patches the tree just now."""
    with SourceTree(tree).lock():
        saved = tree / f"{path}{PRESRC}"
        return (saved if saved.exists() else tree / path).read_text()


def throwaway_key(folder: Path) -> Key:
    """Write a new key pair into ``folder``."""
    key = minisign.new_secret_key()
    files = Key(secret=folder / "throwaway.key", public=folder / "throwaway.pub")
    files.secret.touch(mode=0o600)
    files.secret.write_text(minisign.write_secret_key(key))
    files.public.write_text(minisign.write_public_key(key.public))
    return files


def request_for(
    cache: Cache,
    kernel: KernelPackages,
    patch: Path,
    *,
    kid: str | None = None,
) -> Request:
    """Return what ``create`` is asked for an update of ``kernel``."""
    return Request(
        source=source_tree(cache, kernel),
        config=config_folder(cache, kernel),
        cache=cache.root,
        patches=(patch,),
        kid=kid or new_kid(),
        jobs=2,
    )


def make_update(
    cache: Cache,
    kernel: KernelPackages,
    patch: Path,
    key: Path,
    *,
    out: Path,
    kid: str | None = None,
) -> Path:
    """Make a signed bundle in the folder ``out`` and return it; the signature is beside it."""
    request = request_for(cache, kernel, patch, kid=kid)
    return write_signed(request.kid, made(cache, request, silent), key, out)


def write_signed(kid: str, data: bytes, key: Path, folder: Path) -> Path:
    """Write the bundle of an update into a folder, and its signature; return the bundle's file."""
    file = folder / bundle.file_name(kid)
    secret = minisign.read_secret_key(key.read_text())
    signature_of(file).write_text(minisign.sign(data, secret, trusted_comment=file.name))
    file.write_bytes(data)
    return file


def made(cache: Cache, request: Request, progress: Progress) -> bytes:
    """Return the bundle of a request, which is created unless it has been before."""
    return made_once(cache, request, lambda: create_alone(cache, request, progress).data)


def create_alone(cache: Cache, request: Request, progress: Progress) -> Created:
    """Run ``create``, but not while a test kills another one that works on the same tree."""
    with tree_turn(cache):
        return create(request, progress)


def tree_turn(cache: Cache) -> AbstractContextManager[None]:
    """Return what keeps ``create_alone`` out of the source trees while its context lasts."""
    return cache.lock("tree-turn")


def signature_of(bundle_file: Path) -> Path:
    """Return where the signature of a bundle is."""
    return bundle_file.with_name(f"{bundle_file.name}.minisig")
