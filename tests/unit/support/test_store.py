# SPDX-License-Identifier: GPL-2.0-only
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.create.build.units import TargetFilter
from ksplicd.create.modules.signature import ModuleKey
from ksplicd.create.request import Request
from ksplicd.errors import NoChangesError
from tests.support.kernels.store import KEPT, KIND, made_once

HEADER = "build/include/generated/utsrelease.h"


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    for name, text in (
        ("System.map", "ffffffff81000000 T _text\n"),
        (".config", 'CONFIG_CC_VERSION_TEXT="gcc-12 (Debian) 12.2.0"\n'),
        (HEADER, '#define UTS_RELEASE "6.1.0-test"\n'),
        ("a.patch", "a change"), ("b.patch", "another"), ("earlier", "a bundle"),
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Request(
        source=tmp_path, config=tmp_path, cache=tmp_path, patches=(tmp_path / "a.patch",), kid="one"
    )


@pytest.fixture
def is_made(tmp_path: Path) -> Callable[[Request], bool]:
    """Tell whether the bundle of a request has to be made."""
    cache = Cache(tmp_path / "cache")

    def ask(request: Request) -> bool:
        calls = []

        def make() -> bytes:
            calls.append(1)
            return repr(request.kid).encode()

        assert made_once(cache, request, make) == repr(request.kid).encode()
        return bool(calls)

    return ask


def test_same_request_is_made_once(
    request_: Request, is_made: Callable[[Request], bool], tmp_path: Path
) -> None:
    assert is_made(request_)
    assert not is_made(request_)
    (tmp_path / "c.patch").write_text("a change")
    how = replace(request_, patches=(tmp_path / "c.patch",), jobs=7, keep=tmp_path, cache=tmp_path)
    assert not is_made(how)


def test_all_that_may_change_the_update_counts(
    request_: Request, is_made: Callable[[Request], bool], tmp_path: Path
) -> None:
    b, earlier = tmp_path / "b.patch", tmp_path / "earlier"
    assert is_made(request_)
    for other in (
        {"kid": "two"}, {"patches": (b,)}, {"patches": (*request_.patches, b)},
        {"series": (earlier,)}, {"replaces": ("zero",)}, {"depends": ("zero",)},
        {"excludes": ("zero",)}, {"cves": ("CVE-1-1",)}, {"description": "x"},
        {"targets": TargetFilter.parse(["romfs"])}, {"whole_modules": True},
        {"allowed_layouts": ("file",)}, {"patch_options": ("-l",)}, {"source": tmp_path / "s"},
    ):  # fmt: skip
        assert is_made(replace(request_, **other)), other
    for name in ("a.patch", "System.map", ".config"):
        with (tmp_path / name).open("a") as f:
            f.write("CONFIG_MORE=y\n")
        assert is_made(request_), name
    earlier.write_text("changed")
    assert is_made(replace(request_, series=(earlier,)))


def test_what_is_not_looked_into_is_not_kept(request_: Request, tmp_path: Path) -> None:
    key = ModuleKey(key=tmp_path, certificate=tmp_path)
    for other in ({"module_key": key}, {"extension": ".new"}, {"revision": "HEAD"}):
        with pytest.raises(AssertionError, match="create such an update anew"):
            made_once(Cache(tmp_path), replace(request_, **other), bytes)


def test_refusal_is_not_kept(request_: Request, is_made: Callable[[Request], bool]) -> None:
    def refuse() -> bytes:
        raise NoChangesError("on purpose")

    with pytest.raises(NoChangesError, match="on purpose"):
        made_once(Cache(request_.cache / "cache"), request_, refuse)
    assert is_made(request_)


def test_old_bundles_are_dropped(
    request_: Request, is_made: Callable[[Request], bool], tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / KIND
    for i in range(KEPT):
        (folder / f"old{i}").mkdir(parents=True)
        os.utime(folder / f"old{i}", (i, i))
    assert is_made(request_)
    assert is_made(replace(request_, kid="two"))
    assert len(list(folder.iterdir())) == KEPT
    assert not (folder / "old0").exists()
    assert not is_made(request_)
