# SPDX-License-Identifier: GPL-2.0-only
"""A mistake in ksplicd.conf costs no boot its fixes, and opens nothing."""

from pathlib import Path

import pytest

from ksplicd.config import Settings, parse_settings, read_settings
from ksplicd.daemon import main
from ksplicd.errors import ConfigFileError, SignerNotAllowedError
from ksplicd.host.trust import last_good
from ksplicd.host.trust.last_good import strictest
from ksplicd.host.trust.signers import check_signer
from tests.support.bundles import samples

GOOD = "[ksplicd]\non-drop = apply\nrequire-signature = no\n[signers]\nvmlinux = AAAA BBBB\n"


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    """The configuration, and its copy after a start without a mistake."""
    path, copy = tmp_path / "ksplicd.conf", tmp_path / "store/good"
    path.write_text(GOOD)
    assert last_good.read_settings(path, copy) == (parse_settings(GOOD), "")
    assert copy.read_text() == GOOD
    return path, copy


@pytest.mark.parametrize("slip", ["on-drop = aply", "nonsense", "retries = 1000", "[ksplice]"])
def test_last_good_one_holds(paths: tuple[Path, Path], slip: str) -> None:
    path, copy = paths
    path.write_text(GOOD.replace("on-drop = apply", slip))
    settings, why = last_good.read_settings(path, copy)
    assert settings == parse_settings(GOOD)
    assert why.startswith(f"{path}:2: ")
    assert "until it is mended, the last good configuration holds" in why
    assert copy.read_text() == GOOD


@pytest.mark.parametrize("data", [b"\xff", None])
def test_file_that_cannot_be_read(paths: tuple[Path, Path], data: bytes | None) -> None:
    """Nobody knows what it says of signatures."""
    path, copy = paths
    path.unlink()
    path.mkdir() if data is None else path.write_bytes(data)
    settings, why = last_good.read_settings(path, copy)
    assert (settings.require_signature, settings.on_drop) == (True, "apply")
    assert "cannot be read" in why


def test_without_a_good_one(tmp_path: Path) -> None:
    path, copy = tmp_path / "ksplicd.conf", tmp_path / "good"
    path.write_text("nonsense")
    with pytest.raises(ConfigFileError, match="begin with the line"):
        last_good.read_settings(path, copy)
    settings, why = last_good.read_settings(path, copy, or_defaults=True)
    assert (settings, bool(why)) == (Settings(), True)
    copy.write_text("also nonsense")
    with pytest.raises(ConfigFileError, match="begin with the line"):
        last_good.read_settings(path, copy)


@pytest.mark.parametrize(
    ("good", "file", "is_required"),
    [
        ("no", "no", False),
        ("no", "yes", True),
        ("no", "nein", True),
        ("no", None, True),
        ("yes", "no", True),
        ("yes", "yes", True),
    ],
)
def test_never_looser_about_signatures(good: str, file: str | None, *, is_required: bool) -> None:
    text = "[ksplicd]\nslip\n" + (f"require-signature = {file}\n" if file else "")
    settings = strictest(Settings(require_signature=good == "yes"), text)
    assert settings.require_signature is is_required


def test_set_twice_it_is_required() -> None:
    text = "[ksplicd]\nrequire-signature = {}\nrequire-signature = {}\n"
    for words in (("no", "yes"), ("yes", "no")):
        assert strictest(Settings(require_signature=False), text.format(*words)).require_signature


@pytest.mark.parametrize(
    ("lines", "who_may"),
    [
        ("vmlinux = AAAA BBBB", {"AAAA", "BBBB"}),
        ("vmlinux = AAAA", {"AAAA"}),
        ("vmlinux = AAAA CCCC", {"AAAA"}),
        ("vmlinux = CCCC", set()),
        ("vmlinux = none", set()),
        ("vmlinux = AAAA\nvmlinux = BBBB", set()),
        ("CVE-* = BBBB", {"BBBB"}),
        ("* = BBBB", {"BBBB"}),
        ("xfs = CCCC", {"AAAA", "BBBB"}),
        ("", {"AAAA", "BBBB"}),
        ("# vmlinux = CCCC", {"AAAA", "BBBB"}),
    ],
)
@pytest.mark.parametrize("heading", ["[signers]", "[signer]", "[signers"])
def test_never_looser_about_signers(lines: str, who_may: set[str], heading: str) -> None:
    """Both the file and the last good one have to allow a key."""
    text = f"[ksplicd]\nslip\n{heading}\n{lines}\n"
    rules = strictest(parse_settings(GOOD), text).signers
    found = set()
    for key in ("AAAA", "BBBB", "CCCC"):
        try:
            check_signer(samples.manifest(), key, rules)
            found.add(key)
        except SignerNotAllowedError:
            continue
    assert found == who_may


def test_configuration_is_checked_before_it_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "ksplicd.conf"
    path.write_text(GOOD)
    assert main(["--check-config", "--config", str(path)]) == 0
    path.write_text("[ksplicd]\non-drop = aply\n")
    assert main(["--check-config", "--config", str(path)]) == 1
    with pytest.raises(ConfigFileError, match="aply"):
        read_settings(path)
