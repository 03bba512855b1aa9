# SPDX-License-Identifier: GPL-2.0-only
"""``manifest.json`` ⇄ ``Manifest``: the schema of a bundle.  Its other files are not read here.

Every field must be there, and no other, but for ``extensions``: of that a reader takes what it
knows and skips the rest, so that a bundle may have more in it than its host understands.  Schema 1,
from before, has no extensions.
"""

import json
import re
from dataclasses import replace
from typing import Final

from ksplicd.errors import BadBundleError
from ksplicd.fields import MANY_LINES, ONE_LINE, Fields
from ksplicd.ledger import ledger_value, read_ledger
from ksplicd.model import (
    MANIFEST_SCHEMA,
    VMLINUX,
    FileDigest,
    Kernel,
    Ledger,
    Manifest,
    PatchedFunction,
    PatchedPointer,
    Target,
    old_module,
)

NAME: Final = "manifest.json"

FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,79}")
"""A file of a bundle: no folder, not hidden, and no character special to a shell or a header."""

_FILE_OR_NONE: Final = re.compile(f"(?:{FILE_NAME.pattern})?")

MAX_FILE_SIZE: Final = 128 << 20

_MAX_SIZE: Final = 4 << 20
"""Bytes of the manifest, some thirty thousand functions.  A host sends it in bus messages, and the
bus disconnects a sender of more than 32 MiB."""

_WITHOUT_EXTENSIONS: Final = 1
_SCHEMAS: Final = (_WITHOUT_EXTENSIONS, MANIFEST_SCHEMA)
_LEDGER: Final = "ledger"
_VALUES: Final = "values"
_VALUE: Final = "value"
"""``PatchedPointer.how`` of those."""
_EXTENSION: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")

_KID = re.compile(r"[a-z0-9]{8}")
_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_RELEASE = re.compile(r"[A-Za-z0-9_.+~-]{1,64}")
_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){8,32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"[A-Za-z0-9_-]{1,55}")
_SYMBOL = re.compile(r"[A-Za-z0-9_.$]{1,511}")  # KSYM_NAME_LEN is 512
_UNIT = re.compile(r"[\x21-\x7e]{1,1023}")
_HOW = re.compile(r"livepatch|kprobe|exit")


def write_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of ``manifest.json``; equal manifests give equal bytes."""
    value = {
        "schema": MANIFEST_SCHEMA,
        "kid": manifest.kid,
        "description": manifest.description,
        "kernel": {
            "release": manifest.kernel.release,
            "build-id": manifest.kernel.build_id,
            "version": manifest.kernel.version,
        },
        "core-file": manifest.core_file,
        "targets": [_target_value(target) for target in manifest.targets],
        "cves": list(manifest.cves),
        "depends": list(manifest.depends),
        "built-on": dict(manifest.built_on),
        "replaces": list(manifest.replaces),
        "excludes": list(manifest.excludes),
        "tool": manifest.tool,
        "compiler": manifest.compiler,
        "files": {
            name: {"size": digest.size, "sha256": digest.sha256}
            for name, digest in sorted(manifest.files.items())
        },
    }
    text = json.dumps(value, indent=1).removesuffix("\n}")
    extensions = json.dumps(_extensions(manifest), separators=(",", ":"))
    return f'{text},\n "extensions": {extensions}\n}}\n'.encode()


def read_manifest(data: bytes) -> Manifest:
    """Return the contents of ``manifest.json``.

    Raises ``BadBundleError`` naming the field.
    """
    if len(data) > _MAX_SIZE:
        raise BadBundleError(f"{NAME}: over {_MAX_SIZE >> 20} MiB")
    top = Fields.parse(data, NAME, BadBundleError)
    schema = top.number("schema", 0, 1 << 31)
    if schema not in _SCHEMAS:
        known = " or ".join(map(str, _SCHEMAS))
        top.refuse("schema", f"{schema} is not {known}, which this version knows; update ksplicd")
    manifest = Manifest(
        kid=top.text("kid", _KID, "an update id (8 of a-z0-9)"),
        description=top.text("description", MANY_LINES),
        kernel=_read_kernel(top.group("kernel")),
        core_file=top.text("core-file", FILE_NAME, "a file name"),
        targets=tuple(_read_target(fields) for fields in top.groups("targets")),
        cves=top.texts("cves", _CVE, "a CVE id"),
        depends=top.texts("depends", _KID, "an update id"),
        built_on=_read_built_on(top.group("built-on")),
        replaces=top.texts("replaces", _KID, "an update id"),
        excludes=top.texts("excludes", _KID, "an update id"),
        tool=top.text("tool"),
        compiler=top.text("compiler"),
        files=_read_files(top.group("files")),
    )
    if schema != _WITHOUT_EXTENSIONS:
        extensions = top.group("extensions")
        manifest = _with_values(manifest, extensions)
        manifest = replace(manifest, ledger=_read_ledger(extensions, manifest))
    top.close()
    _check_targets(manifest, top)
    return manifest


def _extensions(manifest: Manifest) -> dict[str, object]:
    """Return what may be skipped by who does not know it; no other field depends on it."""
    found: dict[str, object] = {}
    pointers = [p for t in manifest.targets for p in t.pointers]
    if values := [i for i, p in enumerate(pointers) if p.how == _VALUE]:
        found[_VALUES] = values
    if manifest.ledger is not None:
        found[_LEDGER] = ledger_value(manifest.ledger)
    return found


def _with_values(manifest: Manifest, extensions: Fields) -> Manifest:
    """Return the manifest with those of its pointers marked that are other values.

    ``extensions.values`` has their numbers, counted through all targets.
    """
    if not extensions.has(_VALUES):
        return manifest
    count = sum(len(t.pointers) for t in manifest.targets)
    values = extensions.numbers(_VALUES, 0, max(count - 1, 0))
    if values and not count:
        extensions.refuse(_VALUES, "there is no pointer")
    if len(set(values)) != len(values):
        extensions.refuse(_VALUES, "the same number twice")
    marked = frozenset(values)
    targets, start = [], 0
    for t in manifest.targets:
        pointers = tuple(
            replace(p, how=_VALUE) if i in marked else p for i, p in enumerate(t.pointers, start)
        )
        start += len(pointers)
        targets.append(replace(t, pointers=pointers))
    return replace(manifest, targets=tuple(targets))


def _read_ledger(extensions: Fields, manifest: Manifest) -> Ledger | None:
    for name in extensions.names():
        if not _EXTENSION.fullmatch(name):
            extensions.refuse(ascii(name)[:60], "is not the name of an extension")
    if not extensions.has(_LEDGER):
        return None
    return read_ledger(extensions.group(_LEDGER), len(manifest.redirects))


def _target_value(target: Target) -> dict[str, object]:
    return {
        "name": target.name,
        "new-file": target.new_file,
        "old-file": target.old_file,
        "module-file": target.module_file,
        "late": target.late,
        "functions": [
            {
                "name": function.name,
                "sympos": function.sympos,
                "unit": function.unit,
                "how": function.how,
            }
            for function in target.functions
        ],
        "pointers": [
            {"table": pointer.table, "offset": pointer.offset, "unit": pointer.unit}
            for pointer in target.pointers
        ],
    }


def _read_built_on(fields: Fields) -> dict[str, str]:
    return {kid: fields.text(kid, _BUILD_ID, "a build id") for kid in fields.names()}


def _read_kernel(fields: Fields) -> Kernel:
    kernel = Kernel(
        release=fields.text("release", _RELEASE, "a kernel release"),
        build_id=fields.text("build-id", _BUILD_ID, "a build id in lower-case hex"),
        version=fields.text("version", ONE_LINE),
    )
    fields.close()
    return kernel


def _read_target(fields: Fields) -> Target:
    target = Target(
        name=fields.text("name", _TARGET, "vmlinux or a module's name"),
        new_file=fields.text("new-file", FILE_NAME, "a file name"),
        old_file=fields.text("old-file", FILE_NAME, "a file name"),
        module_file=fields.text("module-file", _FILE_OR_NONE, "a file name, or empty"),
        functions=tuple(_read_function(entry) for entry in fields.groups("functions")),
        pointers=tuple(_read_pointer(entry) for entry in fields.groups("pointers")),
        late=fields.flag("late"),
    )
    fields.close()
    return target


def _read_function(fields: Fields) -> PatchedFunction:
    function = PatchedFunction(
        name=fields.text("name", _SYMBOL, "a symbol"),
        sympos=fields.number("sympos", 0, 1 << 20),
        unit=fields.text("unit", _UNIT, "a source file"),
        how=fields.text("how", _HOW, "livepatch, kprobe or exit"),
    )
    fields.close()
    return function


def _read_pointer(fields: Fields) -> PatchedPointer:
    pointer = PatchedPointer(
        table=fields.text("table", _SYMBOL, "a symbol"),
        offset=fields.number("offset", 0, 1 << 31),
        unit=fields.text("unit", _UNIT, "a source file"),
    )
    fields.close()
    return pointer


def _read_files(fields: Fields) -> dict[str, FileDigest]:
    found = {}
    for name in fields.names():
        if not FILE_NAME.fullmatch(name) or name == NAME:
            fields.refuse(ascii(name), "is not the name of a file to list")
        entry = fields.group(name)
        found[name] = FileDigest(
            size=entry.number("size", 0, MAX_FILE_SIZE),
            sha256=entry.text("sha256", _SHA256, "a SHA-256 in lower-case hex"),
        )
        entry.close()
    return found


def _check_targets(manifest: Manifest, top: Fields) -> None:
    """Refuse targets and relations that contradict each other."""
    if not manifest.targets:
        top.refuse("targets", "empty: an update patches something")
    others = (manifest.depends, manifest.replaces, manifest.excludes)
    for key, kids in zip(("depends", "replaces", "excludes"), others, strict=True):
        if manifest.kid in kids:
            top.refuse(key, "the update names itself")
    if both := set(manifest.depends) & {*manifest.replaces, *manifest.excludes}:
        top.refuse("depends", f"{min(both)} is needed, and must not be applied")
    if strangers := set(manifest.built_on) - set(manifest.depends):
        top.refuse("built-on", f"{min(strangers)} is not among depends")
    first = manifest.targets[0]
    seen: set[str] = set()
    for i, target in enumerate(manifest.targets):
        module = old_module(manifest.kid, target.name)
        if module in seen:
            top.refuse(f"targets[{i}].name", f"{target.name} occurs twice")
        if target.module_file and target.name == VMLINUX:
            top.refuse(f"targets[{i}].module-file", f"{VMLINUX} is no module")
        if target.new_file != first.new_file:
            top.refuse(f"targets[{i}].new-file", f"not {first.new_file}: one new code serves all")
        seen.add(module)
