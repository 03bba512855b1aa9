# SPDX-License-Identifier: GPL-2.0-only
"""The bundle: ``ksplice-KID.tar.gz`` ⇄ a manifest and files.

::

    ksplice-KID/  contents       core MODULE FILE
                                patch          the source change, for people
                  description    what it is for
                  api-version    of the kernel part's tables and sysfs (model.API_VERSION)
                  timestamp      seconds since 1970 of the newest input
                  utsname        of the kernel that it is for
                  *.ko           core, new code, old code of each target, updated modules
                  manifest.json  all of it for machines, with the SHA-256 of every other file

``pack`` is deterministic.  ``unpack`` trusts nothing, not even signed bytes: size limits come
before decompression, the archive may only have plain files in that one folder, and manifest,
contents, files and the modules' own names must agree.  Signatures are not checked here.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ksplicd.errors import BadBundleError
from ksplicd.manifest import FILE_NAME, MAX_FILE_SIZE, NAME, read_manifest, write_manifest
from ksplicd.model import (
    API_VERSION,
    FileDigest,
    Manifest,
    core_module,
    is_kid,
    new_module,
    old_module,
)
from ksplicd.modinfo import read_module_names

MAX_BUNDLE_SIZE: Final = 64 << 20
"""Bytes of a bundle as it is dropped."""

_MAX_MEMBERS: Final = 256
_TEXT_FILES: Final = ("contents", "patch", "description", "api-version", "timestamp", "utsname")
_BLOCK: Final = 512
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
"""RFC 1952: deflate, no name, time 0, best compression, unknown system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """A ``core`` line of ``contents``."""

    module: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A ``change`` line of ``contents``."""

    target: str
    new_module: str
    new_file: str
    old_module: str
    old_file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeModule:
    """A ``module`` line of ``contents``: a whole target after the change, for the next boot."""

    target: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose parts agree with each other."""

    manifest: Manifest
    files: dict[str, bytes]
    """Every file but the manifest, by name."""
    core: Core
    changes: tuple[Change, ...]
    modules: tuple[WholeModule, ...] = ()


def file_name(kid: str) -> str:
    """Return the name of the bundle's file."""
    return f"ksplice-{kid}.tar.gz"


# --- writing ------------------------------------------------------------------------------------


def pack(manifest: Manifest, files: Mapping[str, bytes]) -> bytes:
    """Return the bytes of the bundle for ``manifest`` with ``files``.

    ``files`` holds ``patch``, the modules that the manifest names, and optionally ``timestamp``
    (decimal seconds and a newline; 0 by default) and ``utsname``; the other files and the digests
    are made here.  The same input gives the same bytes.  Raises ``BadBundleError`` for anything
    that ``unpack`` would refuse.
    """
    kernel = manifest.kernel
    whole = {
        "timestamp": b"0\n",
        "utsname": f"Linux {kernel.release} {kernel.version} x86_64\n".encode(),
        **files,
        "contents": write_contents(manifest),
        "description": f"{manifest.description}\n".encode(),
        "api-version": f"{API_VERSION}\n".encode(),
    }
    digests = {name: _digest(data) for name, data in sorted(whole.items())}
    text = write_manifest(replace(manifest, files=digests))
    _check_agreement(read_manifest(text), whole)
    packed = _compress(_write_tar(manifest.kid, {**whole, NAME: text}, _read_timestamp(whole)))
    if len(packed) > MAX_BUNDLE_SIZE:
        raise BadBundleError(f"{file_name(manifest.kid)}: over {MAX_BUNDLE_SIZE >> 20} MiB")
    return packed


def write_contents(manifest: Manifest) -> bytes:
    """Return the bytes of ``contents``."""
    kid = manifest.kid
    lines = [f"core {core_module(kid)} {manifest.core_file}"]
    lines += [
        f"change {target.name} {new_module(kid)} {target.new_file} "
        f"{old_module(kid, target.name)} {target.old_file}"
        for target in manifest.targets
    ]
    lines += [f"module {t.name} {t.module_file}" for t in manifest.targets if t.module_file]
    return "".join(f"{line}\n" for line in lines).encode()


def _write_tar(kid: str, files: Mapping[str, bytes], mtime: int) -> bytes:
    import tarfile  # hosts only read

    blocks = []
    for name, data in sorted(files.items()):
        member = tarfile.TarInfo(f"ksplice-{kid}/{name}")
        member.size, member.mtime, member.mode = len(data), mtime, 0o644
        member.uname = member.gname = "root"
        blocks += [member.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % _BLOCK)]
    return b"".join([*blocks, bytes(2 * _BLOCK)])


def _compress(data: bytes) -> bytes:
    # Not gzip.compress(): its header differs between versions of Python.
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    trailer = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    return b"".join([_GZIP_HEADER, deflate.compress(data), deflate.flush(), trailer])


def _digest(data: bytes) -> FileDigest:
    return FileDigest(size=len(data), sha256=hashlib.sha256(data).hexdigest())


# --- reading ------------------------------------------------------------------------------------


def unpack(data: bytes) -> Bundle:
    """Return the bundle in ``data``, or raise ``BadBundleError`` naming the file and the field."""
    kid, members = _read_tar(_decompress(data))
    if NAME not in members:
        raise BadBundleError(f"{NAME}: missing from the archive")
    manifest = read_manifest(members.pop(NAME))
    if manifest.kid != kid:
        raise BadBundleError(f"{NAME}: kid: {manifest.kid}, but the folder is ksplice-{kid}")
    return _check_agreement(manifest, members)


def _decompress(data: bytes) -> bytes:
    """Return the tar in a gzip file of one member."""
    if len(data) > MAX_BUNDLE_SIZE:
        raise BadBundleError(f"archive: over {MAX_BUNDLE_SIZE >> 20} MiB")
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        tar = inflate.decompress(data, MAX_FILE_SIZE)
    except zlib.error as e:
        raise BadBundleError(f"archive: not a .tar.gz file, or damaged: {e}") from None
    if inflate.unconsumed_tail:
        raise BadBundleError(f"archive: over {MAX_FILE_SIZE >> 20} MiB when unpacked")
    if not inflate.eof:
        raise BadBundleError("archive: its end is missing")
    if inflate.unused_data:
        raise BadBundleError("archive: there is data behind its end")
    return tar


def _read_tar(tar: bytes) -> tuple[str, dict[str, bytes]]:
    """Return the kid in the folder's name, and the files in the folder."""
    found: dict[str, bytes] = {}
    kids: set[str] = set()
    for path, data in _read_members(tar):
        folder, slash, name = path.partition("/")
        kid = folder.removeprefix("ksplice-")
        if not slash or not folder.startswith("ksplice-") or not is_kid(kid):
            raise BadBundleError(f"archive: {path!a}: is not in a folder ksplice-KID")
        if not FILE_NAME.fullmatch(name):
            raise BadBundleError(f"archive: {path!a}: not a name for a file of a bundle")
        kids.add(kid)
        if len(kids) > 1:
            raise BadBundleError(f"archive: {path}: a second folder")
        if name in found:
            raise BadBundleError(f"archive: {path}: occurs twice")
        if len(found) == _MAX_MEMBERS:
            raise BadBundleError(f"archive: over {_MAX_MEMBERS} files")
        found[name] = data
    if not kids:
        raise BadBundleError("archive: empty")
    return kids.pop(), found


def _read_members(tar: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (path, data) of a ustar archive of plain files (POSIX.1-2017, pax, "ustar Format").

    Python's tarfile stops silently at a damaged header, and follows extensions that no bundle needs
    (long names, sparse files, pax records).
    """
    pos = 0
    while tar[pos : pos + _BLOCK].strip(b"\0"):
        header = tar[pos : pos + _BLOCK]
        name = header[:100].rstrip(b"\0")
        where = f"archive: {name.decode('latin-1')!a}"
        if len(header) < _BLOCK or header[257:262] != b"ustar":
            raise BadBundleError(f"archive: no ustar header at offset {pos}")
        blanked = header[:148] + b" " * 8 + header[156:]
        if _read_octal(header[148:156], where) != sum(blanked):
            raise BadBundleError(f"{where}: its header is damaged")
        if header[156:157] not in {b"0", b"\0"}:
            raise BadBundleError(f"{where}: is not a plain file (type {header[156:157]!r})")
        if header[345:500].strip(b"\0"):
            raise BadBundleError(f"{where}: its path is too long")
        size = _read_octal(header[124:136], where)
        start, end = pos + _BLOCK, pos + _BLOCK + size
        if end > len(tar):
            raise BadBundleError(f"{where}: the archive ends within it")
        yield name.decode("latin-1"), tar[start:end]
        pos = end + -size % _BLOCK
        if tar[end:pos].strip(b"\0"):
            raise BadBundleError(f"{where}: there is data behind its end")
    if len(tar) < pos + 2 * _BLOCK or tar[pos:].strip(b"\0"):
        raise BadBundleError("archive: it does not end as a tar file does")


def _read_octal(field: bytes, where: str) -> int:
    digits = field.rstrip(b" \0").lstrip(b" ")
    if not digits or digits.strip(b"01234567"):
        raise BadBundleError(f"{where}: its header holds no octal number where one belongs")
    return int(digits, 8)


def read_contents(
    data: bytes,
) -> tuple[Core, tuple[Change, ...], tuple[WholeModule, ...]]:
    """Return the lines of ``contents``."""
    core: Core | None = None
    changes = []
    modules = []
    for number, line in enumerate(_read_text("contents", data).splitlines(), start=1):
        match line.split(" "):
            case ["core", module, file] if core is None:
                core = Core(module=module, file=file)
            case ["core", _, _]:
                raise BadBundleError(f"contents:{number}: a second core line")
            case ["change", target, new, new_file, old, old_file]:
                changes.append(
                    Change(
                        target=target,
                        new_module=new,
                        new_file=new_file,
                        old_module=old,
                        old_file=old_file,
                    )
                )
            case ["module", target, file]:
                modules.append(WholeModule(target=target, file=file))
            case ["core" | "change" | "module" as word, *_]:
                raise BadBundleError(f"contents:{number}: wrong number of words on a {word} line")
            case _:
                raise BadBundleError(f"contents:{number}: unknown line {ascii(line)[:60]}")
    if core is None:
        raise BadBundleError("contents: no core line")
    return core, tuple(changes), tuple(modules)


# --- agreement ----------------------------------------------------------------------------------


def _check_agreement(manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    """Return the bundle, after checking that its parts agree."""
    modules = {manifest.core_file: core_module(manifest.kid)}
    for target in manifest.targets:
        _name_module(modules, target.new_file, new_module(manifest.kid))
        _name_module(modules, target.old_file, old_module(manifest.kid, target.name))
        if target.module_file:
            _name_module(modules, target.module_file, target.name)
    for name in (*_TEXT_FILES, *modules):
        if name not in files:
            raise BadBundleError(f"{name}: missing from the archive")
    for name, data in files.items():
        if name not in modules and name not in _TEXT_FILES:
            raise BadBundleError(f"{name}: is not used by {NAME}")
        if manifest.files.get(name) != _digest(data):
            raise BadBundleError(f"{name}: does not match {NAME}: files.{name}")
    for name in manifest.files:
        if name not in files:
            raise BadBundleError(f"{NAME}: files.{name}: missing from the archive")
    core, changes, whole = read_contents(files["contents"])
    if files["contents"] != write_contents(manifest):
        raise BadBundleError(f"contents: does not agree with {NAME}: core-file, targets")
    _check_texts(manifest, files)
    for name, module in modules.items():
        _check_module(name, files[name], module)
    return Bundle(manifest=manifest, files=files, core=core, changes=changes, modules=whole)


def _name_module(modules: dict[str, str], file: str, module: str) -> None:
    if modules.setdefault(file, module) != module or file in _TEXT_FILES:
        raise BadBundleError(f"{NAME}: targets: {file} cannot serve as {module} too")


def _check_texts(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    texts = {name: _read_text(name, files[name]) for name in _TEXT_FILES if name != "patch"}
    if texts["api-version"] != f"{API_VERSION}\n":
        raise BadBundleError(
            f"api-version: {ascii(texts['api-version'])[:60]} is not {API_VERSION}, "
            "the one that this version knows"
        )
    if texts["description"] != f"{manifest.description}\n":
        raise BadBundleError(f"description: does not agree with {NAME}: description")
    if not texts["utsname"].startswith(f"Linux {manifest.kernel.release} "):
        raise BadBundleError(f"utsname: does not agree with {NAME}: kernel.release")
    _read_timestamp(files)


def _read_text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadBundleError(f"{name}: not UTF-8 text") from None


def _read_timestamp(files: Mapping[str, bytes]) -> int:
    text = files["timestamp"]
    if not text.endswith(b"\n") or not text[:-1].isdigit() or len(text) > 11:
        raise BadBundleError("timestamp: not a number of seconds since 1970")
    return int(text)


def _check_module(name: str, data: bytes, module: str) -> None:
    """Refuse a module that the kernel would load under another name than the manifest's."""
    for source, found in read_module_names(data, name).items():
        if found != module:
            raise BadBundleError(f"{name}: {source} says {found!a}, not {module}")
