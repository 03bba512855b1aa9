# SPDX-License-Identifier: GPL-2.0-only
import logging
import os
import syslog
from pathlib import Path

import pytest

from ksplicd.host.kernel.door import CoreState
from ksplicd.host.report.journal import (
    LogFormatter,
    Outcome,
    about_conflicts,
    about_target,
    fields_of,
)
from ksplicd.host.stages import Conflict
from ksplicd.model import Stage

CORE = CoreState(
    stage="applied",
    abort_cause="no_match",
    mismatch="target=romfs function=romfs_iget offset=0x1c kind=bytes expected=0f1f found=9090",
    targets={"romfs": "refused"},
)


@pytest.mark.parametrize(
    ("state", "words"),
    [("refused", "its load is refused"), ("unpatched", "it is loaded without the update")],
)
def test_module_that_does_not_match(state: str, words: str) -> None:
    entry = about_target("8c4o6ucj", "romfs", state, CORE)
    assert entry.message_id is Outcome.TARGET
    assert entry.priority == syslog.LOG_ERR
    assert entry.message.startswith(f"Update 8c4o6ucj: module romfs does not match; {words}: ")
    assert "romfs_iget+0x1c: expected 0f1f, found 9090" in entry.message
    assert entry.fields == {
        "KSPLICE_KID": "8c4o6ucj",
        "KSPLICE_STAGE": "applied",
        "KSPLICE_CAUSE": "no_match",
        "KSPLICE_TARGET": "romfs",
        "KSPLICE_TARGET_STATE": state,
        "KSPLICE_FUNCTION": "romfs_iget",
        "KSPLICE_OFFSET": "0x1c",
        "KSPLICE_EXPECTED": "0f1f",
        "KSPLICE_FOUND": "9090",
    }


def test_module_that_matches_says_nothing_of_an_older_mismatch() -> None:
    entry = about_target("8c4o6ucj", "romfs", "matched", CORE)
    assert entry.priority == syslog.LOG_NOTICE
    assert entry.message == "Update 8c4o6ucj: module romfs was loaded and is patched"
    assert entry.fields["KSPLICE_CAUSE"] == ""
    assert "KSPLICE_FUNCTION" not in entry.fields


def test_update_that_is_gone_by_now() -> None:
    entry = about_target("8c4o6ucj", "romfs", "refused", None)
    assert entry.message == "Update 8c4o6ucj: module romfs does not match; its load is refused"


@pytest.mark.parametrize(("level", "priority"), [("WARNING", 4), ("ERROR", 3), ("INFO", 6)])
def test_log_has_the_priority_that_systemd_reads(level: str, priority: int, tmp_path: Path) -> None:
    record = logging.LogRecord("x", getattr(logging, level), "x.py", 1, "a\n%s", ("b",), None)
    with (tmp_path / "stderr").open("w") as f:
        status = os.fstat(f.fileno())
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        there = LogFormatter(stream, f.fileno()).format(record)
        elsewhere = LogFormatter({"JOURNAL_STREAM": "8:1"}, f.fileno()).format(record)
    assert there == f"<{priority}>{level}: a\n<{priority}>b"
    assert elsewhere == f"{level}: a\nb"


def test_task_cannot_hide_behind_its_name() -> None:
    conflict = Conflict(pid=7, command="\x1b[2Kx\x01", stack="f < g")
    entry = about_conflicts("8c4o6ucj", Stage.TRANSITIONING, [conflict])
    message = fields_of(entry)["MESSAGE"]
    assert message == r"Update 8c4o6ucj is held up by \x1b[2Kx\x01[7] in f < g"
