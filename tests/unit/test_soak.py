# SPDX-License-Identifier: GPL-2.0-only
"""What a soak calls growth."""

import pytest

from tests.soak.run import LIMITS, find_grown


@pytest.mark.parametrize(
    ("course", "cycles", "found"),
    [
        # a cache of the kernel that moves, also by much
        ((12172, 12207, 12312, 12300), 6, []),
        ((12172, 12207, 12312, 12851), 6, ["kmalloc objects"]),
        # and stops in the rounds that follow
        ((12172, 12207, 12312, 12851, 12851), 8, []),
        # what stays with each cycle does so in these, too
        ((1000, 1100, 1200, 1300, 1400, 1500, 1600), 600, ["kmalloc objects"]),
        ((1000, 1100, 1200, 1300, 1400, 1500, 1600), 6, ["kmalloc objects"]),
        # less than an object in four cycles
        ((1000, 1050, 1100, 1150), 300, []),
    ],
)
def test_growth_is_growth_in_every_round(
    course: tuple[int, ...], cycles: int, found: list[str]
) -> None:
    held = [dict.fromkeys(LIMITS, 0) | {"kmalloc objects": n} for n in course]
    assert find_grown(held, cycles) == found
