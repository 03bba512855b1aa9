# SPDX-License-Identifier: GPL-2.0-only
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd.config import (
    _READERS,
    LateMismatch,
    OnDrop,
    Settings,
    SignerRule,
    parse_settings,
    read_settings,
)
from ksplicd.errors import ConfigFileError

ETC = Path(__file__).parents[2] / "etc"


def test_all_keys() -> None:
    text = (
        "[ksplicd]\non-drop = apply\nrequire-signature=no\ntransition-limit = 7\napply-at-boot=no\n"
        "late-mismatch = leave\nsoak-time = 0\nmetrics-file = /x/k.prom\n"
        "retries = 0\nretry-delay = 9\nundo-on-warning = yes\nstore-limit = 2\nkeep-rejected = 3\n"
        "keep-history = 4\nsignal-after = 5\nask-early = no\n"
    )
    assert parse_settings(text) == Settings(
        on_drop=OnDrop.APPLY,
        require_signature=False,
        transition_limit=7,
        apply_at_boot=False,
        late_mismatch=LateMismatch.LEAVE,
        soak_time=0,
        metrics_file=Path("/x/k.prom"),
        retries=0,
        retry_delay=9,
        undo_on_warning=True,
        store_limit=2,
        keep_rejected=3,
        keep_history=4,
        signal_after=5,
        ask_early=False,
    )


def test_signers() -> None:
    text = "[signers]\nvmlinux = 00ab AB CD\nxt_TCPMSS = 1\nCVE-2026-* = 1\nno-CVE = 0\n* = 2"
    assert parse_settings(text).signers == (
        SignerRule(what="vmlinux", keys=frozenset({"AB", "CD"})),
        SignerRule(what="xt_TCPMSS", keys=frozenset({"1"})),
        SignerRule(what="CVE-2026-*", keys=frozenset({"1"})),
        SignerRule(what="no-CVE", keys=frozenset({"0"})),
        SignerRule(what="*", keys=frozenset({"2"})),
    )


def test_missing_file_means_defaults(tmp_path: Path) -> None:
    assert read_settings(tmp_path / "none") == Settings()


def test_the_file_that_we_ship_says_the_defaults() -> None:
    text = (ETC / "ksplicd.conf").read_text()
    assert parse_settings(text) == Settings()
    text, _, signers = text.partition("#[signers]\n")
    assert len(parse_settings("[signers]\n" + signers.replace("#", "")).signers) == 2
    keys = [line for line in text.splitlines() if line.startswith("#") and " = " in line]
    assert parse_settings("[ksplicd]\n" + "\n".join(k[1:] for k in keys)) == Settings()
    assert len(keys) == len(_READERS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("on-drop = apply", r"^f:1: begin with the line \[ksplicd\]$"),
        ("[ksplicd]\non-drop = fry", r"^f:2: on-drop = 'fry': must be stage or apply$"),
        ("[ksplicd]\nlate-mismatch = no", r"^f:2: late-mismatch = 'no': must be refuse or leave$"),
        ("[ksplicd]\n\nrequire-signature = true", r"^f:3: .*: must be yes or no$"),
        ("[ksplicd]\ntransition-limit = 0", r"^f:2: .* seconds from 1 to 86400$"),
        ("[ksplicd]\ntransition-limit = 1m", r"^f:2: .* seconds from 1 to 86400$"),
        (
            "[ksplicd]\nmetrics-file = k.prom",
            r"^f:2: .*: must be none, or an absolute path that ends",
        ),
        ("[ksplicd]\nmetrics-file = /etc/passwd", r"^f:2: .* ends in .prom$"),
        ("[ksplicd]\nkeep-history = 0", r"^f:2: .* whole number of MiB from 1 to 1048576$"),
        ("[ksplicd]\nsoak-time = -1", r"^f:2: .* seconds from 0 to 86400$"),
        ("[ksplicd]\nrequire-signatur = no", r"^f:2: unknown key 'require-signatur'; the known"),
        ("[ksplicd]\non-drop = apply\non-drop = stage", r"^f:3: on-drop is set twice$"),
        ("[ksplicd]\n[ksplicd]", r"^f:2: a second section \[ksplicd\]$"),
        (
            "[ksplicd]\n[other]\na = 1",
            r"^f:2: unknown section \[other\], not \[ksplicd\] or \[signers\]$",
        ),
        ("[DEFAULT]\non-drop = apply", r"^f:1: unknown section \[DEFAULT\]"),
        ("[ksplicd]\nOn-Drop = apply", r"^f:2: unknown key 'On-Drop'; the known"),
        ("[ksplicd]\nretries = 101", r"^f:2: .* whole number from 0 to 100$"),
        ("[signers]\next4 = XYZ", r"^f:2: ext4 = 'XYZ': must be key ids or fingerprints"),
        ("[signers]\next4 =", r"^f:2: ext4 = '': must be key ids"),
        ("[signers]\nCVE-26 = 1", r"^f:2: \[signers\] 'CVE-26' is not vmlinux, a module,"),
        ("[ksplicd]\n\n[signers]\n* = 1\n* = 2", r"^f:5: \* is set twice$"),
        ("[signers]\nnf-tables = 1\nnf_tables = 2", r"^f:3: .* is the same module as nf-tables"),
        ("[ksplicd]\nretries = 1\n[signers]\nretries = x", r"^f:4: retries = 'x': must be key ids"),
        ("[ksplicd]\nsign", r"^f:2: 'sign' is not a line `key = value`$"),
        ("[ksplicd]\n\x0c\nsign it \n\n", r"^f:3: 'sign it' is not a line `key = value`$"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ConfigFileError, match=message):
        parse_settings(text, "f")


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xff")
    with pytest.raises(ConfigFileError, match="f: cannot be read: "):
        read_settings(tmp_path / "f")


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ConfigFileError):
        settings = parse_settings(f"[ksplicd]\n{text}")
        assert 1 <= settings.transition_limit <= 86400
