# SPDX-License-Identifier: GPL-2.0-only
"""Whether what is around the kernel is as live patching needs it: clock, space, service, tools.

All is read below ``root``, the root of the file system; nothing is changed.
"""

import os
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ksplicd.cli.finding import Finding, bad, may_look, note, ok, read_text, unknown
from ksplicd.cli.verbs import VERBS
from ksplicd.config import CONFIG_FILE, KEYS_DIR, OnDrop, Settings, read_settings
from ksplicd.errors import ConfigFileError, KeyFileError, KspliceError
from ksplicd.host.boot import why_disabled
from ksplicd.host.clock import built
from ksplicd.host.store.store import STORE_DIR
from ksplicd.host.trust.keyring import Keyring

_LEAST: Final = 16 << 20
"""Bytes without which no update can be kept or loaded."""
_FEW: Final = 256 << 20
_POLKITD: Final = "usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service"
_ACTIONS: Final = "usr/share/polkit-1/actions/org.ksplice.ksplicd1.policy"
_COMPILER: Final = re.compile(r"\((?:\S+-)?(gcc-\d+)\b")  # /proc/version


def below(root: Path, path: Path) -> Path:
    """Return an absolute path below ``root``."""
    return root / path.relative_to("/")


def check_clock(now: float, root: Path) -> Finding:
    """Return whether the time can be right; keys and signatures have days on which they end."""
    day = datetime.fromtimestamp(now, UTC).date()
    if now < built():
        return bad("clock", f"it is {day} by the clock, before this package was built",
                   "set the clock: `timedatectl set-ntp true`")  # fmt: skip
    synchronized = root / "run/systemd/timesync/synchronized"
    if (root / "run/systemd/timesync").is_dir() and not synchronized.exists():
        return note("clock", f"it is {day} by a clock that is not synchronized",
                    "`timedatectl set-ntp true`; keys expire by this clock")  # fmt: skip
    return ok("clock", f"it is {day}")


def check_space(root: Path) -> Finding:
    """Return whether the store's disk and the memory have room for an update."""
    store = below(root, STORE_DIR)
    there = next(path for path in (store, *store.parents) if path.exists())
    about = os.statvfs(there)
    free = about.f_bavail * about.f_frsize
    found = re.search(r"^MemAvailable: +(\d+) kB", read_text(root / "proc/meminfo") or "", re.M)
    memory = int(found[1]) << 10 if found else _FEW
    said = f"{free >> 20} MiB free for {STORE_DIR}, {memory >> 20} MiB of memory"
    if about.f_flag & os.ST_RDONLY:
        return bad("space", f"{STORE_DIR} is on a file system that is read-only",
                   "mount it for writing: bundles and history are kept there")  # fmt: skip
    if min(free, memory) < _LEAST:
        return bad("space", said, f"make room: an update needs some MiB, {_LEAST >> 20} are few")
    if min(free, memory) < _FEW:
        return note("space", said, "an update of many functions may not fit: make room")
    return ok("space", said)


def check_service(ask: Callable[[], str]) -> Finding:
    """Return whether ksplicd answers; ``ask`` returns its version, or raises ``KspliceError``."""
    try:
        return ok("service", f"ksplicd {ask()} answers")
    except KspliceError as e:
        return bad("service", str(e), "see `systemctl status ksplicd`, `journalctl -u ksplicd`")


def check_polkit(root: Path) -> Finding:
    """Return whether others than root can be let in."""
    if not (root / _POLKITD).exists():
        return note("polkit", "polkit is not installed: root alone may apply, look and undo",
                    "apt install polkitd, where others should")  # fmt: skip
    if not (root / _ACTIONS).exists():
        return note("polkit", f"/{_ACTIONS} is not there: root alone may do anything",
                    "install ksplicd anew")  # fmt: skip
    return ok("polkit", "administrators are asked for their password, others may look")


def check_settings(root: Path) -> tuple[Finding, Settings]:
    """Return whether the settings can be read, and the settings."""
    try:
        settings = read_settings(below(root, CONFIG_FILE))
    except ConfigFileError as e:
        return (
            bad("settings", str(e), "mend that line, then `systemctl reload ksplicd`"),
            Settings(),
        )
    return ok("settings", f"{CONFIG_FILE} can be read"), settings


def check_keys(root: Path, settings: Settings, owner: int = 0) -> Finding:
    """Return whether any key is trusted."""
    folder = below(root, KEYS_DIR)
    if folder.exists() and not may_look(folder):
        return unknown("keys", f"{KEYS_DIR} is shown to root only")
    try:
        keys = Keyring(folder, owner).read()
    except KeyFileError as e:
        return bad("keys", str(e), f"root alone may write to {KEYS_DIR}")
    ignored = "; ".join(f"{name} is not trusted: {why}" for name, why in keys.ignored.items())
    if not keys.trusted and settings.require_signature:
        what = f"no key in {KEYS_DIR} is trusted" + (f": {ignored}" if ignored else "")
        return bad("keys", what, "put the .pub of whoever signs your updates there")
    if ignored:
        return note("keys", ignored, f"look into {KEYS_DIR}; the other keys hold")
    names = ", ".join(key.name for key in keys.trusted) or "none, and none is required"
    return ok("keys", f"trusted: {names}")


def check_sources(root: Path, settings: Settings) -> Finding:
    """Return where updates come from, and what becomes of them."""
    if not below(root, STORE_DIR).is_dir():
        return bad("source of updates", f"{STORE_DIR}, into which updates are dropped, is missing",
                   "systemd-tmpfiles --create")  # fmt: skip
    if why := why_disabled(root):
        return note("source of updates", f"nothing is applied automatically: {why}",
                    "take that away when its reason is gone; `ksplice apply` works")  # fmt: skip
    if settings.on_drop is OnDrop.STAGE:
        return ok("source of updates", f"what is dropped into {STORE_DIR} is staged; a person "
                  "applies it (on-drop = stage)")  # fmt: skip
    return ok("source of updates", f"what is dropped into {STORE_DIR} is applied (on-drop = apply)")


def check_toolchain(root: Path, which: Callable[[str], str | None] = shutil.which) -> Finding:
    """Return whether updates for this kernel can be made here; a host need not."""
    name = "toolchain"
    if not VERBS["create"].is_installed():
        return ok(name, "updates are not made here: `ksplice create` is not installed")
    found = _COMPILER.search(read_text(root / "proc/version") or "")
    compiler = found[1] if found else "gcc"
    programs = {compiler: compiler, "make": "make", "patch": "patch", "ld": "binutils"}
    lacking = [package for program, package in programs.items() if which(program) is None]
    trying = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap"}
    for_trying = [package for program, package in trying.items() if which(program) is None]
    if lacking:
        return note(name, f"to make updates for this kernel, there is no {', '.join(lacking)}",
                    f"apt install {' '.join(lacking)}; only where updates are made")  # fmt: skip
    if for_trying:
        return note(name, f"{compiler} is there; `ksplice try` lacks {', '.join(for_trying)}",
                    f"apt install {' '.join(for_trying)}")  # fmt: skip
    return ok(name, f"{compiler}, make, patch, and what `ksplice try` needs")


def check_around(root: Path, now: float, ask: Callable[[], str]) -> list[Finding]:
    """Return all of this module."""
    found, settings = check_settings(root)
    return [
        check_clock(now, root),
        check_space(root),
        check_service(ask),
        check_polkit(root),
        found,
        check_keys(root, settings),
        check_sources(root, settings),
        check_toolchain(root),
    ]
