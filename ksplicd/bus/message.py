# SPDX-License-Identifier: GPL-2.0-only
"""Headers of D-Bus messages, read and written as bytes (D-Bus specification, "Message Format").

Only what the gate needs: it decides by the header, so that nothing else of a message is read.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from functools import lru_cache
from typing import Final, NamedTuple

FIXED_SIZE: Final = 16
"""Bytes of a header before its fields; the last four are the length of these."""

_ORDERS: Final = {ord("l"): "<", ord("B"): ">"}
_VERSION: Final = 1
_MAX_KEPT: Final = 1024
"""Bytes of the fields of a header that is remembered."""


class Kind(IntEnum):
    """The type of a message."""

    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


ANSWERS: Final = frozenset({Kind.RETURN, Kind.ERROR})
"""To the daemon they come from those whom it has asked: the bus and polkit."""


class Flag(IntFlag):
    """Flags of a message."""

    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2


class Field(IntEnum):
    """Header fields."""

    PATH = 1
    INTERFACE = 2
    MEMBER = 3
    ERROR_NAME = 4
    REPLY_SERIAL = 5
    DESTINATION = 6
    SENDER = 7
    SIGNATURE = 8
    UNIX_FDS = 9


_TYPES: Final = {
    Field.PATH: "o",
    Field.SIGNATURE: "g",
    **dict.fromkeys((Field.INTERFACE, Field.MEMBER, Field.ERROR_NAME), "s"),
    **dict.fromkeys((Field.DESTINATION, Field.SENDER), "s"),
    **dict.fromkeys((Field.REPLY_SERIAL, Field.UNIX_FDS), "u"),
}


class Header(NamedTuple):
    """What a header says; text that is absent is empty, and numbers are 0."""

    order: str
    """``<`` or ``>``, as in ``struct``."""
    kind: int
    flags: int
    serial: int
    size: int
    """Bytes of the header with its padding: the body begins there."""
    texts: Mapping[int, str]
    numbers: Mapping[int, int]

    def text(self, field: Field) -> str:
        """Return a text field."""
        return self.texts.get(field, "")

    def number(self, field: Field) -> int:
        """Return a numeric field."""
        return self.numbers.get(field, 0)


def sizes(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Return the bytes of the header and of the whole message that begins at ``at``.

    Needs the first ``FIXED_SIZE`` bytes.  Raises ``ValueError`` when no message begins there.
    """
    if data[at] not in _ORDERS or data[at + 3] != _VERSION:
        raise ValueError(f"no D-Bus message: {bytes(data[at : at + 4])!r}")
    order = _ORDERS[data[at]]
    body, _serial, fields = struct.unpack_from(order + "III", data, at + 4)
    header = FIXED_SIZE + (fields + 7 & ~7)
    return header, header + body


def read_header(data: bytes | bytearray, at: int) -> Header:
    """Return the header that begins at ``at`` and is there as a whole.

    Raises ``ValueError`` for what the specification does not know.
    """
    order = _ORDERS[data[at]]
    _body, serial, length = struct.unpack_from(order + "III", data, at + 4)
    begin = at + FIXED_SIZE
    fields = bytes(data[begin : begin + length])
    # what is kept must not be large: a path has no limit but the message's
    read = _read_fields if length <= _MAX_KEPT else _read_fields.__wrapped__
    texts, numbers = read(order, fields)
    size = FIXED_SIZE + (length + 7 & ~7)
    return Header(order, data[at + 1], data[at + 2], serial, size, texts, numbers)


@lru_cache(maxsize=256)  # who calls again and again sends the same fields
def _read_fields(order: str, data: bytes) -> tuple[Mapping[int, str], Mapping[int, int]]:
    """Return the texts and the numbers; the first field begins at a multiple of eight."""
    number = struct.Struct(order + "I").unpack_from
    texts: dict[int, str] = {}
    numbers: dict[int, int] = {}
    pos = 0
    while pos < len(data):
        pos += -pos & 7
        code, kind = data[pos], data[pos + 2]
        pos += 4
        if kind in b"so":
            size: int = number(data, pos)[0]
            texts[code] = data[pos + 4 : pos + 4 + size].decode()
            pos += 5 + size
        elif kind == ord("u"):
            numbers[code] = number(data, pos)[0]
            pos += 4
        elif kind == ord("g"):
            pos += 2 + data[pos]
        else:
            raise ValueError(f"header field {code} of type {chr(kind)!r}")
    return texts, numbers


def write(
    kind: Kind, serial: int, fields: dict[Field, str | int], argument: str, *, flags: int = 0
) -> bytes:
    """Return a message whose body is one string."""
    text = argument.encode()
    body = struct.pack("<I", len(text)) + text + b"\0"
    head = b""
    for field, value in {**fields, Field.SIGNATURE: "s"}.items():
        head += bytes(-len(head) % 8) + bytes([field, 1, ord(_TYPES[field]), 0])
        if isinstance(value, int):
            head += struct.pack("<I", value)
        elif _TYPES[field] == "g":
            head += bytes([len(value)]) + value.encode() + b"\0"
        else:
            head += struct.pack("<I", len(value.encode())) + value.encode() + b"\0"
    fixed = struct.pack("<cBBBIII", b"l", kind, flags, _VERSION, len(body), serial, len(head))
    return fixed + head + bytes(-len(head) % 8) + body
