# SPDX-License-Identifier: GPL-2.0-only
"""minisign's formats, alone and against the minisign program."""

import base64
import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd import ed25519, minisign
from ksplicd.errors import BadSignatureError, KeyFileError
from ksplicd.run import run, run_any
from tests.support.needs import needs

KEY = minisign.SecretKey(key_id=bytes(range(8)), seed=bytes(range(32)))
OTHER = minisign.SecretKey(key_id=bytes(range(8)), seed=bytes(range(1, 33)))
DATA = b"a bundle"
SIGNATURE = minisign.sign(DATA, KEY, trusted_comment="file:ksplice-8c4o6ucj.tar.gz")

# libsodium's INTERACTIVE limits: 16 MiB instead of 1 GiB
OPS, MEM = 524288, 16777216


def sign_legacy(data: bytes, key: minisign.SecretKey, *, trusted_comment: str = "") -> str:
    """Return a signature of the data itself, as ``minisign -l`` makes them."""
    signature = ed25519.sign(key.seed, data)
    whole = ed25519.sign(key.seed, signature + trusted_comment.encode())
    head = base64.b64encode(b"Ed" + key.key_id + signature).decode()
    tail = base64.b64encode(whole).decode()
    return f"untrusted comment: signature\n{head}\ntrusted comment: {trusted_comment}\n{tail}\n"


def test_sign_and_verify() -> None:
    text = minisign.sign(DATA, KEY, trusted_comment="t 1")
    verified = minisign.verify(DATA, text, [OTHER.public, KEY.public])
    assert verified.trusted_comment == "t 1"
    assert verified.key == KEY.public
    with pytest.raises(BadSignatureError, match="did not sign these bytes"):
        minisign.verify(DATA + b"!", text, [KEY.public])


def test_legacy_signature_is_refused() -> None:
    text = sign_legacy(DATA, KEY, trusted_comment="file:ksplice-8c4o6ucj.tar.gz")
    with pytest.raises(BadSignatureError, match=r"a legacy one .* sign anew"):
        minisign.verify(DATA, text, [KEY.public])


def test_signature_of_a_file_is_none_of_its_hash() -> None:
    """The algorithm is not signed: relabelled, it was good for a file of 64 bytes."""
    lines = SIGNATURE.splitlines()
    head = base64.b64decode(lines[1])
    lines[1] = base64.b64encode(b"Ed" + head[2:]).decode()
    with pytest.raises(BadSignatureError, match="a legacy one"):
        minisign.verify(hashlib.blake2b(DATA).digest(), "\n".join(lines), [KEY.public])


def test_fingerprint_is_of_the_key_alone() -> None:
    renamed = dataclasses.replace(KEY.public, key_id=b"another1", comment="x")
    assert renamed.fingerprint == KEY.public.fingerprint != OTHER.public.fingerprint
    assert KEY.public.fingerprint.removeprefix("SHA256:").isalnum()


def test_no_key_is_trusted() -> None:
    with pytest.raises(BadSignatureError, match=r"made by key 706050403020100, which is not trus"):
        minisign.verify(DATA, SIGNATURE, [])


def test_same_id_but_another_key() -> None:
    with pytest.raises(BadSignatureError, match="did not sign these bytes"):
        minisign.verify(DATA, SIGNATURE, [OTHER.public])


def test_altered_trusted_comment() -> None:
    text = SIGNATURE.replace("8c4o6ucj", "8c4o6ucx")
    why = "trusted comment that key 706050403020100 signed was altered"
    with pytest.raises(BadSignatureError, match=why):
        minisign.verify(DATA, text, [KEY.public])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 lines; a .minisig file has four"),
        (SIGNATURE + "more\n", "5 lines; a .minisig file has four"),
        (SIGNATURE.replace("untrusted", "Untrusted"), "line 1 does not begin"),
        (SIGNATURE.replace("\ntrusted", "\nTrusted"), "line 3 does not begin"),
        ("untrusted comment: \n!\ntrusted comment: \n!", "not base64"),
        ("untrusted comment: \nAAAA\ntrusted comment: \nAAAA", "3 bytes of base64 instead of 74"),
        (SIGNATURE.replace("\nRU", "\nRX"), "unknown algorithm b'E"),
        (SIGNATURE.replace("file:", "x" * 9000), "comment of over 8192 characters"),
        (SIGNATURE.replace("file:", "\ud800"), "not a .minisig file"),
    ],
)
def test_damaged_signature_file(text: str, message: str) -> None:
    with pytest.raises(BadSignatureError, match=message):
        minisign.verify(DATA, text, [KEY.public])


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(BadSignatureError, match="signature: "):
        minisign.verify(DATA, text, [KEY.public])


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_no_flipped_bit_of_the_signature_passes(where: int, bit: int) -> None:
    lines = SIGNATURE.splitlines()
    for line in (1, 3):
        raw = bytearray(base64.b64decode(lines[line]))
        raw[where % len(raw)] ^= 1 << bit
        changed = [*lines]
        changed[line] = base64.b64encode(raw).decode()
        with pytest.raises(BadSignatureError, match="signature: "):
            minisign.verify(DATA, "\n".join(changed), [KEY.public])


def test_public_key_file() -> None:
    text = minisign.write_public_key(KEY.public)
    assert text.startswith("untrusted comment: minisign public key 706050403020100\n")
    read = minisign.read_public_key(text)
    assert dataclasses.replace(read, comment="") == KEY.public


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "k.pub: not a minisign key file"),
        ("untrusted comment: x\nAAAA\n", "k.pub:2: 3 bytes of base64 instead of 42"),
        ("untrusted comment: x\n" + "A" * 56 + "\n", r"k.pub: algorithm b'\\x00\\x00'"),
    ],
)
def test_damaged_public_key_file(text: str, message: str) -> None:
    with pytest.raises(KeyFileError, match=message):
        minisign.read_public_key(text, "k.pub")


@pytest.mark.parametrize("password", ["", "päss"])
def test_secret_key_file(password: str) -> None:
    text = minisign.write_secret_key(KEY, password, ops=OPS, mem=MEM)
    assert minisign.read_secret_key(text, password) == KEY


def test_secret_key_file_wrong_password() -> None:
    text = minisign.write_secret_key(KEY, "right", ops=OPS, mem=MEM)
    with pytest.raises(KeyFileError, match=r"k.key: is encrypted and needs its password"):
        minisign.read_secret_key(text, name="k.key")
    with pytest.raises(KeyFileError, match=r"k.key: wrong password"):
        minisign.read_secret_key(text, "wrong", name="k.key")


def test_secret_key_file_that_would_take_hours() -> None:
    text = minisign.write_secret_key(KEY, "right", ops=OPS, mem=MEM)
    raw = bytearray(base64.b64decode(text.splitlines()[1]))
    raw[38:54] = b"\xff" * 16
    forged = f"untrusted comment: x\n{base64.b64encode(raw).decode()}\n"
    with pytest.raises(KeyFileError, match="scrypt limits out of range"):
        minisign.read_secret_key(forged, "right")


@pytest.mark.parametrize(("at", "message"), [(60, "checksum is wrong"), (0, "not a secret key")])
def test_damaged_secret_key_file(at: int, message: str) -> None:
    raw = bytearray(base64.b64decode(minisign.write_secret_key(KEY).splitlines()[1]))
    raw[at] ^= 1
    with pytest.raises(KeyFileError, match=message):
        minisign.read_secret_key(f"untrusted comment: x\n{base64.b64encode(raw).decode()}\n")


def test_secrets_are_not_shown() -> None:
    assert "seed" not in repr(KEY)


@needs("minisign")
def test_minisign_verifies_ours(tmp_path: Path) -> None:
    expiring = dataclasses.replace(KEY.public, comment="a key of ours expires 2027-01-31")
    (tmp_path / "k.pub").write_text(minisign.write_public_key(expiring))
    (tmp_path / "f").write_bytes(DATA)
    text = minisign.sign(DATA, KEY, trusted_comment="hello")
    (tmp_path / "f.minisig").write_text(text)
    argv = ["minisign", "-V", "-Q", "-p", "k.pub", "-m", "f"]
    assert run(argv, cwd=tmp_path) == b"hello\n"
    (tmp_path / "f").write_bytes(DATA + b"!")
    assert run_any(argv, cwd=tmp_path)[0] == 1


@needs("minisign")
def test_we_verify_minisigns(tmp_path: Path) -> None:
    run(["minisign", "-G", "-W", "-p", "k.pub", "-s", "k.key"], cwd=tmp_path)
    (tmp_path / "f").write_bytes(DATA)
    run(["minisign", "-S", "-s", "k.key", "-m", "f", "-t", "x y"], cwd=tmp_path)
    public = minisign.read_public_key((tmp_path / "k.pub").read_text())
    verified = minisign.verify(DATA, (tmp_path / "f.minisig").read_text(), [public])
    assert verified.trusted_comment == "x y"
    assert public.name in public.comment
    secret = minisign.read_secret_key((tmp_path / "k.key").read_text())
    assert secret.public == dataclasses.replace(public, comment="")


@needs("minisign")
@pytest.mark.parametrize("password", ["", "s3cret"])
def test_minisign_signs_with_our_key(tmp_path: Path, password: str) -> None:
    (tmp_path / "k.key").write_text(minisign.write_secret_key(KEY, password, ops=OPS, mem=MEM))
    (tmp_path / "f").write_bytes(DATA)
    argv = ["minisign", "-S", "-s", "k.key", "-m", "f"]
    run(argv, cwd=tmp_path, stdin=f"{password}\n".encode())
    minisign.verify(DATA, (tmp_path / "f.minisig").read_text(), [KEY.public])
