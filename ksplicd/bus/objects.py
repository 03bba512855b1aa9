# SPDX-License-Identifier: GPL-2.0-only
"""Which objects are on the bus now, and ``org.freedesktop.DBus.ObjectManager`` over them."""

from typing import TYPE_CHECKING, Any, Final

from gi.repository import GLib

from ksplicd.bus import coroutines, names, wrapper
from ksplicd.bus.interface import BusObject, Signal, method
from ksplicd.bus.wrapper import MAX_ANSWER, Call, Guard
from ksplicd.errors import UnexpectedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_AT_ONCE: Final = 50
"""Objects that are packed in one go: a thousand would hold the loop for too long."""


class Objects(BusObject, interface=names.OBJECT_MANAGER):
    """The objects below the root path; the root itself is the Manager's."""

    InterfacesAdded = Signal("o path, a{sa{sv}} interfaces")
    InterfacesRemoved = Signal("o path, as interfaces")

    def __init__(self, bus: Any, guard: Guard) -> None:
        self._bus = bus
        self._guard = guard
        self._below: dict[str, tuple[BusObject, Any]] = {}
        self.refresh_all: Callable[[], Awaitable[None]] = self.refresh
        """Brings all objects up to date at once."""
        self._root = [wrapper.register(bus, names.ROOT_PATH, self, guard)]

    def add_root(self, subject: BusObject) -> None:
        """Put a further interface on the root path."""
        self._root.append(wrapper.register(self._bus, names.ROOT_PATH, subject, self._guard))

    def add(self, path: str, subject: BusObject) -> None:
        """Put ``subject`` on the bus, and send InterfacesAdded."""
        registration = wrapper.register(self._bus, path, subject, self._guard)
        self._below[path] = (subject, registration)
        self.InterfacesAdded(path, {subject.interface: subject.get_all()})

    def remove(self, path: str) -> None:
        """Take the object at ``path`` off the bus, and send InterfacesRemoved."""
        subject, registration = self._below.pop(path)
        registration.unregister()
        self.InterfacesRemoved(path, [subject.interface])

    def clear(self) -> None:
        """Take everything off the bus."""
        for path in list(self._below):
            self.remove(path)
        while self._root:
            self._root.pop().unregister()

    @method("", "a{oa{sa{sv}}} objects")
    async def get_managed_objects(self, call: Call) -> GLib.Variant:
        """Return every object with the properties that it has now."""
        await self._guard(call)
        await self.refresh_all()
        for number, (subject, _) in enumerate(list(self._below.values()), 1):
            subject.packed()  # slow the first time, kept then
            if number % _AT_ONCE == 0:
                await coroutines.sleep(0)
        entries = [
            GLib.Variant.new_dict_entry(GLib.Variant.new_object_path(path), subject.packed())
            for path, (subject, _) in self._below.items()
        ]
        answer = GLib.Variant.new_array(GLib.VariantType("{oa{sa{sv}}}"), entries)
        if answer.get_size() > MAX_ANSWER:
            raise UnexpectedError(
                f"the properties of {len(entries)} objects are too long for one message; call "
                "ListUpdates for their names, and `ksplice remove` the updates that are not used"
            )
        return answer
