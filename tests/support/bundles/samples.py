# SPDX-License-Identifier: GPL-2.0-only
"""Bundles for tests: small, whole, and for the kernel of tests/support/host/simulator.py.

The modules are ELF files with the two sections that carry a module's name, and no code.
"""

import struct
from collections.abc import Mapping
from dataclasses import replace

from ksplicd import minisign
from ksplicd.bundle import file_name, pack, unpack
from ksplicd.errors import BadBundleError
from ksplicd.model import (
    Account,
    Hunk,
    Kernel,
    Ledger,
    Manifest,
    PatchedFunction,
    Target,
    core_module,
    new_module,
    old_module,
)

KID = "8c4o6ucj"
OTHER_KID = "zzzz9999"

KERNEL = Kernel(
    release="6.1.0-50-cloud-amd64",
    build_id="0123456789abcdef0123456789abcdef01234567",
    version="#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-01)",
)

KEY = minisign.SecretKey(key_id=b"ksplice1", seed=bytes(range(32)))
STRANGER = minisign.SecretKey(key_id=b"stranger", seed=bytes(range(1, 33)))


LEDGER = Ledger(
    hunks=(
        Hunk(file="fs/fcntl.c", before=(12, 0), after=(13, 2), account=Account.COMMENT),
        Hunk(
            file="fs/fcntl.c", before=(50, 1), after=(52, 4), account=Account.IN_EFFECT, by=(0,),
            note="fs/fcntl.c",
        ),
    )
)  # fmt: skip
INCOMPLETE = Ledger(
    hunks=(
        *LEDGER.hunks,
        Hunk(
            file="include/vdso/math64.h", before=(8, 1), after=(8, 4), account=Account.LEFT_OUT,
            note="the vDSO has it", is_accepted=True,
        ),
    )
)  # fmt: skip


def module_elf(name: str, this_module: str | None = None) -> bytes:
    """Return a file that calls itself module ``name``."""
    return elf(
        {
            ".modinfo": b"license=GPL\0name=" + name.encode() + b"\0",
            ".note.gnu.build-id": build_id_note(name),
            ".gnu.linkonce.this_module": bytes(24) + (this_module or name).encode() + bytes(64),
        }
    )


def build_id_note(name: str) -> bytes:
    """Return the note of a build id that a module's name gives."""
    return struct.pack("<III4s", 4, 20, 3, b"GNU") + name.encode()[:20].ljust(20)


def elf(sections: dict[str, bytes], machine: int = 62) -> bytes:
    """Return a relocatable ELF file of ``sections``."""
    names, table, body = b"\0", [bytes(64)], b""
    for name, data in {**sections, ".shstrtab": b""}.items():
        at = len(names)
        names += name.encode() + b"\0"
        content = names if name == ".shstrtab" else data
        table.append(
            struct.pack("<IIQQQQIIQQ", at, 1, 0, 0, 64 + len(body), len(content), 0, 0, 1, 0)
        )
        body += content
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(1, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(table), len(table) - 1),
    )
    return header + body + b"".join(table)


def manifest(kid: str = KID, targets: tuple[str, ...] = ("vmlinux",)) -> Manifest:
    """Return a manifest without digests."""
    return Manifest(
        kid=kid,
        kernel=KERNEL,
        core_file=f"{core_module(kid)}.ko",
        targets=tuple(
            Target(
                name=target,
                new_file=f"{new_module(kid)}.ko",
                old_file=f"{old_module(kid, target)}.ko",
                functions=(PatchedFunction(name="do_fcntl", sympos=0, unit="fs/fcntl.c"),),
            )
            for target in targets
        ),
        description="fcntl: refuse F_SET_RW_HINT on an immutable inode",
        cves=("CVE-2026-12345",),
        tool="ksplicd 0.1.0",
        compiler="gcc 12.2.0",
    )


def files(of: Manifest) -> dict[str, bytes]:
    """Return what ``pack`` wants beside the manifest ``of``."""
    found = {
        "patch": b"--- a/fs/fcntl.c\n+++ b/fs/fcntl.c\n",
        "timestamp": b"1700000000\n",
        of.core_file: module_elf(core_module(of.kid)),
    }
    for target in of.targets:
        found[target.new_file] = module_elf(new_module(of.kid))
        found[target.old_file] = module_elf(old_module(of.kid, target.name))
    return found


def bundle(
    kid: str = KID,
    targets: tuple[str, ...] = ("vmlinux",),
    *,
    kernel: Kernel = KERNEL,
    depends: tuple[str, ...] = (),
    replaces: tuple[str, ...] = (),
    excludes: tuple[str, ...] = (),
    built_on: Mapping[str, str] | None = None,
    description: str = "",
    late: str = "",
    how: str = "livepatch",
    ledger: Ledger | None = None,
) -> bytes:
    """Return the bytes of a whole bundle; the target ``late`` may be loaded later."""
    made = manifest(kid, targets)
    functions = tuple(replace(f, how=how) for f in made.targets[0].functions)
    made = replace(
        made,
        targets=tuple(replace(t, late=t.name == late, functions=functions) for t in made.targets),
    )
    made = replace(made, kernel=kernel, depends=depends, replaces=replaces, excludes=excludes)
    made = replace(made, built_on=built_on or {}, ledger=ledger)
    if description:
        made = replace(made, description=description)
    return pack(made, files(made))


def signature(data: bytes, key: minisign.SecretKey = KEY) -> bytes:
    """Return the ``.minisig`` file for ``data``."""
    try:
        kid = unpack(data).manifest.kid
    except BadBundleError:
        kid = KID
    return minisign.sign(data, key, trusted_comment=f"a test file:{file_name(kid)}").encode()
