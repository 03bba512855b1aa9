# SPDX-License-Identifier: GPL-2.0-only
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.distro.archive import MadeUpArchive, SigningKey


@pytest.fixture(scope="session")
def keys() -> Iterator[tuple[SigningKey, SigningKey]]:
    """The archive's key, and one that nobody trusts."""
    with tempfile.TemporaryDirectory(prefix="ks-") as folder:  # pytest's is too long for gpg
        ours = SigningKey.make(Path(folder) / "a")
        others = SigningKey.make(Path(folder) / "b", "stranger")
        yield ours, others
        ours.end()
        others.end()


@pytest.fixture
def archive(
    tmp_path: Path, keys: tuple[SigningKey, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> MadeUpArchive:
    """An archive without packages, not published; apt asks once."""
    settings = tmp_path / "once.conf"
    settings.write_text('Acquire::Retries "0";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))
    folder = tmp_path / "archive"
    folder.mkdir()
    return MadeUpArchive(folder=folder, key=keys[0])
