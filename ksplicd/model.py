# SPDX-License-Identifier: GPL-2.0-only
"""The nouns that create and host share: kid, target, manifest, stage.

Frozen data only: nothing here reads a file or asks the kernel.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Final

KID_ALPHABET: Final = string.ascii_lowercase + string.digits
KID_LENGTH: Final = 8
_KID = re.compile(rf"[a-z0-9]{{{KID_LENGTH}}}")

API_VERSION: Final = "1"
"""A bundle's ``api-version``: the version of the kernel part's tables and sysfs."""

MANIFEST_SCHEMA: Final = 2
"""Since 2 a manifest has ``extensions``, of which a reader skips what it does not know."""

VMLINUX: Final = "vmlinux"
"""The target that is the kernel itself rather than a module."""

_TARGET_MAX: Final = 34
"""Characters; ``old_module`` then has 55: MODULE_NAME_LEN less its NUL (<linux/module.h>)."""
NEW_SUFFIX: Final = ".ksplice"
"""Suffix of functions that replace others, as traces and ``nm`` show them."""
ANCHOR_PREFIX: Final = "ksplice_anchor_"
"""Prefix of functions that only stand for others (kmodsrc/anchors.c); a number, ``_`` and the other
function's name follow.
"""


def new_kid() -> str:
    """Return a fresh update id."""
    import secrets  # large, and not needed by the daemon

    return "".join(secrets.choice(KID_ALPHABET) for _ in range(KID_LENGTH))


def is_kid(text: str) -> bool:
    """Return whether ``text`` is an update id: eight of a-z0-9, such as ``8c4o6ucj``."""
    return _KID.fullmatch(text) is not None


def core_module(kid: str) -> str:
    """Return the name of the update's core module, as /sys/module shows it."""
    return f"ksplice_{kid}"


def new_module(kid: str) -> str:
    """Return the name of the update's new-code module, also its name in /sys/kernel/livepatch."""
    return f"ksplice_{kid}_new"


def flat_target(target: str) -> str:
    """Return the target as it stands in names of modules and files: with underscores, and cut.

    Debian's module processor_thermal_device_pci_legacy, uncut, would make the name too long.
    """
    return target.replace("-", "_")[:_TARGET_MAX]


def old_module(kid: str, target: str) -> str:
    """Return the name of the old-code module for ``target``."""
    return f"ksplice_{kid}_{flat_target(target)}_old"


def anchored(function: str) -> str:
    """Return the function that a function of the live patch stands for: itself, or an anchor's."""
    if function.startswith(ANCHOR_PREFIX):
        return function.removeprefix(ANCHOR_PREFIX).partition("_")[2]
    return function


class Stage(StrEnum):
    """The stage of an update.  The values are public: D-Bus property, history, journal."""

    DROPPED = auto()
    STAGED = auto()
    LOADING = auto()
    MATCHED = auto()
    TRANSITIONING = auto()
    APPLIED = auto()
    REVERSING = auto()
    REVERSED = auto()
    REJECTED = auto()
    FAILED = auto()
    QUARANTINED = auto()
    """The machine went down while it was new, and a person has to release it."""
    REMOVED = auto()
    """Its bundle was deleted, and only the history has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """The kernel that an update is for."""

    release: str
    """``uname -r``, such as ``6.1.0-50-cloud-amd64``."""
    build_id: str
    """GNU build id in hex, as in /sys/kernel/notes."""
    version: str = ""
    """``uname -v``, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedFunction:
    """One function that an update replaces."""

    name: str
    sympos: int
    """Position among equal names in kallsyms, from 1; 0 when the name is unique."""
    unit: str
    """Source file, such as ``fs/fcntl.c``."""
    how: str = "livepatch"
    """How it is redirected: ``livepatch``, a ``kprobe``, or the module's own ``exit`` pointer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedPointer:
    """One function pointer, or value, that an update changes in a table of the running kernel."""

    table: str
    offset: int
    """In bytes."""
    unit: str
    """Source file, such as ``fs/nfsd/nfs3acl.c``."""
    how: str = "pointer"
    """What it is: a ``pointer`` to a function, or another ``value``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``vmlinux`` or a module, with its part of the update."""

    name: str
    new_file: str
    """File in the bundle; every target of an update names the same new-code module."""
    old_file: str
    functions: tuple[PatchedFunction, ...] = ()
    pointers: tuple[PatchedPointer, ...] = ()
    module_file: str = ""
    """File in the bundle with the whole module after the change, for the next boot; or empty."""
    late: bool = False
    """Whether the module may be loaded after the update, to be matched and patched then.  Otherwise
    the update is refused while the module is not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    """Size in bytes and SHA-256 in hex of one file of a bundle."""

    size: int
    sha256: str


class Account(StrEnum):
    """What became of a hunk in the running kernel.  The values are public: manifest, bus, JSON."""

    IN_EFFECT = auto()
    """New code has it, and calls lead there."""
    SAME_CODE = auto()
    """It is compiled, and the code is the same."""
    BOOT_ONLY = auto()
    """It is used only at boot or at unload."""
    NOT_BUILT = auto()
    """Nothing of this configuration compiles it."""
    COMMENT = auto()
    """Comments and white space."""
    LEFT_OUT = auto()
    """The running kernel stays without it: a parameter, a modinfo line, a row of a table."""
    REFUSED = auto()
    """It is in a file that an update cannot change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunk:
    """One change of consecutive lines, and its account."""

    file: str
    before: tuple[int, int]
    """The first line that it takes out, and how many; without any, the line before the place."""
    after: tuple[int, int]
    """The first line that it puts in, and how many; without any, the line before the place."""
    account: Account
    by: tuple[int, ...] = ()
    """By which of ``Manifest.redirects`` it is in effect."""
    more: int = 0
    """How many more redirects bring it into effect than ``by`` has."""
    note: str = ""
    """The evidence or the reason, in a sentence."""
    is_accepted: bool = False
    """Whether it is missing from the running kernel on the author's word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The account of every hunk of an update's patch."""

    hunks: tuple[Hunk, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Tell whether nothing is missing from the running kernel that could matter."""
        return not any(h.is_accepted for h in self.hunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:  # over 12 fields: one for each key of the file
    """The contents of a bundle's ``manifest.json``."""

    kid: str
    kernel: Kernel
    core_file: str
    targets: tuple[Target, ...]
    description: str = ""
    cves: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    """Updates that have to be applied before this one."""
    built_on: Mapping[str, str] = field(default_factory=dict)
    """The GNU build id of the new-code module of each update that this one was built on top of."""
    replaces: tuple[str, ...] = ()
    """Older updates that this one replaces; they cannot be applied while it is applied."""
    excludes: tuple[str, ...] = ()
    """Updates that must not be applied together with this one."""
    tool: str = ""
    compiler: str = ""
    files: dict[str, FileDigest] = field(default_factory=dict)
    """Every file of the bundle but the manifest itself, by name."""
    ledger: Ledger | None = None
    """None in a bundle from before there were ledgers."""

    @property
    def redirects(self) -> list[str]:
        """Where calls are led to new code, such as ``vmlinux:do_fcntl by livepatch``."""
        return [
            *(f"{t.name}:{f.name} by {f.how}" for t in self.targets for f in t.functions),
            *(f"{t.name}:{p.table}+{p.offset:#x} by {p.how}"
              for t in self.targets for p in t.pointers),
        ]  # fmt: skip

    @property
    def is_complete(self) -> bool:
        """Tell whether a ledger says that the whole patch is accounted for."""
        return self.ledger is not None and self.ledger.is_complete
