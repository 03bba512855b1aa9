# SPDX-License-Identifier: GPL-2.0-only
"""Which objects of the patched tree are made."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from ksplicd.create.build.compiler import Kbuild
from ksplicd.create.build.units import Unit


class RecordedCalls(Kbuild):
    """Writes into each object what it is, and into plain ones whether they use static keys."""

    def __init__(self, with_keys: Sequence[Unit]) -> None:
        self.with_keys = with_keys

    def in_parallel(self, function, items):  # type: ignore[no-untyped-def]
        return [function(item) for item in items]

    def is_rewritten(self, unit: Unit, plain: Path) -> bool:
        return plain.name == "plain-post" and unit in self.with_keys

    def split_flags(self, unit: Unit) -> tuple[str, ...]:
        return ()

    def _run_recorded(self, unit: Unit, out: Path, flags: Sequence[str]) -> None:
        pass

    def _compile_plain_to(self, unit: Unit, folder: Path) -> Path:
        return folder

    def _compile_unsplit_to(self, unit: Unit, folder: Path) -> Path:
        return folder


@pytest.mark.parametrize("before", [[], [Unit("a.c")]])
def test_first_static_key_of_a_unit(before: list[Unit]) -> None:
    """New code reads it whether the unit had others before or not."""
    a, b = Unit("a.c"), Unit("b.c")
    made = RecordedCalls([a]).compile_post([a, b], before, Path)
    assert made.unsplit == {a: Path("unsplit-post")}
    assert made.split.keys() == made.plain.keys() == {a, b}
