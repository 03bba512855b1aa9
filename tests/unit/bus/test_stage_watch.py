# SPDX-License-Identifier: GPL-2.0-only
import time
from pathlib import Path

from ksplicd.bus import coroutines
from ksplicd.bus.stage_watch import StageWatch
from tests.support.bus.loop import run


def test_timer_starts_quick_and_becomes_slow(tmp_path: Path) -> None:
    def measure(count: int) -> list[float]:
        watch = StageWatch(tmp_path / "missing")
        waits = []

        async def task() -> None:
            for _ in range(count):
                before = time.monotonic()
                await watch.wait(60)
                waits.append(time.monotonic() - before)

        run(task())
        watch.close()
        return waits

    assert sum(measure(4)) >= 0.02 + 0.04 + 0.08 + 0.16 - 0.01
    # another process may have the processor for as long as it likes, but not each time
    assert any(measure(1)[0] < 0.15 for _ in range(100))


def test_at_most_is_kept(tmp_path: Path) -> None:
    watch = StageWatch(tmp_path / "missing")

    async def task() -> None:
        for _ in range(8):
            await watch.wait(0.001)

    before = time.monotonic()
    run(task())
    watch.close()
    assert time.monotonic() - before < 1


def test_wake_ends_the_wait(tmp_path: Path) -> None:
    def measure() -> float:
        watch = StageWatch(tmp_path / "missing")
        for _ in range(6):
            run(watch.wait(0.001))  # the next would wait for a second

        async def wake() -> None:
            await coroutines.sleep(0.01)
            watch.wake()

        async def task() -> None:
            coroutines.spawn(wake())
            await watch.wait(60)

        before = time.monotonic()
        run(task())
        watch.close()
        return time.monotonic() - before

    assert any(measure() < 0.5 for _ in range(20))


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    stage.write_text("preparing\n")
    run(coroutines.sleep(0))  # GLib's own descriptors
    before = sorted(Path("/proc/self/fd").iterdir())
    watch = StageWatch(stage)
    run(watch.wait(0.001))
    watch.close()
    watch.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
