# SPDX-License-Identifier: GPL-2.0-only
"""Files that a run of create leaves behind."""

import tempfile
from pathlib import Path

import pytest

from ksplicd.create.work_folder import WorkFolder, work_folder
from ksplicd.errors import CreateError


def fill(work: WorkFolder, tmp_path: Path) -> None:
    """Do what create does: make some files, and show some of the cache."""
    (work.folder("post") / "fs-a.o").write_bytes(b"made")
    cached = tmp_path / "cache.o"
    cached.write_bytes(b"cached")
    work.show("pre", {"fs-b.o": cached})


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_is_left(tmp_path: Path) -> None:
    with work_folder() as work:
        fill(work, tmp_path)
        assert files_in(work.root) == {"post/fs-a.o": b"made"}, "the cache has the others"
    assert not work.root.exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_kept_files(tmp_path: Path, is_there: bool) -> None:  # noqa: FBT001
    keep = tmp_path / "deep" / "kept files"
    if is_there:
        keep.mkdir(parents=True)
    with work_folder(keep) as work:
        fill(work, tmp_path)
    assert files_in(keep) == {"post/fs-a.o": b"made", "pre/fs-b.o": b"cached"}
    assert not work.root.exists()


@pytest.mark.parametrize("error", [CreateError("refused"), SystemExit(143), KeyboardInterrupt()])
def test_kept_when_the_run_ends_otherwise(tmp_path: Path, error: BaseException) -> None:
    def refuse() -> None:
        with work_folder(tmp_path / "keep") as work:
            fill(work, tmp_path)
            raise error

    with pytest.raises(type(error)):
        refuse()
    assert set(files_in(tmp_path / "keep")) == {"post/fs-a.o", "pre/fs-b.o"}


def test_folder_that_is_gone_at_the_end(tmp_path: Path) -> None:
    with work_folder(tmp_path / "keep") as work:
        fill(work, tmp_path)
        (tmp_path / "keep").rmdir()
    assert set(files_in(tmp_path / "keep")) == {"post/fs-a.o", "pre/fs-b.o"}


@pytest.mark.parametrize("is_refused", [True, False])
def test_folder_that_cannot_be_filled(tmp_path: Path, is_refused: bool) -> None:  # noqa: FBT001
    """It became a file; where the run was refused, that is what the user has to know."""

    def make() -> None:
        with work_folder(tmp_path / "keep") as work:
            fill(work, tmp_path)
            (tmp_path / "keep").rmdir()
            (tmp_path / "keep").touch()
            if is_refused:
                raise CreateError("refused")

    words = "^refused$" if is_refused else "^--keep .*/keep: File exists; give another folder$"
    with pytest.raises(CreateError, match=words):
        make()


def test_folder_on_another_file_system(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system")
    with tempfile.TemporaryDirectory(dir=other) as folder:
        with work_folder(Path(folder) / "keep") as work:
            fill(work, tmp_path)
        assert set(files_in(Path(folder) / "keep")) == {"post/fs-a.o", "pre/fs-b.o"}


def test_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(CreateError, match=r"--keep .*: not empty; give a folder that is empty or"):
        work_folder(tmp_path).__enter__()
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_what_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CreateError, match=r"--keep .*file.* is not a folder; give another"):
        work_folder(tmp_path / name).__enter__()
