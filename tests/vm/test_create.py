# SPDX-License-Identifier: GPL-2.0-only
"""``ksplice create`` on a stock kernel's source: needs the packages, but no guest."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ksplicd import bundle
from ksplicd.create.pipeline import Request, create
from ksplicd.create.source import PRESRC
from ksplicd.errors import (
    BuildError,
    ConfigDirError,
    NoChangesError,
    PatchError,
    UnsupportedChangeError,
)
from ksplicd.lab.cache import Cache
from ksplicd.lab.debian import KernelPackages
from tests import slice as sample
from tests.stock import stock_kernel


@pytest.fixture(scope="module")
def kernel(lab_cache: Cache) -> KernelPackages:
    return stock_kernel(lab_cache)


@pytest.fixture(scope="module")
def tree(lab_cache: Cache, kernel: KernelPackages) -> Path:
    return sample.source_tree(lab_cache, kernel)


@pytest.fixture(scope="module")
def request_(lab_cache: Cache, kernel: KernelPackages) -> Request:
    """A request whose patch is to be replaced."""
    return sample.request_for(lab_cache, kernel, Path("none"), kid="test0001")


@pytest.fixture(autouse=True)
def tree_is_left_as_found(tree: Path) -> Iterator[None]:
    """Compare the touched files before and after each test."""
    files = ["fs/fcntl.c", "kernel/sys.c", "fs/proc/cmdline.c", "include/linux/fs.h"]

    def state() -> dict[str, tuple[bytes, int]]:
        return {f: ((tree / f).read_bytes(), (tree / f).stat().st_mtime_ns) for f in files}

    before = state()
    yield
    assert state() == before
    leftovers = [p for f in files for p in (tree / f).parent.glob(f"*{PRESRC}")]
    assert leftovers == []


def edit(tree: Path, tmp_path: Path, path: str, old: str, new: str) -> Path:
    """Return a patch that replaces the first ``old`` in a file of the tree."""
    text = (tree / path).read_text()
    assert old in text
    a, b = tmp_path / "a" / path, tmp_path / "b" / path
    for p, content in ((a, text), (b, text.replace(old, new, 1))):
        p.parent.mkdir(parents=True, exist_ok=True)
        p.write_text(content)
    done = subprocess.run(
        ["diff", "-u", f"a/{path}", f"b/{path}"], cwd=tmp_path, capture_output=True, check=False
    )
    patch = tmp_path / "edit.patch"
    patch.write_bytes(done.stdout)
    return patch


@pytest.mark.parametrize("fix", sample.FIXES, ids=lambda fix: fix.file)
def test_real_fix(lab_cache: Cache, request_: Request, fix: sample.Fix) -> None:
    patch = sample.cut_patch(lab_cache, fix.old, fix.new, [fix.file])
    made = create(replace(request_, patches=(patch,)))
    content = bundle.unpack(made.data)
    functions = content.manifest.targets[0].functions
    assert functions
    assert {f.unit for f in functions} == {fix.file}
    assert content.files["patch"] == patch.read_bytes()


def test_several_fixes_in_one_update_and_the_same_bytes_again(
    lab_cache: Cache, request_: Request
) -> None:
    files = [fix.file for fix in sample.FIXES]
    patch = sample.cut_patch(lab_cache, sample.FCNTL.old, sample.FCNTL.new, files)
    first = create(replace(request_, patches=(patch,)))
    assert {f.unit for f in first.manifest.targets[0].functions} == set(files)
    assert create(replace(request_, patches=(patch,))).data == first.data


def test_patch_that_changes_no_code(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "fs/proc/cmdline.c", "#include", "/* a comment\n */\n#include")
    with pytest.raises(NoChangesError, match=r"fs/proc/cmdline\.c: .* no code") as e:
        create(replace(request_, patches=(patch,)))
    assert e.value.exit_status == 66


def test_patch_that_breaks_the_build(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "fs/proc/cmdline.c", "seq_puts(", "seq_putz(")
    with pytest.raises(BuildError, match=r"fs/proc/cmdline\.c: does not compile:\n.*seq_putz"):
        create(replace(request_, patches=(patch,)))


def test_patch_that_does_not_apply(request_: Request, tmp_path: Path) -> None:
    patch = tmp_path / "bad.patch"
    patch.write_text("--- a/fs/fcntl.c\n+++ b/fs/fcntl.c\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n")
    with pytest.raises(PatchError, match=r"bad\.patch: does not apply"):
        create(replace(request_, patches=(patch,)))


def test_header_that_changes_no_code(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "include/linux/fs.h", "#include", "/* c */\n#include")
    with pytest.raises(NoChangesError, match=r"include/linux/fs\.h: \d+ units depend on it"):
        create(replace(request_, patches=(patch,)))


def test_module_and_vmlinux_in_one_update(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path
) -> None:
    module = edit(tree, tmp_path, "fs/romfs/super.c", "return -EINVAL;", "return -EIO;")
    made = create(replace(request_, patches=(module, fcntl_patch(lab_cache))))
    functions = {t.name: {f.name for f in t.functions} for t in made.manifest.targets}
    assert functions == {"romfs": {"romfs_fill_super"}, "vmlinux": {"do_fcntl"}}


def test_file_that_the_kernel_is_configured_without(
    request_: Request, tree: Path, tmp_path: Path
) -> None:
    patch = edit(tree, tmp_path, "fs/bfs/dir.c", "return -ENOSPC;", "return -EIO;")
    with pytest.raises(UnsupportedChangeError, match=r"fs/bfs/dir\.c: .* configured without"):
        create(replace(request_, patches=(patch,)))


def test_changed_data_is_refused_by_name(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "kernel/sys.c", "int overflowuid = DEFAULT_OVERFLOWUID;",
                 "int overflowuid = DEFAULT_OVERFLOWUID - 1;")  # fmt: skip
    with pytest.raises(UnsupportedChangeError, match=r"overflowuid .*initialised data changes"):
        create(replace(request_, patches=(patch,)))


def test_boot_code_is_refused_by_name(request_: Request, tree: Path, tmp_path: Path) -> None:
    patch = edit(tree, tmp_path, "fs/fcntl.c", "BUILD_BUG_ON(21 - 1",
                 'pr_info("boot\\n");\n\tBUILD_BUG_ON(21 - 1')  # fmt: skip
    with pytest.raises(UnsupportedChangeError, match=r"fcntl_init .*runs only at boot"):
        create(replace(request_, patches=(patch,)))


def copy_config(request_: Request, tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    folder.mkdir()
    for name in ("System.map", ".config", "vmlinuz"):
        (folder / name).write_bytes((request_.config / name).read_bytes())
    (folder / "build").symlink_to((request_.config / "build").resolve())
    return folder


def fcntl_patch(lab_cache: Cache) -> Path:
    return sample.cut_patch(lab_cache, sample.FCNTL.old, sample.FCNTL.new, ["fs/fcntl.c"])


def test_system_map_of_another_kernel(lab_cache: Cache, request_: Request, tmp_path: Path) -> None:
    folder = copy_config(request_, tmp_path)
    text = (folder / "System.map").read_text()
    moved = re.sub(r"^(\w{15})(\w)( . linux_banner)$", r"\g<1>8\3", text, flags=re.MULTILINE)
    (folder / "System.map").write_text(moved.replace("0 D linux_banner", "8 D linux_banner"))
    with pytest.raises(ConfigDirError, match="linux_banner is not where"):
        create(replace(request_, config=folder, patches=(fcntl_patch(lab_cache),)))


def test_configuration_that_does_not_fit_the_tree(
    lab_cache: Cache, request_: Request, tmp_path: Path
) -> None:
    folder = copy_config(request_, tmp_path)
    headers = tmp_path / "headers"
    generated = headers / "include/generated"
    generated.mkdir(parents=True)
    utsrelease = request_.config / "build/include/generated/utsrelease.h"
    (generated / "utsrelease.h").write_bytes(utsrelease.read_bytes())
    (folder / "build").unlink()
    (folder / "build").symlink_to(headers)
    with (folder / ".config").open("a") as f:
        f.write("CONFIG_NO_SUCH_OPTION=y\n")
    with pytest.raises(ConfigDirError, match=r"does not fit(.*\n)+.*-CONFIG_NO_SUCH_OPTION=y"):
        create(
            replace(request_, config=folder, cache=tmp_path / "cache",
                    patches=(fcntl_patch(lab_cache),))
        )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_gives_the_tree_back(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start_create(lab_cache, request_, tmp_path)
    try:
        wait_patched(tree, process)
        process.send_signal(number)
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.wait()


def test_kill_is_reverted_by_the_next_run(
    lab_cache: Cache, request_: Request, tree: Path, tmp_path: Path
) -> None:
    process = start_create(lab_cache, request_, tmp_path)
    try:
        wait_patched(tree, process)
    finally:
        process.kill()
        process.wait()
    assert (tree / f"fs/fcntl.c{PRESRC}").exists()
    said: list[str] = []
    create(replace(request_, patches=(fcntl_patch(lab_cache),)), said.append)
    assert any("fs/fcntl.c" in line and "original back" in line for line in said)


def start_create(lab_cache: Cache, request_: Request, tmp_path: Path) -> subprocess.Popen[bytes]:
    code = "import sys; from ksplicd.cli.main import main_create; sys.exit(main_create())"
    argv = [
        sys.executable, "-c", code, "--patch", fcntl_patch(lab_cache), "-q",
        "--config", request_.config, "-o", tmp_path, request_.source,
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, argv)), env={**os.environ, "XDG_CACHE_HOME": str(lab_cache.root.parent)}
    )


def wait_patched(tree: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the tree is patched; the compiler then takes about half a second."""
    deadline = time.monotonic() + 60
    while not (tree / f"fs/fcntl.c{PRESRC}").exists():
        assert process.poll() is None, "create ended before the tree was patched"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_callers_in_other_files_are_taken_in(lab_cache: Cache, request_: Request) -> None:
    """avc_has_perm_noaudit is inline, but out of line, and has callers in two other files."""
    patch = sample.cut_patch(
        lab_cache, sample.FCNTL.old, sample.FCNTL.new, ["security/selinux/avc.c"]
    )
    made = create(replace(request_, patches=(patch,)))
    units = {f.unit for f in made.manifest.targets[0].functions}
    assert units == {
        "security/selinux/avc.c", "security/selinux/hooks.c", "security/selinux/ss/services.c",
    }  # fmt: skip
    assert "calls avc_has_perm_noaudit" in made.reasons["selinux_inode_permission"]
