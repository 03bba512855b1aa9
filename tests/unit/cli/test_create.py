# SPDX-License-Identifier: GPL-2.0-only
"""The arguments of ``ksplice create``; what it does with them is tested in tests/vm."""

import argparse
from pathlib import Path

import pytest

from ksplicd.cli.create import add_arguments, check_input, check_output, read_key, read_module_key
from ksplicd.errors import CreateError, KeyFileError
from tests.support.needs import have_no_root


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*words, "--config", "c", "source"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no change given: give exactly one of --patch, --diffext, --git, --prebuild"),
        (["--diffext", ".new", "--git", "HEAD"], "--diffext and --git: give exactly one of"),
        (["--diffext", "", "--prebuild"], "--diffext and --prebuild: give exactly one of"),
        (["--git", "HEAD", "--patch-opt=-p0"], "--patch-opt: goes with --patch, not with --git"),
        (["--patch", "/no/such/file"], "--patch /no/such/file: no such file"),
    ],
)
def test_exactly_one_kind_of_change(words: list[str], message: str) -> None:
    with pytest.raises(CreateError, match=f"^{message}"):
        check_input(parse(*words))


def test_several_patches_are_one_kind(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch()
    check_input(parse("--patch", str(tmp_path / "a"), "--patch", str(tmp_path / "b")))


def test_module_key_and_certificate(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    assert read_module_key(None, None) is None
    found = read_module_key(key, certificate)
    assert found is not None
    assert (found.key, found.certificate) == (key, certificate)
    with pytest.raises(CreateError, match=r"key\.pem: no CERTIFICATE in it"):
        read_module_key(key, None)
    with pytest.raises(CreateError, match="goes with --module-sign-key"):
        read_module_key(None, certificate)
    with pytest.raises(CreateError, match=r"none\.pem: No such file"):
        read_module_key(tmp_path / "none.pem", None)


def test_sign_key_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "k.key").write_bytes(b"\xff\xfe")
    with pytest.raises(KeyFileError, match=r"k\.key: not a minisign key file"):
        read_key(tmp_path / "k.key")


def test_where_the_bundle_goes(tmp_path: Path) -> None:
    """What cannot be written is refused before anything is built."""
    check_output(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").touch()
    with pytest.raises(CreateError, match="file is not a folder"):
        check_output(tmp_path / "file" / "below")


@have_no_root
def test_where_the_bundle_may_not_go(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(CreateError, match="cannot be written to; give another folder"):
        check_output(tmp_path / "bundles")
