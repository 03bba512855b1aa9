# SPDX-License-Identifier: GPL-2.0-only
import json
import os
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.cli.cache import format_age, format_size, keep_bounded
from ksplicd.cli.main import main
from ksplicd.errors import KspliceError

MB = 1 << 20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with an old package and a new one, and the project's own environment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KSPLICE_CACHE_LIMIT", raising=False)
    folder = tmp_path / "ksplice/dl"
    folder.mkdir(parents=True)
    (folder / "new.deb").write_bytes(b"x" * MB)
    (folder / "old.deb").write_bytes(b"x" * MB)
    os.utime(folder / "old.deb", (1, 1))
    (tmp_path / "ksplice/venv").mkdir()
    return tmp_path / "ksplice"


def test_it_is_shown(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["KIND", "ENTRIES", "SIZE", "LAST", "USED", "WHAT"]
    assert row.split()[:4] == ["dl", "2", "2.0", "MB"]
    assert total == f"{root}: 2.0 MB of 20.0 GB"


def test_it_is_pruned(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--prune"]) == 0
    assert (root / "dl/old.deb").exists()
    capsys.readouterr()
    assert main(["cache", "--prune", "--limit", "1M", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["folder"], found["limit"]) == (1, str(root), MB)
    assert [(e["kind"], e["name"]) for e in found["deleted"]] == [("dl", "old.deb")]
    assert [(k["kind"], k["entries"]) for k in found["kinds"] if k["entries"]] == [("dl", 1)]
    assert found["size"] == found["kinds"][0]["size"] == MB
    assert main(["cache", "--prune", "--limit", "0"]) == 0
    assert list((root / "dl").iterdir()) == []
    assert (root / "venv").is_dir()


def test_bad_limits(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--limit", "1G"]) == 64
    assert "--limit: goes with --prune" in capsys.readouterr().err
    assert main(["cache", "--prune", "--limit", "big"]) == 64
    assert "big: not a size, such as 500M" in capsys.readouterr().err


def test_bound_after_create(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    keep_bounded(Cache(root, progress=lines.append))
    assert lines == []
    monkeypatch.setenv("KSPLICE_CACHE_LIMIT", "1M")
    (root / "dl/other.deb").touch()
    keep_bounded(Cache(root, progress=lines.append))
    assert lines == ["deleted 1.0 MB of the cache, used longest ago: 1 entries, of dl"]
    monkeypatch.setenv("KSPLICE_CACHE_LIMIT", "lots")
    with pytest.raises(KspliceError, match="KSPLICE_CACHE_LIMIT=lots: not a size"):
        keep_bounded(Cache(root))


def test_words_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1536, 19 << 30)] == [
        "0 bytes", "1023 bytes", "1.5 KB", "19.0 GB",
    ]  # fmt: skip
    assert [format_age(s) for s in (5, 7200, 300, 200000)] == [
        "just now", "2 hours ago", "5 minutes ago", "2 days ago",
    ]  # fmt: skip
