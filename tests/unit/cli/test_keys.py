# SPDX-License-Identifier: GPL-2.0-only
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ksplicd.cli.main import main


@pytest.fixture
def key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A key pair: ``k.key`` and ``k.pub``; returns the path without ending."""
    assert main(["keygen", str(tmp_path / "k")]) == 0
    capsys.readouterr()
    return tmp_path / "k"


def test_secret_key_is_ours_alone(key: Path) -> None:
    assert key.with_name("k.key").stat().st_mode & 0o777 == 0o600


def test_keygen_overwrites_nothing(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = key.with_name("k.key").read_bytes()
    assert main(["keygen", str(key)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert key.with_name("k.key").read_bytes() == before


def test_what_was_signed_verifies(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ksplice-8c4o6ucj.tar.gz"
    file.write_bytes(b"bytes")
    assert main(["sign", str(file), "--key", f"{key}.key", "--json"]) == 0
    signed = json.loads(capsys.readouterr().out)
    assert main(["verify", str(file), "--key", f"{key}.pub", "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert verified["key_id"] == signed["key_id"]
    assert verified["trusted_comment"] == "file:ksplice-8c4o6ucj.tar.gz"


def test_altered_file_does_not_verify(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"bytes")
    assert main(["sign", str(file), "--key", f"{key}.key"]) == 0
    file.write_bytes(b"bytez")
    assert main(["verify", str(file), "--key", f"{key}.pub"]) == 3
    assert "did not sign these bytes" in capsys.readouterr().err


def test_file_without_signature(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"bytes")
    assert main(["verify", str(file), "--key", f"{key}.pub"]) == 3
    assert "f.minisig" in capsys.readouterr().err


def test_missing_key_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", str(tmp_path), "--key", str(tmp_path / "none.key")]) == 1
    assert "none.key: cannot be read" in capsys.readouterr().err


def test_key_that_expires(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"bytes")
    for name, day, status in (("old", "2001-01-31", 3), ("new", "2999-12-31", 0)):
        key = tmp_path / name
        assert main(["keygen", "--expires", day, str(key)]) == 0
        assert main(["sign", str(file), "--key", f"{key}.key"]) == 0
        assert main(["verify", str(file), "--key", f"{key}.pub"]) == status
        assert ("which has expired on 2001-01-31" in capsys.readouterr().err) is (status == 3)


def test_day_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--expires", "tomorrow", str(tmp_path / "k")]) == 64
    assert "tomorrow: not a day; write it like 2027-01-31" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_wrong_one_of_two_keys(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"bytes")
    assert main(["sign", str(file), "--key", f"{key}.pub"]) == 1
    assert "k.pub:2: a public key (.pub), where the secret one" in capsys.readouterr().err
    assert not file.with_name("f.minisig").exists()
    assert main(["sign", str(file), "--key", f"{key}.key"]) == 0
    assert main(["verify", str(file), "--key", f"{key}.key"]) == 1
    assert "k.key:2: a secret key (.key), where the public one" in capsys.readouterr().err


def test_keygen_leaves_no_half_of_a_pair(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "k.pub").write_text("somebody's")
    assert main(["keygen", str(tmp_path / "k")]) == 1
    assert "k.pub: File exists; choose another name" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["k.pub"]
    assert (tmp_path / "k.pub").read_text() == "somebody's"


def test_folders_are_no_files(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "/"]) == 1
    assert "/: is a folder; give a name for the two files" in capsys.readouterr().err
    assert main(["sign", "/", "--key", f"{key}.key"]) == 1
    assert "/: Is a directory" in capsys.readouterr().err
    assert main(["verify", "/", "--key", f"{key}.pub"]) == 3
    assert "/: cannot be verified" in capsys.readouterr().err


def test_nobody_to_ask_for_a_password(tmp_path: Path) -> None:
    """In a pipeline, with no terminal and nothing on standard input."""
    program = "import sys; from ksplicd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    out = subprocess.run(
        [sys.executable, "-c", program, "keygen", "--password", tmp_path / "k"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    assert out.returncode == 1
    assert "Password: none given, on a terminal or on stdin" in out.stderr
    assert "Traceback" not in out.stderr
    assert list(tmp_path.iterdir()) == []
