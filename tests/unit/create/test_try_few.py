# SPDX-License-Identifier: GPL-2.0-only
"""A change that a few units show to be refused is not compiled whole."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ksplicd.create import unit_objects
from ksplicd.create.affected.by_headers import Candidates
from ksplicd.create.build.units import Unit
from ksplicd.create.objects.special import EntrySizes
from ksplicd.create.unit_objects import try_few
from ksplicd.create.work_folder import WorkFolder
from tests.support.objects.compile import SPLIT, compile_c

UNITS = tuple(Unit(f"net/{n}.c") for n in range(72))
BEFORE = "struct s { int a; int b; }; extern struct s *p; int f(void) { return p->b; }"
LARGER = BEFORE.replace("int b", "int new; int b")
OTHER = BEFORE.replace("->b", "->a")


class TwoStates:
    """A tree of two states, in which each unit has one text; compiles by itself."""

    def __init__(self, folder: Path, after: dict[str, str]) -> None:
        self.folder, self.after = folder, after
        self.kbuild = self
        self.tree = SimpleNamespace(
            progress=lambda _: None, source=SimpleNamespace(patched=lambda _: nullcontext())
        )
        self.compiled: list[str] = []

    def _made(self, unit: Unit, text: str) -> Path:
        out = self.folder / unit.flat_name
        out.write_bytes(compile_c(self.folder, text, *SPLIT, "-g"))
        return out

    def compile_plain(self, units: Sequence[Unit]) -> None:
        assert units

    def compile_split(self, units: Sequence[Unit]) -> dict[Unit, Path]:
        made = self._made(Unit("before"), BEFORE)
        return dict.fromkeys(units, made)

    def each_split(self, units: Sequence[Unit], _folder: Path) -> Iterator[tuple[Unit, Path]]:
        for unit in units:
            self.compiled.append(unit.source)
            yield unit, self._made(unit, self.after.get(unit.source, BEFORE))

    def entry_sizes(self, _unit: Unit) -> EntrySizes:
        return {}


@pytest.mark.parametrize(
    ("after", "wholly", "tried"),
    [
        pytest.param({}, [], 8, id="nothing changes"),
        pytest.param({u.source: OTHER for u in UNITS}, [], 8, id="no structure changes"),
        pytest.param({u.source: LARGER for u in UNITS}, ["net/0.c"], 1, id="all see it"),
        pytest.param({"net/18.c": LARGER}, ["net/18.c"], 3, id="one sees it"),
    ],
)
def test_what_is_compiled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: dict[str, str],
    wholly: list[str],
    tried: int,
) -> None:
    """All objects only of the unit that will be refused, and none of the units behind it."""
    asked: list[str] = []

    def compile_wholly(_work: Any, _pre: Any, _after: Any, units: Sequence[Unit]) -> list[Any]:
        asked.extend(u.source for u in units)
        return []

    monkeypatch.setattr(unit_objects, "compile_units", compile_wholly)
    states = TwoStates(tmp_path, after)
    work = WorkFolder(root=tmp_path, is_kept=False)
    try_few(work, cast(Any, states), (), Candidates(units=UNITS), ())
    assert asked == wholly
    assert len(states.compiled) == tried


def test_few_units_are_not_tried_first(tmp_path: Path) -> None:
    states = TwoStates(tmp_path, dict.fromkeys((u.source for u in UNITS), LARGER))
    work = WorkFolder(root=tmp_path, is_kept=False)
    try_few(work, cast(Any, states), (), Candidates(units=UNITS[:64]), ())
    assert states.compiled == []
