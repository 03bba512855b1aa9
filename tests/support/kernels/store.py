# SPDX-License-Identifier: GPL-2.0-only
"""Bundles that were made before: the same update is created once, for all tests and workers.

``create`` makes the same bytes of the same inputs, so an entry is named by all of them: the code of
``create``, ``kmodsrc/``, the kernel, the compiler and the request.  A test that is about
``create`` itself calls it, and does not come here.
"""

import functools
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Final

import ksplicd
from ksplicd.cache import Cache, digest_of, digest_of_file, digest_of_tree
from ksplicd.create.build.kmodsrc import kmodsrc
from ksplicd.create.request import Request
from ksplicd.create.stock.config_dir import ConfigDir, read_config_dir
from ksplicd.run import run
from tests.support.imports import reachable, read_graph

KIND: Final = "made"
KEPT: Final = 256
"""A whole run uses some 70, of 0.3 MB each; those used last are kept."""

_START: Final = "ksplicd.create.pipeline"
_HOW: Final = {"cache", "jobs", "keep"}
"""Fields of a request that say how to make an update, and change nothing of it."""
_UNKNOWN: Final = {"extension", "revision", "module_key"}
"""Fields that name what is not looked into here."""


def made_once(cache: Cache, request: Request, make: Callable[[], bytes]) -> bytes:
    """Return the bundle of a request: what ``make()`` returns, or has returned once.

    Whatever ``make`` raises is passed on, and nothing is kept then.
    """

    def fill(folder: Path) -> None:
        (folder / "bundle").write_bytes(make())

    parts = digest_of_code(), tools(read_config_dir(request.config).compiler), inputs_of(request)
    data = (cache.entry(KIND, digest_of(parts), fill) / "bundle").read_bytes()
    cache.prune(KIND, keep=KEPT)
    return data


def inputs_of(request: Request) -> dict[str, object]:
    """Return what a request asks for, with the contents of its files instead of their names.

    The source tree is one of the cache, whose name has the version, and nobody changes it.
    """
    asked = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in _HOW}
    known = {f.name: f.default for f in fields(request) if f.name in _UNKNOWN}
    assert known == {name: asked[name] for name in _UNKNOWN}, "create such an update anew"
    for name in ("patches", "series"):
        asked[name] = [digest_of_file(path) for path in asked[name]]
    asked["config"] = digests_of_config(read_config_dir(request.config))
    return asked


def digests_of_config(config: ConfigDir) -> list[object]:
    """Return what names a kernel's configuration and symbols."""
    return [digest_of(config.text), config.flags, digest_of_file(config.system_map)]


@functools.cache
def digest_of_code() -> str:
    """Return a digest of what makes updates: ``create``, all that it imports, and ``kmodsrc/``."""
    package = Path(ksplicd.__file__).parent
    modules = reachable(read_graph(package), _START) | {_START}
    paths = [package.parent.joinpath(*module.split(".")) for module in sorted(modules)]
    files = [p / "__init__.py" if p.is_dir() else p.with_suffix(".py") for p in paths]
    return digest_of([digest_of_file(file) for file in files], digest_of_tree(kmodsrc()))


@functools.cache
def tools(compiler: str) -> str:
    """Return the versions of the compiler and of the linker."""
    return "".join(run([tool, "--version"]).decode() for tool in (compiler, "ld"))
