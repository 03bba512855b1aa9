# SPDX-License-Identifier: GPL-2.0-only
"""What is wanted on this host: ``wanted.json``, apart from what happened (``history``).

::

    {"schema": 1, "wanted": [{"kid": KID, "since": SECONDS, "actor": {…}, "is-applied": true,
                              "kernel": {"release": "…", "build-id": "…"}}]}

In the order in which the updates were wanted.  What begins and ends a want is decided by
``updates.wants``; here it is only read and written.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ksplicd.errors import StoreError
from ksplicd.fields import Fields
from ksplicd.host.stages import Actor
from ksplicd.host.store.history import describe_actor, read_actor
from ksplicd.host.store.store import Reserve, is_passing, replace_file, store_errors
from ksplicd.model import KID_LENGTH, Kernel

_SCHEMA: Final = 1
_MAX_SIZE: Final = 1 << 20
_KID: Final = re.compile(rf"[a-z0-9]{{{KID_LENGTH}}}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """That an update is to be applied."""

    kid: str
    since: float
    """Seconds since 1970, UTC."""
    actor: Actor
    """Who wants it."""
    kernel: Kernel
    """The kernel that it is for; without a build id where its bundle was not known."""
    is_applied: bool = False
    """Whether it has been applied since."""


class WantedFile:
    """The file ``path``."""

    def __init__(self, path: Path, reserve: Reserve) -> None:
        """The first write creates the file."""
        self.path = path
        self._reserve = reserve

    def read(self) -> list[Want]:
        """Return what is wanted.

        Raises ``StoreError``: the file is missing, damaged, or cannot be read now, which
        ``is_lost`` tells apart.
        """
        with store_errors(self.path), self.path.open("rb") as f:
            return read_wanted(f.read(_MAX_SIZE + 1))

    def write(self, wants: Iterable[Want]) -> None:
        """Replace the file.  Raises ``StoreError``."""
        data = write_wanted(wants)

        def write() -> None:
            with store_errors(self.path):
                replace_file(self.path, data)

        self._reserve.write(write)


def is_lost(error: StoreError) -> bool:
    """Return whether the file is missing or damaged, rather than not readable just now."""
    return not is_passing(error.__cause__)


def write_wanted(wants: Iterable[Want]) -> bytes:
    """Return the bytes of the file."""
    entries = [
        {
            "kid": want.kid,
            "since": want.since,
            "actor": describe_actor(want.actor),
            "is-applied": want.is_applied,
            "kernel": {"release": want.kernel.release, "build-id": want.kernel.build_id},
        }
        for want in wants
    ]
    return json.dumps({"schema": _SCHEMA, "wanted": entries}, indent=1).encode() + b"\n"


def read_wanted(data: bytes) -> list[Want]:
    """Return the contents of the file, or raise ``StoreError`` naming the field."""
    if len(data) > _MAX_SIZE:
        raise StoreError(f"wanted.json: over {_MAX_SIZE} bytes")
    top = Fields.parse(data, "wanted.json", StoreError)
    top.number("schema", _SCHEMA, _SCHEMA)
    wants = {}
    for entry in top.groups("wanted"):
        kid, actor, kernel = entry.text("kid", _KID, "an update id"), entry.group("actor"), None
        kernel = entry.group("kernel")
        wants[kid] = Want(
            kid=kid,
            since=entry.seconds("since"),
            actor=read_actor(actor),
            kernel=Kernel(release=kernel.text("release"), build_id=kernel.text("build-id")),
            is_applied=entry.flag("is-applied"),
        )
        for fields in (actor, kernel, entry):
            fields.close()
    top.close()
    return list(wants.values())
