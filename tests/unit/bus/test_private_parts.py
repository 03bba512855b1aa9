# SPDX-License-Identifier: GPL-2.0-only
"""The parts of other projects' Python modules that are used, though their authors promise nothing.

pydbus 0.6.0 is from 2016, and nobody works on it; python-systemd's ``_journal`` is the C half of a
public module that takes half a megabyte.  When one of these tests fails, a newer version has
changed what it names: read what uses it, or take the two files of pydbus in (registration.py,
generic.py; LGPL-2.1-or-later).
"""

import inspect
from importlib.metadata import version

import pytest
from pydbus import generic, registration
from pydbus.bus import Bus
from systemd import _journal

from ksplicd.bus import connection, interface, wrapper


def parameters(function: object) -> list[str]:
    assert callable(function)
    return list(inspect.signature(function).parameters)


def test_version_of_pydbus() -> None:
    assert version("pydbus") == "0.6.0", (
        f"pydbus {version('pydbus')}: ksplicd was written against 0.6.0; see that the other tests"
        " of this file and `make vm T=tests/bus` pass, before this line names the new version"
    )


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        # wrapper.ObjectWrapper calls the first, and replaces the second, which GDBus calls
        (registration.ObjectWrapper.__init__, ["self", "object", "interfaces"]),
        (
            registration.ObjectWrapper.call_method,
            ["self", "connection", "sender", "object_path", "interface_name", "method_name",
             "parameters", "invocation"],
        ),
        (
            registration.ObjectRegistration.__init__,
            ["self", "bus", "path", "interfaces", "wrapper", "own_wrapper"],
        ),
        (Bus.__init__, ["self", "gio_con"]),  # connection.GatedBus
        (generic.signal.connect, ["self", "object", "callback"]),  # interface.Signal
        (generic.signal.emit, ["self", "object", "args"]),
    ],
)  # fmt: skip
def test_what_is_called_or_replaced(function: object, wanted: list[str]) -> None:
    name = getattr(function, "__qualname__", function)
    assert parameters(function) == wanted, f"pydbus {version('pydbus')} has another {name}"


def test_what_is_derived_from_has_the_attributes_that_are_set() -> None:
    assert issubclass(wrapper.ObjectWrapper, registration.ObjectWrapper)
    slots = registration.ObjectWrapper.__slots__
    missing = {"object", "outargs", "readable_properties"} - set(slots)
    assert not missing, f"pydbus's ObjectWrapper has no {missing}"
    assert isinstance(registration.ObjectWrapper.SignalEmitted, generic.signal)
    assert issubclass(interface.Signal, generic.signal)
    assert generic.signal().map == {}, "pydbus's signal keeps its callbacks elsewhere"
    assert issubclass(connection.GatedBus, Bus)


def test_a_registration_takes_its_wrapper_along() -> None:
    """``unregister`` is what ``register`` promises; it comes from pydbus's ``exitable``."""
    assert callable(registration.ObjectRegistration.unregister)
    assert callable(registration.ObjectWrapper.__exit__)


def test_the_journal_takes_fields() -> None:
    """As sd_journal_sendv(3)."""
    with pytest.raises(TypeError, match="int"):
        _journal.sendv(1)
