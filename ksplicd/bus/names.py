# SPDX-License-Identifier: GPL-2.0-only
"""Names on the bus: bus name, object paths, interfaces, polkit actions."""

from enum import StrEnum
from typing import Final

BUS_NAME: Final = "org.ksplice.Ksplicd1"
ROOT_PATH: Final = "/org/ksplice/Ksplicd1"

MANAGER: Final = BUS_NAME + ".Manager"
UPDATE: Final = BUS_NAME + ".Update"
JOB: Final = BUS_NAME + ".Job"

DBUS: Final = "org.freedesktop.DBus"
OBJECT_MANAGER: Final = DBUS + ".ObjectManager"
PROPERTIES: Final = DBUS + ".Properties"

INTERNAL_ERROR: Final = BUS_NAME + ".Error.Internal"
"""The one error that is no ``KspliceError``: our own fault.  Its cause is in the journal."""

DONE: Final = "done"
"""The result of a job that reached its goal; any other result is an abort cause."""


class Action(StrEnum):
    """The polkit actions, from ``units/org.ksplice.ksplicd1.policy``."""

    INSPECT = "org.ksplice.ksplicd1.inspect"
    STAGE = "org.ksplice.ksplicd1.stage"
    APPLY = "org.ksplice.ksplicd1.apply"
    UNDO = "org.ksplice.ksplicd1.undo"
    CONFLICTS = "org.ksplice.ksplicd1.conflicts"


def update_path(kid: str) -> str:
    """Return the object path of an update; a kid is a valid path element as it is."""
    return f"{ROOT_PATH}/update/{kid}"


def job_path(number: int) -> str:
    """Return the object path of a job."""
    return f"{ROOT_PATH}/job/{number}"
