# SPDX-License-Identifier: GPL-2.0-only
"""``--kernel``: the parts of a kernel from a distribution that a folder stands in for."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ksplicd.cache import Cache
from ksplicd.cli.kernel import RUNNING, Choice, config_of, fetch, find
from ksplicd.create.stock.config_dir import read_config_dir
from ksplicd.distro.model import ChangelogEntry, Kernel, Part, Parts, ToolchainNeeds
from ksplicd.errors import ConfigDirError, NoSuchKernelError
from ksplicd.toolchain import HOST, Toolchain
from tests.support.objects.link import Linked, link

RELEASE = "6.1.0-50-cloud-amd64"
KERNEL = Kernel(
    release=RELEASE, version="6.1.176-1", suite="bookworm", newer=None, compiler="sh", cached=False
)


@dataclass(frozen=True, slots=True)
class Folders:
    """A distribution of one kernel."""

    root: Path
    asked: list[str] = field(default_factory=list)
    name: str = "folders"

    def kernels(self) -> Sequence[Kernel]:
        return [KERNEL]

    def kernel(self, release: str, version: str | None = None) -> Kernel:
        self.asked.append(f"{release} {version}")
        return KERNEL

    def parts(self, kernel: Kernel) -> Parts:
        def part(name: str) -> Part:
            return Part(path=self.root / name, origin=f"the package {name}")

        return Parts(
            kernel=kernel,
            image=part("vmlinuz"),
            modules=part("modules"),
            headers=part("headers"),
            source=part("source"),
            symbols=part("System.map"),
        )

    def newer(self, kernel: Kernel) -> Sequence[str]:
        return []

    def changelog(self, version: str) -> Sequence[ChangelogEntry]:
        return []

    def toolchain(self, kernel: Kernel) -> ToolchainNeeds:
        return ToolchainNeeds(compiler=kernel.compiler, suite=kernel.suite, packages=())


@pytest.fixture
def linked(tmp_path: Path) -> Linked:
    return link(tmp_path, {"a": 'const char linux_banner[] = "Linux version 6.1.176 (x)";'})


@pytest.fixture
def folders(tmp_path: Path, linked: Linked) -> Folders:
    root = tmp_path / "packages"
    for folder in ("modules", "source", "headers/include/generated"):
        (root / folder).mkdir(parents=True)
    (root / "vmlinuz").write_bytes(linked.elf)
    text = linked.image.segments[0].address
    (root / "System.map").write_text(
        f"{text:016x} T _text\n{linked.address('linux_banner'):016x} D linux_banner\n"
    )
    (root / "headers/.config").write_text('CONFIG_CC_VERSION_TEXT="gcc-12 (Debian) 12.2.0"\n')
    release = root / "headers/include/generated/utsrelease.h"
    release.write_text(f'#define UTS_RELEASE "{RELEASE}"\n')
    return Folders(root)


def test_parts_become_a_folder_for_create(tmp_path: Path, folders: Folders) -> None:
    lines: list[str] = []
    cache = Cache(tmp_path / "cache", progress=lines.append)
    inputs = fetch(folders, RELEASE, cache)
    assert inputs.source == folders.root / "source"
    config = read_config_dir(inputs.config)
    assert config.release == RELEASE
    assert config.stock_image().resolve() == folders.root / "vmlinuz"
    assert config.modules.resolve() == folders.root / "modules"
    assert dict(inputs.origins) == {
        "image": "the package vmlinuz",
        "modules": "the package modules",
        "headers": "the package headers",
        "symbols": str(folders.root / "System.map"),
        "source": "the package source",
        "compiler": "gcc-12 (Debian) 12.2.0 (this machine)",
    }
    assert [f"{name}: {origin}" for name, origin in inputs.origins.items()] == lines[-6:]
    assert fetch(folders, RELEASE, cache).config == inputs.config


ROOT = Toolchain(root=Path("/nowhere/root"))


@pytest.mark.parametrize(
    ("choice", "program", "expected"),
    [
        (Choice.AUTO, "x", ROOT),  # none here
        (Choice.AUTO, "gcc-12 (Debian) 12.2.0", HOST),
        (Choice.AUTO, "gcc-12 (Debian 2) 12.2.0", ROOT),  # another revision
        (Choice.ROOT, "gcc-12 (Debian) 12.2.0", ROOT),
        (Choice.HOST, "gcc-12 (Debian 2) 12.2.0", HOST),
    ],
)
def test_whose_compiler_is_run(
    tmp_path: Path, folders: Folders, choice: Choice, program: str, expected: Toolchain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if program != "x":
        compiler = tmp_path / "bin/gcc-12"
        compiler.parent.mkdir()
        compiler.write_text(f"#!/bin/sh\necho '{program}'\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("PATH", f"{compiler.parent}:/usr/bin:/bin")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    inputs = fetch(
        folders, RELEASE, Cache(tmp_path / "cache"), choice=choice, root_for=lambda _: ROOT
    )
    assert inputs.toolchain == expected
    where = "a root: /nowhere/root" if expected is ROOT else "this machine"
    assert inputs.origins["compiler"] == f"gcc-12 (Debian) 12.2.0 ({where})"


def test_source_of_ones_own_is_taken(tmp_path: Path, folders: Folders) -> None:
    own = tmp_path / "own"
    inputs = fetch(folders, RELEASE, Cache(tmp_path / "cache"), source=own)
    assert inputs.source == own
    assert inputs.origins["source"] == str(own)


def test_folder_that_was_built_in_again_is_read_again(tmp_path: Path, folders: Folders) -> None:
    cache = Cache(tmp_path / "cache")
    first, _ = config_of(cache, folders.parts(KERNEL))
    assert config_of(cache, folders.parts(KERNEL))[0] == first
    map_ = folders.root / "System.map"
    map_.write_text(map_.read_text() + "ffffffff81000001 T more\n")
    again, _ = config_of(cache, folders.parts(KERNEL))
    assert again != first
    assert "more" in (again / "System.map").read_text()


def test_nothing_is_kept_of_parts_that_do_not_belong_together(
    tmp_path: Path, folders: Folders
) -> None:
    (folders.root / "headers/.config").write_text("")
    with pytest.raises(ConfigDirError, match="no CONFIG_CC_VERSION_TEXT"):
        config_of(Cache(tmp_path / "cache"), folders.parts(KERNEL))
    assert list((tmp_path / "cache/kernel-config").iterdir()) == []


def test_compiler_that_is_missing_is_named_before_anything_is_fetched(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoSuchKernelError, match="was built with sh, which this machine does not"):
        fetch(folders, RELEASE, Cache(tmp_path / "cache"))


@pytest.mark.parametrize(
    "version", ["#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)", "#1 SMP Debian 6.1.176-1"]
)
def test_kernel_that_runs(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.uname_result(("Linux", "host", RELEASE, version, "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: name)
    folders = Folders(tmp_path)
    assert find(folders, RUNNING) == KERNEL
    assert folders.asked == [f"{RELEASE} 6.1.176-1"]


def test_kernel_that_runs_and_is_none_of_debian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.uname_result(("Linux", "host", "6.6.1", "#1 SMP NixOS", "x86_64"))
    monkeypatch.setattr(os, "uname", lambda: name)
    with pytest.raises(NoSuchKernelError, match=r"6\.6\.1: the running kernel was not"):
        find(Folders(tmp_path), RUNNING)
