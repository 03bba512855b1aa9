# SPDX-License-Identifier: GPL-2.0-only
"""The crash guard: an update that may have crashed the machine is not applied again automatically.

A crash cannot be written down when it happens.  ``guard.json`` has the opposite: which boots ended
in a clean shutdown, and which update has run for its soak time in which boot.  A boot that is not
listed counts as crashed.  A killed daemon is no crash: the boot id stays the same.

Not every such boot crashed: the power may have been cut.  Without a trace of a crash an update gets
a chance, one more boot; that is counted here.

::

    {"schema": 1, "clean": [BOOT_ID], "soaked": [{"kid": KID, "boot-id": BOOT_ID}]}

Schema 2 has ``chances`` too, in the same form as ``soaked``; without any, schema 1 is written.

A missing or damaged file counts as empty, so that too much is held back rather than too little.
"""

import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ksplicd.errors import StoreError
from ksplicd.fields import Fields
from ksplicd.host.stages import Event
from ksplicd.host.store.store import Reserve, is_passing, replace_file, store_errors
from ksplicd.model import KID_LENGTH, Stage

_log = logging.getLogger(__name__)

_SCHEMA: Final = 2
"""Since 2 there are chances."""
_MAX_SIZE: Final = 1 << 20
_NEVER: Final = float("inf")
_BOOT_ID: Final = re.compile(r"[0-9a-f]{32}")
_KID: Final = re.compile(rf"[a-z0-9]{{{KID_LENGTH}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The contents of ``guard.json``."""

    clean: frozenset[str] = frozenset()
    """Boots that ended in a clean shutdown, and that the last event of an update is from."""
    soaked: Mapping[str, str] = field(default_factory=dict)
    """Kid → the boot in which it has run for its soak time."""
    chances: Mapping[str, str] = field(default_factory=dict)
    """Kid → the boot that was its chance, after one that ended without a trace."""


class Guard:
    """The file ``path``, and since when each update has been applied."""

    def __init__(self, path: Path, reserve: Reserve | None = None) -> None:
        """The first write creates the file."""
        self._path = path
        self._reserve = reserve
        self._since: dict[str, float] = {}
        """Kid → when it was first seen applied, on the monotonic clock."""
        self._ripe: dict[str, str] = {}
        """What ``soaked`` in the file lacks, because it could not be written yet."""

    def read(self) -> Known:
        """Return the contents of the file, and what it lacks; empty when missing or damaged.

        Raises ``StoreError`` for a failure that may pass.
        """
        try:
            with store_errors(self._path), self._path.open("rb") as f:
                return self._with_ripe(read_known(f.read(_MAX_SIZE + 1)))
        except StoreError as e:
            if is_passing(e.__cause__):
                raise
            if not isinstance(e.__cause__, FileNotFoundError):
                _log.error("%s; no shutdown before this one counts as clean", e)
            return self._with_ripe(Known())

    def _with_ripe(self, known: Known) -> Known:
        chances = {k: boot for k, boot in known.chances.items() if k not in self._ripe}
        return replace(known, soaked={**known.soaked, **self._ripe}, chances=chances)

    def mark_clean(self, boot_id: str, named: Collection[str]) -> None:
        """Note that this boot ends cleanly, and keep the other boots in ``named``."""
        known = self.read()
        self._write(replace(known, clean=known.clean & frozenset(named) | {boot_id}))

    def begin(self, boot_id: str) -> None:
        """Note that this boot goes on, though the unit that marks its end was stopped."""
        known = self.read()
        if boot_id in known.clean:
            self._write(replace(known, clean=known.clean - {boot_id}))

    def give_chance(self, kid: str, boot_id: str) -> None:
        """Note that this boot is the chance of an update.  Raises ``StoreError``."""
        known = self.read()
        if known.chances.get(kid) != boot_id:
            self._write(replace(known, chances={**known.chances, kid: boot_id}))

    def watch(self, applied: Collection[str], boot_id: str, now: float, soak_time: float) -> float:
        """Note which of the ``applied`` updates have run for ``soak_time`` seconds.

        Returns the seconds until the next one has, or infinity.  The age of an update counts from
        when it was first seen here.  One that has run for its time has for good: after a
        ``StoreError`` it is written at the next call.
        """
        known = self.read()
        self._since = {kid: self._since.get(kid, now) for kid in applied}
        left = {
            kid: since + soak_time - now
            for kid, since in self._since.items()
            if known.soaked.get(kid) != boot_id
        }
        ripe = {kid: boot_id for kid, seconds in left.items() if seconds <= 0}
        self._ripe |= ripe
        if self._ripe:
            self._write(self._with_ripe(known))
        return min((seconds for kid, seconds in left.items() if kid not in ripe), default=_NEVER)

    def forget(self, kid: str, *, keep_chance: bool = False) -> None:
        """Start anew with an update that is about to be applied, or is removed.

        ``keep_chance``: by a boot, whose chance it may be, and not by a person.
        """
        self._since.pop(kid, None)
        self._ripe.pop(kid, None)
        known = self.read()
        soaked = _without(known.soaked, kid)
        chances = known.chances if keep_chance else _without(known.chances, kid)
        if (soaked, chances) != (known.soaked, known.chances):
            self._write(replace(known, soaked=soaked, chances=chances))

    def _write(self, known: Known) -> None:
        def write() -> None:
            with store_errors(self._path):
                replace_file(self._path, write_known(known))

        self._reserve.write(write) if self._reserve is not None else write()
        self._ripe.clear()


def _without(known: Mapping[str, str], kid: str) -> dict[str, str]:
    return {other: boot_id for other, boot_id in known.items() if other != kid}


def why_quarantined(last: Event, known: Known, soak_time: float) -> str:
    """Return why an update with this last event, of an earlier boot, may have to wait for a person.

    That is when the machine went down without a shutdown while the update was being applied, or
    before it had run for ``soak_time`` seconds.  Empty text otherwise.
    """
    if last.boot_id in known.clean:
        return ""
    match last.stage:
        case Stage.LOADING | Stage.MATCHED | Stage.TRANSITIONING:
            return "the machine went down while it was being applied"
        case Stage.REVERSING if last.cause:
            return "the machine went down while an apply of it was being turned around"
        case Stage.APPLIED if soak_time and known.soaked.get(last.kid) != last.boot_id:
            return (
                "the machine went down without a clean shutdown before the update had run for "
                f"its soak time of {soak_time:g} s"
            )
        case _:
            return ""


def write_known(known: Known) -> bytes:
    """Return the bytes of the file for ``known``."""
    value = {
        "schema": _SCHEMA if known.chances else 1,
        "clean": sorted(known.clean),
        "soaked": _describe(known.soaked),
        **({"chances": _describe(known.chances)} if known.chances else {}),
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _describe(boots: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"kid": kid, "boot-id": boot_id} for kid, boot_id in sorted(boots.items())]


def _read_boots(entries: list[Fields]) -> dict[str, str]:
    boots = {}
    for entry in entries:
        kid = entry.text("kid", _KID, "an update id")
        boots[kid] = entry.text("boot-id", _BOOT_ID, "a boot id")
        entry.close()
    return boots


def read_known(data: bytes) -> Known:
    """Return the contents of the file, or raise ``StoreError`` naming the field."""
    if len(data) > _MAX_SIZE:
        raise StoreError(f"guard.json: over {_MAX_SIZE} bytes")
    top = Fields.parse(data, "guard.json", StoreError)
    schema = top.number("schema", 1, _SCHEMA)
    clean = frozenset(top.texts("clean", _BOOT_ID, "a boot id"))
    soaked = _read_boots(top.groups("soaked"))
    chances = _read_boots(top.groups("chances")) if schema > 1 else {}
    top.close()
    return Known(clean=clean, soaked=soaked, chances=chances)
