# SPDX-License-Identifier: GPL-2.0-only
"""The order of several updates."""

from collections.abc import Sequence
from typing import Any

import pytest

from ksplicd.cli.several import in_order


def about(depends: str = "", replaces: str = "") -> dict[str, Any]:
    return {"Depends": depends.split(), "Replaces": replaces.split()}


@pytest.mark.parametrize(
    ("known", "order"),
    [
        ({}, []),
        ({"b": about(), "a": about()}, ["b", "a"]),
        ({"a": about("b"), "b": about("c"), "c": about()}, ["c", "b", "a"]),
        ({"a": about("elsewhere")}, ["a"]),
        ({"a": about("a")}, ["a"]),
        ({"a": about("b"), "b": about("a")}, ["a", "b"]),
        ({"a": about(), "b": about(replaces="a")}, ["b"]),
    ],
)
def test_order(known: dict[str, Any], order: Sequence[str]) -> None:
    assert in_order(known) == order
