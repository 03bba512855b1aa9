# SPDX-License-Identifier: GPL-2.0-only
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus.errors import refuse_unknown_flags, refuse_unknown_options
from ksplicd.bus.interface import BusObject, Signal, method, readable
from ksplicd.errors import UnknownFlagsError


class Lamp(BusObject, interface="org.example.Lamp"):
    Blinked = Signal("t times, s colour")

    def __init__(self) -> None:
        self.level = 3

    @method("t level, a{sv} options", "t before")
    async def set_level(self, call: Any, level: int, options: dict[str, Any]) -> int:
        before, self.level = self.level, level
        return before

    @method()
    async def switch_off(self, call: Any) -> None:
        self.level = 0

    @readable("t")
    def light_level(self) -> int:
        return self.level


def test_class_body_is_the_interface() -> None:
    (interface,) = Gio.DBusNodeInfo.new_for_xml(Lamp.xml()).interfaces
    assert interface.name == "org.example.Lamp"
    assert [m.name for m in interface.methods] == ["SetLevel", "SwitchOff"]
    assert [(a.name, a.signature) for a in interface.methods[0].in_args] == [
        ("level", "t"),
        ("options", "a{sv}"),
    ]
    assert [(a.name, a.signature) for a in interface.methods[0].out_args] == [("before", "t")]
    assert [s.name for s in interface.signals] == ["Blinked"]
    assert [a.signature for a in interface.signals[0].args] == ["t", "s"]
    assert [p.name for p in interface.properties] == ["LightLevel"]


def test_no_property_can_be_set() -> None:
    access = [e.get("access") for e in ET.fromstring(Lamp.xml()).iter("property")]
    assert access == ["read"]


def test_properties_are_typed_variants() -> None:
    lamp = Lamp()
    assert lamp.get("LightLevel").equal(GLib.Variant("t", 3))
    assert {name: v.unpack() for name, v in lamp.get_all().items()} == {"LightLevel": 3}


def test_signals_reach_listeners_of_their_object_only() -> None:
    one, other = Lamp(), Lamp()
    heard: list[Any] = []
    subscription = one.Blinked.connect(lambda *args: heard.append(args))
    one.Blinked(2, "red")
    other.Blinked(5, "blue")
    subscription.unsubscribe()
    one.Blinked(9, "green")
    assert heard == [(2, "red")]


def test_signals_do_not_keep_their_object() -> None:
    lamp = Lamp()
    lamp.Blinked.connect(lambda *args: None).unsubscribe()
    assert lamp in Lamp.Blinked.map
    del lamp
    assert not Lamp.Blinked.map


@pytest.mark.parametrize("flags", [1, 3, 1 << 63])
def test_unknown_flags_are_refused(flags: int) -> None:
    with pytest.raises(UnknownFlagsError, match=f"{flags:#x}"):
        refuse_unknown_flags(flags)


def test_no_flags_pass() -> None:
    refuse_unknown_flags(0)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(UnknownFlagsError, match="force"):
        refuse_unknown_options({"force": GLib.Variant("t", 1)}, {"signature": "ay"})


def test_options_of_another_type_are_refused() -> None:
    with pytest.raises(UnknownFlagsError, match="type s, not ay"):
        refuse_unknown_options({"signature": GLib.Variant("s", "x")}, {"signature": "ay"})


def test_known_options_pass() -> None:
    refuse_unknown_options({"signature": GLib.Variant("ay", b"x")}, {"signature": "ay"})
