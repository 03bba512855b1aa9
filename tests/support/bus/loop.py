# SPDX-License-Identifier: GPL-2.0-only
"""A GLib loop for one coroutine."""

from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from gi.repository import GLib

from ksplicd.bus.coroutines import spawn


def run(coroutine: Coroutine[Any, None, None]) -> None:
    """Run a loop until ``coroutine`` has ended; raise what it raises."""
    loop, ended = GLib.MainLoop(), Future[None]()

    async def main() -> None:
        try:
            await coroutine
            ended.set_result(None)
        except Exception as e:
            ended.set_exception(e)
        GLib.idle_add(loop.quit)  # it may end before the loop has begun

    spawn(main())
    loop.run()
    ended.result()
