# SPDX-License-Identifier: GPL-2.0-only
"""A class body is a D-Bus interface.

::

    class Manager(BusObject, interface="org.ksplice.Ksplicd1.Manager"):
        JobNew = Signal("t id, o job")

        @method("s kid, t flags", "t job, o path")
        async def apply(self, call, kid, flags): ...

        @readable("s")
        def version(self): ...

Python's ``list_updates`` is ``ListUpdates`` on the bus.  Arguments are written type first, as in
busctl's output.  No property can be set: whatever changes something is a method, because only a
method call carries a caller whom polkit can be asked about.
"""

import weakref
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, TypeVar

from gi.repository import GLib
from pydbus import generic

_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"

_F = TypeVar("_F", bound=Callable[..., Any])

Args = tuple[tuple[str, str], ...]
"""(signature, name) of each argument."""


def _read_args(text: str) -> Args:
    """Read ``"s kid, t flags"`` into ``(("s", "kid"), ("t", "flags"))``."""
    words = [item.split() for item in text.split(",") if item.strip()]
    return tuple((signature, name) for signature, name in words)


def method(ins: str = "", outs: str = "") -> Callable[[_F], _F]:
    """Mark an ``async def`` as a D-Bus method.

    It is called with the ``wrapper.Call`` and the arguments.  It returns None for no out argument,
    the value for one, a tuple for more.
    """

    def mark(function: _F) -> _F:
        vars(function)["dbus_method"] = (_read_args(ins), _read_args(outs))
        return function

    return mark


def to_microseconds(seconds: float) -> int:
    """Return a time as D-Bus has it; one before 1970 is none."""
    return max(0, round(seconds * 1_000_000))


def readable(signature: str, *, emits: str = "true") -> Callable[[_F], _F]:
    """Mark a method without arguments as the getter of a D-Bus property.

    ``emits`` is what the interface states about PropertiesChanged: ``true``, ``false`` or ``const``
    (D-Bus specification, "Introspection Data Format").
    """

    def mark(function: _F) -> _F:
        vars(function)["dbus_property"] = signature
        vars(function)["dbus_emits"] = emits
        return function

    return mark


class Signal(generic.signal):  # type: ignore[misc]
    """A D-Bus signal; calling it on an object sends it.

    pydbus keeps every object that ever connected to a signal; we let them go.
    """

    def __init__(self, args: str = "") -> None:
        super().__init__()
        self.map = weakref.WeakKeyDictionary[Any, list[Callable[..., None]]]()
        self.args = _read_args(args)


class BusObject:
    """Base of the objects on the bus; a subclass names its interface."""

    interface: ClassVar[str]
    methods: ClassVar[dict[str, str]] = {}
    """D-Bus name of each method → name in Python."""
    properties: ClassVar[dict[str, str]] = {}
    """D-Bus name of each property → name in Python."""

    PropertiesChanged = Signal("s interface, a{sv} changed, as invalidated")

    def __init_subclass__(cls, *, interface: str) -> None:
        cls.interface = interface
        marked = {name: vars(value) for name, value in vars(cls).items() if callable(value)}
        cls.methods = {_camel(name): name for name, m in marked.items() if "dbus_method" in m}
        cls.properties = {_camel(name): name for name, m in marked.items() if "dbus_property" in m}

    def find_method(self, name: str) -> tuple[Callable[..., Awaitable[Any]], Args]:
        """Return the coroutine function behind D-Bus method ``name``, and its out arguments."""
        found = getattr(self, self.methods[name])
        return found, found.dbus_method[1]

    async def refresh(self) -> None:
        """Bring the properties up to date before they are read.  May raise ``KspliceError``."""

    def get(self, name: str) -> GLib.Variant:
        """Return the value of D-Bus property ``name`` now."""
        getter = getattr(self, self.properties[name])
        return GLib.Variant(getter.dbus_property, getter())

    def get_all(self) -> dict[str, GLib.Variant]:
        """Return the values of all properties now."""
        return {name: self.get(name) for name in self.properties}

    def packed(self) -> GLib.Variant:
        """Return interface and properties as ``a{sa{sv}}``."""
        return GLib.Variant("a{sa{sv}}", {self.interface: self.get_all()})

    def send_changes(self, names: Iterable[str]) -> None:
        """Send PropertiesChanged for the properties ``names``, if there are any."""
        changed = {name: getattr(self, self.properties[name])() for name in names}
        if changed:
            self.PropertiesChanged(self.interface, changed, [])

    @classmethod
    def xml(cls) -> str:
        """Return the interface as introspection XML, in the order of the class body.

        All names are our own: nothing in them has to be escaped.
        """
        lines = [f'  <interface name="{cls.interface}">']
        for name, python_name in cls.methods.items():
            ins, outs = getattr(cls, python_name).dbus_method
            directed = [(*arg, ' direction="in"') for arg in ins]
            directed += [(*arg, ' direction="out"') for arg in outs]
            lines += _element("method", name, directed)
        for name, value in vars(cls).items():
            if isinstance(value, Signal):
                lines += _element("signal", name, [(*arg, "") for arg in value.args])
        for name, python_name in cls.properties.items():
            getter = getattr(cls, python_name)
            tag = f'<property name="{name}" type="{getter.dbus_property}" access="read"'
            if getter.dbus_emits == "true":
                lines.append(f"    {tag}/>")
            else:
                note = f'<annotation name="{_EMITS}" value="{getter.dbus_emits}"/>'
                lines += [f"    {tag}>", f"      {note}", "    </property>"]
        return "\n".join(["<node>", *lines, "  </interface>", "</node>", ""])


def _element(tag: str, name: str, args: list[tuple[str, str, str]]) -> list[str]:
    """Return the lines of a method or signal; each argument is (signature, name, direction)."""
    if not args:
        return [f'    <{tag} name="{name}"/>']
    inner = [f'      <arg name="{arg}" type="{sig}"{direction}/>' for sig, arg, direction in args]
    return [f'    <{tag} name="{name}">', *inner, f"    </{tag}>"]


def _camel(name: str) -> str:
    """Return ``ListUpdates`` for ``list_updates``."""
    return "".join(word.capitalize() for word in name.split("_"))
