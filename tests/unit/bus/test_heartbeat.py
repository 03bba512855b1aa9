# SPDX-License-Identifier: GPL-2.0-only
"""The heartbeat goes on after an error."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from ksplicd.bus import coroutines
from ksplicd.bus.heartbeat import Heartbeat
from ksplicd.errors import StoreError

BEATS = 3


class EnoughError(BaseException):
    """Ends the loop, as no error of ours may."""


class Beats:
    """Stands for the worker and for what the bus shows; one of them fails."""

    def __init__(self, failing: str) -> None:
        self.failing = failing
        self.engine = SimpleNamespace(check="check")
        self.begun = 0

    async def run(self, what: str) -> None:
        assert what == self.engine.check
        self.begun += 1
        self._fail("worker")

    async def show(self) -> None:
        self._fail("shown")

    def _fail(self, part: str) -> None:
        if part == self.failing:
            raise StoreError(f"{part}: EIO")


@pytest.mark.parametrize("failing", ["worker", "shown"])
def test_an_error_ends_no_heartbeat(
    failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats: Any = Beats(failing)

    async def sleep(_seconds: float) -> None:
        if beats.begun == BEATS:
            raise EnoughError("three beats")

    monkeypatch.setattr(coroutines, "sleep", sleep)
    with caplog.at_level(logging.ERROR), pytest.raises(EnoughError, match="three beats"):
        Heartbeat(beats, beats, 1.0).start()
    assert caplog.text.count(f"the updates cannot be checked: {failing}: EIO") == BEATS
