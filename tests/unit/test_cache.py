# SPDX-License-Identifier: GPL-2.0-only
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ksplicd.cache import Cache, default_root, digest_of, digest_of_tree

if TYPE_CHECKING:
    from collections.abc import Callable


def test_entry_is_made_once_and_kept(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), list[Path]()

    def make(new: Path) -> None:
        made.append(new)
        (new / "file").write_text("x")

    first = cache.entry("kind", "abc", make)
    assert first == cache.entry("kind", "abc", make) == tmp_path / "kind/abc"
    assert len(made) == 1
    assert (first / "file").read_text() == "x"


def test_failed_make_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(new: Path) -> None:
        (new / "half").write_text("x")
        raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        cache.entry("kind", "abc", fail)
    assert list((tmp_path / "kind").iterdir()) == []
    assert list(cache.entry("kind", "abc", lambda new: None).iterdir()) == []


def test_remains_of_a_killed_maker_are_removed(tmp_path: Path) -> None:
    remains = tmp_path / "kind/.abc-half"
    remains.mkdir(parents=True)
    Cache(tmp_path).entry("kind", "abc", lambda new: None)
    assert [path.name for path in (tmp_path / "kind").iterdir()] == ["abc"]


def test_two_threads_make_one_entry(tmp_path: Path) -> None:
    lines = list[str]()
    cache, made = Cache(tmp_path, progress=lines.append), list[Path]()
    begun = threading.Event()

    def make(new: Path) -> None:
        made.append(new)
        begun.set()
        while not lines:  # until the other one waits
            time.sleep(0.001)

    threads = [threading.Thread(target=cache.entry, args=("k", "d", make)) for _ in range(2)]
    threads[0].start()
    begun.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert lines == ["waiting for another process that makes k-d"]


def test_prune_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for age, name in enumerate("abcd"):
        os.utime(cache.entry("k", name, lambda new: None), (1000 - age, 1000 - age))
    cache.entry("k", "d", lambda new: None)
    cache.prune("k", keep=2)
    assert sorted(p.name for p in (tmp_path / "k").iterdir()) == ["a", "d"]


def test_digest_tells_values_and_types_apart() -> None:
    digests = [digest_of(*parts) for parts in [(), (1,), ("1",), (1, 2), ([1, 2],), ({"a": 1},)]]
    assert len(set(digests)) == len(digests)
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})


def test_tree_digest_sees_contents_names_modes_and_links(tmp_path: Path) -> None:
    digests = [digest_of_tree(tmp_path)]
    file, link = tmp_path / "d/f", tmp_path / "l"
    file.parent.mkdir()
    changes: list[Callable[[], object]] = [
        lambda: file.write_text("x"),
        lambda: file.write_text("y"),
        lambda: file.chmod(0o755),
        lambda: link.symlink_to("d"),
        link.unlink,
        lambda: link.symlink_to("e"),
        lambda: file.rename(tmp_path / "d/g"),
    ]
    for change in changes:
        change()
        digests.append(digest_of_tree(tmp_path))
    assert digests.pop(5) == digests[3]  # the link was gone again
    assert len(set(digests)) == len(digests)
    os.utime(tmp_path / "d/g", (1, 1))
    assert digest_of_tree(tmp_path) == digests[-1]


def test_default_root_obeys_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_root() == Path("/x/ksplice")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/h")
    assert default_root() == Path("/h/.cache/ksplice")
