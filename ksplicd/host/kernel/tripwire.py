# SPDX-License-Identifier: GPL-2.0-only
"""Tripwire hits: generic netlink messages from the cores of applied updates (kmodsrc/tripwire.h).

``open_listener`` is the door: a socket that only the kernel is accepted on.  ``read_hit`` parses
one message and does not trust it: a message with any unexpected byte is no hit.
"""

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from ksplicd.errors import UnexpectedError

GROUP: Final = "tripwires"
VERSION: Final = 1
HIT: Final = 1
"""From kmodsrc/tripwire.h, as are the numbers in ``_Attr``."""

_HEADERS: Final = struct.Struct("=IHHIIBBH")
"""struct nlmsghdr (linux/netlink.h) and struct genlmsghdr (linux/genetlink.h)."""
_ATTR: Final = struct.Struct("=HH")
"""struct nlattr: length including this header, type; each one starts at a multiple of 4."""

_MAX_SIZE: Final = 1 << 16
_NETLINK_GENERIC: Final = 16
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
"""linux/socket.h and linux/netlink.h; Python's socket module lacks them."""


class _Attr:
    """enum ksplice_tripwire_attr."""

    CVE = 1
    PLACE = 2
    SUPPRESSED = 3
    PID = 4
    TGID = 5
    UID = 6
    COMM = 7
    IN_TASK = 8
    TIME = 9


_STRINGS: Final = {_Attr.CVE: 24, _Attr.PLACE: 48, _Attr.COMM: 16}
"""Largest size of a string in bytes, with its NUL."""
_NUMBERS: Final = {
    _Attr.SUPPRESSED: 4, _Attr.PID: 4, _Attr.TGID: 4, _Attr.UID: 4, _Attr.IN_TASK: 4, _Attr.TIME: 8,
}  # fmt: skip
"""Size of a number in bytes."""
_OF_ALL: Final = {_Attr.CVE, _Attr.PLACE}
_OF_MORE: Final = {*_OF_ALL, _Attr.SUPPRESSED}
_OF_ONE: Final = {*_STRINGS, *_NUMBERS} - {_Attr.SUPPRESSED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intruder:
    """The task that hit a tripwire, with ids of the initial namespaces."""

    pid: int
    """The thread."""
    tgid: int
    """Its process."""
    uid: int
    command: str
    in_task: bool
    """False when the hit came from an interrupt (a packet, a timer) and the task is a bystander."""
    time: int
    """Nanoseconds since 1970, UTC."""

    @property
    def context(self) -> str:
        """Return ``in_task`` for people: ``task`` or ``interrupt``."""
        return "task" if self.in_task else "interrupt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """An attempt that an update stopped; or a count of further ones, without their tasks."""

    cve: str
    """What was tried, as the patch's author named it; may be empty."""
    place: str
    """Where it was stopped."""
    who: Intruder | None
    suppressed: int = 0
    """Number of further hits at this place, when ``who`` is None."""


class Listener(Protocol):
    """A source of messages about hits."""

    family_id: int

    def fileno(self) -> int:
        """Return the descriptor to poll."""

    def receive(self) -> bytes | None:
        """Return the next message, or None when there is none yet; empty if not from the kernel.

        Raises ``OSError`` with ``ENOBUFS`` when messages were lost, being read too late.
        """

    def close(self) -> None:
        """Stop listening."""


class NetlinkListener:
    """A ``Listener`` on the running kernel."""

    def __init__(self, family_id: int, group: int) -> None:
        """Join the multicast group.  Raises ``OSError``."""
        self.family_id = family_id
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_GENERIC
        )
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Return the socket."""
        return self._socket.fileno()

    def receive(self) -> bytes | None:
        """Return the next message."""
        try:
            data, (port, _) = self._socket.recvfrom(_MAX_SIZE)
        except BlockingIOError:
            return None
        return data if port == 0 else b""  # not from the kernel

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def open_listener(family: str) -> Listener:
    """Listen to the family of a core.  Raises ``UnexpectedError``.

    pyroute2 takes 16 MB, so it is imported only when there is something to listen to.
    """
    try:
        from pyroute2.netlink import genlmsg
        from pyroute2.netlink.exceptions import NetlinkError
        from pyroute2.netlink.generic import GenericNetlinkSocket
    except ImportError as e:
        raise UnexpectedError(f"{family}: tripwires need pyroute2: {e}") from e

    class Asker(GenericNetlinkSocket):  # type: ignore[misc]
        module_err_level = "debug"

    try:
        asker = Asker()
        try:
            asker.bind(family, genlmsg)
            return NetlinkListener(asker.prid, asker.mcast_groups[GROUP])
        finally:
            asker.close()
    except (NetlinkError, OSError, LookupError) as e:
        code = getattr(e, "code", getattr(e, "errno", None))
        reason = os.strerror(code) if isinstance(code, int) else repr(e)
        raise UnexpectedError(f"{family}: cannot listen to tripwires: {reason}") from e


def is_overrun(error: OSError) -> bool:
    """Return whether ``error`` says that messages were lost, being read too late."""
    return error.errno == errno.ENOBUFS


def read_hit(data: bytes, family_id: int) -> Hit | None:
    """Return the hit in a message; None when it is not ours, or not exactly of our format."""
    if len(data) < _HEADERS.size:
        return None
    length, kind, _flags, _seq, _port, command, version, _reserved = _HEADERS.unpack_from(data)
    if (length, kind, command, version) != (len(data), family_id, HIT, VERSION):
        return None
    raw = _read_attributes(data[_HEADERS.size :])
    if raw is None:
        return None
    texts = {kind: _read_text(raw[kind], room) for kind, room in _STRINGS.items() if kind in raw}
    sizes = {kind: len(raw[kind]) == size for kind, size in _NUMBERS.items() if kind in raw}
    if None in texts.values() or not all(sizes.values()):
        return None
    text = {kind: value or "" for kind, value in texts.items()}
    number = {kind: int.from_bytes(raw[kind], "little") for kind in sizes}
    match raw.keys():
        case kinds if kinds == _OF_MORE:
            who = None
        case kinds if kinds == _OF_ONE and number[_Attr.IN_TASK] in {0, 1}:
            who = Intruder(
                pid=number[_Attr.PID],
                tgid=number[_Attr.TGID],
                uid=number[_Attr.UID],
                command=text[_Attr.COMM],
                in_task=bool(number[_Attr.IN_TASK]),
                time=number[_Attr.TIME],
            )
        case _:
            return None
    return Hit(
        cve=text[_Attr.CVE],
        place=text[_Attr.PLACE],
        who=who,
        suppressed=number.get(_Attr.SUPPRESSED, 0),
    )


def _read_attributes(data: bytes) -> dict[int, bytes] | None:
    """Return the attributes by type; None when one occurs twice or does not fit."""
    found: dict[int, bytes] = {}
    while data:
        if len(data) < _ATTR.size:
            return None
        length, kind = _ATTR.unpack_from(data)
        if not _ATTR.size <= length <= len(data) or kind in found:
            return None
        found[kind] = data[_ATTR.size : length]
        data = data[-(-length // 4) * 4 :]
    return found


def _read_text(raw: bytes, room: int) -> str | None:
    r"""Return a string that is safe for a terminal, a log and D-Bus, or None if it is malformed.

    A process chooses its own name, so all but printable ASCII becomes ``\xNN``.
    """
    if not raw.endswith(b"\0") or len(raw) > room or 0 in raw[:-1]:
        return None
    return "".join(
        chr(c) if 0x20 <= c < 0x7F and c != ord("\\") else f"\\x{c:02x}" for c in raw[:-1]
    )
