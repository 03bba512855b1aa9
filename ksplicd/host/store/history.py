# SPDX-License-Identifier: GPL-2.0-only
"""The history of this host: ``history.jsonl``, one JSON object a line, append-only.

A line is on the disk before ``append`` returns.  A line that cannot be written is kept in memory
and written before the next one.  A line that a power failure cut short stays in the file, counts as
no event, and does not harm the next line.

A full file is renamed to ``history.jsonl.000001`` and so on, and then compressed.  If a kill
between the two leaves both, the plain file counts.  Full files over the size limit are condensed,
the oldest first: only the last words on each update stay, so that an undo is not forgotten.

A file with a bad block is renamed in the same way, and the next line goes into a new file.  The
damaged file is neither compressed nor condensed, and only the events in that block are lost.
"""

import contextlib
import errno
import gzip
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from ksplicd.errors import SignerNotAllowedError, StoreError, cause_of
from ksplicd.fields import ONE_LINE, Fields
from ksplicd.host.stages import Actor, Event, Via
from ksplicd.host.store.store import (
    Reserve,
    is_passing,
    replace_file,
    store_errors,
    sync_folder,
)
from ksplicd.model import Stage

_log = logging.getLogger(__name__)

MAX_SIZE: Final = 1 << 20
"""Bytes of a full file: some 3000 events, a tenth of that when compressed."""

_MODE: Final = 0o600
_NEWLINE: Final = b"\n"
_ID_LIMIT: Final = 2**32
_MAX_READ: Final = 64 << 20
"""Bytes read of a full file, unpacked; it should have a sixtieth of that."""
_MAX_UNWRITTEN: Final = 1 << 20
"""Bytes; some 3000 events, of which the newest are kept."""
_BLOCK: Final = 4096
_SPOILT: Final = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EFBIG})
"""errno of a bad block, found by the disk or the file system, and of a file that is too big."""

LASTING: Final = frozenset({Stage.APPLIED, Stage.REVERSED, Stage.QUARANTINED})
"""The stages that show whether an update is wanted."""

TAKEN: Final = cause_of(SignerNotAllowedError())
"""The cause of a removal of a bundle that had the id of another one without the right to it."""

_BOOT_ID = re.compile(r"[0-9a-f]{32}")
_KID = re.compile(r"(?:[a-z0-9]{8})?")
_STAGE = re.compile("|".join(Stage))
_VIA = re.compile("|".join(Via))
_CAUSE = re.compile(r"[a-z_]{0,40}")
_MISMATCH_KEY = re.compile(r"[a-z_]{1,40}")


class History:
    """The history in the file ``path`` and the full ones beside it."""

    def __init__(
        self,
        path: Path,
        max_size: int = MAX_SIZE,
        keep: Callable[[], int] = lambda: sys.maxsize,
        reserve: Reserve | None = None,
    ) -> None:
        """The first ``append`` creates the file; ``keep`` returns the bytes for full ones."""
        self._reserve = reserve
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._unwritten = b""
        """Lines that could not be written."""
        self._is_entered = False
        """Whether the folder's entry for the file is known to be on the disk."""
        self.damage = ""
        """The file that was read only in part, and why; empty when there was none."""

    def append(self, event: Event) -> None:
        """Write ``event`` and wait until it is on the disk.

        After a ``StoreError`` the line is kept, and written before that of the next event.
        """
        self._unwritten = (self._unwritten + write_event(event))[-_MAX_UNWRITTEN:]
        self.catch_up()

    def catch_up(self) -> None:
        """Write the lines that could not be written before.  Raises ``StoreError``."""
        if not self._unwritten:
            return
        self._turn_over(len(self._unwritten))
        try:
            self._reserve.write(self._write) if self._reserve is not None else self._write()
        except StoreError as e:
            if not self._is_to_set_aside(e.__cause__):
                raise
            _log.error("%s; a new file is begun", e)
            with store_errors(self._path):
                self._set_aside()
            self._write()

    def _write(self) -> None:
        with store_errors(self._path):
            fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
            try:
                if not self._is_entered:
                    sync_folder(self._path.parent)
                    self._is_entered = True
                _append(fd, self._unwritten, self._path)
                self._unwritten = b""
            finally:
                with contextlib.suppress(
                    OSError
                ):  # the data is on the disk, or there is an error already
                    os.close(fd)

    def read_back(self, *, whole: bool = False) -> Iterator[list[Event]]:
        """Yield the events of each file, the newest file first.

        Within a file the oldest event comes first; unwritten events count to the newest file.
        Raises ``StoreError``, but for a damaged file only with ``whole``: one bad block must not
        keep the daemon from starting.
        """
        with store_errors(self._path):
            numbers = sorted(self._numbers(), reverse=True)
            written = self._read_plain(self._path, whole=whole) if self._path.exists() else b""
            if written or self._unwritten:
                yield read_events([*written.split(_NEWLINE), *self._unwritten.split(_NEWLINE)])
        for number in numbers:
            yield self._read_full(number, whole=whole)

    # --- full files -----------------------------------------------------------------------------

    def _turn_over(self, more: int) -> None:
        """Begin a new file when ``more`` bytes do not fit; if that fails, the old one grows."""
        try:
            if self._path.stat().st_size + more <= self._max_size:
                return
            self._set_aside()
            for number in sorted(self._numbers()):
                self._compress(number)
            self._condense()
        except FileNotFoundError:
            return
        except StoreError as e:
            _log.error("%s; it is tried again", e)
        except OSError as e:
            _log.error("%s: %s; it is tried again", e.filename or self._path, e.strerror)

    def _set_aside(self) -> None:
        number = max(self._numbers(), default=0) + 1
        self._path.rename(self._full(number))
        self._is_entered = False
        sync_folder(self._path.parent)

    def _is_to_set_aside(self, error: BaseException | None) -> bool:
        """Return whether a write failed because of where the file lies on the disk.

        If even an empty file fails, the disk is bad, and new files would never end.
        """
        if not isinstance(error, OSError) or error.errno not in _SPOILT:
            return False
        try:
            return self._path.stat().st_size > 0
        except OSError:
            return False

    def _compress(self, number: int) -> None:
        plain = self._full(number)
        if not plain.exists():
            return
        try:
            data = self._read_plain(plain, whole=True)
        except OSError as e:
            if e.errno not in _SPOILT:
                raise
            _log.error("%s: %s; it stays as it is", plain, e.strerror)
            return
        replace_file(_compressed(plain), gzip.compress(data, mtime=0))
        plain.unlink()

    def _condense(self) -> None:
        """Bring the full files under their limit, as far as the last words fit into it.

        A damaged file stays as it is, and so does the file before it, whose events would otherwise
        move behind it.  Raises ``StoreError``.
        """
        numbers = sorted(self._numbers())
        size = sum(map(self._size_of, numbers))
        for older, newer in pairwise(numbers):
            if size <= self._keep():
                return
            if self._full(older).exists() or self._full(newer).exists():
                continue  # a damaged one
            try:
                events = [event for n in (older, newer) for event in self._read_full(n, whole=True)]
            except StoreError as e:
                if is_passing(e.__cause__):
                    raise
                _log.error("%s; it is tried again", e)
                continue
            lines = b"".join(map(write_event, last_words(events)))
            size -= self._size_of(older) + self._size_of(newer)
            replace_file(_compressed(self._full(newer)), gzip.compress(lines, mtime=0))
            _compressed(self._full(older)).unlink()
            size += self._size_of(newer)

    def _read_full(self, number: int, *, whole: bool) -> list[Event]:
        """Return the events of a full file, as far as it can be read."""
        plain = self._full(number)
        lines, left = [], _MAX_READ
        try:
            if plain.exists():
                return read_events(self._read_plain(plain, whole=whole).split(_NEWLINE))
            with gzip.open(_compressed(plain)) as f:
                while left > 0 and (line := f.readline(left)):
                    lines.append(line)
                    left -= len(line)
            if left <= 0:
                raise EOFError(f"more than {_MAX_READ} bytes")
        except (OSError, EOFError, zlib.error) as e:
            if whole or is_passing(e):
                raise StoreError(f"{plain}: {e}") from e
            self._note_damage(f"{plain}: cannot be read further: {e}")
        return read_events(lines)

    def _read_plain(self, path: Path, *, whole: bool) -> bytes:
        """Return the contents of a file, with a line feed in place of a bad block.

        Raises ``OSError``; with ``whole`` also for a bad block, and for a file that is too big.
        """
        blocks = []
        with path.open("rb", buffering=0) as f:
            size = os.fstat(f.fileno()).st_size
            if whole and size > _MAX_READ:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
            for offset in range(0, min(size, _MAX_READ), _BLOCK):
                try:
                    blocks.append(_read_block(f.fileno(), offset))
                except OSError as e:
                    if whole or e.errno not in _SPOILT:
                        raise
                    self._note_damage(f"{path}: cannot be read at {offset}: {e.strerror}")
                    blocks.append(_NEWLINE)
        return b"".join(blocks)

    def _note_damage(self, damage: str) -> None:
        _log.error("%s", damage)
        self.damage = damage

    def _size_of(self, number: int) -> int:
        paths = self._full(number), _compressed(self._full(number))
        return sum(path.stat().st_size for path in paths if path.exists())

    def _full(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number:06}")

    def _numbers(self) -> set[int]:
        """Return the numbers of the full files."""
        pattern = re.compile(re.escape(self._path.name) + r"\.([0-9]{6,})(?:\.gz)?")
        found = (pattern.fullmatch(path.name) for path in self._path.parent.iterdir())
        return {int(match[1]) for match in found if match}


def _read_block(fd: int, offset: int) -> bytes:
    """Read a block, with a second try: a disk may fail only once."""
    with contextlib.suppress(OSError):
        return os.pread(fd, _BLOCK, offset)
    return os.pread(fd, _BLOCK, offset)


def _append(fd: int, lines: bytes, path: Path) -> None:
    """Append ``lines`` as a whole, or leave the file as it was."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != _NEWLINE:
        lines = _NEWLINE + lines  # the last line was cut short
    try:
        if os.write(fd, lines) != len(lines):
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise StoreError(f"{path}: the disk is full") from full
        os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.ftruncate(fd, size)
        raise


def _compressed(plain: Path) -> Path:
    return plain.with_name(plain.name + ".gz")


def last_words(events: Iterable[Event]) -> list[Event]:
    """Return the events that must be kept, oldest first.

    They are the last event of each update, and its last one in a ``LASTING`` stage.  A rejected
    file says nothing about the update that it is named after.
    """
    kept: dict[tuple[str, bool], Event] = {}
    for event in events:
        if event.stage is Stage.REJECTED:
            continue
        for key in {(event.kid, False), (event.kid, is_lasting(event))}:
            kept.pop(key, None)
            kept[key] = event
    return list({id(event): event for event in kept.values()}.values())


def is_lasting(event: Event) -> bool:
    """Return whether an event shows if an update is wanted, or that its id is another one's now."""
    return event.stage in LASTING or (event.stage is Stage.REMOVED and event.cause == TAKEN)


def read_events(lines: Iterable[bytes]) -> list[Event]:
    """Return the events in ``lines``, skipping lines that are none."""
    events = []
    for line in lines:
        try:
            events.append(read_event(line))
        except StoreError:
            continue
    return events


def write_event(event: Event) -> bytes:
    """Return the line for ``event``."""
    value: dict[str, object] = {
        "time": event.time,
        "boot-id": event.boot_id,
        "kid": event.kid,
        "stage": event.stage.value,
        "cause": event.cause,
        "detail": _one_line(event.detail),
        "actor": describe_actor(event.actor),
        "mismatch": {key: _one_line(value) for key, value in event.mismatch.items()},
        **({} if event.up is None else {"up": event.up}),
    }
    return json.dumps(value, separators=(",", ":")).encode() + _NEWLINE


def read_event(line: bytes) -> Event:
    """Return the event in ``line``, or raise ``StoreError`` naming the field."""
    top = Fields.parse(line, "history", StoreError)
    actor = top.group("actor")
    mismatch = top.group("mismatch")
    event = Event(
        time=top.seconds("time"),
        boot_id=top.text("boot-id", _BOOT_ID, "a boot id"),
        kid=top.text("kid", _KID, "an update id"),
        stage=Stage(top.text("stage", _STAGE, "a stage")),
        cause=top.text("cause", _CAUSE, "an abort cause"),
        detail=top.text("detail"),
        actor=read_actor(actor),
        mismatch={
            key: mismatch.text(key) for key in mismatch.names() if _MISMATCH_KEY.fullmatch(key)
        },
        up=top.seconds("up") if top.has("up") else None,
    )
    for fields in (actor, mismatch, top):
        fields.close()
    return event


def describe_actor(actor: Actor) -> dict[str, object]:
    """Return the object for who made a request."""
    return {
        "uid": actor.uid,
        "pid": actor.pid,
        "unit": _one_line(actor.unit),
        "via": actor.via.value,
    }


def read_actor(fields: Fields) -> Actor:
    """Take who made a request, or raise the error of ``fields``."""
    return Actor(
        uid=fields.number("uid", 0, _ID_LIMIT),
        pid=fields.number("pid", 0, _ID_LIMIT),
        unit=fields.text("unit"),
        via=Via(fields.text("via", _VIA, "a way")),
    )


def _one_line(text: str) -> str:
    """Return ``text`` with a blank for each character that would break or colour a line."""
    return "".join(c if ONE_LINE.fullmatch(c) else " " for c in text)
