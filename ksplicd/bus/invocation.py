# SPDX-License-Identifier: GPL-2.0-only
"""Release a method call that was answered, which GDBus and PyGObject together leak.

GDBus gives the handler of ``register_object`` a reference to the invocation, which
``return_value()`` is to consume.  PyGObject adds one of its own for ``return_value()`` to consume,
so GDBus's stays: each call leaks its whole message, descriptors too (GLib 2.84 added
``register_object_with_closures2`` because of it).  An invocation that is over has one reference,
Python's; a second one is the leak.
"""

import ctypes
from functools import cache
from typing import Any

from ksplicd.bus.loop import call_soon

_PYTHONS_OWN = 1


def release_later(invocation: Any) -> None:
    """Drop the leaked reference to ``invocation`` once its handler and reply are done with it."""
    call_soon(_release, invocation)


def _release(invocation: Any) -> None:
    if invocation.__grefcount__ == _PYTHONS_OWN + 1:
        _unref()(_pointer()(invocation.__gpointer__, None))


@cache
def _unref() -> Any:
    unref = ctypes.CDLL("libgobject-2.0.so.0").g_object_unref
    unref.argtypes, unref.restype = [ctypes.c_void_p], None
    return unref


@cache
def _pointer() -> Any:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.argtypes, get.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    return get
