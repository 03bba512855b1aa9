# SPDX-License-Identifier: GPL-2.0-only
"""A short run without coverage, the same each time; `make fuzz` is the long one."""

import random
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutate_bytes, mutate_json
from tests.fuzz.targets import TARGETS, Target

_INPUTS = 300
_SLOW_INPUTS = 30
"""For those that do more than read."""


@pytest.mark.parametrize("name", TARGETS)
def test_inputs(name: str, tmp_path: Path) -> None:
    target, rng = TARGETS[name], random.Random(name)
    target.try_one(target.seeds[0], tmp_path)  # the first one is right
    for _ in range(_SLOW_INPUTS if target.runs < 50_000 else _INPUTS):
        data = rng.choice(target.seeds)
        changed = mutate_json(data, rng) if target.is_json else None
        if changed is None or rng.random() < 0.3:
            changed = mutate_bytes(changed or data, target.tokens, rng)
        target.check(changed, tmp_path)


def test_a_broken_rule_is_seen(tmp_path: Path) -> None:
    careless = Target(try_one=lambda data, _: data.decode(), errors=(), seeds=[b"x"])
    with pytest.raises(UnicodeDecodeError, match="invalid start byte"):
        careless.check(b"\xff", tmp_path)
