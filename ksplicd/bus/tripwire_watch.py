# SPDX-License-Identifier: GPL-2.0-only
"""Hear the tripwires of the updates that are in force, and tell the journal and the bus.

There is a listener for each update that has tripwires, from its transition to the end of its undo;
without such an update there is none, and nothing is imported for it.  The kernel keeps the first
hits until they are heard, so that none is lost while we start, or when we have to try again.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gi.repository import GLib

from ksplicd.bus import coroutines
from ksplicd.errors import KspliceError
from ksplicd.host.kernel.tripwire import Hit, Listener, is_overrun, read_hit
from ksplicd.host.report import journal
from ksplicd.host.stages import UpdateInfo
from ksplicd.model import Stage

if TYPE_CHECKING:
    from ksplicd.bus.runner import Runner

_log = logging.getLogger(__name__)

_IN_FORCE: Final = {Stage.TRANSITIONING, Stage.APPLIED, Stage.REVERSING}
_AT_ONCE: Final = 64
"""Messages that are read before others have their turn."""
_FIRST_PAUSE: Final = 1
_LONGEST_PAUSE: Final = 300
"""Seconds until we try to listen again; each time twice as long."""


@dataclass(slots=True, kw_only=True)
class _Heard:
    """An update in force."""

    cves: tuple[str, ...]
    listener: Listener | None = None
    """None: it has no tripwires, or they are not heard yet."""
    source: int = 0
    """GLib's, of the listener or of the next try; 0: none."""
    pause: int = _FIRST_PAUSE
    has_warned: bool = False


class Tripwires:
    """The listeners."""

    def __init__(
        self, runner: "Runner", book: journal.Journal, tell: Callable[..., object]
    ) -> None:
        """``tell`` is the signal: kid, cve, place, details."""
        self._runner = runner
        self._book = book
        self._tell = tell
        self._heard: dict[str, _Heard] = {}

    def show(self, infos: Iterable[UpdateInfo]) -> None:
        """Listen to the updates that are in force now, and to no others."""
        wanted = {info.kid: info.manifest.cves for info in infos if info.stage in _IN_FORCE}
        for kid in self._heard.keys() - wanted.keys():
            self._stop(kid)
        for kid in wanted.keys() - self._heard.keys():
            self._heard[kid] = _Heard(cves=wanted[kid])
            coroutines.spawn(self._start(kid, self._heard[kid]))

    def stop(self) -> None:
        """Listen no more."""
        for kid in list(self._heard):
            self._stop(kid)

    def _stop(self, kid: str) -> None:
        heard = self._heard.pop(kid)
        if heard.source:
            GLib.source_remove(heard.source)
        if heard.listener is not None:
            heard.listener.close()

    async def _start(self, kid: str, heard: _Heard) -> None:
        try:
            listener = await self._runner.worker.run(self._open, kid)
        except KspliceError as e:
            self._try_again(kid, heard, e)
            return
        if listener is None:
            return
        if self._heard.get(kid) is not heard:  # it was undone meanwhile
            listener.close()
            return
        conditions = GLib.IOCondition
        heard.listener = listener
        heard.source = GLib.io_add_watch(
            listener.fileno(), GLib.PRIORITY_DEFAULT, conditions.IN | conditions.ERR,
            self._on_message, kid, heard,
        )  # fmt: skip

    def _try_again(self, kid: str, heard: _Heard, why: object) -> None:
        if self._heard.get(kid) is not heard:
            return
        _log.error("update %s: %s; ksplicd tries again in %d s", kid, why, heard.pause)
        heard.source = GLib.timeout_add_seconds(heard.pause, self._on_pause, kid, heard)
        heard.pause = min(2 * heard.pause, _LONGEST_PAUSE)

    def _on_pause(self, kid: str, heard: _Heard) -> bool:
        heard.source = 0
        coroutines.spawn(self._start(kid, heard))
        return False  # once

    def _open(self, kid: str) -> Listener | None:
        """Listen to an update's core, when that has tripwires; this is the worker's thread."""
        kernel = self._runner.engine.kernel
        core = kernel.core(kid)
        return kernel.listen(core.tripwire_family) if core and core.tripwire_family else None

    def _on_message(self, _fd: int, _condition: Any, kid: str, heard: _Heard) -> bool:
        assert heard.listener is not None
        for _ in range(_AT_ONCE):
            try:
                data = heard.listener.receive()
            except OSError as e:
                if not is_overrun(e):
                    heard.listener.close()
                    heard.listener = None
                    self._try_again(kid, heard, f"tripwires are not heard any more: {e}")
                    return False
                self._book.write(journal.about_overrun(kid))
                continue
            if data is None:
                break
            hit = read_hit(data, heard.listener.family_id)
            heard.pause = _FIRST_PAUSE
            if hit is not None:
                self._on_hit(kid, hit, heard.cves)
            elif not heard.has_warned:
                _log.warning("update %s: messages that no tripwire sends are ignored", kid)
                heard.has_warned = True
        return True  # more will come

    def _on_hit(self, kid: str, hit: Hit, cves: tuple[str, ...]) -> None:
        cve = hit.cve or " ".join(cves)
        now = self._runner.engine.clock.time()
        self._book.write(journal.about_hit(kid, cve, hit, now))
        self._tell(kid, cve, hit.place, describe(hit))


def describe(hit: Hit) -> dict[str, GLib.Variant]:
    """Return what the signal says beside update, CVE and place; ``Time`` in µs since 1970, UTC."""
    if hit.who is None:
        return {"Suppressed": GLib.Variant("u", hit.suppressed)}
    return {
        "Pid": GLib.Variant("u", hit.who.pid),
        "Tgid": GLib.Variant("u", hit.who.tgid),
        "Uid": GLib.Variant("u", hit.who.uid),
        "Command": GLib.Variant("s", hit.who.command),
        "Context": GLib.Variant("s", hit.who.context),
        "Time": GLib.Variant("t", hit.who.time // 1000),
    }
