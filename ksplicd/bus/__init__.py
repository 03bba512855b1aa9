# SPDX-License-Identifier: GPL-2.0-only
"""The daemon's face on D-Bus.

::

    names       what everything is called
    interface   a class body is an interface; its XML comes from it
    wrapper     pydbus's object wrapper with deferred replies, descriptors and error names
    coroutines  coroutines on the GLib loop, slow calls on one worker thread
    polkit      who may
    objects     which objects are on the bus now
    manager     update     job      the interfaces

Nothing here decides about updates: that is ``ksplicd.host.engine``.
"""
