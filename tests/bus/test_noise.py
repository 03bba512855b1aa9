# SPDX-License-Identifier: GPL-2.0-only
"""Nonsensical calls: random arguments, of the right type and of others.

``KSPLICE_CALLS`` says how many; `make fuzz` makes many.
"""

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gi.repository import Gio, GLib

from ksplicd.bus import names
from ksplicd.bus.job import Job
from ksplicd.bus.manager import Manager
from ksplicd.bus.objects import Objects
from ksplicd.bus.update import Update
from tests.support.bundles import samples
from tests.support.bus.host import Host

CALLS: Final = int(os.environ.get("KSPLICE_CALLS", "400"))
SAFE: Final = {"org.freedesktop.DBus.Error", names.BUS_NAME + ".Error"}
TEXTS: Final = (
    "", "x", samples.KID, samples.OTHER_KID, "../../etc", "a" * 70000, "\x1b[2J\n", "é\u2028",
    "%s%n", names.MANAGER, names.UPDATE, "Stage", "Kid",
)  # fmt: skip
NUMBERS: Final = (0, 1, 2, 3, 1 << 31, (1 << 32) - 1)
PATHS: Final = (
    names.ROOT_PATH, names.update_path(samples.KID), names.update_path("zzzz9999"),
    names.job_path(1), f"{names.ROOT_PATH}/update", "/",
    f"{names.ROOT_PATH}/update/{samples.KID}/x",
)  # fmt: skip


def variant(signature: str, rng: random.Random) -> GLib.Variant:
    """Return any value of a type."""
    match signature:
        case "s":
            return GLib.Variant("s", rng.choice(TEXTS))
        case "t":
            return GLib.Variant("t", rng.choice((*NUMBERS, (1 << 64) - 1)))
        case "u":
            return GLib.Variant("u", rng.choice(NUMBERS))
        case "h":
            return GLib.Variant("h", rng.choice((0, 0, 0, 1, 9, (1 << 31) - 1)))
        case "a{sv}":
            keys = rng.sample(("signature", "x", "", "force"), rng.randrange(3))
            kinds = ("s", "t", "ay", "a{sv}")
            return GLib.Variant("a{sv}", {key: variant(rng.choice(kinds), rng) for key in keys})
        case "ay":
            text = samples.signature(b"another bundle")
            return GLib.Variant("ay", rng.choice((b"", rng.randbytes(300), text, bytes(20000))))
        case _:
            raise AssertionError(signature)


def calls(rng: random.Random) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (interface, method, signatures of its arguments), for ever."""
    known = [
        (cls.interface, name, [sig for sig, _ in getattr(cls, python).dbus_method[0]])
        for cls in (Manager, Update, Job, Objects)
        for name, python in cls.methods.items()
    ]
    known += [
        (names.PROPERTIES, "Get", ["s", "s"]),
        (names.PROPERTIES, "GetAll", ["s"]),
        (names.PROPERTIES, "Set", ["s", "s", "v"]),
        ("org.freedesktop.DBus.Introspectable", "Introspect", []),
        (names.MANAGER, "NoSuchMethod", ["s"]),
    ]
    while True:
        interface, method, signatures = rng.choice(known)
        if rng.random() < 0.1:  # other types than belong there
            signatures = rng.choices(("s", "t", "u", "ay", "a{sv}"), k=rng.randrange(4))
        yield interface, method, signatures


def files(folder: Path) -> list[int]:
    """Return descriptors of all kinds."""
    (folder / "noise").write_bytes(random.Random(1).randbytes(1000))
    (folder / "bundle").write_bytes(samples.bundle())
    reader, writer = os.pipe()
    os.close(writer)
    opened = [os.open(path, os.O_RDONLY) for path in (folder / "noise", folder / "bundle", folder)]
    return [
        *opened,
        reader,
        os.open("/dev/zero", os.O_RDONLY),
        os.open(folder / "noise", os.O_PATH),
    ]


def test_noise(host: Host) -> None:
    """Each call is answered, by a reply or an error with a name; nothing is kept or loaded."""
    rng, connection = random.Random(8), host.connect()
    pid = host.daemon.pid
    with tempfile.TemporaryDirectory() as name:
        fds = files(Path(name))
        opened = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        source = calls(rng)
        for _ in range(CALLS):
            interface, method, signatures = next(source)
            kinds = [rng.choice(("s", "t")) if sig == "v" else sig for sig in signatures]
            args = [variant(kind, rng) for kind in kinds]
            if "v" in signatures:
                args = [*args[:-1], GLib.Variant("v", args[-1])]
            call_one(connection, interface, method, GLib.Variant.new_tuple(*args), rng, fds)
        for fd in fds:
            os.close(fd)
        assert host.client().objects().updates == ()
        left = [str(p.readlink()) for p in Path(f"/proc/{pid}/fd").iterdir()]
        assert len(left) <= opened + 20, left  # garbage is collected now and then
    with host.kernel.open() as kernel:
        assert kernel.calls == []
    assert host.daemon.poll() is None
    assert {path.name for path in host.store.iterdir()} <= {
        "updates",
        "rejected",
        "reserve",
        "ksplicd.conf.good",
    }
    assert "Traceback" not in host.log()


def call_one(
    connection: Gio.DBusConnection,
    interface: str,
    method: str,
    args: Any,
    rng: random.Random,
    fds: list[int],
) -> None:
    passed = Gio.UnixFDList()
    for _ in range(rng.randrange(3)):
        passed.append(rng.choice(fds))
    path = rng.choice(PATHS)
    try:
        connection.call_with_unix_fd_list_sync(
            names.BUS_NAME, path, interface, method, args, None, Gio.DBusCallFlags.NONE, -1, passed
        )
    except GLib.Error as e:
        error = Gio.DBusError.get_remote_error(e)
        assert error.rpartition(".")[0] in SAFE, (path, interface, method, str(args), error)
        assert error != names.INTERNAL_ERROR
