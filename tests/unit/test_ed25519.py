# SPDX-License-Identifier: GPL-2.0-only
"""Ed25519 against the test vectors of RFC 8032, section 7.1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksplicd import ed25519

VECTORS = {
    "test 1": (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    "test 2": (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    "test 3": (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    seed, public, message, signature = map(bytes.fromhex, VECTORS[name])
    assert ed25519.public_key(seed) == public
    assert ed25519.sign(seed, message) == signature
    assert ed25519.is_signature(public, signature, message)
    assert not ed25519.is_signature(public, signature, message + b"\0")


@given(st.binary(min_size=32, max_size=32), st.binary(), st.integers(0, 511))
def test_no_flipped_bit_passes(seed: bytes, message: bytes, bit: int) -> None:
    public, signature = ed25519.public_key(seed), bytearray(ed25519.sign(seed, message))
    assert ed25519.is_signature(public, bytes(signature), message)
    signature[bit // 8] ^= 1 << bit % 8
    assert not ed25519.is_signature(public, bytes(signature), message)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64))
def test_any_key_and_signature_are_taken(public: bytes, signature: bytes) -> None:
    assert ed25519.is_signature(public, signature, b"message") in {True, False}


FIPS = """openssl_conf = init
[init]
alg_section = algorithms
[algorithms]
default_properties = fips=yes
"""
USES = (
    "ed25519.public_key(bytes(32))",
    "ed25519.sign(bytes(32), b'')",
    "ed25519.is_signature(bytes(32), bytes(64), b'')",
    "minisign._derive('p', bytes(32), 32768, 1 << 24, 'libcrypto')",
)


@pytest.mark.parametrize("use", USES)
def test_libcrypto_without_it_is_told(tmp_path: Path, use: str) -> None:
    """As in FIPS mode; it is not for want of memory, and no signature is bad because of it."""
    (tmp_path / "openssl.cnf").write_text(FIPS)
    program = f"""
from ksplicd import ed25519, minisign
from ksplicd.errors import KeyFileError
try:
    {use}
except KeyFileError as e:
    print(e)
"""
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.startswith("libcrypto")
    assert "FIPS mode, or its openssl.cnf, leaves it out" in said
