# SPDX-License-Identifier: GPL-2.0-only
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.lab.agent import HEADER, MAGIC, FrameError, answer, pack_frame, read_frame

heads = st.dictionaries(st.text(), st.one_of(st.none(), st.integers(), st.text()))


def execute(*argv: str, stdin: bytes = b"", **head: object) -> tuple[dict[str, Any], bytes]:
    return answer({"op": "exec", "argv": argv, **head}, stdin)


@given(heads, st.binary())
def test_a_frame_is_read_as_it_was_packed(head: dict[str, object], body: bytes) -> None:
    stream = io.BytesIO(pack_frame(head, body) + b"next")
    assert read_frame(stream.read) == (head, body)
    assert stream.read() == b"next"


@pytest.mark.parametrize(
    "data",
    [
        HEADER.pack(MAGIC + 1, 2, 0) + b"{}",
        HEADER.pack(MAGIC, 0xFFFFFFFF, 0) + b"{}",
        HEADER.pack(MAGIC, 2, 0xFFFFFFFF) + b"{}",
        HEADER.pack(MAGIC, 2, 0) + b"[]",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="frame"):
        read_frame(io.BytesIO(data).read)


def test_exec_passes_input_and_both_outputs() -> None:
    head, body = execute("sh", "-c", "cat; echo err >&2; exit 7", stdin=b"in")
    assert head == {"status": 7, "out": 2}
    assert body == b"inerr\n"


def test_exec_tells_signals_and_timeouts_apart() -> None:
    assert execute("sh", "-c", "kill -TERM $$")[0]["status"] == -15
    # the child of the shell has the pipes too: both must go
    head, body = execute("sh", "-c", "echo begun; sleep 100 & wait", timeout=0.2)
    assert head == {"status": None, "out": 6}
    assert body == b"begun\n"


def test_put_makes_folders_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a/b"
    answer({"op": "put", "path": str(path), "mode": 0o640}, b"one")
    answer({"op": "put", "path": str(path), "mode": 0o600}, b"2")
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o600
    assert answer({"op": "get", "path": str(path)}, b"") == ({}, b"2")


def test_get_of_no_file_is_an_error_unless_it_may_be_away(tmp_path: Path) -> None:
    request = {"op": "get", "path": str(tmp_path / "none")}
    with pytest.raises(FileNotFoundError, match="none"):
        answer(request, b"")
    assert answer({**request, "if_there": True}, b"") == ({}, b"")


def test_unknown_op_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown op 'fly'"):
        answer({"op": "fly"}, b"")


def test_agent_runs_alone(tmp_path: Path) -> None:
    """It is copied into the guest by itself: it must import nothing of ours."""
    from ksplicd.lab import agent

    script = tmp_path / "agent.py"
    script.write_bytes(Path(agent.__file__).read_bytes())
    probe = f"import runpy; runpy.run_path({str(script)!r}); import sys, json;"
    probe += "print(json.dumps([m for m in sys.modules if m.startswith('ksplicd')]))"
    head, body = execute(sys.executable, "-I", "-S", "-c", probe)
    assert head["status"] == 0, body
    assert json.loads(body) == []
