# SPDX-License-Identifier: GPL-2.0-only
"""Lint, and the unit tests of what changed: ``make check [BASE=REVISION]``.

A change is any difference from where the branch left ``BASE``, committed or not.  ``BASE`` is the
branch's upstream by default, else ``main``.  The tests that import a changed file, directly or not,
are run, the nearest first, until ``SECONDS`` have gone by; those left then are named.  Guests and
the bus are not used.
"""

import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.imports import module_of, read_graph

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = (ROOT / "ksplicd", ROOT / "tests")
TESTS: Final = ("tests.unit.", "tests.pairs.", "tests.fuzz.", "tests.faults.")
SECONDS: Final = 40.0
LINT: Final = (
    ("ruff", "check", "-q", "."),
    ("ruff", "format", "-q", "--check", "."),
    ("mypy",),
)


def changed_files(root: Path, base: str) -> list[str]:
    """Return the files of a work tree that are not as in ``base``, also new ones."""
    known = git(root, "diff", "--name-only", base).splitlines()
    return sorted({*known, *git(root, "ls-files", "-o", "--exclude-standard").splitlines()})


def find_base(root: Path, wanted: str = "") -> str:
    """Return the commit to compare with."""
    for name in (wanted,) if wanted else ("@{upstream}", "main"):
        found = git(root, "merge-base", "HEAD", name, check=bool(wanted)).strip()
        if found:
            return found
    return "HEAD"


def git(root: Path, *argv: str, check: bool = True) -> str:
    done = subprocess.run(
        ["git", *argv], cwd=root, capture_output=True, text=True, check=check
    )  # fmt: skip
    return done.stdout


def modules_of(files: Iterable[str], root: Path, packages: Sequence[Path]) -> set[str]:
    """Return the modules that files are, and those of the tests that speak of other files."""
    found, others = set(), set()
    for file in map(Path, files):
        package = next((p for p in packages if (root / file).is_relative_to(p)), None)
        if package and file.suffix == ".py":
            found.add(module_of(root / file, package))
        else:
            others |= {file.name, f'"{file.parts[0]}"'} if len(file.parts) > 1 else {file.name}
    for package in packages[1:]:
        for path in package.rglob("*.py"):
            text = path.read_text()
            if any(word in text for word in others):
                found.add(module_of(path, package))
    return found


def nearest_tests(changed: set[str], graph: Mapping[str, set[str]]) -> list[str]:
    """Return the tests that changed modules can make fail, nearest first."""
    users: dict[str, set[str]] = {}
    for module, imported in graph.items():
        for other in imported:
            users.setdefault(other, set()).add(module)
            for package in parents(other):  # their __init__ is run too
                users.setdefault(package, set()).add(module)
    order, ring = sorted(changed), changed
    while ring:
        ring = {user for module in ring for user in users.get(module, ())} - set(order)
        order += sorted(ring)
    return [m for m in order if m in graph and m.startswith(TESTS) and ".test_" in m]


def parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


class Budget:
    """A plugin of pytest: starts nothing more when the time is over, and remembers what ran."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.is_over = False
        self.failed = False
        self.ran: set[str] = set()
        self._session: pytest.Session

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._session = session

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed
        self.ran.add(report.nodeid.partition("::")[0])
        if time.monotonic() > self._end and not self.is_over:
            self.is_over = True
            self._session.shouldstop = "the time is over"


def run_tests(modules: Sequence[str]) -> bool:
    """Run tests for a while, and tell whether they pass."""
    files = [f"{module.replace('.', '/')}.py" for module in modules]
    print(f"check: {len(files)} files of tests use what changed")
    if not files:
        return True
    budget = Budget(SECONDS)
    status = pytest.main(["-q", "-n", "2", "--maxschedchunk=2", *files], plugins=[budget])
    left = [file for file in files if file not in budget.ran]
    if budget.is_over:
        print(f"check: stopped after {SECONDS:g} s; {len(left)} files were not begun. All of them:")
        print("    make unit")
    return not budget.failed and (budget.is_over or status == pytest.ExitCode.OK)


def main(wanted: str = "") -> int:
    changed = modules_of(changed_files(ROOT, find_base(ROOT, wanted)), ROOT, PACKAGES)
    tests = nearest_tests(changed, read_graph(*PACKAGES))
    lint = [subprocess.Popen([sys.executable, "-m", *argv], cwd=ROOT) for argv in LINT]
    lint.append(subprocess.Popen(["shellcheck", ".ci/run", *ROOT.glob("tests/tools/*.sh")]))
    is_good = run_tests(tests)
    wrong = [process.args for process in lint if process.wait()]
    return 0 if is_good and not wrong else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
