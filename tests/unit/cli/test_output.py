# SPDX-License-Identifier: GPL-2.0-only
"""Files that commands write: whole, or not at all."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ksplicd.cli import output
from ksplicd.cli.output import write_whole

FULL = """
import resource, signal, sys
from pathlib import Path
from ksplicd.cli.output import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_whole(Path(sys.argv[1]), bytes(1000))
except OSError as e:
    print(e)
"""


def test_nothing_that_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_text("\x1b[2Jé\u200b\r\nsecond\x9b")
    output.print_error("\x07")
    assert capsys.readouterr() == ("\\x1b[2Jé\\u200b\\r\nsecond\\x9b\n", "\\x07\n")
    output.print_json(command="\x1b\u00e9")
    assert json.loads(capsys.readouterr().out)["command"] == "\x1bé"


def test_whole(tmp_path: Path) -> None:
    path = tmp_path / "new.o"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, b"three")
    assert path.read_bytes() == b"three"
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "new.o"]


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    """The old content stays, and nothing half written does."""
    path = tmp_path / "new.o"
    path.write_bytes(b"old")
    out = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    assert out.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["new.o"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "new.o", Path("/dev/full")):
        with pytest.raises(OSError, match=re.escape(f": '{path}'")):
            write_whole(path, bytes(10))
    write_whole(Path("/dev/null"), bytes(10))
    assert Path("/dev/null").is_char_device()
