# SPDX-License-Identifier: GPL-2.0-only
"""Places for dialogs, without a bus; ``tests/bus`` has a polkit that answers."""

from concurrent.futures import Future
from typing import Any, cast

import pytest
from gi.repository import Gio, GLib

from ksplicd.bus import polkit
from ksplicd.bus.coroutines import Wait, spawn
from ksplicd.bus.names import Action
from ksplicd.bus.polkit import Polkit, unit_of
from ksplicd.bus.wrapper import Call
from ksplicd.errors import PermissionDeniedError
from tests.support.bus.loop import run


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("/system.slice/ssh.service", "ssh.service"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/ssh.service",
            "user@1000.service/ssh.service",
        ),
        ("/system.slice/ssh.service/a.service/b.scope", "ssh.service/b.scope"),
        ("/init.scope", "init.scope"),
        ("/", ""),
    ],
)
def test_unit_is_the_systems(group: str, unit: str) -> None:
    assert unit_of(group) == unit


class Connection:
    def signal_subscribe(self, *_: object) -> int:
        return 1


def call_of(uid: int) -> Call:
    return Call(sender=f":1.{uid}", uid=uid, is_interactive=True, wants_reply=True, fds=None)


def test_one_user_does_not_hold_all_dialogs(monkeypatch: pytest.MonkeyPatch) -> None:
    dialogs: list[Future[None]] = []

    async def ask(_connection: object, _where: object, method: str, args: Any, **_: Any) -> Any:
        if method == "GetNameOwner":
            return GLib.Variant("(s)", (":1.1",))
        if is_dialog := bool(args.unpack()[3]):
            dialogs.append(Future())
            await Wait(dialogs[-1])
        return GLib.Variant("((bba{ss}))", ((is_dialog, not is_dialog, {}),))

    monkeypatch.setattr(polkit, "call_bus", ask)
    asked = Polkit(cast(Gio.DBusConnection, Connection()), lambda _: None)

    async def hold() -> None:
        await asked.check(call_of(1), Action.APPLY)

    async def main() -> None:
        for _ in range(4):
            spawn(hold())
        with pytest.raises(PermissionDeniedError, match="4 dialogs of this user"):
            await asked.check(call_of(1), Action.APPLY)
        spawn(asked.check(call_of(2), Action.APPLY))
        assert len(dialogs) == 5
        dialogs[0].set_result(None)

    run(main())
    run(hold_again(asked, dialogs))


async def hold_again(asked: Polkit, dialogs: list[Future[None]]) -> None:
    """The place of an answered dialog is free again."""
    spawn(asked.check(call_of(1), Action.APPLY))
    assert len(dialogs) == 6
