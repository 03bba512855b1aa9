# SPDX-License-Identifier: GPL-2.0-only
"""The diagram of stages, and the stage of an update outside a transition."""

import itertools

import pytest

from ksplicd.host.stages import (
    Arrow,
    Direction,
    Event,
    ForbiddenStepError,
    Transition,
    is_moving,
    outcome,
    settle,
    step,
)
from ksplicd.model import Stage

HERE, EARLIER = "1" * 32, "0" * 32


def event(stage: Stage, boot_id: str = HERE, cause: str = "") -> Event:
    return Event(time=1, boot_id=boot_id, kid="8c4o6ucj", stage=stage, cause=cause)


def possible(stage: Stage) -> set[Arrow]:
    found = set()
    for arrow in Arrow:
        try:
            step(stage, arrow)
        except ForbiddenStepError:
            continue
        found.add(arrow)
    return found


def test_the_way_there_and_back() -> None:
    stage = Stage.DROPPED
    seen = [stage]
    for arrow in (
        *(Arrow.VERIFY, Arrow.LOAD, Arrow.MATCH, Arrow.ENABLE, Arrow.FINISH),
        *(Arrow.UNDO, Arrow.FINISH, Arrow.LOAD, Arrow.FAIL, Arrow.LOAD),
    ):
        stage = step(stage, arrow)
        seen.append(stage)
    assert " ".join(seen) == (
        "dropped staged loading matched transitioning applied reversing reversed "
        "loading failed loading"
    )


def test_every_stage_but_the_last_can_be_left() -> None:
    assert {stage for stage in Stage if not possible(stage)} == {Stage.REJECTED, Stage.REMOVED}


def test_what_moves_can_only_end_or_turn() -> None:
    for stage in filter(is_moving, Stage):
        assert not possible(stage) & {Arrow.LOAD, Arrow.UNDO, Arrow.VERIFY}


def test_forbidden() -> None:
    with pytest.raises(ForbiddenStepError, match="undo in stage staged"):
        step(Stage.STAGED, Arrow.UNDO)


def test_what_is_enabled_is_applied_whatever_we_wrote() -> None:
    for last in [None, *(event(s, b) for s, b in itertools.product(Stage, (HERE, EARLIER)))]:
        assert settle(last, HERE, is_enabled=True).stage is Stage.APPLIED


@pytest.mark.parametrize("stage", Stage)
def test_what_is_not_enabled_rests_somewhere_and_is_not_applied(stage: Stage) -> None:
    for boot_id, cause in itertools.product((HERE, EARLIER), ("", "code_busy")):
        settled = settle(event(stage, boot_id, cause), HERE, is_enabled=False).stage
        assert settled in {Stage.STAGED, Stage.FAILED, Stage.REVERSED, Stage.QUARANTINED}


@pytest.mark.parametrize(
    ("direction", "cancelled", "enabled", "expected"),
    [
        (Direction.APPLY, "", "yes", (Stage.APPLIED, "")),
        (Direction.APPLY, "", "no", (Stage.REVERSED, "")),
        (Direction.APPLY, "code_busy", "yes", (Stage.APPLIED, "")),
        (Direction.APPLY, "code_busy", "no", (Stage.FAILED, "code_busy")),
        (Direction.UNDO, "", "yes", (Stage.APPLIED, "")),
        (Direction.UNDO, "", "no", (Stage.REVERSED, "")),
        (Direction.UNDO, "code_busy", "yes", (Stage.APPLIED, "code_busy")),
        (Direction.UNDO, "code_busy", "no", (Stage.REVERSED, "")),
    ],
)
def test_outcome(
    direction: Direction, cancelled: str, enabled: str, expected: tuple[Stage, str]
) -> None:
    transition = Transition(kid="8c4o6ucj", direction=direction, started=0, cancelled=cancelled)
    end = outcome(transition, is_enabled=enabled == "yes")
    assert (end.stage, end.cause) == expected
