# SPDX-License-Identifier: GPL-2.0-only
from pathlib import Path
from typing import Final

import pytest

from tests.tools import in_suite
from tests.tools.in_suite import libraries_of, main, packages_of

TOOLS: Final = Path(in_suite.__file__).parent


def test_root_has_what_setup_installs() -> None:
    packages = packages_of((TOOLS / "setup.sh").read_text())
    assert {"python3-gi", "polkitd", "strace", "libc6-dev", "debian-archive-keyring"} <= {*packages}
    assert not [name for name in packages if "#" in name or "(" in name]
    with pytest.raises(ValueError, match="no list of packages"):
        packages_of("packages=''\n")


def test_root_has_the_libraries_that_tests_import_at_their_versions() -> None:
    libraries = libraries_of((TOOLS / "requirements.txt").read_text())
    names = [line.partition("==")[0] for line in libraries]
    assert names == ["hypothesis", "pytest", "pytest-xdist"]
    assert all(line.partition("==")[2] for line in libraries)


def test_unknown_suite_is_refused_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buster", "-q"]) == 1
    assert "buster: nothing was tested, no root of it can be made" in capsys.readouterr().err
