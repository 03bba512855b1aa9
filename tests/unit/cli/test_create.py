# SPDX-License-Identifier: GPL-2.0-only
"""The arguments of ``ksplice create``; tests/vm tests what they do."""

import argparse
from pathlib import Path

import pytest

from ksplicd.cli.create import (
    add_arguments,
    check_input,
    check_output,
    naming_kept,
    read_key,
    read_module_key,
)
from ksplicd.cli.kernel import check_arguments
from ksplicd.cli.main import main
from ksplicd.errors import CreateError, KeyFileError, UsageError
from tests.support.needs import have_no_root


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*words, "--config", "c", "source"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no kernel given: give exactly one of --kernel RELEASE, --config DIR SOURCE"),
        (["--kernel", "6", "--config", "c", "tree"], "--kernel and --config: give exactly one of"),
        (["--config", "c"], "--config DIR: goes with SOURCE"),
        (["--kernel", "6", "--git", "HEAD"], "--git: goes with SOURCE"),
        (["--kernel", "6", "--diffext", ".new"], "--diffext: goes with SOURCE"),
        (["--kernel", "./6", "--toolchain", "root"], "--toolchain root: goes with --kernel REL"),
        (["--config", "c", "tree", "--toolchain", "root"], "--toolchain root: goes with --kernel"),
    ],
)
def test_exactly_one_kernel(words: list[str], message: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match=f"^{message}"):
        check_arguments(parser.parse_args(words))


def test_kernel_by_its_release_needs_no_source_and_takes_one() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for words in (["--patch", "p"], ["--git", "HEAD", "tree"], ["--prebuild"]):
        check_arguments(parser.parse_args(["--kernel", "running", *words]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no change given: give exactly one of --patch, --diffext, --git, --prebuild"),
        (["--diffext", ".new", "--git", "HEAD"], "--diffext and --git: give exactly one of"),
        (["--diffext", "", "--prebuild"], "--diffext and --prebuild: give exactly one of"),
        (["--git", "HEAD", "--patch-opt=-p0"], "--patch-opt: goes with --patch, not with --git"),
        (["--prebuild", "--keep", "k"], "--keep: goes with a change, not with --prebuild"),
        (["--prebuild", "--debug=cut"], "--debug: goes with a change, not with --prebuild"),
        (["--patch", "/no/such/file"], "--patch /no/such/file: no such file"),
    ],
)
def test_exactly_one_kind_of_change(words: list[str], message: str) -> None:
    with pytest.raises((UsageError, CreateError), match=f"^{message}"):
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
    with pytest.raises(UsageError, match="goes with --module-sign-key"):
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


def test_folder_for_temporary_objects_that_holds_something(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "patch").touch()
    words = ["--patch", str(tmp_path / "patch"), "--config", "none", "none"]
    assert main(["create", *words, "--keep", str(tmp_path)]) == 1
    message = f"ksplice: --keep {tmp_path}: not empty; give a folder that is empty or does not"
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("error", [CreateError("refused"), SystemExit(143)])
def test_temporary_objects_are_named_also_after_an_error(
    tmp_path: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    args = parse("--git", "HEAD", "--keep", str(tmp_path))

    def refuse() -> None:
        with naming_kept(args):
            (tmp_path / "pre").mkdir()
            raise error

    with pytest.raises(type(error)):
        refuse()
    assert capsys.readouterr().err == f"ksplice: the temporary objects are in {tmp_path}\n"


def test_no_temporary_objects_no_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--keep", str(tmp_path)], []):
        with naming_kept(parse("--git", "HEAD", *words)):
            pass
    assert capsys.readouterr().err == ""
