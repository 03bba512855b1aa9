# SPDX-License-Identifier: GPL-2.0-only
"""The targets of fuzzing: each takes any bytes, and may raise only the errors that it names.

A target is a function, the errors that it may raise, and seeds from which inputs are made.  The
targets add what libFuzzer cannot find: checksums, digests, compression, signatures.
"""

import contextlib
import gzip
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd import bundle, minisign
from ksplicd.config import Settings, parse_settings
from ksplicd.create.patch.change import paths_of
from ksplicd.create.stock.module import read_stock_module
from ksplicd.create.stock.symvers import read_exports
from ksplicd.create.stock.system_map import SymbolMap
from ksplicd.elf.linked import read_linked
from ksplicd.errors import (
    BadBundleError,
    BadSignatureError,
    ConfigDirError,
    ConfigFileError,
    ElfError,
    HostError,
    KeyFileError,
    KspliceError,
    PatchError,
    StoreError,
    UnexpectedError,
)
from ksplicd.host.engine import Engine
from ksplicd.host.kernel import kmsg, tripwire
from ksplicd.host.kernel.linux import LinuxKernel, SystemCalls
from ksplicd.host.report import sentences
from ksplicd.host.store import crash_guard, history, wanted
from ksplicd.host.store.drop_dir import DropDir
from ksplicd.host.store.store import Store
from ksplicd.host.trust.keyring import Keyring
from ksplicd.host.updates.doors import Doors
from ksplicd.manifest import read_manifest
from ksplicd.modinfo import read_module_names
from tests.support.bundles import samples
from tests.support.bundles.faults import bundle_of, good_files
from tests.support.bundles.samples import KID
from tests.support.host import netlink
from tests.support.host.host import ALICE, EVENT, ROOT, all_events
from tests.support.host.simulator import Simulator, StoppedClock
from tests.support.objects.linked import module_file

_BLOCK: Final = 512
_BUNDLE: Final = samples.bundle()
_FILES: Final = good_files()
_SIGNATURE: Final = samples.signature(_BUNDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One way in."""

    try_one: Callable[[bytes, Path], object]
    """Takes the input, and an empty folder that stays from one input to the next."""
    errors: tuple[type[KspliceError], ...]
    seeds: Sequence[bytes]
    tokens: Sequence[bytes] = ()
    """Words that inputs are made of."""
    runs: int = 60_000
    """Inputs of a long run."""
    is_json: bool = False

    def check(self, data: bytes, folder: Path) -> None:
        """Raise what is raised by accident, and ``AssertionError`` for a broken rule."""
        with contextlib.suppress(*self.errors):
            self.try_one(data, folder)


# --- the bundle ---------------------------------------------------------------------------------


def _archive(data: bytes, _folder: Path) -> None:
    bundle.unpack(data)


def _tar(data: bytes, _folder: Path) -> None:
    bundle.unpack(_compress(_with_checksums(data)))


def _with_checksums(tar: bytes) -> bytes:
    """Return an archive whose headers have the checksums that they must have."""
    blocks = [tar[i : i + _BLOCK] for i in range(0, len(tar), _BLOCK)]
    for i, block in enumerate(blocks):
        if block[257:262] == b"ustar" and len(block) == _BLOCK:
            total = sum(block[:148]) + 8 * 32 + sum(block[156:])
            blocks[i] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def _compress(data: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def _manifest(data: bytes, _folder: Path) -> None:
    read_manifest(data)


def _bundle(data: bytes, _folder: Path) -> None:
    """The manifest of a whole bundle; then the bundle has to agree with it."""
    bundle.unpack(bundle_of({**_FILES, "manifest.json": data}))


def _contents(data: bytes, _folder: Path) -> None:
    bundle.read_contents(data)


def _module(data: bytes, _folder: Path) -> None:
    read_module_names(data, "x.ko")


def _linked_file(data: bytes, _folder: Path) -> None:
    file = read_linked(data, "x.ko")
    file.check_module()
    file.read_symbols()
    for i in range(len(file.sections)):
        file.read_relocations(i)


# --- what create is given -----------------------------------------------------------------------


def _stock_module(data: bytes, _folder: Path) -> None:
    read_stock_module(data, "x", SymbolMap([]))


def _patch(data: bytes, folder: Path) -> None:
    """Its names; patch(1) itself is not asked."""
    for path in paths_of("x.patch", data):
        assert ".." not in path.parts
        assert not path.is_absolute()
        (folder / path).exists()


def _symvers(data: bytes, folder: Path) -> None:
    (folder / "Module.symvers").write_bytes(data)
    read_exports(folder / "Module.symvers")


# --- signatures ---------------------------------------------------------------------------------


def _signature(data: bytes, _folder: Path) -> None:
    """No signature but the right one may hold."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise BadSignatureError("not text") from None
    minisign.verify(_BUNDLE, text, [samples.KEY.public])
    assert minisign._read_signature(text) == minisign._read_signature(_SIGNATURE.decode())


def _key(data: bytes, folder: Path) -> None:
    (folder / "x.pub").write_bytes(data)
    (folder / "x.pub").chmod(0o644)
    Keyring(folder, os.getuid()).read()


# --- what we keep -------------------------------------------------------------------------------


def _history(data: bytes, folder: Path) -> None:
    """Whatever is in the file stays, and a line is added."""
    path = folder / "history.jsonl"
    path.write_bytes(data)
    read = all_events(history.History(path))
    history.History(path).append(EVENT)
    assert path.read_bytes().startswith(data)
    assert all_events(history.History(path))[: len(read)] == read
    assert all_events(history.History(path))[-1] == EVENT


def _full_history(data: bytes, folder: Path) -> None:
    (folder / "history.jsonl.000001.gz").write_bytes(data)
    all_events(history.History(folder / "history.jsonl"))


def _guard(data: bytes, _folder: Path) -> None:
    crash_guard.read_known(data)


def _wanted(data: bytes, _folder: Path) -> None:
    wanted.read_wanted(data)


def _conf(data: bytes, _folder: Path) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigFileError("not text") from None
    parse_settings(text)


# --- what the kernel says, which others had their hands in ----------------------------------------


def _log(data: bytes, _folder: Path) -> None:
    list(kmsg.Reader().feed(data))


def _tripwire(data: bytes, _folder: Path) -> None:
    tripwire.read_hit(data, netlink.FAMILY)


def _core(data: bytes, folder: Path) -> None:
    """The attributes of the kernel part, one after the other between NULs."""
    attributes = folder / f"sys/module/ksplice_{KID}/ksplice"
    attributes.mkdir(parents=True, exist_ok=True)
    names = ("stage", "abort_cause", "matched", "mismatch", "targets")
    for name, text in zip(names, data.split(b"\0") + [b""] * len(names), strict=False):
        (attributes / name).write_bytes(text)
    core = LinuxKernel(folder, _NoCalls()).core(KID)
    if core is not None:
        sentences.describe_match(core)
        sentences.explain(core.abort_cause, sentences.read_mismatch(core.mismatch))


class _NoCalls(SystemCalls):
    """Nothing is loaded."""

    def __init__(self) -> None:
        pass

    def finit_module(self, fd: int, params: bytes, flags: int) -> int:
        raise AssertionError("a module is loaded")

    delete_module = finit_module  # type: ignore[assignment]


# --- all of it ----------------------------------------------------------------------------------


def _drop(data: bytes, folder: Path) -> None:
    """A bundle that a stolen key signed: first byte, how it is dropped; the rest, its tar file."""
    keys, root = folder / "keys", folder / "store"
    if not keys.exists():
        keys.mkdir()
        (keys / "test.pub").write_text(minisign.write_public_key(samples.KEY.public))
        (keys / "test.pub").chmod(0o644)
    how, tar = data[:1], data[1:]
    dropped = tar if how == b"r" else _compress(_with_checksums(tar))
    kernel = Simulator()
    settings = Settings(require_signature=how != b"u")
    doors = Doors(
        store=Store(root), kernel=kernel, keyring=Keyring(keys, os.getuid()),
        clock=StoppedClock(), settings=settings, owner=os.getuid(),
    )  # fmt: skip
    engine = Engine(doors)
    engine.reconcile()
    name = f"ksplice-{KID}.tar.gz"
    (root / name).write_bytes(dropped)
    if how != b"u":
        (root / f"{name}.minisig").write_bytes(samples.signature(dropped))
    with contextlib.suppress(HostError, BadBundleError):
        for drop in DropDir(root, require_signature=settings.require_signature).scan():
            engine.stage_file(drop.bundle, drop.signature, ROOT)
    assert kernel.calls == []
    assert {path.name for path in folder.iterdir()} == {"keys", "store"}
    known = {"updates", "rejected", "history.jsonl", "guard.json", "wanted.json", "reserve"}
    assert {path.name for path in root.iterdir()} <= known
    for kid in engine.doors.store.kids():
        engine.describe(kid)
        engine.remove(kid, ALICE)
    shutil.rmtree(root)


_WANT: Final = wanted.Want(kid=KID, since=1.5, actor=ALICE, kernel=samples.KERNEL, is_applied=True)
_JSON: Final = [b'"%s"' % key.encode() for key in json.loads(_FILES["manifest.json"])]
_TAR: Final = gzip.decompress(_BUNDLE)
_LINE: Final = history.write_event(EVENT)
_CONF: Final = b"""[ksplicd]
on-drop = apply
require-signature = no
transition-limit = 30
soak-time = 0
metrics-file = /var/lib/x.prom
"""
_PATCH: Final = b"""--- a/fs/a.c
+++ b/fs/a.c
@@ -1,2 +1,2 @@
-a
+b
 c
diff --git a/fs/b.c b/fs/c.c
rename from fs/b.c
rename to fs/c.c
"""
_SYMVERS: Final = b"0x1\tf\tvmlinux\tEXPORT_SYMBOL\t\n0x2\tg\tfs/ext4\tEXPORT_SYMBOL_GPL\tNS\n"
_OOPS: Final = b"""4,1,1000,-;BUG: kernel NULL pointer dereference, address: 0000000000000000
4,2,1001,-;RIP: 0010:do_fcntl+0x1c/0x600 [ksplice_8c4o6ucj_new]
 SUBSYSTEM=x
4,3,1002,-;Call Trace:
4,4,1003,-; ? do_fcntl+0x1c/0x600
4,5,1004,-;---[ end trace 0000000000000000 ]---
"""

TARGETS: Final[dict[str, Target]] = {
    "archive": Target(try_one=_archive, errors=(BadBundleError,), seeds=[_BUNDLE]),
    "tar": Target(
        try_one=_tar, errors=(BadBundleError,), seeds=[_TAR, _TAR[:2048]],
        tokens=[b"ustar\0", b"ksplice-8c4o6ucj/", b"../", b"00000000000\0", b"77777777777\0"],
    ),
    "manifest": Target(
        try_one=_manifest, errors=(BadBundleError,), seeds=[_FILES["manifest.json"]], tokens=_JSON,
        runs=200_000, is_json=True,
    ),
    "bundle": Target(
        try_one=_bundle, errors=(BadBundleError,), seeds=[_FILES["manifest.json"]], tokens=_JSON,
        runs=20_000, is_json=True,
    ),
    "contents": Target(
        try_one=_contents, errors=(BadBundleError,), seeds=[_FILES["contents"]],
        tokens=[b"core ", b"change ", b"module ", b" ksplice_8c4o6ucj_new "], runs=100_000,
    ),
    "linked file": Target(
        try_one=_linked_file, errors=(ElfError,), seeds=[module_file()], runs=30_000
    ),
    "stock module": Target(
        try_one=_stock_module, errors=(ElfError,), seeds=[module_file()], runs=30_000
    ),
    "patch": Target(
        try_one=_patch, errors=(PatchError,), seeds=[_PATCH],
        tokens=[b"--- ", b"+++ ", b"@@ -1,2 +1,2 @@\n", b"../", b"/dev/null", b"rename to ", b"\0"],
        runs=100_000,
    ),
    "symvers": Target(
        try_one=_symvers, errors=(ConfigDirError,), seeds=[_SYMVERS],
        tokens=[b"\t", b"\n", b"vmlinux"],
    ),
    "module": Target(
        try_one=_module, errors=(BadBundleError,), seeds=[samples.module_elf("x")],
        tokens=[b".modinfo\0", b"name=", b".gnu.linkonce.this_module\0"], runs=100_000,
    ),
    "signature": Target(
        try_one=_signature, errors=(BadSignatureError,), seeds=[_SIGNATURE],
        tokens=[b"trusted comment: ", b"untrusted comment: "], runs=100_000,
    ),
    "key": Target(
        try_one=_key, errors=(KeyFileError,),
        seeds=[minisign.write_public_key(samples.KEY.public).encode()],
    ),
    "history": Target(
        try_one=_history, errors=(), is_json=True, seeds=[_LINE, _LINE * 3],
        tokens=[b'"stage":"applied"', b'"via":"boot"', b"\n", b"{}"],
    ),
    "full history": Target(
        try_one=_full_history, errors=(StoreError,),
        seeds=[gzip.compress(history.write_event(EVENT) * 2)],
    ),
    "wanted": Target(
        try_one=_wanted, errors=(StoreError,), runs=100_000, is_json=True,
        seeds=[wanted.write_wanted([_WANT])],
        tokens=[b'"schema"', b'"wanted"', b'"actor"', b'"is-applied"', b'"build-id"', b"true"],
    ),
    "guard": Target(
        try_one=_guard, errors=(StoreError,), runs=100_000, is_json=True,
        seeds=[
            crash_guard.write_known(
                crash_guard.Known(clean=frozenset({"0" * 32}), soaked={KID: "1" * 32})
            )
        ],
        tokens=[b'"schema"', b'"clean"', b'"soaked"', b'"boot-id"'],
    ),
    "conf": Target(
        try_one=_conf, errors=(ConfigFileError,), seeds=[_CONF, b"[ksplicd]\n[signers]\n"],
        tokens=[b"[ksplicd]\n", b"[signers]\n", b" = ", b"\n", b"[DEFAULT]", b"\r", b"%(x)s"],
        runs=100_000,
    ),
    "log": Target(try_one=_log, errors=(), seeds=[_OOPS], tokens=[b"4,6,7,-;", b"+0x1/0x2"]),
    "tripwire": Target(
        try_one=_tripwire, errors=(), runs=100_000,
        seeds=[netlink.message(netlink.THE_HIT), netlink.message(netlink.SUPPRESSED)]),
    "core": Target(
        try_one=_core, errors=(UnexpectedError,),
        seeds=[
            b"applied\0ok\0vmlinux 2 812 5100\0\0vmlinux matched",
            b"preparing\0no_match\0\0target=vmlinux function=f offset=0x1\0romfs waiting",
        ],
    ),
    "drop": Target(try_one=_drop, errors=(), seeds=[b"g" + _TAR, b"u" + _TAR], runs=15_000),
}  # fmt: skip
