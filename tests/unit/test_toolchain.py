# SPDX-License-Identifier: GPL-2.0-only
"""Programs in a root: this machine's own system folders stand in for those of another suite."""

import os
import shutil
from pathlib import Path

import pytest

from ksplicd.errors import ToolError
from ksplicd.run import has, run_any
from ksplicd.toolchain import HOST, Toolchain

can_bind = pytest.mark.skipif(
    not has("bwrap") or run_any(["bwrap", "--ro-bind", "/", "/", "true"])[0] != 0,
    reason="bubblewrap is not installed, or may not make namespaces",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with a program of its own; bwrap follows the links to this machine's."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/suite").write_text("other\n")
    (root / "usr").symlink_to("/usr")
    return root


def test_this_machine_runs_commands_as_they_are(tmp_path: Path) -> None:
    assert HOST.command(["gcc", "-c"], tmp_path) == ["gcc", "-c"]
    assert HOST.run(["pwd"], cwd=tmp_path) == f"{tmp_path}\n".encode()
    assert HOST.run(["cat"], stdin=b"x") == b"x"
    with pytest.raises(ToolError, match="nothing-here: not found"):
        HOST.run(["nothing-here"])


@can_bind
def test_root_has_its_own_system_and_this_machines_other_folders(
    root: Path, tmp_path: Path
) -> None:
    toolchain = Toolchain(root=root)
    assert toolchain.run(["cat", "/etc/suite"]) == b"other\n"
    (tmp_path / "in").write_text("in")
    toolchain.run(["sh", "-c", 'cat in >out; pwd >>out; echo "$PATH" >>out'], cwd=tmp_path)
    assert (tmp_path / "out").read_text() == f"in{tmp_path}\n/usr/sbin:/usr/bin\n"
    assert toolchain.run(["cat"], stdin=b"x") == b"x"


@can_bind
def test_program_that_fails_in_a_root(root: Path) -> None:
    toolchain = Toolchain(root=root)
    assert toolchain.run_any(["sh", "-c", "echo e >&2; exit 3"]) == (3, b"", b"e\n")
    with pytest.raises(ToolError, match=r"sh -c echo e >&2; exit 3: exit status 3\ne"):
        toolchain.run(["sh", "-c", "echo e >&2; exit 3"])


@can_bind
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder below /usr")
def test_folders_below_usr_are_bound_by_name(tmp_path: Path) -> None:
    ours = Path("/usr/src")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "usr/src").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "usr/busybox")
    listed = Toolchain(root=root, inside=(ours,)).run(["/usr/busybox", "ls", "-a", "/usr/src"])
    assert set(listed.decode().split()) == {".", "..", *(p.name for p in ours.iterdir())}


def test_bubblewrap_that_is_missing_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"bwrap: not found.*programs of another suite are run by"):
        Toolchain(root=root).run(["true"])
