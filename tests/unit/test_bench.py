# SPDX-License-Identifier: GPL-2.0-only
"""Which rows of ``tests.bench --against`` are called worse."""

import pytest

from tests.bench.against import Measured, report


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (Measured(1.0, None), Measured(1.04, None), 0),
        (Measured(1.0, None), Measured(1.06, None), 1),
        (Measured(0.0, None), Measured(0.0, None), 0),
        # the floor went the same way: the machine was slower
        (Measured(1.0, 0.9), Measured(1.3, 1.18), 0),
        # it did not
        (Measured(1.0, 0.9), Measured(1.3, 0.9), 1),
        (Measured(1.0, 0.9), Measured(1.3, 1.0), 1),
        # the floor is lower, the value no higher
        (Measured(1.0, 0.9), Measured(1.0, 0.5), 0),
    ],
)
def test_worse_is_what_is_worse_beside_its_floor(
    capsys: pytest.CaptureFixture[str], before: Measured, after: Measured, worse: int
) -> None:
    # a round in which the machine was busy does not count
    rounds = [before, before, Measured(9.0, before.floor and 9.0)]
    assert report({"a row": rounds}, {"a row": [after]}) == worse
    out = capsys.readouterr().out
    assert out.count("WORSE") == worse
    assert f"{worse} rows" in out


def test_rows_of_one_state_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    row = [Measured(1.0, None)]
    assert report({"gone": row}, {"new": row}) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"{'gone':45} only before", f"{'new':45} only now"
    ]  # fmt: skip
