# SPDX-License-Identifier: GPL-2.0-only
"""The cache stays within its limit, and what is in use stays."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from ksplicd import pruning
from ksplicd.cache import Cache
from ksplicd.pruning import GRACE, LIMIT_VARIABLE, bound, entries, is_used, prune, read_size, using

MB = 1 << 20


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def add(cache: Cache, kind: str, name: str, hours: float) -> Path:
    """Add an entry of 1 MB that was used some hours ago."""
    path = cache.root / kind / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "dl":
        path.write_bytes(b"x" * MB)
    else:
        (path / "sub").mkdir(parents=True)
        (path / "sub/file").write_bytes(b"x" * MB)
    used = time.time() - hours * 3600
    os.utime(path, (used, used))
    return path


def names(found: tuple[pruning.Entry, ...] | list[pruning.Entry]) -> list[str]:
    return [e.path.name for e in found]


def test_what_was_used_longest_ago_goes_first(cache: Cache) -> None:
    add(cache, "kbuild", "new", 1)
    add(cache, "kbuild", "old", 9)
    add(cache, "dl", "middle.deb", 5)
    assert names(entries(cache)) == ["old", "middle.deb", "new"]
    pruned = prune(cache, 2 * MB + MB // 2)
    assert names(pruned.deleted) == ["old"]
    assert names(entries(cache)) == ["middle.deb", "new"]
    assert pruned.left == sum(e.size for e in entries(cache))
    assert names(prune(cache, 0).deleted) == ["middle.deb", "new"]
    assert entries(cache) == []


def test_nothing_goes_while_there_is_room(cache: Cache) -> None:
    add(cache, "source", "6.1.176-1", 99)
    assert prune(cache, 2 * MB).deleted == ()


def test_other_folders_are_left_alone(cache: Cache) -> None:
    for kind in ("venv", "apt", "made", "matrix"):
        add(cache, kind, "x", 99)
    assert prune(cache, 0).deleted == ()
    assert (cache.root / "venv/x").is_dir()


@pytest.mark.parametrize("kind", ["kbuild", "source"])
def test_locked_tree_stays(cache: Cache, kind: str) -> None:
    tree = add(cache, kind, "tree", 99)
    fd = os.open(tree, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    pruned = prune(cache, 0)
    assert (pruned.deleted, names(pruned.busy)) == ((), ["tree"])
    os.close(fd)
    assert names(prune(cache, 0).deleted) == ["tree"]


def test_what_was_used_just_now_stays_where_no_lock_tells(cache: Cache) -> None:
    add(cache, "headers", "young", 0.5)
    add(cache, "headers", "old", 2)
    add(cache, "kbuild", "unlocked", 0.1)
    pruned = prune(cache, 0, grace=GRACE)
    assert set(names(pruned.deleted)) == {"old", "unlocked"}
    assert names(pruned.busy) == ["young"]


def test_what_is_left_of_a_killed_maker_goes_too(cache: Cache) -> None:
    add(cache, "kernel", ".abc-half", 3)
    assert names(prune(cache, 0).deleted) == [".abc-half"]


def test_links_are_not_followed(cache: Cache, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_bytes(b"x" * MB)
    add(cache, "kernel-config", "entry", 3)
    (cache.root / "kernel-config/entry/build").symlink_to(kept)
    assert entries(cache)[0].size < 2 * MB
    prune(cache, 0)
    assert (kept / "file").exists()


def test_cache_is_bounded_when_something_was_added(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1M")
    add(cache, "kbuild", "a", 5)
    add(cache, "kbuild", "b", 4)
    first = bound(cache)
    assert first is not None
    assert names(first.deleted) == ["a", "b"]
    os.utime(cache.root / "kbuild", (0, 0))
    assert bound(cache) is None
    add(cache, "kbuild", "c", 3)
    again = bound(cache)
    assert again is not None
    assert names(again.deleted) == ["c"]


def test_growth_is_seen(cache: Cache) -> None:
    tree = add(cache, "kbuild", "tree", 3)
    before = entries(cache)[0].size
    (tree / "more").write_bytes(b"x" * MB)
    assert entries(cache)[0].size >= before + MB


def test_users_are_seen(cache: Cache) -> None:
    assert not is_used(cache)
    with using(cache):
        assert is_used(cache)
    assert not is_used(cache)


def test_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [read_size(t) for t in ("0", "500M", "20g", "7")] == [0, 500 * MB, 20 << 30, 7]
    for text in ("", "G", "-1G", "1.5G", "5X", "٣G"):
        with pytest.raises(ValueError, match="not a size"):
            read_size(text)
    monkeypatch.setenv(LIMIT_VARIABLE, "much")
    with pytest.raises(ValueError, match="KSPLICE_CACHE_LIMIT=much: not a size"):
        pruning.limit()
