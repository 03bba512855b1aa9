# SPDX-License-Identifier: GPL-2.0-only
"""``make check`` finds what changed, and the tests that can see it."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ksplicd.run import run
from tests.support.imports import read_graph
from tests.tools.check import ROOT, Budget, changed_files, find_base, git, modules_of, nearest_tests

FILES = {
    "app/__init__.py": "",
    "app/low.py": "",
    "app/high.py": "from app.low import x",
    "app/other.py": "",
    "data/thing.c": "",
    "tests/__init__.py": "",
    "tests/support.py": "from app import high",
    "tests/unit/test_low.py": "import app.low",
    "tests/unit/test_high.py": "from app import high",
    "tests/unit/test_through.py": "from tests.support import high",
    "tests/unit/test_thing.py": 'FOLDER = "data"',
    "tests/vm/test_guest.py": "import app.low",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for argv in (
        ["init", "-q", "-b", "main"], ["config", "user.name", "x"], ["config", "user.email", "x"],
        ["add", "."], ["commit", "-qm", "first"],
    ):  # fmt: skip
        git(root, *argv)
    return root


def nearest(tree: Path, *changed: str) -> list[str]:
    packages = (tree / "app", tree / "tests")
    return nearest_tests(modules_of(changed, tree, packages), read_graph(*packages))


def test_nearest_tests_come_first_and_no_guests(tree: Path) -> None:
    low, high, through = (f"tests.unit.test_{name}" for name in ("low", "high", "through"))
    assert nearest(tree, "app/low.py") == [low, high, through]
    assert nearest(tree, "app/high.py") == [high, through]
    assert nearest(tree, "tests/unit/test_high.py") == [high]
    assert nearest(tree, "app/other.py") == []
    assert set(nearest(tree, "app/__init__.py")) == {low, high, through}


def test_other_files_are_for_those_who_speak_of_them(tree: Path) -> None:
    assert nearest(tree, "data/thing.c") == ["tests.unit.test_thing"]


def test_commits_and_what_is_not_committed_are_changes(tree: Path) -> None:
    git(tree, "checkout", "-q", "-b", "topic")
    (tree / "app/low.py").write_text("x = 1")
    git(tree, "commit", "-qam", "second")
    (tree / "app/new.py").touch()
    (tree / "app/high.py").unlink()
    assert changed_files(tree, find_base(tree)) == ["app/high.py", "app/low.py", "app/new.py"]
    assert changed_files(tree, find_base(tree, "HEAD")) == ["app/high.py", "app/new.py"]


def test_upstream_comes_before_main(tree: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(tree), "copy")
    copy = tmp_path / "copy"
    (copy / "app/low.py").write_text("x = 1")
    git(copy, "-c", "user.name=x", "-c", "user.email=x", "commit", "-qam", "second")
    assert find_base(copy) == git(copy, "rev-parse", "origin/main").strip()
    assert changed_files(copy, find_base(copy)) == ["app/low.py"]


def test_time_that_is_over_stops_the_tests() -> None:
    session = SimpleNamespace(shouldstop=False)
    for seconds, is_over in ((60, False), (-1, True)):
        budget = Budget(seconds)
        budget.pytest_sessionstart(cast(pytest.Session, session))
        report: Any = SimpleNamespace(failed=True, nodeid="tests/unit/test_x.py::test_y")
        budget.pytest_runtest_logreport(report)
        assert (budget.is_over, budget.failed, bool(session.shouldstop)) == (is_over, True, is_over)
        assert budget.ran == {"tests/unit/test_x.py"}


# --- the Makefile's ways to choose tests --------------------------------------------------------


def pytest_of(*argv: str) -> tuple[str, list[str]]:
    """Return what stands before and after ``pytest`` in what make would do."""
    out = run(["make", "-n", "-C", ROOT, *argv]).decode().replace("\\\n", " ")
    found = re.search(r"^(.*) -m pytest (.*)$", out, re.MULTILINE)
    assert found is not None
    return found[1], found[2].split()


ALL = ["tests", "--ignore=tests/bus", "--ignore=tests/vm"]


@pytest.mark.parametrize(
    ("argv", "chosen"),
    [
        (["unit"], ["-n", "2", *ALL]),
        (["unit", "T=tests/unit/host/test_store.py"], ["tests/unit/host/test_store.py"]),
        (["unit", "T=-k soak"], ["-k", "soak", *ALL]),
        (["unit", "T=tests/pairs -k constant"], ["tests/pairs", "-k", "constant"]),
        (["vm", "T=tests/vm/test_boot.py"], ["tests/vm/test_boot.py"]),
        (["vm", "T=-k kprobe"], ["-k", "kprobe", "tests/vm", "tests/bus"]),
        (["vm", "T=tests/vm/test_boot.py", "KEEP=1"], ["-x", "-s", "tests/vm/test_boot.py"]),
    ],
)
def test_make_runs_what_is_chosen(argv: list[str], chosen: list[str]) -> None:
    before, after = pytest_of(*argv)
    assert after == ["-q", "--durations=10", *chosen]
    assert ("KSPLICE_KEEP=1" in before) is ("KEEP=1" in argv)
